//! Metrics of Secrets with legacy tokens.

use prometheus_client::registry::Registry;

use super::{Counters, Gauges};
use crate::core::legacy::{controller::Legacy, token::LegacyStep};

series! { pub struct LegacyMetrics {
    states: Gauges<2> = "legacy_tokens",
        "Secrets with legacy tokens, by LegacyTokenPolicy and their state in its status";
    steps: Counters = "legacy_token_steps",
        "Secrets with legacy tokens that were quarantined, seen to be lifted, or deleted";
} }

impl LegacyMetrics {
    /// Counts what was done.
    pub fn news(&self, step: &LegacyStep) {
        self.steps.get_or_create(&[("step", <&str>::from(step).into())]).inc();
    }

    /// Takes over what is a state and not a count. A policy that is gone has no series.
    pub fn refresh(&self, legacy: &Legacy) {
        self.states.clear();
        for (policy, counts) in legacy.counts() {
            for (state, count) in [
                ("quarantined", counts.quarantined),
                ("mounted", counts.mounted),
                ("kept", counts.kept),
                ("unknown", counts.unknown),
                ("used", counts.used),
                ("unused", counts.unused),
            ] {
                self.states
                    .get_or_create(&[("policy", policy.to_string().into()), ("state", state.into())])
                    .set(count.into());
            }
        }
    }
}

#[cfg(test)]
impl LegacyMetrics {
    /// A series of each.
    pub fn one_of_each(&self) {
        drop(self.states.get_or_create(&[("policy", "".into()), ("state", "".into())]));
        drop(self.steps.get_or_create(&[("step", "".into())]));
    }
}
