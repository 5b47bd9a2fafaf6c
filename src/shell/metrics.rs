//! Prometheus metrics. No series per account; series per policy follow the policies there are.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use crate::core::{
    bootstrap, facts,
    index::{Index, Outcome},
    notice::What,
};

/// The reason of something, from a closed list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

type ByReason = Family<ReasonLabel, Counter>;

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    minted: Counter,
    published: ByReason,
    revoked: ByReason,
    repaired: ByReason,
    failures: ByReason,
    /// Events that were not published, because there were too many or the API server refused.
    pub events_dropped: Counter,
    skew: Gauge<f64, AtomicU64>,
    policies: Policies,
    /// Everything about bootstrap tokens.
    pub bootstrap: Bootstrap,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tokenward");
        let mut counters = |name: &str, help: &str| {
            let family = ByReason::default();
            registry.register(name, help, family.clone());
            family
        };
        let published = counters("tokens_published", "Tokens written into their Secret, by reason");
        let revoked = counters("tokens_revoked", "Tokens revoked by deleting their anchor, by reason");
        let repaired = counters("secrets_repaired", "Secrets mended without a new token, by reason");
        let failures =
            counters("failures", "Calls that failed and states that stop a token from being issued, by reason");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let minted = counter("tokens_minted", "Tokens that the API server issued");
        let events_dropped = counter("events_dropped", "Events that were not published");
        let skew = Gauge::default();
        registry.register("clock_skew_seconds", "How far the local clock is ahead of the API server's", skew.clone());
        let policies = Policies::default();
        registry.register_collector(Box::new(policies.clone()));
        let bootstrap = Bootstrap::new(&mut registry);
        Self { registry, minted, published, revoked, repaired, failures, events_dropped, skew, policies, bootstrap }
    }
}

impl Metrics {
    /// Counts what calls have shown.
    pub fn outcomes(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Minted(_) => drop(self.minted.inc()),
                Outcome::Failed(_, failure) | Outcome::Retired(_, Err(failure)) => {
                    count(&self.failures, failure.reason.as_str());
                }
                _ => {}
            }
        }
    }

    /// Counts what people are told.
    pub fn notice(&self, what: &What) {
        match what {
            What::Issued { why, .. } => count(&self.published, why.as_str()),
            What::Repaired { why } => count(&self.repaired, why.as_str()),
            What::Retired(retirement) => count(&self.revoked, retirement.cause.as_str()),
            What::Failing(failure) if failure.reason.is_state() => count(&self.failures, failure.reason.as_str()),
            What::Removed | What::Failing(_) | What::Recovered => {}
        }
    }

    /// Takes over what is a state and not a count.
    pub fn refresh(&self, index: &Index, skew: chrono::TimeDelta) {
        self.skew.set(skew.as_seconds_f64());
        let rows = index.times().map(|(key, times)| PolicyTimes {
            namespace: key.namespace.to_string(),
            policy: key.name.to_string(),
            times: times.map(|time| facts::time(time?)).map(|time| time.map(|time| time.timestamp())),
        });
        *self.policies.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows.collect();
    }

    /// All of it in the text format.
    ///
    /// # Errors
    /// When a metric cannot be written as text, which its types exclude.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn count(family: &ByReason, reason: &'static str) {
    family.get_or_create(&ReasonLabel { reason }).inc();
}

/// What is counted about bootstrap tokens.
pub struct Bootstrap {
    states: Family<StateLabel, Gauge>,
    deletions: Family<OutcomeLabel, Counter>,
    capped: Counter,
    signings: Family<OutcomeLabel, Counter>,
    contested: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Bootstrap {
    fn new(registry: &mut Registry) -> Self {
        let (states, deletions, signings) = (Family::default(), Family::default(), Family::default());
        let (capped, contested) = (Counter::default(), Gauge::default());
        registry.register("bootstrap_tokens", "Bootstrap tokens, by state", Family::clone(&states));
        let help = "Bootstrap tokens that were to be deleted, by what came of it";
        registry.register("bootstrap_token_deletions", help, Family::clone(&deletions));
        registry.register("bootstrap_tokens_capped", "Bootstrap tokens given an earlier end", capped.clone());
        let help = "Passes over the signatures of cluster-info, by outcome";
        registry.register("bootstrap_signings", help, Family::clone(&signings));
        let help = "1 while signing stands still, as somebody else keeps changing the signatures";
        registry.register("bootstrap_signer_contested", help, contested.clone());
        Self { states, deletions, capped, signings, contested }
    }

    /// Counts the outcome of a delete.
    pub fn deletion(&self, outcome: &'static str) {
        self.deletions.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a pass of the signer.
    pub fn signing(&self, outcome: &'static str) {
        self.signings.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts what people are told and no call shows.
    pub fn notice(&self, what: &bootstrap::notice::What) {
        match what {
            bootstrap::notice::What::WouldDelete(_) => self.deletion("reported"),
            bootstrap::notice::What::Capped(_) => drop(self.capped.inc()),
            _ => {}
        }
    }

    /// Takes over what is a state and not a count.
    pub fn refresh(&self, index: &bootstrap::index::Index, now: crate::core::Time) {
        for (state, count) in index.states(now) {
            self.states.get_or_create(&StateLabel { state }).set(count);
        }
        self.contested.set(index.is_contested().into());
    }
}

/// The times of every policy, replaced as a whole.
#[derive(Clone, Debug, Default)]
struct Policies {
    rows: Arc<Mutex<Vec<PolicyTimes>>>,
}

#[derive(Debug)]
struct PolicyTimes {
    namespace: String,
    policy: String,
    times: [Option<i64>; 2],
}

impl Collector for Policies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let series = [
            ("policy_earliest_expiration_timestamp_seconds", "When the first token of a policy expires"),
            ("policy_next_rotation_timestamp_seconds", "When the next token of a policy is replaced"),
        ];
        for (n, (name, help)) in series.into_iter().enumerate() {
            let gauge = ConstGauge::new(0_i64);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for row in rows.iter() {
                if let Some(time) = row.times[n] {
                    let labels = [("namespace", row.namespace.as_str()), ("policy", row.policy.as_str())];
                    ConstGauge::new(time).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
