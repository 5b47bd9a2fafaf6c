//! A `LegacyTokenPolicy` as far as decisions need it.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use kube::core::{Selector, SelectorExt as _};

use super::token::LegacyToken;
use crate::{
    api::{
        duration::Duration,
        legacy_token_policy::{LegacyMode, LegacyTokenPolicySpec, LegacyTokenPolicyStatus},
    },
    core::kernel::policies::Policy,
};

/// The shortest periods: the schema says so, and a policy stored before it did cannot undercut them.
const DAY: TimeDelta = TimeDelta::days(1);

/// Its spec.
#[derive(Clone, Debug)]
pub struct LegacyPolicy {
    /// How far it goes.
    pub mode: LegacyMode,
    /// How long a token must be unused.
    pub unused_for: TimeDelta,
    /// How long it must have been in quarantine.
    pub delete_after: TimeDelta,
    keep: Option<Selector>,
    namespaces: Option<Selector>,
}

impl Policy for LegacyPolicy {
    type Spec = LegacyTokenPolicySpec;
    type Status = LegacyTokenPolicyStatus;
    const KIND: &'static str = "LegacyTokenPolicy";
    const PLURAL: &'static str = "legacytokenpolicies";

    fn read(spec: LegacyTokenPolicySpec) -> Result<Self, String> {
        let selector = |field, selector: Option<_>| {
            selector.map(Selector::try_from).transpose().map_err(|error| format!("spec.{field}: {error}"))
        };
        let period = |given: Duration| given.delta().max(DAY);
        Ok(Self {
            mode: spec.mode,
            unused_for: period(spec.unused_for),
            delete_after: period(spec.delete_after),
            keep: selector("keep", spec.keep)?,
            namespaces: selector("namespaceSelector", spec.namespace_selector)?,
        })
    }
}

impl LegacyPolicy {
    /// Whether it only reports on a Secret, and protects it from other policies.
    #[must_use]
    pub fn keeps(&self, token: &LegacyToken) -> bool {
        self.keep.as_ref().is_some_and(|keep| keep.matches(&token.labels))
    }

    /// Whether it is for a namespace with these labels.
    #[must_use]
    pub fn is_for<'a>(&self, namespace: impl FnOnce() -> Option<&'a BTreeMap<String, String>>) -> bool {
        let selects = |selector: &Selector| namespace().is_some_and(|labels| selector.matches(labels));
        self.namespaces.as_ref().is_none_or(selects)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A policy with this spec as JSON.
    pub fn policy(spec: &str) -> LegacyPolicy {
        LegacyPolicy::read(serde_json::from_str(spec).unwrap()).unwrap()
    }

    #[test]
    fn reports_by_default_on_everything() {
        let policy = policy("{}");
        assert_eq!((policy.mode, policy.unused_for), (LegacyMode::Report, TimeDelta::days(365)));
        assert!(policy.is_for(|| None));
    }

    #[test]
    fn stored_periods_below_a_day_are_raised() {
        let policy = policy(r#"{"unusedFor":"1s","deleteAfter":"1s"}"#);
        assert_eq!((policy.unused_for, policy.delete_after), (DAY, DAY));
    }
}
