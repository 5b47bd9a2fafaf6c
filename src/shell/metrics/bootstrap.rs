//! Metrics of bootstrap tokens.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
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

series! { pub struct BootstrapMetrics {
    states: Gauges = "bootstrap_tokens", "Bootstrap tokens, by state";
    deletions: Counters = "bootstrap_token_deletions", "Bootstrap tokens to be deleted, by outcome";
    capped: Counter = "bootstrap_tokens_capped", "Bootstrap tokens that got an earlier expiration";
    signings: Counters = "bootstrap_signings", "Passes over the signatures of cluster-info, by outcome";
    contested: Gauge = "bootstrap_signer_contested",
        "1 while signing is stopped, since somebody else keeps changing the signatures";
} }

impl BootstrapMetrics {
    /// How this grows is asked for, and the first growth of a series that was not there before cannot be seen.
    pub(super) fn begin(&self) {
        drop(self.deletions.get_or_create(&[("outcome", "failed".into())]));
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
