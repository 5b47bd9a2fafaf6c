//! Metrics of Secrets with legacy tokens.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::core::legacy::{controller::Legacy, token::LegacyStep};

/// The series.
pub struct LegacyMetrics {
    states: Family<PolicyState, Gauge>,
    steps: Family<StepLabel, Counter>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyState {
    policy: String,
    state: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

impl LegacyMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self { states: Family::default(), steps: Family::default() };
        let help = "Secrets with legacy tokens, by LegacyTokenPolicy and their state in its status";
        registry.register("legacy_tokens", help, metrics.states.clone());
        let help = "Secrets with legacy tokens that were quarantined, seen to be lifted, or deleted";
        registry.register("legacy_token_steps", help, metrics.steps.clone());
        metrics
    }

    /// Counts what was done.
    pub fn news(&self, step: &LegacyStep) {
        self.steps.get_or_create(&StepLabel { step: step.into() }).inc();
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
                self.states.get_or_create(&PolicyState { policy: policy.to_string(), state }).set(count.into());
            }
        }
    }
}

#[cfg(test)]
impl LegacyMetrics {
    /// A series of each.
    pub fn one_of_each(&self) {
        drop(self.states.get_or_create(&PolicyState::default()));
        drop(self.steps.get_or_create(&StepLabel::default()));
    }
}
