//! Prometheus metrics. No series is per account; series per policy follow the policies there are.

mod bootstrap;
mod calls;
mod policies;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::core::{
    Time,
    index::{Index, Outcome},
    notice::{Replaced, What},
    plan::Retirement,
    table::Scope,
};
use bootstrap::Bootstrap;
pub use calls::Calls;
use policies::Policies;

/// Reasons that people give are labels, so there may not be any number of them.
const MAX_REASONS: usize = 20;
/// What the further ones are counted as.
const OTHER: &str = "Other";

/// From a rotation that needed no wait to one that an outage held up, in seconds.
const LATENESS: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];
/// Shares of a token's life; renewal begins at 0.05 to 0.85 of it.
const REMAINING: [f64; 9] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9];

/// The reason of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    kind: &'static str,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabel {
    key_id: String,
}

type ByReason = Family<ReasonLabel, Counter>;
type Seconds = Gauge<f64, AtomicU64>;

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    minted: Counter,
    published: ByReason,
    revoked: ByReason,
    /// Reasons of revocations that people gave so far.
    reasons: Mutex<BTreeSet<Box<str>>>,
    retired: Counter,
    swept: Counter,
    repaired: ByReason,
    failures: ByReason,
    lateness: Histogram,
    remaining: Histogram,
    /// Events that were not published, because there were too many or the API server refused.
    pub events_dropped: Counter,
    /// Calls to the API server.
    pub calls: Calls,
    leader: Gauge,
    held: Gauge,
    anchors: Gauge,
    tokens: Family<KeyLabel, Gauge>,
    last_events: Family<KindLabel, Gauge>,
    failing_watches: Family<WatchLabels, Gauge>,
    skew: Seconds,
    policies: Policies,
    /// Everything about bootstrap tokens.
    pub bootstrap: Bootstrap,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tokenward");
        let metrics = Self {
            minted: Counter::default(),
            published: Family::default(),
            revoked: Family::default(),
            reasons: Mutex::default(),
            retired: Counter::default(),
            swept: Counter::default(),
            repaired: Family::default(),
            failures: Family::default(),
            lateness: Histogram::new(LATENESS),
            remaining: Histogram::new(REMAINING),
            events_dropped: Counter::default(),
            calls: Calls::default(),
            leader: Gauge::default(),
            held: Gauge::default(),
            anchors: Gauge::default(),
            tokens: Family::default(),
            last_events: Family::default(),
            failing_watches: Family::default(),
            skew: Gauge::default(),
            policies: Policies::default(),
            bootstrap: Bootstrap::new(&mut registry),
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        Self { registry, ..metrics }
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("tokens_minted", "Tokens that the API server issued", self.minted.clone());
        registry.register("tokens_published", "Tokens written into their Secret, by reason", self.published.clone());
        registry.register("tokens_revoked", "Tokens revoked before their time, by reason", self.revoked.clone());
        registry.register("tokens_retired", "Tokens whose overlap or life ended as planned", self.retired.clone());
        registry.register("anchors_swept", "Anchors deleted that no Secret named", self.swept.clone());
        registry.register("secrets_repaired", "Secrets mended without a new token, by reason", self.repaired.clone());
        let help = "Calls that failed and states that stop a token from being issued, by reason";
        registry.register("failures", help, self.failures.clone());
        let help = "From when a token was due to the publication of its successor";
        registry.register("rotation_lateness_seconds", help, self.lateness.clone());
        let help = "Share of a token's life that was left when its successor was published";
        registry.register("remaining_life_at_publication_ratio", help, self.remaining.clone());
        registry.register("events_dropped", "Events that were not published", self.events_dropped.clone());
        let help = "Calls to the API server, by verb and HTTP status, which is 0 without an answer";
        registry.register("api_requests", help, self.calls.0.clone());
        registry.register("leader", "1 while this process acts, 0 while it stands by", self.leader.clone());
        registry.register("tokens_held", "Tokens issued and not yet published", self.held.clone());
        registry.register("anchors", "Anchors there are", self.anchors.clone());
        registry.register("tokens", "Published tokens, by the key that signed them", self.tokens.clone());
        let help = "When a watch last told of something";
        registry.register("watch_last_event_timestamp_seconds", help, self.last_events.clone());
        let help = "1 while a watch fails, and nothing new of its namespace is seen";
        registry.register("watch_failing", help, self.failing_watches.clone());
        let help = "How far the local clock is ahead of the API server's";
        registry.register("clock_skew_seconds", help, self.skew.clone());
        registry.register_collector(Box::new(self.policies.clone()));
    }

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
            What::Issued { why, replaced, .. } => {
                count(&self.published, why.as_str());
                self.replaced(replaced.as_ref());
            }
            What::Repaired { why } => count(&self.repaired, why.as_str()),
            What::Retired(retirement) => self.retired(retirement),
            What::Failing(failure) if failure.reason.is_state() => count(&self.failures, failure.reason.as_str()),
            What::Removed | What::RevocationScheduled(_) | What::Failing(_) | What::Recovered => {}
        }
    }

    fn replaced(&self, replaced: Option<&Replaced>) {
        let Some(Replaced { late, left }) = replaced else { return };
        self.remaining.observe(*left);
        if let Some(late) = late {
            self.lateness.observe(late.as_seconds_f64());
        }
    }

    fn retired(&self, retirement: &Retirement) {
        if retirement.is_sweep() {
            self.swept.inc();
        } else if retirement.cause.is_planned() {
            self.retired.inc();
        } else {
            count(&self.revoked, self.label(retirement));
        }
    }

    /// The cause, or the reason that somebody gave, while those are few.
    fn label<'a>(&self, retirement: &'a Retirement) -> &'a str {
        let Some(reason) = &retirement.reason else { return retirement.cause.as_str() };
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let known = reasons.contains(reason) || (reasons.len() < MAX_REASONS && reasons.insert(reason.clone()));
        if known { reason } else { OTHER }
    }

    /// A watch of this kind told of something.
    pub fn watched(&self, kind: &'static str, now: Time) {
        self.last_events.get_or_create(&KindLabel { kind }).set(now.timestamp());
    }

    /// A watch fails, or works again.
    pub fn watch_health(&self, scope: &Scope, kind: &'static str, fails: bool) {
        let labels = WatchLabels { kind, namespace: scope.as_deref().unwrap_or_default().to_owned() };
        if fails {
            self.failing_watches.get_or_create(&labels).set(1);
        } else {
            self.failing_watches.remove(&labels);
        }
    }

    /// Takes over what is a state and not a count. Tokens are those of the leader: a standby has no index to show.
    pub fn refresh(&self, index: Option<&Index>, skew: chrono::TimeDelta) {
        self.skew.set(skew.as_seconds_f64());
        self.leader.set(i64::from(index.is_some()));
        let Some(index) = index else { return };
        self.held.set(gauge(index.tokens_held()));
        self.anchors.set(gauge(index.anchor_count()));
        for (key_id, count) in index.tokens_by_key() {
            self.tokens.get_or_create(&KeyLabel { key_id: key_id.to_owned() }).set(gauge(count));
        }
        self.policies.refresh(index.statuses());
    }

    /// All of it in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When a metric cannot be written as text, which its types exclude.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(plain(&text))
    }
}

/// From OpenMetrics to the text format that every reader of metrics knows: there a counter has the same name in its
/// description as in its samples, and there is no mark of the end.
fn plain(text: &str) -> String {
    let name = |line: &str| line.split(' ').nth(2).unwrap_or_default().to_owned();
    let is_counter = |line: &&str| line.starts_with("# TYPE ") && line.ends_with(" counter");
    let counters: BTreeSet<String> = text.lines().filter(is_counter).map(name).collect();
    let lines = text.lines().filter(|line| *line != "# EOF").map(|line| match name(line) {
        counter if line.starts_with("# ") && counters.contains(&counter) => {
            line.replacen(&counter, &format!("{counter}_total"), 1) + "\n"
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn count(family: &ByReason, reason: &str) {
    family.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::Cause;

    fn revoked(reason: &str) -> What {
        What::Retired(Retirement {
            secret: "tw-1".into(),
            uid: "u".into(),
            token_id: None,
            cause: Cause::RevokeIssuedBefore,
            reason: Some(reason.into()),
        })
    }

    #[test]
    fn reasons_that_people_give_are_labels_until_there_are_too_many() {
        let metrics = Metrics::default();
        for n in 0..30 {
            metrics.notice(&revoked(&format!("leak-{n}")));
        }
        metrics.notice(&revoked("leak-3"));
        let text = metrics.encode().unwrap();
        assert!(text.contains("tokenward_tokens_revoked_total{reason=\"leak-3\"} 2\n"), "{text}");
        assert!(text.contains("tokenward_tokens_revoked_total{reason=\"Other\"} 10\n"), "{text}");
    }

    #[test]
    fn the_text_format_describes_a_counter_by_the_name_of_its_samples() {
        let text = Metrics::default().encode().unwrap();
        assert!(
            text.contains("# TYPE tokenward_tokens_minted_total counter\ntokenward_tokens_minted_total 0\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE tokenward_tokens_held gauge\n") && !text.contains("# EOF"), "{text}");
    }
}
