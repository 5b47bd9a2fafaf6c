//! Rows 8 and 11: whether a fresh token is needed, and the next call of issuing it.

use chrono::TimeDelta;

use super::{Act, Facts, Look, Standing, Verdict, repair, revoke, standing, throttled};
use crate::{
    core::{
        Time,
        claims::ObjectRef,
        facts::{Account, Policy, Previous, Target, TokenFacts},
        failure::{Failure, Reason},
        grant::{Attempt, Minted},
        render::{self, Draft, Precondition},
        schedule,
    },
    crd::token_policy::Binding,
};

/// Why a Secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// There was none before.
    FirstIssue,
    /// The target was deleted.
    TargetDeleted,
    /// The target describes no token.
    TargetEmpty,
    /// The target was written for a policy of another UID: re-created, or restored from a backup.
    PolicyRecreated,
    /// The account has another UID than the token.
    AccountRecreated,
    /// The token's anchor was deleted: the token was revoked.
    AnchorDeleted,
    /// The token is issued in the future: the API server's clock was set back, or somebody forged the annotations.
    NotYetValid,
    /// Somebody asked for the revocation of every token issued before an instant.
    Revoked,
    /// The API server does not publish the key any more that the token is signed with.
    SigningKeyGone,
    /// The API server calls itself otherwise than in the token.
    IssuerChanged,
    /// The spec asks for another token.
    SpecChanged,
    /// The rotate annotation has a new value.
    RotationRequested,
    /// Somebody else wrote our keys of the Secret.
    DataChanged,
    /// The schedule says so.
    Due,
    /// Labels or annotations of ours were changed.
    MetadataChanged,
    /// Owner references were changed.
    OwnersChanged,
    /// An anchor got a finalizer.
    FinalizersChanged,
    /// The spec asks for another layout.
    LayoutChanged,
}

impl Why {
    /// The word in events, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstIssue => "FirstIssue",
            Self::TargetDeleted => "TargetDeleted",
            Self::TargetEmpty => "TargetEmpty",
            Self::PolicyRecreated => "PolicyRecreated",
            Self::AccountRecreated => "AccountRecreated",
            Self::AnchorDeleted => "AnchorDeleted",
            Self::NotYetValid => "NotYetValid",
            Self::Revoked => "Revoked",
            Self::SigningKeyGone => "SigningKeyGone",
            Self::IssuerChanged => "IssuerChanged",
            Self::SpecChanged => "SpecChanged",
            Self::RotationRequested => "RotationRequested",
            Self::DataChanged => "DataChanged",
            Self::Due => "Due",
            Self::MetadataChanged => "MetadataChanged",
            Self::OwnersChanged => "OwnersChanged",
            Self::FinalizersChanged => "FinalizersChanged",
            Self::LayoutChanged => "LayoutChanged",
        }
    }

    /// The cause when somebody else undid our work; the pace of such repairs slows down while they repeat.
    #[must_use]
    pub const fn repair(self) -> Option<&'static str> {
        match self {
            Self::PolicyRecreated
            | Self::AccountRecreated
            | Self::AnchorDeleted
            | Self::TargetDeleted
            | Self::TargetEmpty
            | Self::DataChanged
            | Self::NotYetValid
            | Self::MetadataChanged
            | Self::OwnersChanged
            | Self::FinalizersChanged => Some(self.as_str()),
            _ => None,
        }
    }
}

/// The API server authenticates with this leeway.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);

/// One target that a grant serves: the wanted one, or the old one while the wanted name cannot be had.
pub(super) struct Case<'a> {
    pub now: Time,
    pub facts: &'a Facts<'a>,
    pub policy: &'a Policy,
    pub account: &'a Account,
    pub name: &'a str,
    pub target: Option<&'a Target>,
}

/// What is needed, and what has to be looked at before it is believed.
struct Need {
    why: Why,
    look: Option<Look>,
}

impl From<Why> for Need {
    fn from(why: Why) -> Self {
        Self { why, look: None }
    }
}

/// The next call for a target.
pub(super) fn serve(case: &Case<'_>) -> Verdict {
    let usable = usable(case);
    match need(case) {
        Some(Need { look: Some(look), .. }) => waiting(case, Act::Look(look), usable.is_some()),
        Some(need) => match (revoke::pause(case.now, case.facts), usable) {
            (_, Some(attempt @ Attempt { token: Some(token), .. })) => {
                waiting(case, publish(case, attempt, token), true)
            }
            (Some(until), _) => waiting(case, Act::Idle(Some(until)), usable.is_some()),
            (None, Some(attempt)) => waiting(case, request(case, attempt), true),
            (None, None) => paced(case, need.why, || request(case, &begin(case, need.why))),
        },
        None => match repair::next(case) {
            // The other half of a repair that has spent its budget when the Secret was read.
            Some((_, act @ Act::Publish { .. })) => waiting(case, act, false),
            Some((why, act)) => paced(case, why, || act),
            None => Verdict { act: settled(case), standing: at_rest(case), active: false },
        },
    }
}

/// Nothing is to be done; but an order that could not be read must not pass for one that was carried out.
fn at_rest(case: &Case<'_>) -> Standing {
    let unheard = case.target.and_then(|target| revoke::unheard(case.now, case.facts, target));
    unheard.map_or(Standing::Ready, Standing::Failing)
}

/// Row 7 for every call: the back-off of the last failure.
fn waiting(case: &Case<'_>, act: Act, active: bool) -> Verdict {
    Verdict { act: throttled(case.now, case.facts, act), standing: standing(case.facts, case.is_valid()), active }
}

/// Row 7 for calls that begin something: the mint budget too.
fn paced(case: &Case<'_>, why: Why, act: impl FnOnce() -> Act) -> Verdict {
    let ready_at = case.facts.memory.budget.ready_at(case.now);
    if ready_at <= case.now {
        return waiting(case, act(), false);
    }
    let exhausted = || Failure::new(Reason::MintBudgetExhausted, &format!("{} again and again", why.as_str()));
    let standing = match why.repair() {
        _ if case.is_valid() => Standing::Ready,
        Some(_) => Standing::Failing(exhausted()),
        // Edits of the policy in a row: nobody fights us.
        None => Standing::Working,
    };
    Verdict { act: Act::Idle(Some(ready_at)), standing, active: false }
}

/// Row 8: why a fresh token is needed. The order is from what kills the token to what only ages it.
fn need(case: &Case<'_>) -> Option<Need> {
    let Some(target) = case.target else {
        return Some(missing(case));
    };
    if case.facts.memory.proof.target_doubtful {
        return Some(Need { why: Why::DataChanged, look: Some(case.look()) });
    }
    let Some(token) = &target.token else {
        return Some(empty(case).into());
    };
    // Without the label nobody knows for which policy's UID it was written: that is a repair, not a new token.
    if !target.policy_uid.is_empty() && *target.policy_uid != *case.policy.uid {
        return Some(Why::PolicyRecreated.into());
    }
    if *target.account_uid != *case.account.uid {
        return Some(Why::AccountRecreated.into());
    }
    // The API server refuses what its clock calls not yet issued, and no later token would count as newer.
    if token.issued_at > case.now + LEEWAY {
        return Some(Why::NotYetValid.into());
    }
    // A token that is bound to its target goes with that, see `retire`.
    if case.policy.binding() == Binding::Anchor && revoke::covers(case.now, case.facts, token.issued_at) {
        return Some(Why::Revoked.into());
    }
    // Before the binding, because that is one of the inputs.
    if target.token_inputs != case.policy.token_inputs {
        return Some(Why::SpecChanged.into());
    }
    if let Some(need) = unbound(case, target, token) {
        return Some(need);
    }
    let ripe = || case.facts.due(case.now, target).filter(|due| due.at <= case.now).map(|_| Why::Due);
    changed(case, target).or_else(|| case.facts.signers.gone(token)).or_else(ripe).map(Need::from)
}

/// A target without a token: the first step of a binding to it, or somebody removed our annotations.
fn empty(case: &Case<'_>) -> Why {
    match (case.policy.binding(), case.facts.memory.published) {
        (Binding::Target, false) => Why::FirstIssue,
        _ => Why::TargetEmpty,
    }
}

/// A first write needs proof that there is nothing to overwrite.
fn missing(case: &Case<'_>) -> Need {
    let facts = case.facts;
    let seen_before = facts.memory.published || !facts.anchors.is_empty();
    let why = match (facts.old.is_empty(), seen_before) {
        (false, _) => Why::SpecChanged,
        (true, true) => Why::TargetDeleted,
        (true, false) => Why::FirstIssue,
    };
    Need { why, look: (!facts.memory.proof.target_absent).then(|| case.look()) }
}

/// What the token is bound to is gone, or has to be looked at before that is believed.
fn unbound(case: &Case<'_>, target: &Target, token: &TokenFacts) -> Option<Need> {
    if case.facts.is_bound(case.policy, target, token) {
        return None;
    }
    // The Secret has another UID than the one that the token was bound to: it was deleted and put back.
    if case.policy.binding() == Binding::Target {
        return Some(Why::TargetDeleted.into());
    }
    let proof = &case.facts.memory.proof;
    let another = case.facts.anchors.contains_key(&*token.anchor);
    // Nothing can have an empty name: somebody else wrote that.
    let absent = token.anchor.is_empty() || proof.anchor_absent.as_deref() == Some(&*token.anchor);
    let look = (!another && !absent).then(|| Look::Anchor(token.anchor.to_string()));
    Some(Need { why: Why::AnchorDeleted, look })
}

fn changed(case: &Case<'_>, target: &Target) -> Option<Why> {
    let policy = case.policy;
    // Removing the annotation never rotates.
    if policy.rotate.as_deref().is_some_and(|value| *value != *target.rotate) {
        return Some(Why::RotationRequested);
    }
    // Under another layout other keys were written; the repair of the layout finds out what is left of them.
    let edited = target.layout == policy.layout && target.owned.data != render::owned(policy).data;
    let lost = case.facts.memory.proof.token_lost.as_deref() == Some(&*target.resource_version);
    (edited || lost).then_some(Why::DataChanged)
}

/// The attempt in memory, if its token would still be the right one.
fn usable<'a>(case: &Case<'a>) -> Option<&'a Attempt> {
    let attempt = case.facts.memory.attempt.as_ref()?;
    let is_target = |bound: &ObjectRef| case.target.is_some_and(|target| *target.uid == *bound.uid);
    let fits = attempt.token_inputs == case.policy.token_inputs
        && attempt.account_uid == case.account.uid
        && attempt.rotate == case.policy.rotate
        && !attempt.spent
        && (case.policy.binding() != Binding::Target || attempt.bound.as_ref().is_none_or(is_target))
        && attempt.token.as_ref().is_none_or(|token| is_fresh(case, token));
    fits.then_some(attempt)
}

/// A held token is worth publishing while it is not due or revoked itself, and not older than what is published unless
/// that is dead. Instants of issue are whole seconds, so two tokens may have the same.
fn is_fresh(case: &Case<'_>, held: &Minted) -> bool {
    let claims = &held.claims;
    let due = case.facts.renewal(case.policy, claims.issued_at, claims.expires_at).due;
    let published = case.target.and_then(|target| Some((target, target.token.as_ref()?)));
    let outlives = |(target, token): (&Target, &TokenFacts)| {
        claims.issued_at >= token.issued_at
            || token.issued_at > case.now + LEEWAY
            || matches!(unbound(case, target, token), Some(Need { look: None, .. }))
    };
    let revoked = revoke::covers(case.now, case.facts, claims.issued_at);
    due > case.now && !revoked && published.is_none_or(outlives)
}

fn begin(case: &Case<'_>, why: Why) -> Attempt {
    Attempt {
        bound: None,
        why,
        account_uid: case.account.uid.clone(),
        token_inputs: case.policy.token_inputs.clone(),
        rotate: case.policy.rotate.clone(),
        token: None,
        replaces: None,
        spent: false,
    }
}

/// The next call for an attempt without a token: make what it is bound to, or request it.
fn request(case: &Case<'_>, attempt: &Attempt) -> Act {
    let (key, policy) = (case.facts.key, case.policy);
    let mut attempt = Box::new(attempt.clone());
    match (policy.binding(), &attempt.bound, case.target) {
        (Binding::Anchor, None, _) => {
            return Act::CreateAnchor { attempt, body: render::anchor(key, policy, case.name, case.now) };
        }
        (Binding::Target, None, None) => {
            let body = render::empty_target(key, policy, case.name);
            return Act::CreateTarget { attempt, name: case.name.to_owned(), body };
        }
        (Binding::Target, None, Some(target)) => {
            attempt.bound = Some(ObjectRef { name: case.name.to_owned(), uid: target.uid.to_string() });
        }
        _ => {}
    }
    let body = render::token_request(key, policy, &attempt.account_uid, attempt.bound.as_ref());
    Act::Mint { attempt, body }
}

fn publish(case: &Case<'_>, attempt: &Attempt, token: &Minted) -> Act {
    let draft = Draft {
        grant: case.facts.key,
        policy: case.policy,
        account_uid: &attempt.account_uid,
        name: case.name,
        token: &token.secret,
        claims: &token.claims,
        bound: attempt.bound.as_ref(),
        rotate: attempt.rotate.as_deref().unwrap_or_default(),
        previous: &previous(case),
        token_inputs: &attempt.token_inputs,
    };
    let body = render::target(&draft, case.facts.site, &case.precondition());
    Act::Publish { name: case.name.to_owned(), why: attempt.why, body }
}

/// Older tokens after a new one is published: those still alive, and the one that it replaces.
fn previous(case: &Case<'_>) -> Vec<Previous> {
    let (now, facts) = (case.now, case.facts);
    // Tokens of an earlier account of this name are dead already.
    let targets = || facts.targets().filter(|(_, target)| target.account_uid == case.account.uid);
    let mut previous: Vec<Previous> = targets().flat_map(|(_, target)| kept(now, facts, target)).collect();
    let replaced = targets().filter_map(|(_, target)| Some((target, target.token.as_ref()?)));
    let replaced = replaced.filter(|(_, token)| token.expires_at > now);
    previous.extend(replaced.filter_map(|(target, token)| {
        let retires_at = retires_at(case, target, token)?;
        Some(Previous {
            anchor: token.anchor.clone(),
            uid: token.anchor_uid.clone(),
            token_id: token.id.clone(),
            issued_at: token.issued_at,
            retires_at,
        })
    }));
    // The oldest beyond the limit loses its name here, and is retired for it.
    previous.drain(..previous.len().saturating_sub(schedule::MAX_PREVIOUS));
    previous
}

/// When a token retires that is being replaced; `None` when there is nothing to remember. One that has no anchor lives
/// until it expires, and is remembered once its successors are bound otherwise: a revocation must not forget it.
fn retires_at(case: &Case<'_>, target: &Target, token: &TokenFacts) -> Option<Time> {
    if case.facts.alive(&token.anchor, &token.anchor_uid) {
        return Some(schedule::retires_at(case.now, token.expires_at, case.policy.spec.rotation.overlap));
    }
    let (itself, nothing) = (token.anchor_uid == target.uid, token.anchor_uid.is_empty());
    let bound_otherwise = match case.policy.binding() {
        Binding::Anchor => itself || nothing,
        Binding::Target => nothing,
        Binding::None => itself,
    };
    bound_otherwise.then_some(token.expires_at)
}

/// Entries of `previous` whose token may be alive; the others are done.
pub(super) fn kept(now: Time, facts: &Facts<'_>, target: &Target) -> Vec<Previous> {
    let unanchored = |entry: &Previous| (entry.uid.is_empty() || entry.uid == target.uid) && entry.retires_at > now;
    let kept = target.previous.iter().filter(|entry| facts.alive(&entry.anchor, &entry.uid) || unanchored(entry));
    kept.cloned().collect()
}

/// Rows 10 and 11: nothing is needed but to remove a target under an old name, or to wait.
fn settled(case: &Case<'_>) -> Act {
    let old = case.facts.old.iter().find(|(_, old)| old.written && case.facts.target().is_some());
    match old {
        Some((name, old)) => throttled(
            case.now,
            case.facts,
            Act::Remove {
                name: (*name).to_owned(),
                uid: old.uid.clone(),
                resource_version: old.resource_version.clone(),
            },
        ),
        None => Act::Idle(case.target.and_then(|target| case.facts.due(case.now, target)).map(|due| due.at)),
    }
}

impl Case<'_> {
    fn is_valid(&self) -> bool {
        self.target.is_some_and(|target| self.facts.is_valid(target, self.now))
    }

    fn look(&self) -> Look {
        Look::Target(self.name.to_owned())
    }

    /// After the first write, both UID and resourceVersion: the resourceVersion alone would create an absent object.
    pub(super) fn precondition(&self) -> Precondition {
        self.target.map_or(Precondition::Absent, |target| Precondition::Exactly {
            uid: target.uid.clone(),
            resource_version: target.resource_version.clone(),
        })
    }
}
