//! From the grants of a policy to its status. Counts follow each grant as it changes; nothing here visits all grants.

use std::{collections::BTreeSet, sync::Arc};

use chrono::TimeDelta;

use crate::{
    api::{
        duration::Duration,
        schema,
        token_policy::{AccountCounts, AccountFailure, Binding, TokenPolicyStatus},
    },
    core::{
        Time,
        address::KnownAddress,
        condition::{Draft, conditions, stopped},
        credential::keys::{Signer, TokenKeys},
        failure::Failure,
        format,
        id::Secs,
        meta::text,
        policy::{Head, Policy},
        pool::{Tally, tally},
        reason::AddressReason,
    },
};

/// Failures listed at most: a status must stay readable and small.
pub const MAX_FAILURES: usize = 20;
/// Difference to the API server's clock that is worth a condition.
pub const MAX_SKEW: TimeDelta = TimeDelta::seconds(5);

/// How a grant stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A valid token of the current generation is published.
    Ready,
    /// One is being issued.
    Working,
    /// Something is wrong. A valid token may still be published.
    Failing(Failure),
    /// The policy does not count this account.
    Unselected,
}

impl Standing {
    /// The failure, if it fails.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failing(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether a request to revoke is not carried out.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.failure().is_some_and(|failure| failure.reason.is_unheard())
    }
}

/// The share of one grant in the counts of its policy.
#[expect(clippy::struct_excessive_bools, reason = "each is counted on its own")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The policy selects the account.
    pub selected: bool,
    /// A published token is valid.
    pub valid: bool,
    /// A token is being issued.
    pub working: bool,
    /// Nothing was decided since its policy asks for something else.
    pub undecided: bool,
    /// Something is wrong.
    pub failing: bool,
    /// A token of it is alive that is bound to nothing.
    pub irrevocable: bool,
    /// A token that is to be revoked lives on.
    pub unrevoked: bool,
    /// The replacement lies outside of all windows.
    pub outside: bool,
    /// End of the published token; 1970 without one.
    pub expires: Secs,
    /// Issue of the published token.
    pub issued: Secs,
    /// When it is replaced.
    pub due: Secs,
    /// Its signer.
    pub signer: Option<Arc<Signer>>,
}

/// The counts of one policy.
#[derive(Debug, Default)]
pub struct Totals {
    selected: u32,
    valid: u32,
    /// Grants with a token under way.
    pub working: u32,
    /// Grants whose token has not been judged since the policy asks for something else.
    pub undecided: u32,
    irrevocable: u32,
    expires: Tally<Secs>,
    due: Tally<Secs>,
    /// Lifetimes, in seconds.
    granted: Tally<u32>,
    signers: Tally<Arc<Signer>>,
    /// The youngest token that was ever counted.
    newest: Option<(Secs, Arc<Signer>)>,
    /// Grants by the end of their tokens: those that fail, those without a valid token, and those that are both.
    failing: BTreeSet<(Secs, u32)>,
    invalid: BTreeSet<(Secs, u32)>,
    broken: BTreeSet<(Secs, u32)>,
    outside: BTreeSet<(Secs, u32)>,
    unrevoked: BTreeSet<u32>,
}

impl Totals {
    /// Counts a grant.
    pub fn add(&mut self, id: u32, counted: &Counted) {
        self.change(id, counted, 1);
        let newer = |known: &(Secs, Arc<Signer>)| known.0 < counted.issued;
        if let Some(signer) =
            counted.signer.as_ref().filter(|_| counted.valid && self.newest.as_ref().is_none_or(newer))
        {
            self.newest = Some((counted.issued, signer.clone()));
        }
    }

    /// Ends what [`Totals::add`] began.
    pub fn remove(&mut self, id: u32, counted: &Counted) {
        self.change(id, counted, -1);
    }

    fn change(&mut self, id: u32, counted: &Counted, by: i32) {
        // A retirement fails also where the account is not selected any more.
        set(&mut self.unrevoked, id, counted.unrevoked, by);
        if !counted.selected {
            return;
        }
        let count = |total: &mut u32, is: bool| *total = total.saturating_add_signed(i32::from(is) * by);
        count(&mut self.selected, true);
        count(&mut self.valid, counted.valid);
        count(&mut self.working, counted.working);
        count(&mut self.undecided, counted.undecided);
        count(&mut self.irrevocable, counted.irrevocable);
        let place = (counted.expires, id);
        set(&mut self.failing, place, counted.failing, by);
        set(&mut self.invalid, place, !counted.valid, by);
        set(&mut self.broken, place, counted.failing && !counted.valid, by);
        set(&mut self.outside, (counted.due, id), counted.outside, by);
        if let Some(signer) = &counted.signer {
            tally(&mut self.signers, signer.clone(), by);
        }
        if counted.expires != Secs::default() {
            tally(&mut self.expires, counted.expires, by);
            tally(&mut self.due, counted.due, by);
            let granted = counted.expires.time() - counted.issued.time();
            tally(&mut self.granted, u32::try_from(granted.num_seconds()).unwrap_or(u32::MAX), by);
        }
    }

    /// Whether tokens are being issued, and nothing else can be said yet.
    #[must_use]
    pub fn have_just_begun(&self) -> bool {
        self.working > 0 && self.valid == 0 && self.failing.is_empty() && self.unrevoked.is_empty()
    }

    /// The grants that the status names: failures closest to expiry first.
    pub fn failing(&self) -> impl Iterator<Item = u32> {
        self.failing.iter().take(MAX_FAILURES).map(|(_, id)| *id)
    }

    /// A grant without a valid token, one that fails if there is one.
    #[must_use]
    pub fn first_invalid(&self) -> Option<u32> {
        self.broken.first().or(self.invalid.first()).map(|(_, id)| *id)
    }

    /// A grant whose token that is to be revoked lives on.
    #[must_use]
    pub fn first_unrevoked(&self) -> Option<u32> {
        self.unrevoked.first().copied()
    }

    /// The first grant that is replaced outside of all windows, and when.
    #[must_use]
    pub fn first_outside(&self) -> Option<(Secs, u32)> {
        self.outside.first().copied()
    }

    /// The signer in use, as far as this policy is concerned: of the youngest token that was issued to this process, else
    /// of its own youngest token. Nobody else's Secret counts.
    fn signer_in_use<'a>(&'a self, keys: &'a TokenKeys) -> Option<&'a Arc<Signer>> {
        keys.in_use().or(self.newest.as_ref().map(|(_, signer)| signer))
    }
}

fn set<T: Ord>(set: &mut BTreeSet<T>, value: T, is: bool, by: i32) {
    if is && by > 0 {
        set.insert(value);
    } else if is {
        set.remove(&value);
    }
}

/// One account that a status names.
#[derive(Clone, Debug)]
pub struct NamedAccount {
    /// Name of the account.
    pub account: String,
    /// Why it fails.
    pub failure: Option<Failure>,
    /// Since when.
    pub since: Time,
}

/// A revocation that fails.
#[derive(Clone, Debug)]
pub struct Unrevoked {
    /// Name of the account; none where it is not known whose tokens live on, or whether any do.
    pub account: Option<String>,
    /// Why.
    pub failure: Failure,
    /// Somebody asked for it.
    pub asked: bool,
}

/// Everything else that a status is made of.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// Now.
    pub now: Time,
    /// How far the local clock is ahead of the API server's.
    pub skew: TimeDelta,
    /// Where consumers reach the API server.
    pub address: &'a KnownAddress,
    /// The limits refuse every token for the API server, and the cure.
    pub audience_refused: Option<&'a str>,
    /// Keys in use.
    pub keys: &'a TokenKeys,
    /// A failure that concerns the policy as a whole, while its grants go on.
    pub concern: Option<&'a Failure>,
    /// Grants that fail, closest to expiry first.
    pub failing: Vec<NamedAccount>,
    /// A grant without a valid token.
    pub invalid: Option<NamedAccount>,
    /// A grant whose token that is to be revoked lives on.
    pub unrevoked: Option<Unrevoked>,
    /// The account that is replaced outside of all windows first, and when.
    pub outside: Option<(String, Time)>,
}

/// Whether this is the status that the API server shows before one is written.
#[must_use]
pub fn is_pending(status: &TokenPolicyStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == schema::PENDING)
}

/// Computes the status of a policy. Condition times move only when a status flips, compared to `before`.
#[must_use]
pub fn summarise(
    policy: &Policy,
    totals: &Totals,
    before: &TokenPolicyStatus,
    context: &Context<'_>,
) -> TokenPolicyStatus {
    let first = |counts: &Tally<Secs>| counts.keys().next().map(|at| text(at.time()));
    TokenPolicyStatus {
        observed_generation: Some(policy.generation),
        conditions: conditions(drafts(policy, totals, context), &before.conditions, policy.generation, context.now),
        accounts: Some(counts(totals)),
        granted_duration: granted(totals),
        earliest_expiration: first(&totals.expires),
        next_rotation: first(&totals.due).filter(|_| !policy.spec.suspend),
        failures: failures(context, before),
    }
}

/// The status of a policy of whose grants nothing is known yet; the last news of its tokens stay.
#[must_use]
pub fn stalled(head: &Head, failure: &Failure, before: &TokenPolicyStatus, context: &Context<'_>) -> TokenPolicyStatus {
    let drafts = stopped(failure).into_iter().chain(context.unrevoked.as_ref().map(revocation_failing));
    TokenPolicyStatus {
        observed_generation: Some(head.generation),
        conditions: conditions(drafts, &before.conditions, head.generation, context.now),
        ..before.clone()
    }
}

/// The status of a policy that cannot be read: nothing is issued, and it goes on telling of the tokens that live.
#[must_use]
pub fn frozen(
    head: &Head,
    failure: &Failure,
    totals: &Totals,
    before: &TokenPolicyStatus,
    context: &Context<'_>,
) -> TokenPolicyStatus {
    TokenPolicyStatus {
        accounts: Some(counts(totals)),
        granted_duration: granted(totals),
        earliest_expiration: totals.expires.keys().next().map(|at| text(at.time())),
        failures: failures(context, before),
        ..stalled(head, failure, before, context)
    }
}

fn granted(totals: &Totals) -> Option<Duration> {
    totals.granted.keys().next().map(|seconds| Duration::from_secs(*seconds))
}

fn counts(totals: &Totals) -> AccountCounts {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let Totals { selected, valid, failing, .. } = totals;
    AccountCounts {
        selected: count(*selected as usize),
        ready: count(*valid as usize),
        failing: count(failing.len()),
        summary: format!("{valid}/{selected}"),
    }
}

/// The failures to name. One that the status names already began then, which another process may have seen.
fn failures(context: &Context<'_>, before: &TokenPolicyStatus) -> Vec<AccountFailure> {
    let failure = |named: &NamedAccount| {
        let failure = named.failure.as_ref()?;
        let reason = failure.reason.into_str();
        let same = |old: &&AccountFailure| old.service_account == named.account && old.reason == reason;
        Some(AccountFailure {
            service_account: named.account.clone(),
            reason: reason.into(),
            message: failure.message.to_string(),
            since: before.failures.iter().find(same).map_or_else(|| text(named.since), |old| old.since.clone()),
        })
    };
    context.failing.iter().filter_map(failure).collect()
}

/// Ready always; the others only while they are true, as kstatus wants it.
fn drafts(policy: &Policy, totals: &Totals, context: &Context<'_>) -> Vec<Draft> {
    let ready = ready(policy, totals, context);
    let optional = [
        progress(policy, totals, &ready, context),
        context.unrevoked.as_ref().map(revocation_failing),
        policy.spec.suspend.then(|| {
            Draft::new("Suspended", true, "Suspended", "no token is issued; set spec.suspend to false to go on")
        }),
        shortened(policy, totals),
        unsatisfiable(policy, context),
        unsupported(policy, totals),
        signers_rotating(totals, context),
        internal_server(policy, context.address),
        address_contested(policy, context.address),
        audience_not_allowed(policy, context.audience_refused),
        (context.skew.abs() > MAX_SKEW).then(|| skewed(context.skew)),
    ];
    std::iter::once(ready).chain(optional.into_iter().flatten()).collect()
}

fn ready(policy: &Policy, totals: &Totals, context: &Context<'_>) -> Draft {
    let n = totals.selected;
    let Some(first) = context.invalid.as_ref().filter(|_| totals.valid < n) else {
        let nobody = "no ServiceAccount is selected; check spec.serviceAccounts if you expected one";
        return match n {
            0 => Draft::new("Ready", true, "NoAccountsSelected", nobody),
            n => Draft::new("Ready", true, "TokensPublished", &format!("{n} of {n} accounts have a valid token")),
        };
    };
    let (reason, cause) = match &first.failure {
        _ if policy.terminating => (
            "PolicyTerminating",
            "the policy is being deleted, and nothing is issued any more; it goes when its finalizers are taken off",
        ),
        Some(failure) => (failure.reason.into_str(), failure.message.as_str()),
        None if policy.spec.suspend => ("Suspended", "no token is issued; set spec.suspend to false to go on"),
        None => ("Issuing", "its token is being issued"),
    };
    let missing = n - totals.valid;
    let message = format!("{missing} of {n} accounts have no valid token; {}: {cause}", first.account);
    Draft::new("Ready", false, reason, &message)
}

/// Stalled when people have to act before anything moves, else Reconciling while something is under way.
fn progress(policy: &Policy, totals: &Totals, ready: &Draft, context: &Context<'_>) -> Option<Draft> {
    let stalled = |reason, message: &str| Some(Draft::new("Stalled", true, reason, message));
    let failing = context.failing.first().and_then(|named| named.failure.as_ref()).or(context.concern);
    let asked = context.unrevoked.as_ref().filter(|unrevoked| unrevoked.asked);
    match (failing, asked) {
        (Some(_), _) if !ready.status => stalled(ready.reason, &ready.message),
        (_, Some(unrevoked)) => stalled(unrevoked.failure.reason.into_str(), &unrevoked.failure.message),
        (Some(failure), None) => Some(Draft::failure("Reconciling", true, failure)),
        (None, None) => (totals.working > 0 && !policy.spec.suspend)
            .then(|| Draft::new("Reconciling", true, "Issuing", "tokens are being issued")),
    }
}

fn revocation_failing(unrevoked: &Unrevoked) -> Draft {
    let Unrevoked { account, failure, .. } = unrevoked;
    let message = match account {
        Some(account) => format!("tokens that are to be revoked live on; {account}: {}", failure.message),
        None => failure.message.to_string(),
    };
    Draft::new("RevocationFailing", true, failure.reason.into_str(), &message)
}

fn shortened(policy: &Policy, totals: &Totals) -> Option<Draft> {
    let (asked, granted) = (policy.spec.token.duration, granted(totals)?);
    (granted.as_secs() < asked.as_secs()).then(|| {
        let message = format!("asked for {asked}, the API server grants {granted} (its flag --service-account-max-token-expiration); tokens are renewed in time");
        Draft::new("LifetimeShortened", true, "ServerLimit", &message)
    })
}

/// A token whose whole life has no window that it could wait for. Without windows, none is outside of them.
fn unsatisfiable(policy: &Policy, context: &Context<'_>) -> Option<Draft> {
    let (account, due) = context.outside.as_ref().filter(|_| !policy.spec.suspend)?;
    let message = format!(
        "no window opens in time for the token of {account}; it is replaced outside of them at {}. Add windows, ask for a longer token.duration, lower rotation.renewBeforePercentage, or raise rotation.maxAge where it is set",
        text(*due)
    );
    Some(Draft::new("WindowsUnsatisfiable", true, "NoWindowInTime", &message))
}

/// Also while tokens from before a change of the binding are alive.
fn unsupported(policy: &Policy, totals: &Totals) -> Option<Draft> {
    let message = "tokens are bound to nothing, so only deleting their ServiceAccount revokes them; choose token.binding Anchor or Target for those to come";
    let applies = policy.binding() == Binding::None || totals.irrevocable > 0;
    applies.then(|| Draft::new("RevocationUnsupported", true, "BindingNone", message))
}

fn signers_rotating(totals: &Totals, context: &Context<'_>) -> Option<Draft> {
    let in_use = totals.signer_in_use(context.keys)?;
    let old: u32 = totals.signers.iter().filter(|(signer, _)| *signer != in_use).map(|(_, count)| count).sum();
    let message = format!(
        "{old} of {} tokens are signed by another key or issuer than the youngest token (key {}); keep the old key until this condition is gone",
        totals.selected, in_use.key_id
    );
    (old > 0).then(|| Draft::new("SigningKeysRotating", true, "OtherSigner", &message))
}

fn internal_server(policy: &Policy, known: &KnownAddress) -> Option<Draft> {
    let message = format!(
        "Secrets carry the server {}, which only works inside the cluster; start the operator with --cluster-server, or set server in spec.secret.format",
        known.address.server
    );
    let format = &policy.spec.secret.format;
    let applies = format::told(format, &known.address).internal && format::of(format).tells_server();
    applies.then(|| Draft::new("InternalServer", true, "ClusterInternalAddress", &message))
}

/// A look that failed for a moment is told by the metric alone: a status of every policy would be too much for that.
fn address_contested(policy: &Policy, known: &KnownAddress) -> Option<Draft> {
    let contest = known.contest.as_ref().filter(|contest| contest.reason != AddressReason::ClusterInfoUnknown)?;
    let message = format!("{contest}. Until then Secrets carry the server {} with its CA", known.address.server);
    let draft = Draft::new("ClusterAddressContested", true, contest.reason.into_str(), &message);
    format::of(&policy.spec.secret.format).tells_server().then_some(draft)
}

fn audience_not_allowed(policy: &Policy, refusal: Option<&str>) -> Option<Draft> {
    let refusal = refusal.filter(|_| policy.spec.token.audiences.is_empty())?;
    Some(Draft::new("ApiAudienceNotAllowed", true, "NotInLimits", refusal))
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
    use crate::core::{
        address::{ClusterAddress, Contest, Source},
        place::applied::Demanded,
        policy::PolicyState,
        reason::FailureReason,
    };

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn address(internal: bool) -> KnownAddress {
        let address = ClusterAddress { server: "https://api".into(), ca: Vec::new(), internal };
        KnownAddress { address, source: Source::ClusterInfo, contest: None }
    }

    fn signer(key: &str) -> Arc<Signer> {
        Arc::new(Signer { key_id: key.into(), issuer: "i".into() })
    }

    fn policy_of(more: &serde_json::Value) -> PolicyState {
        let mut spec = json!({"serviceAccounts": {"selector": {}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": "p"}, "spec": spec});
        PolicyState::read(serde_json::from_value(policy).unwrap(), &Demanded::default())
    }

    #[test]
    fn a_contested_address_is_told_where_the_secret_carries_it() {
        let told = |format: serde_json::Value, reason| {
            let contest = Some(Contest::new(reason, &"x is not usable"));
            let state = policy_of(&json!({"secret": {"format": format}}));
            address_contested(state.readable().unwrap(), &KnownAddress { contest, ..address(false) })
        };
        let draft = told(json!({}), AddressReason::CaFileUnreadable).unwrap();
        assert!(draft.message.starts_with("x is not usable; write the whole bundle"), "{}", draft.message);
        assert!(draft.message.ends_with("carry the server https://api with its CA"), "{}", draft.message);
        let registry = json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r"]}});
        assert!(told(registry, AddressReason::CaFileUnreadable).is_none());
        assert!(told(json!({}), AddressReason::ClusterInfoUnknown).is_none(), "that comes and goes");
    }

    #[test]
    fn an_audience_that_the_limits_refuse_concerns_tokens_for_the_api_server() {
        let told = |audiences: serde_json::Value| {
            let state = policy_of(&json!({"token": {"audiences": audiences}}));
            audience_not_allowed(state.readable().unwrap(), Some("refused")).is_some()
        };
        assert!(told(json!([])) && !told(json!(["vault"])));
    }

    #[test]
    fn an_internal_server_is_told_where_the_secret_carries_it() {
        let told = |format: serde_json::Value| {
            let state = policy_of(&json!({"secret": {"format": format}}));
            internal_server(state.readable().unwrap(), &address(true)).is_some()
        };
        assert!(told(json!({})) && told(json!({"type": "Kubeconfig"})));
        assert!(!told(json!({"type": "Kubeconfig", "kubeconfig": {"server": "https://api"}})));
        let custom = |text: &str| json!({"type": "Custom", "custom": {"data": {"a": "{token}", "b": text}}});
        assert!(told(custom("{server}")) && told(custom("{caBase64}")) && !told(custom("{{server}")));
        assert!(!told(json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r"]}})));
    }

    struct Row {
        account: String,
        failure: Option<Failure>,
        counted: Counted,
    }

    fn row(account: &str, hours: i64, failure: Option<FailureReason>) -> Row {
        let end = Secs::of(at(hours * 3600));
        let counted = Counted { selected: true, failing: failure.is_some(), ..Counted::default() };
        let valid = Counted {
            valid: true,
            expires: end,
            issued: Secs::of(at(0)),
            due: end,
            signer: Some(signer("k")),
            ..counted.clone()
        };
        let failure = failure.map(|reason| Failure::new(reason, "create Secret ci/x"));
        Row { account: account.into(), failure, counted: if hours > 0 { valid } else { counted } }
    }

    fn status(spec: &serde_json::Value, rows: &[Row], before: &TokenPolicyStatus, now: i64) -> TokenPolicyStatus {
        let mut full = json!({"serviceAccounts": {"selector": {}}, "token": {"duration": "168h"}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": "p"}, "spec": full});
        let state = PolicyState::read(serde_json::from_value(policy).unwrap(), &Demanded::default());
        let mut totals = Totals::default();
        for (id, row) in (0..).zip(rows) {
            totals.add(id, &row.counted);
        }
        let named = |id: u32| {
            let row = &rows[id as usize];
            NamedAccount { account: row.account.clone(), failure: row.failure.clone(), since: at(0) }
        };
        let mut keys = TokenKeys::default();
        keys.minted(Secs::of(at(0)), signer("k"));
        let unrevoked = totals.first_unrevoked().map(|id| Unrevoked {
            account: Some(rows[id as usize].account.clone()),
            failure: Failure::new(FailureReason::Forbidden, "delete Secret ci/tw-1"),
            asked: true,
        });
        let context = Context {
            now: at(now),
            skew: TimeDelta::seconds(now),
            address: &address(false),
            audience_refused: None,
            keys: &keys,
            concern: None,
            failing: totals.failing().map(named).collect(),
            invalid: totals.first_invalid().map(named),
            unrevoked,
            outside: totals.first_outside().map(|(due, id)| (rows[id as usize].account.clone(), due.time())),
        };
        summarise(state.readable().unwrap(), &totals, before, &context)
    }

    fn seen(status: &TokenPolicyStatus) -> Vec<(&str, &str, &str)> {
        let conditions = status.conditions.iter();
        conditions
            .map(|condition| (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str()))
            .collect()
    }

    #[test]
    fn all_valid_is_ready_and_nothing_else() {
        let rows = [row("a", 168, None), row("b", 169, None)];
        let status = status(&json!({}), &rows, &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&status), [("Ready", "True", "TokensPublished")]);
        assert_eq!(status.accounts.unwrap().summary, "2/2");
        assert_eq!(status.earliest_expiration, Some(text(at(168 * 3600))));
    }

    #[test]
    fn nobody_selected_is_ready_and_says_so() {
        let status = status(&json!({}), &[], &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&status), [("Ready", "True", "NoAccountsSelected")]);
    }

    #[test]
    fn a_missing_token_is_stalled_when_it_fails_and_reconciling_while_it_is_issued() {
        let mut working = row("a", 0, None);
        working.counted.working = true;
        let issuing = status(&json!({}), &[working], &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&issuing), [("Ready", "False", "Issuing"), ("Reconciling", "True", "Issuing")]);
        let stalled =
            status(&json!({}), &[row("a", 0, Some(FailureReason::QuotaExceeded))], &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&stalled), [("Ready", "False", "QuotaExceeded"), ("Stalled", "True", "QuotaExceeded")]);
        assert!(stalled.conditions[0].message.contains("raise the quota"), "{}", stalled.conditions[0].message);
    }

    #[test]
    fn a_failing_renewal_of_a_valid_token_stays_ready_and_is_listed() {
        let rows = [row("late", 169, None), row("soon", 168, Some(FailureReason::AdmissionDenied))];
        let status = status(&json!({}), &rows, &TokenPolicyStatus::default(), 0);
        assert_eq!(seen(&status), [("Ready", "True", "TokensPublished"), ("Reconciling", "True", "AdmissionDenied")]);
        assert_eq!((status.failures[0].service_account.as_str(), status.failures.len()), ("soon", 1));
    }

    #[test]
    fn a_revocation_that_fails_is_a_condition_and_stalls_what_somebody_asked_for() {
        let mut row = row("a", 168, None);
        row.counted.unrevoked = true;
        let status = status(&json!({}), &[row], &TokenPolicyStatus::default(), 0);
        let expected = [
            ("Ready", "True", "TokensPublished"),
            ("Stalled", "True", "Forbidden"),
            ("RevocationFailing", "True", "Forbidden"),
        ];
        assert_eq!(seen(&status), expected);
    }

    #[test]
    fn a_shortened_lifetime_names_both_numbers() {
        let status = status(&json!({}), &[row("a", 1, None)], &TokenPolicyStatus::default(), 0);
        let condition = status.conditions.iter().find(|condition| condition.type_ == "LifetimeShortened").unwrap();
        assert!(condition.message.contains("168h") && condition.message.contains("grants 1h"), "{}", condition.message);
    }

    #[test]
    fn suspended_and_skewed_say_so() {
        let mut working = row("a", 0, None);
        working.counted.working = true;
        let status = status(&json!({"suspend": true}), &[working], &TokenPolicyStatus::default(), 6);
        let seen = seen(&status);
        assert!(seen.contains(&("Ready", "False", "Suspended")) && seen.contains(&("Suspended", "True", "Suspended")));
        assert!(
            seen.contains(&("ClockSkew", "True", "ClockSkew")) && !seen.iter().any(|(kind, ..)| *kind == "Reconciling")
        );
        assert_eq!(status.next_rotation, None);
    }

    #[test]
    fn windows_bindings_and_signers_have_conditions_of_their_own() {
        let mut first = row("a", 168, None);
        first.counted.due = Secs::of(at(99));
        (first.counted.outside, first.counted.signer) = (true, Some(signer("old")));
        let rows = [first, row("b", 168, None)];
        let spec = json!({"token": {"duration": "168h", "binding": "None"}});
        let status = status(&spec, &rows, &TokenPolicyStatus::default(), 0);
        let kinds: Vec<&str> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(kinds, ["Ready", "WindowsUnsatisfiable", "RevocationUnsupported", "SigningKeysRotating"]);
        assert!(status.conditions[1].message.contains(&text(at(99))), "{}", status.conditions[1].message);
        assert!(status.conditions[3].message.starts_with("1 of 2 tokens"), "{}", status.conditions[3].message);
    }

    #[test]
    fn transition_times_move_only_when_the_status_flips() {
        let first = status(&json!({}), &[row("a", 0, None)], &TokenPolicyStatus::default(), 0);
        let second = status(&json!({}), &[row("a", 0, Some(FailureReason::Forbidden))], &first, 3);
        assert_eq!(first.conditions[0].last_transition_time, second.conditions[0].last_transition_time);
        let third = status(&json!({}), &[row("a", 168, None)], &second, 4);
        assert_ne!(second.conditions[0].last_transition_time, third.conditions[0].last_transition_time);
    }

    #[test]
    fn at_most_twenty_failures_closest_to_expiry_first() {
        let rows: Vec<Row> =
            (0..30).map(|n| row(&format!("a{n:02}"), 200 - n, Some(FailureReason::ApiUnavailable))).collect();
        let status = status(&json!({}), &rows, &TokenPolicyStatus::default(), 0);
        assert_eq!((status.failures.len(), status.failures[0].service_account.as_str()), (20, "a29"));
        assert_eq!(status.accounts.unwrap().failing, 30);
    }

    #[test]
    fn counts_end_as_they_began() {
        let mut totals = Totals::default();
        let rows = [row("a", 5, Some(FailureReason::Invalid)), row("b", 0, None), row("c", 5, None)];
        for (id, row) in (0..).zip(&rows) {
            totals.add(id, &row.counted);
        }
        for (id, row) in (0..).zip(&rows) {
            totals.remove(id, &row.counted);
        }
        totals.newest = None;
        assert_eq!(format!("{totals:?}"), format!("{:?}", Totals::default()));
    }
}
