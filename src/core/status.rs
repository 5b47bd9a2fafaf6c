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
    windows::Due,
};
use crate::crd::{
    duration::Duration,
    format::FormatType,
    token_policy::{AccountCounts, Binding, Failure as FailureStatus, TokenPolicyStatus},
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
    pub due: Option<Due>,
    /// A token of it is alive that is bound to nothing.
    pub irrevocable: bool,
    /// It is signed by another key or issuer than the youngest token.
    pub old_signer: bool,
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
    /// What is wrong for the policy as a whole, while its grants go on.
    pub concern: Option<&'a Failure>,
    /// Id of the key that the youngest token is signed with.
    pub key_in_use: Option<&'a str>,
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
        next_rotation: rows
            .iter()
            .filter_map(|row| row.due)
            .map(|due| due.at)
            .min()
            .filter(|_| !policy.spec.suspend)
            .map(text),
        failures: rows.iter().filter_map(failure).take(MAX_FAILURES).collect(),
    }
}

/// The status of a policy that cannot be acted on at all; what was known of its tokens stays.
#[must_use]
pub fn stalled(failure: &Failure, before: &TokenPolicyStatus, generation: i64, now: Time) -> TokenPolicyStatus {
    let reason = failure.reason.as_str();
    let conditions =
        [Draft::new("Ready", false, reason, &failure.message), Draft::new("Stalled", true, reason, &failure.message)];
    TokenPolicyStatus {
        observed_generation: Some(generation),
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
pub struct Draft {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl Draft {
    /// A condition of this type.
    #[must_use]
    pub fn new(kind: &'static str, status: bool, reason: &'static str, message: &str) -> Self {
        Self { kind, status, reason, message: message.to_owned() }
    }

    /// The condition; its time moves only when its status flips, compared to `before`.
    #[must_use]
    pub fn since(self, before: &[Condition], generation: i64, now: Time) -> Condition {
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
        progress(policy, rows, &ready, context.concern),
        policy.spec.suspend.then(|| {
            Draft::new("Suspended", true, "Suspended", "no token is issued; set spec.suspend to false to go on")
        }),
        granted.and_then(|granted| shortened(policy, granted)),
        unsatisfiable(policy, rows),
        unsupported(policy, rows),
        signers_rotating(rows, context.key_in_use),
        internal_server(policy, context.site),
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
fn progress(policy: &Policy, rows: &[Row], ready: &Draft, concern: Option<&Failure>) -> Option<Draft> {
    let failing = rows.iter().find_map(Row::failure).or(concern);
    let working = rows.iter().any(|row| row.standing == Standing::Working);
    match failing {
        Some(_) if !ready.status => {
            Some(Draft { kind: "Stalled", status: true, reason: ready.reason, message: ready.message.clone() })
        }
        Some(failure) => Some(Draft::new("Reconciling", true, failure.reason.as_str(), &failure.message)),
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

/// A token whose whole life has no window that it could wait for. Without windows, none is outside of them.
fn unsatisfiable(policy: &Policy, rows: &[Row]) -> Option<Draft> {
    let outside = rows.iter().filter_map(|row| Some((row, row.due?))).filter(|(_, due)| due.outside);
    let (row, due) = outside.min_by_key(|(_, due)| due.at).filter(|_| !policy.spec.suspend)?;
    let message = format!(
        "no window opens in time for the token of {}; it is replaced outside of them at {}. Add windows, ask for a longer token.duration, lower rotation.renewBeforePercentage, or raise rotation.maxAge where it is set",
        row.account,
        text(due.at)
    );
    Some(Draft::new("WindowsUnsatisfiable", true, "NoWindowInTime", &message))
}

/// Also while tokens from before a change of the binding are alive.
fn unsupported(policy: &Policy, rows: &[Row]) -> Option<Draft> {
    let message = "tokens are bound to nothing, so only deleting their ServiceAccount revokes them; choose token.binding Anchor or Target for those to come";
    let applies = policy.binding() == Binding::None || rows.iter().any(|row| row.irrevocable);
    applies.then(|| Draft::new("RevocationUnsupported", true, "BindingNone", message))
}

fn signers_rotating(rows: &[Row], key_in_use: Option<&str>) -> Option<Draft> {
    let old = rows.iter().filter(|row| row.old_signer).count();
    let message = format!(
        "{old} of {} tokens are signed by another key or issuer than the youngest token (key {}); keep the old key until this condition is gone",
        rows.len(),
        key_in_use.unwrap_or_default()
    );
    (old > 0).then(|| Draft::new("SigningKeysRotating", true, "OtherSigner", &message))
}

fn internal_server(policy: &Policy, site: &Site) -> Option<Draft> {
    let message = format!(
        "Secrets carry the server {}, which only works inside the cluster; start the operator with --cluster-server, or set server in spec.secret.format",
        site.server
    );
    let format = &policy.spec.secret.format;
    // Registries are told no server.
    let applies = site.internal && format.server().is_none() && format.kind != FormatType::DockerConfigJson;
    applies.then(|| Draft::new("InternalServer", true, "ClusterInternalAddress", &message))
}

fn skewed(skew: TimeDelta) -> Draft {
    let message = format!(
        "the operator's clock differs from the API server's by {} s; it follows the server's, but set the clock right",
        skew.num_seconds()
    );
    Draft::new("ClockSkew", true, "ClockSkew", &message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::{facts::PolicyState, failure::Reason};

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn site(internal: bool) -> Site {
        Site { server: "https://api".into(), ca: Vec::new(), internal }
    }

    #[test]
    fn an_internal_server_is_told_where_the_secret_carries_it() {
        let told = |format: serde_json::Value| {
            let spec = json!({"serviceAccounts": {"selector": {}}, "secret": {"format": format}});
            let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": "p"}, "spec": spec});
            let state = PolicyState::read(serde_json::from_value(policy).unwrap(), &site(true));
            internal_server(state.readable().unwrap(), &site(true)).is_some()
        };
        assert!(told(json!({})) && told(json!({"type": "Kubeconfig"})));
        assert!(!told(json!({"type": "Kubeconfig", "kubeconfig": {"server": "https://api"}})));
        assert!(!told(json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r"]}})));
    }

    fn status(spec: &serde_json::Value, rows: Vec<Row>, before: &TokenPolicyStatus, now: i64) -> TokenPolicyStatus {
        let mut full = json!({"serviceAccounts": {"selector": {}}, "token": {"duration": "168h"}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": "p"}, "spec": full});
        let state = PolicyState::read(serde_json::from_value(policy).unwrap(), &site(false));
        let site = &site(false);
        let context =
            Context { now: at(now), skew: TimeDelta::seconds(now), site, concern: None, key_in_use: Some("k") };
        summarise(state.readable().unwrap(), rows, before, context)
    }

    fn row(account: &str, hours: i64, standing: Standing) -> Row {
        let token = (hours > 0).then(|| (at(0), at(hours * 3600)));
        Row {
            account: account.into(),
            standing,
            valid: token.is_some(),
            since: at(0),
            token,
            due: token.map(|(_, end)| Due { at: end, outside: false }),
            irrevocable: false,
            old_signer: false,
        }
    }

    fn failing(reason: Reason) -> Standing {
        Standing::Failing(Failure::new(reason, "create Secret ci/x"))
    }

    fn seen(status: &TokenPolicyStatus) -> Vec<(&str, &str, &str)> {
        let conditions = status.conditions.iter();
        conditions
            .map(|condition| (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str()))
            .collect()
    }

    #[test]
    fn all_valid_is_ready_and_nothing_else() {
        let rows = vec![row("a", 168, Standing::Ready), row("b", 169, Standing::Ready)];
        let status = status(&json!({}), rows, &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&status), [("Ready", "True", "TokensPublished")]);
        assert_eq!(status.accounts.unwrap().summary, "2/2");
        assert_eq!(status.earliest_expiration, Some(text(at(168 * 3600))));
    }

    #[test]
    fn nobody_selected_is_ready_and_says_so() {
        let status = status(&json!({}), Vec::new(), &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&status), [("Ready", "True", "NoAccountsSelected")]);
    }

    #[test]
    fn a_missing_token_is_stalled_when_it_fails_and_reconciling_while_it_is_issued() {
        let issuing = status(&json!({}), vec![row("a", 0, Standing::Working)], &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&issuing), [("Ready", "False", "Issuing"), ("Reconciling", "True", "Issuing")]);
        let stalled =
            status(&json!({}), vec![row("a", 0, failing(Reason::QuotaExceeded))], &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&stalled), [("Ready", "False", "QuotaExceeded"), ("Stalled", "True", "QuotaExceeded")]);
        assert!(stalled.conditions[0].message.contains("raise the quota"), "{}", stalled.conditions[0].message);
    }

    #[test]
    fn a_failing_renewal_of_a_valid_token_stays_ready_and_is_listed() {
        let rows = vec![row("late", 169, Standing::Ready), row("soon", 168, failing(Reason::AdmissionDenied))];
        let status = status(&json!({}), rows, &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&status), [("Ready", "True", "TokensPublished"), ("Reconciling", "True", "AdmissionDenied")]);
        assert_eq!((status.failures[0].service_account.as_str(), status.failures.len()), ("soon", 1));
    }

    #[test]
    fn a_shortened_lifetime_names_both_numbers() {
        let status = status(&json!({}), vec![row("a", 1, Standing::Ready)], &TokenPolicyStatus::default(), 0);
        let condition = status.conditions.iter().find(|condition| condition.type_ == "LifetimeShortened").unwrap();
        assert!(condition.message.contains("168h") && condition.message.contains("grants 1h"), "{}", condition.message);
    }

    #[test]
    fn suspended_and_skewed_say_so() {
        let status =
            status(&json!({"suspend": true}), vec![row("a", 0, Standing::Working)], &TokenPolicyStatus::default(), 6);
        let seen = seen(&status);
        assert!(seen.contains(&("Ready", "False", "Suspended")) && seen.contains(&("Suspended", "True", "Suspended")));
        assert!(
            seen.contains(&("ClockSkew", "True", "ClockSkew")) && !seen.iter().any(|(kind, ..)| *kind == "Reconciling")
        );
        assert_eq!(status.next_rotation, None);
    }

    #[test]
    fn windows_bindings_and_signers_have_conditions_of_their_own() {
        let due = Some(Due { at: at(99), outside: true });
        let rows =
            vec![Row { due, old_signer: true, ..row("a", 168, Standing::Ready) }, row("b", 168, Standing::Ready)];
        let spec = json!({"token": {"duration": "168h", "binding": "None"}});
        let status = status(&spec, rows, &TokenPolicyStatus::default(), 0);
        let kinds: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(kinds, ["Ready", "WindowsUnsatisfiable", "RevocationUnsupported", "SigningKeysRotating"]);
        assert!(status.conditions[1].message.contains(&text(at(99))), "{}", status.conditions[1].message);
        assert!(status.conditions[3].message.starts_with("1 of 2 tokens"), "{}", status.conditions[3].message);
    }

    #[test]
    fn transition_times_move_only_when_the_status_flips() {
        let first = status(&json!({}), vec![row("a", 0, Standing::Working)], &TokenPolicyStatus::default(), 0);
        let second = status(&json!({}), vec![row("a", 0, failing(Reason::Forbidden))], &first, 3);
        assert_eq!(first.conditions[0].last_transition_time, second.conditions[0].last_transition_time);
        let third = status(&json!({}), vec![row("a", 168, Standing::Ready)], &second, 4);
        assert_ne!(second.conditions[0].last_transition_time, third.conditions[0].last_transition_time);
    }

    #[test]
    fn at_most_twenty_failures_closest_to_expiry_first() {
        let rows = (0..30).map(|n| row(&format!("a{n:02}"), 200 - n, failing(Reason::ApiUnavailable))).collect();
        let status = status(&json!({}), rows, &TokenPolicyStatus::default(), 0);
        assert_eq!((status.failures.len(), status.failures[0].service_account.as_str()), (20, "a29"));
        assert_eq!(status.accounts.unwrap().failing, 30);
    }
}
