//! From the first finding to the one call that comes next. The controller decides again after every answer, so a crash
//! between two calls loses only what the process remembers.

use secrecy::SecretString;

use super::{
    Account, Attempt, Failing, Retirement,
    call::{Call, Step, apply, previous, publish, record, recorded},
    checks::{Case, Finding, outlived},
    look::Look,
    repair, retire, revoke,
    status::Standing,
    view::{Placed, View},
};
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        credential::token::{self, Claims, Minted},
        failure::Failure,
        format::{self, Material},
        id::Secs,
        place::{
            record::{Bond, Record},
            secret::{self, Fence, Target},
        },
        policy::Policy,
        reason::{FailureReason, IssueReason},
        request::{Accept, Request, Verb},
    },
};

/// The next act.
#[derive(Debug)]
pub enum Act {
    /// Nothing before this instant, or before something changes.
    Idle(Option<Time>),
    /// This call.
    Call(Box<Call>),
}

/// A decision about a grant.
#[derive(Debug)]
pub struct Decision {
    /// Secrets to delete now; nothing below holds this up.
    pub retire: Vec<Retirement>,
    /// The attempt in memory has no use any more.
    pub drop_attempt: bool,
    /// The next step.
    pub act: Act,
    /// When something becomes due that does not wait for the next step.
    pub wake: Option<Time>,
    /// A deletion that somebody asked for has no answer yet.
    pub unanswered: Option<Retirement>,
    /// For status and events.
    pub standing: Standing,
}

/// The conclusion from a finding.
struct Conclusion {
    act: Act,
    standing: Standing,
    /// The grant goes on: an attempt in memory may be published later.
    active: bool,
}

impl Conclusion {
    fn stop(act: Act, standing: Standing) -> Self {
        Self { act, standing, active: false }
    }
}

/// Decides for one grant. Pure: the same view gives the same decision. While a call of the grant is under way only
/// retirements begin. Until its lists are complete (`open`), those begin that somebody asked for.
#[must_use]
pub fn decide(view: &View<'_>, open: bool) -> Decision {
    let unknown = || Conclusion::stop(Act::Idle(None), Standing::Unselected);
    let conclusion = if open { conclude(view) } else { unknown() };
    let drop_attempt = open && view.attempt().is_some() && !conclusion.active && !view.grant.busy;
    let mut retire = retire::due(view, drop_attempt);
    retire.retain(|retirement| open || retirement.is_asked());
    let wake = retire::next(view, &retire);
    let act = match conclusion.act {
        Act::Idle(until) => sweep(view, &retire, until.into_iter().chain(wake).min()),
        act @ Act::Call(_) => act,
    };
    // A request that is not carried out must not pass for done, whatever else is wrong.
    let unheard = revoke::unheard(view);
    let standing = unheard.map_or(conclusion.standing, Standing::Failing);
    Decision { retire, drop_attempt, act, wake, unanswered: retire::unanswered(view), standing }
}

/// The look that a retirement needs first, where there is nothing else to do.
fn sweep(view: &View<'_>, retire: &[Retirement], until: Option<Time>) -> Act {
    match retire::look(view) {
        Some(look) if retire.is_empty() && view.retiring().is_empty() => {
            match throttled(view, || Call::looking(view, look)) {
                Act::Idle(again) => Act::Idle(again.into_iter().chain(until).min()),
                call @ Act::Call(_) => call,
            }
        }
        _ => Act::Idle(until),
    }
}

fn conclude(view: &View<'_>) -> Conclusion {
    let case = Case::of(view);
    match case.first(1) {
        Some(Finding::End) => Conclusion::stop(end(view), Standing::Unselected),
        Some(Finding::EndsAt(until)) => Conclusion::stop(Act::Idle(Some(until)), Standing::Unselected),
        Some(Finding::ProveEnd(look)) => Conclusion::stop(look_first(view, look), Standing::Unselected),
        Some(Finding::Stop(failure)) => {
            let mends = failure.reason == FailureReason::AccountNotFound;
            let dies = view.account.and_then(Account::dies).filter(|dies| *dies > view.now);
            let act = if mends { keep_owners(view, None) } else { Act::Idle(dies) };
            Conclusion::stop(act, Standing::Failing(failure))
        }
        Some(Finding::LookFirst(look)) => Conclusion::stop(look_first(view, look), Standing::Working),
        Some(Finding::Suspended) => suspended(&case),
        Some(Finding::NoName(failure)) => without_name(view, failure),
        Some(Finding::Dying) => Conclusion::stop(Act::Idle(None), dying(&case)),
        _ => serve(&case),
    }
}

/// One grant looks for its policy, and the others wait for the answer.
fn look_first(view: &View<'_>, look: Look) -> Act {
    if look == Look::Policy && view.policy_proof.looking {
        return Act::Idle(None);
    }
    throttled(view, || Call::looking(view, look))
}

/// Where the policy keeps its Secrets, it lets them go: they must outlive it.
fn end(view: &View<'_>) -> Act {
    match remove(view) {
        Act::Idle(until) if view.readable().is_some_and(|policy| !policy.deletes()) => keep_owners(view, until),
        act => act,
    }
}

fn remove(view: &View<'_>) -> Act {
    // Annotations alone must not make us delete what we never wrote. A target that tokens are bound to is retired.
    let ours = |target: &&Placed<'_, Target>| target.written() && !target.binds_tokens(view.now);
    let mut targets = view.targets().filter(ours).filter(|target| view.deletes(target.owners.policy));
    targets.next().map_or(Act::Idle(None), |target| throttled(view, || removal(view, target)))
}

fn removal(view: &View<'_>, target: &Placed<'_, Target>) -> Call {
    let (namespace, name) = (&view.key.namespace, &target.name);
    let request = Request::delete_secret(namespace, name, target.uid, Some(target.version));
    Call::of(Step::Remove { name: name.clone() }, request)
}

/// Where nothing is issued, owners and finalizers are still kept as the policy wants them, under the budget of all repairs.
fn keep_owners(view: &View<'_>, until: Option<Time>) -> Act {
    let Some((why, call)) = view.readable().and_then(|policy| repair::owners_and_finalizers(view, policy)) else {
        return Act::Idle(until);
    };
    let ready_at = view.grant.budget.ready_at(view.now, why);
    if ready_at <= view.now { throttled(view, || call) } else { Act::Idle(Some(ready_at)) }
}

/// Nothing is issued while suspended; the status goes on telling when tokens die, and their Secrets follow the address.
fn suspended(case: &Case<'_>) -> Conclusion {
    if case.first(8) == Some(Finding::Rewrite(IssueReason::AddressChanged)) {
        return settled(case);
    }
    let valid = case.target.filter(|_| case.is_valid());
    let end = valid.and_then(|target| target.object.token.as_ref()).map(|token| token.expires.time());
    let standing = if valid.is_some() { Standing::Ready } else { Standing::Working };
    Conclusion::stop(keep_owners(case.view, end), standing)
}

/// Row 10: the old target is kept fresh until the new name can be had.
fn without_name(view: &View<'_>, failure: Failure) -> Conclusion {
    let Some(old) = view.old.first() else {
        let again = view.failing().map(|failing| failing.retry_at).filter(|at| *at > view.now);
        return Conclusion::stop(Act::Idle(again), Standing::Failing(failure));
    };
    let case = Case { view, name: old.name.clone(), target: Some(old) };
    Conclusion { standing: Standing::Failing(failure), ..serve(&case) }
}

/// Rows 8 to 11 for one target.
fn serve(case: &Case<'_>) -> Conclusion {
    let usable = usable(case);
    if case.view.grant.proof.target_refused {
        let act = Act::Call(Box::new(repair::read(case, IssueReason::LayoutChanged)));
        return Conclusion { act, standing: standing(case), active: usable.is_some() };
    }
    match case.first(8) {
        Some(Finding::Prove(_, look)) => waiting(case, usable.is_some(), || Call::looking(case.view, look)),
        Some(Finding::Issue(why)) => issue(case, why, usable),
        // The controller deletes the Secret; the next decision finds it missing.
        Some(Finding::Dying) => Conclusion::stop(Act::Idle(None), dying(case)),
        _ => settled(case),
    }
}

fn issue(case: &Case<'_>, why: IssueReason, usable: Option<&Attempt>) -> Conclusion {
    let held = usable.and_then(|attempt| Some((attempt, attempt.token.as_ref()?)));
    if let Some(failure) = oversize(case, held.map(|(_, token)| &token.secret)) {
        return Conclusion { act: Act::Idle(None), standing: Standing::Failing(failure), active: usable.is_some() };
    }
    if let Some((attempt, token)) = held {
        return waiting(case, true, || publication(case, attempt, token));
    }
    if let Some(until) = revoke::pause(case.view) {
        return Conclusion { act: Act::Idle(Some(until)), standing: standing(case), active: usable.is_some() };
    }
    match usable {
        Some(attempt) => waiting(case, true, || step(case, attempt)),
        None => paced(case, why, || step(case, &begin(case, why)?)),
    }
}

/// Bytes of a token that is not yet there: those of every signing algorithm have more. A Secret that could be written is
/// never refused here.
const LEAST_TOKEN: usize = 512;

/// With a CA of so many bytes no policy can fill a Secret: it has 256 placeholders at most, beside 256 kB of texts.
const HARMLESS_CA: usize = 2048;

/// The API server would refuse the Secret as too large, and a token would be issued for nothing.
fn oversize(case: &Case<'_>, token: Option<&SecretString>) -> Option<Failure> {
    if case.view.address.ca.len() <= HARMLESS_CA {
        return None;
    }
    let (key, options) = (&case.view.key, &case.view.readable()?.spec.secret.format);
    let assumed = SecretString::from("x".repeat(LEAST_TOKEN));
    let material = Material { key, token: token.unwrap_or(&assumed), expires: Secs::default() };
    let size = format::size(options, &material, case.view.address);
    if size <= format::MAX_SIZE {
        return None;
    }
    let message = format!(
        "spec.secret.format would give Secret {}/{} {size} bytes of data, and a Secret has at most {} (1 MiB); use {{ca}} and {{caBase64}} in fewer places, or a smaller CA",
        key.namespace,
        case.name,
        format::MAX_SIZE
    );
    Some(Failure { reason: FailureReason::Invalid, message: message.into(), retry_after: None })
}

/// Rows 9 to 11: the token is right.
fn settled(case: &Case<'_>) -> Conclusion {
    if let Some((why, call)) = repair::next(case) {
        let written = matches!(call.step, Step::Publish { .. } | Step::ReadBack { .. });
        if let Some(failure) = written.then(|| oversize(case, None)).flatten() {
            return Conclusion::stop(Act::Idle(None), Standing::Failing(failure));
        }
        // The other half of a repair that has spent its budget when the Secret was read.
        return match call.step {
            Step::Publish { .. } => waiting(case, false, || Some(call)),
            _ => paced(case, why, || Some(call)),
        };
    }
    let old = case.view.old.iter().find(|old| old.written() && case.view.target().is_some());
    let due = || case.target.and_then(|target| case.view.due(target)).map(|due| due.at);
    let act = match old {
        Some(old) => throttled(case.view, || removal(case.view, old)),
        None => Act::Idle(due()),
    };
    // An old Secret that cannot be deleted must not pass for gone.
    let left = old.and(case.view.failing()).filter(|failing| !failing.is_prompt());
    Conclusion::stop(act, left.map_or(Standing::Ready, |failing| Standing::Failing(failing.failure.clone())))
}

/// Row 7: a call waits while the back-off of the last failure runs.
fn throttled<C: Into<Option<Call>>>(view: &View<'_>, call: impl FnOnce() -> C) -> Act {
    match view.failing() {
        Some(failing) if failing.retry_at > view.now => Act::Idle(Some(failing.retry_at)),
        _ => call().into().map_or(Act::Idle(None), |call| Act::Call(Box::new(call))),
    }
}

/// Row 7 for a step of an issue.
fn waiting<C: Into<Option<Call>>>(case: &Case<'_>, active: bool, call: impl FnOnce() -> C) -> Conclusion {
    Conclusion { act: throttled(case.view, call), standing: standing(case), active }
}

/// Row 7 for calls that begin something: the mint budget too.
fn paced(case: &Case<'_>, why: IssueReason, call: impl FnOnce() -> Option<Call>) -> Conclusion {
    let ready_at = case.view.grant.budget.ready_at(case.view.now, why);
    if ready_at <= case.view.now {
        return waiting(case, false, call);
    }
    let exhausted = || {
        let what =
            format!("Secret {}/{} is repaired again and again: {}", case.view.key.namespace, case.name, why.into_str());
        Failure::new(FailureReason::MintBudgetExhausted, &what)
    };
    let standing = match (why.is_repair(), case.is_valid()) {
        (true, true) => Standing::Ready,
        (true, false) if case.view.grant.budget.repeats(why) => Standing::Failing(exhausted()),
        // Rotations and edits of the policy in a row: nobody fights us.
        _ => Standing::Working,
    };
    Conclusion::stop(Act::Idle(Some(ready_at)), standing)
}

/// How a grant stands that needs something: the last failure if there is one.
fn standing(case: &Case<'_>) -> Standing {
    // Nobody is told before it is known what is wrong.
    let unexplained = |failing: &&Failing| case.view.grant.proof.target_refused && failing.count == 1;
    match case.view.failing().filter(|failing| !failing.is_prompt() && !unexplained(failing)) {
        Some(failing) => Standing::Failing(failing.failure.clone()),
        None if case.is_valid() => Standing::Ready,
        None => Standing::Working,
    }
}

/// How a grant stands whose token dies with its Secret: the deletion may fail.
fn dying(case: &Case<'_>) -> Standing {
    let unrevoked = case.view.grant.rare.as_ref().and_then(|rare| rare.unrevoked.as_ref());
    unrevoked.map_or_else(|| standing(case), |failing| Standing::Failing(failing.failure.clone()))
}

/// The attempt in memory, if its token would still be the right one.
fn usable<'a>(case: &Case<'a>) -> Option<&'a Attempt> {
    let (attempt, policy) = (case.view.attempt()?, case.view.readable()?);
    let is_target = |bond: &Bond| case.target.is_some_and(|target| target.uid == bond.uid);
    let fits = attempt.token_inputs == *policy.token_inputs
        && Some(attempt.account_uid) == case.view.account.map(|account| account.uid)
        && attempt.rotate == policy.rotate
        && !attempt.spent
        && (policy.binding() != Binding::Target || attempt.bond.as_ref().is_none_or(is_target))
        && attempt.token.as_ref().is_none_or(|token| is_fresh(case, policy, token));
    fits.then_some(attempt)
}

/// A held token is worth publishing while it is not due or revoked itself, and not older than the published one.
fn is_fresh(case: &Case<'_>, policy: &Policy, held: &Minted) -> bool {
    let Claims { issued_at, expires_at, .. } = held.claims;
    let due = case.view.renewal(policy, issued_at, expires_at).due;
    due > case.view.now && !revoke::covers(case.view, issued_at) && !outlived(case, issued_at)
}

fn begin(case: &Case<'_>, why: IssueReason) -> Option<Attempt> {
    let policy = case.view.readable()?;
    Some(Attempt {
        bond: None,
        why,
        account_uid: case.view.account?.uid,
        token_inputs: policy.token_inputs.as_ref().into(),
        rotate: policy.rotate.clone(),
        token: None,
        replaces: None,
        spent: false,
    })
}

/// The next call for an attempt without a token: make the Secret that it is bound to, or request it.
fn step(case: &Case<'_>, attempt: &Attempt) -> Option<Call> {
    let (view, policy) = (case.view, case.view.readable()?);
    let mut attempt = Box::new(attempt.clone());
    let (step, request) = match (policy.binding(), &attempt.bond, case.target) {
        (Binding::Anchor, None, _) => (Step::CreateAnchor, create_anchor(case, policy)),
        (Binding::Target, None, None) => {
            let record = Record { token: None, previous: Vec::new(), ..record(view, policy, &attempt) };
            let body = secret::target(&view.key, policy, &case.name, &record, None, view.address, Fence::Absent);
            (Step::CreateTarget, apply(view, &case.name, body))
        }
        (binding, bond, target) => {
            let itself = || target.map(|target| Bond { name: case.name.clone(), uid: target.uid });
            let bond = if binding == Binding::Target { bond.clone().or_else(itself) } else { bond.clone() };
            attempt.bond = bond;
            (Step::Mint, mint(view, policy, &attempt))
        }
    };
    Some(Call { step, request, attempt: Some(attempt) })
}

fn create_anchor(case: &Case<'_>, policy: &Policy) -> Request {
    let View { key, fresh, now, .. } = case.view;
    let path = format!("/api/v1/namespaces/{}/secrets", key.namespace);
    let what = format!("create Secret {}/{fresh} (anchor)", key.namespace);
    Request::write(Verb::Create, &path, secret::anchor(key, policy, fresh, &case.name, *now), what)
}

fn mint(view: &View<'_>, policy: &Policy, attempt: &Attempt) -> Request {
    let key = &view.key;
    Request {
        verb: Verb::Create,
        path: format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", key.namespace, key.account),
        accept: Accept::Json,
        body: token::request(key, policy, attempt.account_uid, attempt.bond.as_ref()),
        what: format!("request a token for ServiceAccount {}", key.account_key()),
    }
}

fn publication(case: &Case<'_>, attempt: &Attempt, token: &Minted) -> Option<Call> {
    let policy = case.view.readable()?;
    let record = Record {
        token: Some(recorded(&token.claims, attempt.bond.clone())),
        signer: Some(token.claims.signer.clone()),
        previous: previous(case, policy),
        ..record(case.view, policy, attempt)
    };
    Some(publish(case, policy, &record, &token.secret, attempt.why))
}
