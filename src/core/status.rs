//! From how the grants of a policy stand to the policy's status.

use chrono::TimeDelta;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time as ApiTime},
    jiff::Timestamp,
};

use super::{
    Time,
    facts::{Policy, Site, text},
    failure::Failure,
    plan::Standing,
};
use crate::crd::{
    duration::Duration,
    token_policy::{AccountCounts, Failure as FailureStatus, TokenPolicyStatus},
};

/// Failures listed at most: a status must stay readable and small.
const MAX_FAILURES: usize = 20;
/// Difference to the API server's clock that is worth a condition.
pub const MAX_SKEW: TimeDelta = TimeDelta::seconds(5);

/// One selected account.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the account.
    pub account: String,
    /// How it stands.
    pub standing: Standing,
    /// A published token is valid.
    pub valid: bool,
    /// Since when it stands so.
    pub since: Time,
    /// Start and end of the published token, if any.
    pub token: Option<(Time, Time)>,
    /// When that is replaced.
    pub due: Option<Time>,
}

impl Row {
    fn failure(&self) -> Option<&Failure> {
        match &self.standing {
            Standing::Failing(failure) => Some(failure),
            _ => None,
        }
    }

    fn expires(&self) -> Option<Time> {
        self.token.map(|(_, end)| end)
    }
}

/// What the operator knows besides the grants.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Now.
    pub now: Time,
    /// How far the local clock is ahead of the API server's.
    pub skew: TimeDelta,
    /// What goes into targets.
    pub site: &'a Site,
}

/// Computes the status of a policy. Condition times move only when a status flips, compared to `before`.
#[must_use]
pub fn summarise(
    policy: &Policy,
    mut rows: Vec<Row>,
    before: &TokenPolicyStatus,
    context: Context<'_>,
) -> TokenPolicyStatus {
    rows.sort_by_cached_key(|row| (row.expires(), row.account.clone()));
    let granted = rows.iter().filter_map(|row| row.token).map(|(start, end)| end - start).min();
    let conditions = conditions(policy, &rows, granted, context);
    TokenPolicyStatus {
        observed_generation: Some(policy.generation),
        conditions: conditions
            .into_iter()
            .map(|condition| condition.since(&before.conditions, policy.generation, context.now))
            .collect(),
        accounts: Some(counts(&rows)),
        granted_duration: granted.map(whole_seconds),
        earliest_expiration: rows.iter().find_map(Row::expires).map(text),
        next_rotation: rows.iter().filter_map(|row| row.due).min().filter(|_| !policy.spec.suspend).map(text),
        failures: rows.iter().filter_map(failure).take(MAX_FAILURES).collect(),
    }
}

/// The status of a policy that cannot be acted on at all; what was known of its tokens stays.
#[must_use]
pub fn stalled(failure: &Failure, before: &TokenPolicyStatus, now: Time) -> TokenPolicyStatus {
    let reason = failure.reason.as_str();
    let conditions =
        [Draft::new("Ready", false, reason, &failure.message), Draft::new("Stalled", true, reason, &failure.message)];
    let generation = before.observed_generation.unwrap_or_default();
    TokenPolicyStatus {
        conditions: conditions
            .into_iter()
            .map(|condition| condition.since(&before.conditions, generation, now))
            .collect(),
        ..before.clone()
    }
}

fn whole_seconds(span: TimeDelta) -> Duration {
    Duration::from_secs(u32::try_from(span.num_seconds()).unwrap_or(u32::MAX))
}

fn counts(rows: &[Row]) -> AccountCounts {
    let count =
        |test: &dyn Fn(&Row) -> bool| i32::try_from(rows.iter().filter(|row| test(row)).count()).unwrap_or(i32::MAX);
    let (selected, ready) = (count(&|_| true), count(&|row| row.valid));
    AccountCounts {
        selected,
        ready,
        failing: count(&|row| row.failure().is_some()),
        summary: format!("{ready}/{selected}"),
    }
}

fn failure(row: &Row) -> Option<FailureStatus> {
    let failure = row.failure()?;
    Some(FailureStatus {
        service_account: row.account.clone(),
        reason: failure.reason.as_str().into(),
        message: failure.message.clone(),
        since: text(row.since),
    })
}

/// A condition without times.
struct Draft {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl Draft {
    fn new(kind: &'static str, status: bool, reason: &'static str, message: &str) -> Self {
        Self { kind, status, reason, message: message.to_owned() }
    }

    fn since(self, before: &[Condition], generation: i64, now: Time) -> Condition {
        let status = if self.status { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == self.kind && old.status == status);
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: self.message,
            observed_generation: Some(generation),
            last_transition_time: same.map_or_else(|| api_time(now), |old| old.last_transition_time.clone()),
        }
    }
}

fn api_time(time: Time) -> ApiTime {
    ApiTime(Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Ready always; the others only while they are true, as kstatus wants it.
fn conditions(policy: &Policy, rows: &[Row], granted: Option<TimeDelta>, context: Context<'_>) -> Vec<Draft> {
    let ready = ready(policy, rows);
    let optional = [
        progress(policy, rows, &ready),
        policy.spec.suspend.then(|| {
            Draft::new("Suspended", true, "Suspended", "no token is issued; set spec.suspend to false to go on")
        }),
        granted.and_then(|granted| shortened(policy, granted)),
        context.site.internal.then(|| internal_server(context.site)),
        (context.skew.abs() > MAX_SKEW).then(|| skewed(context.skew)),
    ];
    std::iter::once(ready).chain(optional.into_iter().flatten()).collect()
}

fn ready(policy: &Policy, rows: &[Row]) -> Draft {
    let missing: Vec<&Row> = rows.iter().filter(|row| !row.valid).collect();
    let Some(first) = missing.iter().find(|row| row.failure().is_some()).or(missing.first()) else {
        return match rows.len() {
            0 => Draft::new(
                "Ready",
                true,
                "NoAccountsSelected",
                "no ServiceAccount is selected; check spec.serviceAccounts if that is not meant",
            ),
            n => Draft::new("Ready", true, "TokensPublished", &format!("{n} of {n} accounts have a valid token")),
        };
    };
    let (reason, cause) = match first.failure() {
        Some(failure) => (failure.reason.as_str(), failure.message.as_str()),
        None if policy.spec.suspend => ("Suspended", "no token is issued; set spec.suspend to false to go on"),
        None => ("Issuing", "its token is being issued"),
    };
    let message =
        format!("{} of {} accounts have no valid token; {}: {cause}", missing.len(), rows.len(), first.account);
    Draft::new("Ready", false, reason, &message)
}

/// Stalled when people have to act before anything moves, else Reconciling while something is under way.
fn progress(policy: &Policy, rows: &[Row], ready: &Draft) -> Option<Draft> {
    let failing = rows.iter().find(|row| row.failure().is_some());
    let working = rows.iter().any(|row| row.standing == Standing::Working);
    match failing {
        Some(_) if !ready.status => {
            Some(Draft { kind: "Stalled", status: true, reason: ready.reason, message: ready.message.clone() })
        }
        Some(row) => {
            row.failure().map(|failure| Draft::new("Reconciling", true, failure.reason.as_str(), &failure.message))
        }
        None => (working && !policy.spec.suspend)
            .then(|| Draft::new("Reconciling", true, "Issuing", "tokens are being issued")),
    }
}

fn shortened(policy: &Policy, granted: TimeDelta) -> Option<Draft> {
    let asked = policy.spec.token.duration;
    let granted = whole_seconds(granted);
    (granted.as_secs() < asked.as_secs()).then(|| {
        let message = format!("asked for {asked}, the API server grants {granted} (its flag --service-account-max-token-expiration); tokens are renewed in time");
        Draft::new("LifetimeShortened", true, "ServerLimit", &message)
    })
}

fn internal_server(site: &Site) -> Draft {
    let message = format!(
        "Secrets carry the server {}, which only works inside the cluster; start the operator with --cluster-server",
        site.server
    );
    Draft::new("InternalServer", true, "ClusterInternalAddress", &message)
}

fn skewed(skew: TimeDelta) -> Draft {
    let message = format!(
        "the operator's clock differs from the API server's by {} s; it follows the server's, but set the clock right",
        skew.num_seconds()
    );
    Draft::new("ClockSkew", true, "ClockSkew", &message)
}
