//! A `BootstrapTokenPolicy` as far as decisions need it.

use std::sync::Arc;

use chrono::TimeDelta;
use kube::core::{Selector, SelectorExt as _};

use super::token::Token;
use crate::crd::bootstrap_token_policy::{BootstrapTokenPolicy, BootstrapTokenPolicyStatus, Mode};

/// The shortest cap: the schema says so, and a policy stored before it did cannot undercut it.
const MIN_MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// What it asks for.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// It writes; else it only reports.
    pub enforces: bool,
    /// The longest time that a token may still have.
    pub max_age: Option<TimeDelta>,
    /// The extra groups that a token may give; `None` is any.
    pub allowed_groups: Option<Vec<String>>,
    keep: Option<Selector>,
    /// The status as stored, to write only differences.
    pub status: BootstrapTokenPolicyStatus,
}

/// A policy as the watch delivers it.
#[derive(Clone, Debug)]
pub enum PolicyState {
    /// It says what to do.
    Readable(Arc<Policy>),
    /// It is stored but does not parse, and so does nothing.
    Unreadable {
        /// `metadata.uid`.
        uid: Box<str>,
        /// What is wrong with it.
        error: String,
    },
}

impl PolicyState {
    /// Reads a policy; a selector that does not compile makes it unreadable.
    #[must_use]
    pub fn read(policy: BootstrapTokenPolicy) -> Self {
        let uid: Box<str> = policy.metadata.uid.clone().unwrap_or_default().into();
        match policy.spec.keep.clone().map(Selector::try_from).transpose() {
            Ok(keep) => Self::Readable(Arc::new(Policy::read(policy, uid, keep))),
            Err(error) => Self::Unreadable { uid, error: format!("spec.keep: {error}") },
        }
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Self::Readable(policy) => &policy.uid,
            Self::Unreadable { uid, .. } => uid,
        }
    }

    /// The policy, if it can be read.
    #[must_use]
    pub fn readable(&self) -> Option<&Policy> {
        match self {
            Self::Readable(policy) => Some(policy),
            Self::Unreadable { .. } => None,
        }
    }
}

impl Policy {
    fn read(policy: BootstrapTokenPolicy, uid: Box<str>, keep: Option<Selector>) -> Self {
        let BootstrapTokenPolicy { metadata, spec, status } = policy;
        Self {
            uid,
            generation: metadata.generation.unwrap_or_default(),
            enforces: spec.mode == Mode::Enforce && metadata.deletion_timestamp.is_none(),
            max_age: spec.max_age.map(|age| age.delta().max(MIN_MAX_AGE)),
            allowed_groups: spec.allowed_groups,
            keep,
            status: status.unwrap_or_default(),
        }
    }

    /// Whether a token is exempt from the cap.
    #[must_use]
    pub fn keeps(&self, token: &Token) -> bool {
        self.keep.as_ref().is_some_and(|keep| keep.matches(&token.labels))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::bootstrap::token::tests::token;

    /// A policy with this spec as JSON.
    pub fn policy(spec: &str) -> Policy {
        let mut policy = BootstrapTokenPolicy::new("p", serde_json::from_str(spec).unwrap());
        policy.metadata.generation = Some(1);
        match PolicyState::read(policy) {
            PolicyState::Readable(policy) => Arc::unwrap_or_clone(policy),
            PolicyState::Unreadable { error, .. } => panic!("{error}"),
        }
    }

    #[test]
    fn reports_by_default_and_keeps_nothing() {
        let policy = policy("{}");
        assert!(!policy.enforces && policy.max_age.is_none() && !policy.keeps(&token("")));
    }

    #[test]
    fn a_stored_age_below_the_floor_is_raised() {
        assert_eq!(policy(r#"{"maxAge":"1s"}"#).max_age, Some(MIN_MAX_AGE));
    }
}
