//! A `BootstrapTokenPolicy` as far as decisions need it.

use chrono::TimeDelta;
use kube::core::{Selector, SelectorExt as _};

use super::token::BootstrapToken;
use crate::{
    api::bootstrap_token_policy::{BootstrapTokenPolicySpec, BootstrapTokenPolicyStatus, Mode},
    core::kernel::policies::Policy,
};

/// The shortest cap: the schema says so, and a policy stored before it did cannot undercut it.
const MIN_MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// Its spec.
#[derive(Clone, Debug)]
pub struct BootstrapPolicy {
    /// It writes; else it only reports.
    pub enforces: bool,
    /// The longest time that a token may still have.
    pub max_age: Option<TimeDelta>,
    /// The extra groups that a token may give; `None` is any.
    pub allowed_groups: Option<Vec<String>>,
    keep: Option<Selector>,
}

impl Policy for BootstrapPolicy {
    type Spec = BootstrapTokenPolicySpec;
    type Status = BootstrapTokenPolicyStatus;
    const KIND: &'static str = "BootstrapTokenPolicy";
    const PLURAL: &'static str = "bootstraptokenpolicies";

    fn read(spec: BootstrapTokenPolicySpec) -> Result<Self, String> {
        let keep = spec.keep.map(Selector::try_from).transpose().map_err(|error| format!("spec.keep: {error}"))?;
        Ok(Self {
            enforces: spec.mode == Mode::Enforce,
            max_age: spec.max_age.map(|age| age.delta().max(MIN_MAX_AGE)),
            allowed_groups: spec.allowed_groups,
            keep,
        })
    }
}

impl BootstrapPolicy {
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
        BootstrapPolicy::read(serde_json::from_str(spec).unwrap()).unwrap()
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
