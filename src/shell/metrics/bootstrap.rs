//! Metrics of bootstrap tokens.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Counters, Gauges};
use crate::{
    api::bootstrap_token_policy::TokenCounts,
    core::{
        Time,
        bootstrap::{
            TokenStep,
            controller::{Bootstrap, Count},
            event::BootstrapNews,
        },
    },
};

/// The series.
pub struct BootstrapMetrics {
    states: Gauges,
    deletions: Counters,
    capped: Counter,
    signings: Counters,
    contested: Gauge,
}

impl BootstrapMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (states, deletions, signings) = (Family::default(), Family::default(), Family::default());
        let (capped, contested) = (Counter::default(), Gauge::default());
        registry.register("bootstrap_tokens", "Bootstrap tokens, by state", Family::clone(&states));
        let help = "Bootstrap tokens to be deleted, by outcome";
        registry.register("bootstrap_token_deletions", help, Family::clone(&deletions));
        registry.register("bootstrap_tokens_capped", "Bootstrap tokens that got an earlier expiration", capped.clone());
        let help = "Passes over the signatures of cluster-info, by outcome";
        registry.register("bootstrap_signings", help, Family::clone(&signings));
        let help = "1 while signing is stopped, since somebody else keeps changing the signatures";
        registry.register("bootstrap_signer_contested", help, contested.clone());
        let metrics = Self { states, deletions, capped, signings, contested };
        // How this grows is asked for, and the first growth of a series that was not there before cannot be seen.
        drop(metrics.deletions.get_or_create(&[("outcome", "failed".into())]));
        metrics
    }

    /// Counts the end of a call.
    pub fn count(&self, count: Count) {
        let (family, outcome) = match count {
            Count::Deletion(outcome) => (&self.deletions, outcome),
            Count::Signing(outcome) => (&self.signings, outcome),
        };
        family.get_or_create(&[("outcome", outcome.into())]).inc();
    }

    /// Counts what people are told and no call shows.
    pub fn news(&self, what: &BootstrapNews) {
        match what {
            BootstrapNews::WouldDelete(_) => self.count(Count::Deletion("reported")),
            BootstrapNews::Done(TokenStep::Cap(_)) => drop(self.capped.inc()),
            _ => {}
        }
    }

    /// Takes over what is a state and not a count.
    pub fn refresh(&self, controller: &Bootstrap, now: Time) {
        let TokenCounts { valid, never_expires, expired, unparsable, .. } = controller.states(now);
        for (state, count) in
            [("valid", valid), ("never_expires", never_expires), ("expired", expired), ("unparsable", unparsable)]
        {
            self.states.get_or_create(&[("state", state.into())]).set(count.into());
        }
        self.contested.set(controller.is_contested().into());
    }
}

#[cfg(test)]
impl BootstrapMetrics {
    /// A series of each.
    pub fn one_of_each(&self) {
        drop(self.states.get_or_create(&[("state", "".into())]));
        drop(self.deletions.get_or_create(&[("outcome", "".into())]));
        drop(self.signings.get_or_create(&[("outcome", "".into())]));
    }
}
