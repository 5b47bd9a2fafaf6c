//! A `BootstrapTokenPolicy` as far as decisions need it.

use std::sync::Arc;

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DynamicObject, Selector, SelectorExt as _};

use super::token::BootstrapToken;
use crate::{
    api::bootstrap_token_policy::{BootstrapTokenPolicySpec, BootstrapTokenPolicyStatus, Mode},
    core::meta,
};

/// The shortest cap: the schema says so, and a policy stored before it did cannot undercut it.
const MIN_MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// Its spec.
#[derive(Clone, Debug)]
pub struct BootstrapPolicy {
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
pub enum BootstrapPolicyState {
    /// It says what to do.
    Readable(Arc<BootstrapPolicy>),
    /// It is stored but does not parse, and so does nothing.
    Unreadable {
        /// `metadata.uid`.
        uid: Box<str>,
        /// The error.
        error: String,
        /// The status as stored.
        status: Box<BootstrapTokenPolicyStatus>,
    },
}

impl BootstrapPolicyState {
    /// Reads a stored object field by field, so that a wrong one spoils no other; a selector that does not compile makes it
    /// unreadable.
    #[must_use]
    pub fn parse(mut object: DynamicObject) -> Self {
        let uid: Box<str> = object.metadata.uid.clone().unwrap_or_default().into();
        let (spec, status): (_, BootstrapTokenPolicyStatus) = meta::stored(&mut object);
        match spec.and_then(|spec| BootstrapPolicy::read(&object.metadata, uid.clone(), spec, status.clone())) {
            Ok(policy) => Self::Readable(Arc::new(policy)),
            Err(error) => Self::Unreadable { uid, error, status: Box::new(status) },
        }
    }

    /// The status as stored.
    #[must_use]
    pub fn status(&self) -> &BootstrapTokenPolicyStatus {
        match self {
            Self::Readable(policy) => &policy.status,
            Self::Unreadable { status, .. } => status,
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

    /// Whether both ask for the same: they differ in nothing but their status.
    #[must_use]
    pub fn asks_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Readable(one), Self::Readable(two)) => {
                (&one.uid, one.generation, one.enforces) == (&two.uid, two.generation, two.enforces)
            }
            (Self::Unreadable { uid, error, .. }, Self::Unreadable { uid: other, error: as_well, .. }) => {
                (uid, error) == (other, as_well)
            }
            _ => false,
        }
    }

    /// The policy, if it can be read.
    #[must_use]
    pub fn readable(&self) -> Option<&BootstrapPolicy> {
        match self {
            Self::Readable(policy) => Some(policy),
            Self::Unreadable { .. } => None,
        }
    }
}

impl BootstrapPolicy {
    fn read(
        meta: &ObjectMeta,
        uid: Box<str>,
        spec: BootstrapTokenPolicySpec,
        status: BootstrapTokenPolicyStatus,
    ) -> Result<Self, String> {
        let keep = spec.keep.map(Selector::try_from).transpose().map_err(|error| format!("spec.keep: {error}"))?;
        Ok(Self {
            uid,
            generation: meta.generation.unwrap_or_default(),
            enforces: spec.mode == Mode::Enforce && meta.deletion_timestamp.is_none(),
            max_age: spec.max_age.map(|age| age.delta().max(MIN_MAX_AGE)),
            allowed_groups: spec.allowed_groups,
            keep,
            status,
        })
    }

    /// Whether a token is exempt from the cap.
    #[must_use]
    pub fn keeps(&self, token: &BootstrapToken) -> bool {
        self.keep.as_ref().is_some_and(|keep| keep.matches(&token.labels))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::bootstrap::token::tests::token;

    /// A policy with this spec as JSON.
    pub fn policy(spec: &str) -> BootstrapPolicy {
        let meta = ObjectMeta { generation: Some(1), ..ObjectMeta::default() };
        let spec = serde_json::from_str(spec).unwrap();
        BootstrapPolicy::read(&meta, Box::default(), spec, BootstrapTokenPolicyStatus::default()).unwrap()
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
