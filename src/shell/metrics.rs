//! Prometheus metrics. No series is per account; series per policy follow the policies there are.

/// One list of series: field, type, name, help, and the first value where that is not the default of the type.
macro_rules! series {
    ($vis:vis struct $name:ident { $($field:ident: $type:ty = $text:literal, $help:literal $(, $first:expr)?;)* }) => {
        /// The series.
        $vis struct $name { $($field: $type,)* }

        impl $name {
            pub(super) fn new(registry: &mut Registry) -> Self {
                let series = Self { $($field: series!($($first)?),)* };
                $(registry.register($text, $help, series.$field.clone());)*
                series
            }
        }
    };
    () => { Default::default() };
    ($first:expr) => { $first };
}

mod bootstrap;
mod calls;
mod legacy;
mod policies;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use strum::IntoEnumIterator as _;

use crate::core::{
    Time,
    address::KnownAddress,
    bootstrap::controller::Bootstrap,
    grant::{
        Retirement,
        controller::Grants,
        event::{GrantNews, Replaced},
    },
    kernel::{controller::Outcome, store::Scope},
    legacy::controller::Legacy,
    reason::{FailureReason, IssueReason},
};
use bootstrap::BootstrapMetrics;
pub use calls::Calls;
use calls::{CallLabels, DURATIONS};
use legacy::LegacyMetrics;
use policies::Policies;

/// Reasons that people give are labels, so there may not be any number of them.
const MAX_REASONS: usize = 20;
/// Keys that have signed tokens are labels: a cluster has one or two at a time.
const MAX_KEYS: usize = 20;
/// The label that all further ones share.
const OTHER: &str = "Other";

/// From a rotation that needed no wait to one that an outage held up, in seconds.
const LATENESS: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];
/// Shares of a token's life; renewal begins at 0.05 to 0.85 of it.
const REMAINING: [f64; 9] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9];

/// One decision is a few microseconds of arithmetic; a tenth of a second would be a defect.
const DECISION: [f64; 6] = [0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0];

/// Names and values of the labels of a series.
type Labels<const N: usize = 1> = [(&'static str, Cow<'static, str>); N];
type Counters = Family<Labels, Counter>;
type Gauges<const N: usize = 1> = Family<Labels<N>, Gauge>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

series! { struct Series {
    minted: Counter = "tokens_minted", "Tokens that the API server issued";
    published: Counters = "tokens_published", "Tokens written into their Secret, by reason";
    revoked: Counters = "tokens_revoked", "Tokens revoked before their time, by reason";
    retired: Counter = "tokens_retired", "Tokens whose overlap or life ended as planned";
    swept: Counter = "anchors_swept", "Anchors deleted that no Secret named";
    repaired: Counters = "secrets_repaired", "Secrets repaired without a new token, by reason";
    failures: Counters = "failures", "Calls that failed and states that stop a token from being issued, by reason";
    lateness: Histogram = "rotation_lateness_seconds",
        "From when a token was due to the publication of its successor", Histogram::new(LATENESS);
    remaining: Histogram = "remaining_life_at_publication_ratio",
        "Share of a token's life that was left when its successor was published", Histogram::new(REMAINING);
    events_dropped: Counter = "events_dropped", "Events that were not published";
    calls: Family<CallLabels, Counter> = "api_requests",
        "Calls to the API server, by verb and HTTP status, which is 0 without an answer";
    call_durations: Histograms = "api_request_duration_seconds",
        "From a call to the API server to the head of its answer, by verb",
        Family::new_with_constructor(|| Histogram::new(DURATIONS));
    build: Gauges = "build_info", "1 for the version of this program";
    leader: Gauge = "leader", "1 while this process acts, 0 while it stands by";
    lease_transitions: Counter = "lease_transitions",
        "How often the Lease has passed to another process, by its own leaseTransitions";
    queue: Gauges = "queue_length", "Objects whose turn has come and that wait for a slot";
    decisions: Histograms = "decision_duration_seconds", "From a due object to its next call",
        Family::new_with_constructor(|| Histogram::new(DECISION));
    held: Gauge = "tokens_held", "Tokens issued and not yet published";
    anchors: Gauge = "anchors", "Anchors that exist";
    tokens: Gauges = "tokens", "Published tokens, by the key that signed them";
    last_events: Gauges = "watch_last_event_timestamp_seconds", "When the watch of this kind last brought anything";
    failing_watches: Gauges<2> = "watch_failing",
        "1 while a watch fails and nothing new of its namespace is seen; the log has the cause";
    skew: Seconds = "clock_skew_seconds", "How far the local clock is ahead of the API server's";
    address: Gauges<2> = "cluster_address_info",
        "1 for the address of the API server that Secrets carry, by its source";
    address_changed: Gauge = "cluster_address_changed_timestamp_seconds",
        "When the address in Secrets or its CA last changed; 0 until the first change";
    address_contested: Gauges = "cluster_address_contested",
        "1 while a better source of the address in Secrets is not usable, or its source does not answer";
} }

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    series: Series,
    /// Reasons of revocations that people gave so far.
    reasons: Mutex<BTreeSet<Box<str>>>,
    /// Calls to the API server.
    pub calls: Calls,
    policies: Policies,
    /// Everything about bootstrap tokens.
    pub bootstrap: BootstrapMetrics,
    /// Everything about legacy tokens.
    pub legacy: LegacyMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tokenward");
        let (bootstrap, legacy) = (BootstrapMetrics::new(&mut registry), LegacyMetrics::new(&mut registry));
        let series = Series::new(&mut registry);
        let calls = Calls { count: series.calls.clone(), duration: series.call_durations.clone() };
        let (reasons, policies) = (Mutex::default(), Policies::default());
        let metrics = Self { registry, series, reasons, calls, policies, bootstrap, legacy };
        metrics.begin();
        metrics
    }
}

impl Metrics {
    /// Alerts ask how these grow, and the first growth of a series that was not there before cannot be seen.
    fn begin(&self) {
        self.bootstrap.begin();
        self.series.build.get_or_create(&[("version", env!("CARGO_PKG_VERSION").into())]).set(1);
        let failures = FailureReason::iter().map(|reason| (&self.series.failures, reason.into_str()));
        let dropped = [IssueReason::SigningKeyGone, IssueReason::IssuerChanged];
        let dropped = dropped.map(|reason| (&self.series.published, reason.into_str()));
        for (family, reason) in failures.chain(dropped) {
            drop(family.get_or_create(&[("reason", reason.into())]));
        }
    }

    /// Counts decisions, and the mean time of those that were made together.
    pub fn decided(&self, controller: &'static str, count: usize, took: Duration) {
        let decisions = self.series.decisions.get_or_create(&[("controller", controller.into())]);
        let each = took.div_f64(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        (0..count).for_each(|_| decisions.observe(each.as_secs_f64()));
    }

    /// Takes over the count of the lease; one that is not there tells none.
    pub fn lease_transitions(&self, count: Option<i32>) {
        if let Some(count) = count.and_then(|count| count.try_into().ok()) {
            self.series.lease_transitions.inner().store(count, Ordering::Relaxed);
        }
    }

    /// Counts what an answer brought.
    pub fn answered(&self, outcome: &Outcome) {
        self.series.minted.inc_by(outcome.minted.into());
        if let Some(failure) = &outcome.failure {
            count(&self.series.failures, failure.reason.into_str());
        }
    }

    /// Counts what people are told.
    pub fn news(&self, what: &GrantNews) {
        match what {
            GrantNews::Issued { why, replaced, .. } => {
                count(&self.series.published, why.into_str());
                self.replaced(replaced.as_ref());
            }
            GrantNews::Repaired { why, .. } => count(&self.series.repaired, why.into_str()),
            GrantNews::Retired(retirement) => self.retired(retirement),
            GrantNews::Failing(failure) if failure.reason.is_state() => {
                count(&self.series.failures, failure.reason.into_str());
            }
            _ => {}
        }
    }

    fn replaced(&self, replaced: Option<&Replaced>) {
        let Some(Replaced { late, left }) = replaced else { return };
        self.series.remaining.observe(*left);
        if let Some(late) = late {
            self.series.lateness.observe(late.as_seconds_f64());
        }
    }

    fn retired(&self, retirement: &Retirement) {
        if retirement.is_sweep() {
            self.series.swept.inc();
        } else if retirement.cause.is_planned() {
            self.series.retired.inc();
        } else {
            count(&self.series.revoked, self.label(retirement));
        }
    }

    /// The cause, or the reason that somebody gave, while those are few.
    fn label<'a>(&self, retirement: &'a Retirement) -> &'a str {
        let Some(reason) = &retirement.reason else { return retirement.cause.into_str() };
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let known = reasons.contains(reason) || (reasons.len() < MAX_REASONS && reasons.insert(reason.clone()));
        if known { reason } else { OTHER }
    }

    /// A watch of this kind told of something. Only its age matters, so the local clock is good enough.
    pub fn watched(&self, kind: &'static str) {
        self.series.last_events.get_or_create(&[("kind", kind.into())]).set(chrono::Utc::now().timestamp());
    }

    /// Nobody watches this kind any more.
    pub fn unwatched(&self, kind: &'static str) {
        self.series.last_events.remove(&[("kind", kind.into())]);
    }

    /// A watch fails, or works again.
    pub fn watch_health(&self, scope: &Scope, kind: &'static str, fails: bool) {
        let namespace = scope.as_deref().unwrap_or_default().to_owned();
        let labels = [("kind", kind.into()), ("namespace", namespace.into())];
        if fails {
            self.series.failing_watches.get_or_create(&labels).set(1);
        } else {
            self.series.failing_watches.remove(&labels);
        }
    }

    /// An event was not published, because there were too many or the API server refused.
    pub fn event_dropped(&self) {
        self.series.events_dropped.inc();
    }

    /// Whether this process acts, and how far the local clock is ahead.
    pub fn turned(&self, leads: bool, skew: chrono::TimeDelta) {
        self.series.leader.set(leads.into());
        self.series.skew.set(skew.as_seconds_f64());
    }

    /// The address that Secrets carry from now on. Only the age of a change matters, so the local clock is good enough.
    pub fn cluster_address(&self, known: &KnownAddress, changed: bool) {
        self.series.address.clear();
        let (source, server) = (<&str>::from(known.source), known.address.server.clone());
        self.series.address.get_or_create(&[("source", source.into()), ("server", server.into())]).set(1);
        if changed {
            self.series.address_changed.set(chrono::Utc::now().timestamp());
        }
        self.series.address_contested.clear();
        if let Some(contest) = &known.contest {
            self.series.address_contested.get_or_create(&[("reason", contest.reason.into_str().into())]).set(1);
        }
    }

    /// Whether this process acts. States are the leader's: a standby shows none.
    pub fn leads(&self) -> bool {
        self.series.leader.get() != 0
    }

    /// Takes over states, which are not counted.
    pub fn refresh(&self, grants: &Grants) {
        self.series.held.set(gauge(grants.tokens_held()));
        self.series.anchors.set(gauge(grants.anchor_count()));
        self.tokens_by_key(grants.tokens_by_key().map(|(key, count)| (key, gauge(count))).collect());
        self.policies.refresh(grants.statuses());
        for (queue, length) in grants.queue_lengths() {
            self.series.queue.get_or_create(&[("queue", queue.into())]).set(gauge(length));
        }
    }

    /// The same for bootstrap tokens.
    pub fn refresh_bootstrap(&self, bootstrap: &Bootstrap, now: Time) {
        self.series.queue.get_or_create(&[("queue", "bootstrap_tokens".into())]).set(gauge(bootstrap.queue_length()));
        self.bootstrap.refresh(bootstrap, now);
    }

    /// The same for legacy tokens.
    pub fn refresh_legacy(&self, legacy: &Legacy) {
        self.series.queue.get_or_create(&[("queue", "legacy_tokens".into())]).set(gauge(legacy.queue_length()));
        self.legacy.refresh(legacy);
    }

    /// A key that has signed no token any more has no series. Of too many keys those with the fewest tokens are one.
    fn tokens_by_key(&self, mut counts: Vec<(Option<&str>, i64)>) {
        counts.sort_unstable_by_key(|(key, count)| (key.is_none(), -count, *key));
        self.series.tokens.clear();
        for (nth, (key, count)) in counts.into_iter().enumerate() {
            let key_id = key.filter(|_| nth < MAX_KEYS).unwrap_or(OTHER).to_owned();
            self.series.tokens.get_or_create(&[("key_id", key_id.into())]).inc_by(count);
        }
    }

    /// All of it in Prometheus' text format, version 0.0.4, piece by piece.
    ///
    /// # Errors
    /// When a metric cannot be written as text, which its types exclude.
    pub fn encode(&self) -> Result<impl Iterator<Item = String> + use<>, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(std::iter::once(plain(&text)).chain(self.policies.encode()))
    }

    /// All of it at once.
    #[cfg(test)]
    pub fn text(&self) -> String {
        self.encode().unwrap().collect()
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

fn count(family: &Counters, reason: &str) {
    family.get_or_create(&[("reason", reason.to_owned().into())]).inc();
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Metrics {
    /// A series of each metric: one without any is not described, and so is not in `docs/reference/metrics.md`.
    pub fn one_of_each() -> Self {
        let metrics = Self::default();
        let series = &metrics.series;
        let one = |label| [(label, Cow::default())];
        for family in [&series.published, &series.revoked, &series.repaired, &series.failures] {
            drop(family.get_or_create(&one("reason")));
        }
        drop(series.calls.get_or_create(&CallLabels::default()));
        drop(series.call_durations.get_or_create(&one("verb")));
        drop(series.queue.get_or_create(&one("queue")));
        drop(series.decisions.get_or_create(&one("controller")));
        drop(series.tokens.get_or_create(&one("key_id")));
        drop(series.last_events.get_or_create(&one("kind")));
        drop(series.failing_watches.get_or_create(&["kind", "namespace"].map(|label| (label, Cow::default()))));
        drop(series.address.get_or_create(&["source", "server"].map(|label| (label, Cow::default()))));
        drop(series.address_contested.get_or_create(&one("reason")));
        metrics.policies.one_of_each();
        metrics.bootstrap.one_of_each();
        metrics.legacy.one_of_each();
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Time, reason::RetireReason};

    fn revoked(reason: &str) -> GrantNews {
        GrantNews::Retired(Retirement {
            secret: "tw-1".into(),
            uid: "u".into(),
            version: None,
            token_id: None,
            cause: RetireReason::RevokeIssuedBefore,
            reason: Some(reason.into()),
            since: Time::UNIX_EPOCH,
            account: None,
        })
    }

    #[test]
    fn reasons_that_people_give_are_labels_until_there_are_too_many() {
        let metrics = Metrics::default();
        for n in 0..30 {
            metrics.news(&revoked(&format!("leak-{n}")));
        }
        metrics.news(&revoked("leak-3"));
        let text = metrics.text();
        assert!(text.contains("tokenward_tokens_revoked_total{reason=\"leak-3\"} 2\n"), "{text}");
        assert!(text.contains("tokenward_tokens_revoked_total{reason=\"Other\"} 10\n"), "{text}");
    }

    #[test]
    fn a_key_without_tokens_has_no_series_and_many_keys_share_one() {
        let metrics = Metrics::default();
        let keys: Vec<String> = (0..30).map(|n| format!("key-{n}")).collect();
        metrics.tokens_by_key(keys.iter().zip(1..).map(|(key, count)| (Some(key.as_str()), count)).collect());
        let text = metrics.text();
        let series = text.lines().filter(|line| line.starts_with("tokenward_tokens{")).count();
        assert_eq!(series, MAX_KEYS + 1);
        assert!(text.contains("tokenward_tokens{key_id=\"Other\"} 55\n"), "1 to 10: {text}");
        metrics.tokens_by_key(vec![(Some("key-3"), 7), (None, 2), (None, 3)]);
        let text = metrics.text();
        assert_eq!(text.lines().filter(|line| line.starts_with("tokenward_tokens{")).count(), 2, "{text}");
        assert!(text.contains("tokenward_tokens{key_id=\"Other\"} 5\n"), "not published: {text}");
    }

    #[test]
    fn the_text_format_describes_a_counter_by_the_name_of_its_samples() {
        let text = Metrics::default().text();
        assert!(
            text.contains("# TYPE tokenward_tokens_minted_total counter\ntokenward_tokens_minted_total 0\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE tokenward_tokens_held gauge\n") && !text.contains("# EOF"), "{text}");
    }
}
