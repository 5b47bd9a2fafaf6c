//! Everything that can be wrong with a grant, in one table. The decision acts on the first check that finds something;
//! the status calls a token valid when no check does that kills it.

use std::fmt::Write as _;

use super::{
    look::Look,
    revoke,
    view::{Placed, UNSELECTED_FOR, View},
};
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        credential::token::LEEWAY,
        failure::Failure,
        id::{GrantKey, Name},
        place::{
            record::Token,
            secret::{Target, fingerprint},
        },
        policy::{Policy, PolicyState},
        reason::{FailureReason, IssueReason},
    },
};

/// A grant, and the one of its targets that is looked at: the wanted one, or an old one while the wanted name cannot be
/// had.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The grant.
    pub view: &'a View<'a>,
    /// Name of the target.
    pub name: Name,
    /// The target.
    pub target: Option<&'a Placed<'a, Target>>,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The grant has ended.
    End,
    /// The grant ends then, unless it is selected again.
    EndsAt(Time),
    /// It may have ended.
    ProveEnd(Look),
    /// Nothing is written, for this reason.
    Stop(Failure),
    /// Nothing is issued before this look.
    LookFirst(Look),
    /// Somebody wants it so.
    Suspended,
    /// The wanted name cannot be had.
    NoName(Failure),
    /// A fresh token is needed.
    Issue(IssueReason),
    /// A fresh token is needed if this look shows what it seems.
    Prove(IssueReason, Look),
    /// The Secret goes with its tokens, and a fresh one follows.
    Dying,
    /// The Secret has to be written again, with the same token.
    Rewrite(IssueReason),
}

/// One thing that can be wrong.
#[derive(Clone, Copy)]
pub struct Check {
    /// Number of the row: the first that finds anything counts.
    pub row: u8,
    /// Without this check passed, the account has no token that its policy asks for.
    pub kills: bool,
    /// Finds it.
    pub find: fn(&Case<'_>) -> Option<Finding>,
}

const fn kills(row: u8, find: fn(&Case<'_>) -> Option<Finding>) -> Check {
    Check { row, kills: true, find }
}

const fn spares(row: u8, find: fn(&Case<'_>) -> Option<Finding>) -> Check {
    Check { row, kills: false, find }
}

/// The table. What kills a token stands before what only ages it.
pub const CHECKS: [Check; 25] = [
    // An end must come first: no fault of the objects below may keep a token alive.
    spares(1, ended),
    // Whoever takes our references off may be the garbage collector: `--cascade=orphan` is heard of later.
    spares(1, released),
    // A policy that cannot be read says nothing; going on with the last reading could issue what was forbidden since.
    kills(2, unreadable),
    // Without an account there is nothing to issue for.
    kills(3, account_absent),
    kills(3, account_dying),
    spares(3, account_terminating),
    // The server said the account is another one by now: issuing for the one we know would fail again.
    spares(3, account_doubtful),
    // A person asked for it.
    spares(4, suspended),
    spares(5, name_taken),
    spares(6, name_foreign),
    // Row 7, back-off and budget, holds up calls and finds nothing.
    kills(8, missing),
    // A lost answer: the Secret may be other than we know.
    spares(8, doubtful),
    // Before all that compares the Secret with this policy and account: it was written for others.
    kills(8, taken_over),
    kills(8, empty),
    kills(8, policy_recreated),
    kills(8, account_recreated),
    kills(8, not_yet_valid),
    kills(8, revoked),
    // Before the binding, because that is one of the inputs.
    kills(8, inputs_changed),
    kills(8, unbound),
    spares(8, rotation_requested),
    kills(8, data_changed),
    kills(8, key_gone),
    // The end itself kills, the schedule comes before it.
    kills(8, expired),
    spares(8, due),
];

/// Needs of the surroundings of a right token. None of them kills but a layout that nobody asks for any more.
pub const SURROUNDINGS: [Check; 3] =
    [kills(9, layout_changed), spares(9, address_changed), spares(9, metadata_changed)];

impl<'a> Case<'a> {
    /// The wanted target of a grant.
    #[must_use]
    pub fn of(view: &'a View<'a>) -> Self {
        Self { view, name: view.name.clone().unwrap_or_default(), target: view.target() }
    }

    /// The first finding of the rows from `row` on.
    #[must_use]
    pub fn first(&self, row: u8) -> Option<Finding> {
        CHECKS.iter().chain(&SURROUNDINGS).filter(|check| check.row >= row).find_map(|check| (check.find)(self))
    }

    /// Whether the target holds a live token that this generation of the policy asks for.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.killing().is_none()
    }

    /// The first check that kills the token and finds something.
    #[must_use]
    pub fn killing(&self) -> Option<Finding> {
        let all = CHECKS.iter().chain(&SURROUNDINGS).filter(|check| check.kills);
        let gone = self.view.policy.is_none().then_some(Finding::End);
        gone.or_else(|| all.map(|check| check.find).find_map(|find| find(self)))
    }

    /// The policy, the target and its token.
    fn published(&self) -> Option<(&'a Policy, &'a Placed<'a, Target>, &'a Token)> {
        let target = self.target?;
        Some((self.view.readable()?, target, target.object.token.as_ref()?))
    }

    fn has_layout(&self, policy: &Policy, target: &Target) -> bool {
        target.layout.follows(&policy.layout, &policy.spec.secret, &policy.demanded, self.view.address)
    }

    fn look(&self) -> Look {
        Look::Target(self.name.clone())
    }
}

fn stop(reason: FailureReason, what: &str) -> Finding {
    Finding::Stop(Failure::new(reason, what))
}

/// Row 1: the policy goes or is gone, or has not selected the account for 10 s.
fn ended(case: &Case<'_>) -> Option<Finding> {
    let view = case.view;
    match view.policy {
        None if view.policy_proof.absent => Some(Finding::End),
        None => Some(Finding::ProveEnd(Look::Policy)),
        Some(state) if state.head().terminating => Some(Finding::End),
        Some(PolicyState::Unreadable(..)) => None,
        Some(PolicyState::Readable(policy)) => {
            let ripe = ripe(view, policy, view.grant.unselected_since()?);
            // The list of names or the labels took the account out of the selection, so one of these is looked at.
            let (proved, look) = if policy.selector.is_some() {
                (view.grant.proof.unselected, Look::Account)
            } else {
                (view.policy_proof.seen.is_some_and(|seen| seen >= ripe), Look::Policy)
            };
            match proved {
                _ if view.now < ripe => Some(Finding::EndsAt(ripe)),
                true => Some(Finding::End),
                false => Some(Finding::ProveEnd(look)),
            }
        }
    }
}

/// When an account that is not selected any more ends. Its token lives as an older one does while another account of the
/// policy is about to take its Secret over.
fn ripe(view: &View<'_>, policy: &Policy, since: Time) -> Time {
    let ends =
        || view.targets().filter_map(|target| target.object.token.as_ref()).map(|token| token.expires.time()).max();
    let overlap = policy.spec.rotation.overlap.map(|overlap| since + overlap.delta());
    let overlap = overlap.or_else(ends).filter(|_| view.succeeded);
    overlap.into_iter().chain([since + UNSELECTED_FOR]).max().unwrap_or(since)
}

/// A Secret without the reference that its policy wants: the policy is looked at before anything is written.
fn released(case: &Case<'_>) -> Option<Finding> {
    let view = case.view;
    let policy = view.readable().filter(|policy| policy.deletes() && view.policy_proof.seen.is_none())?;
    let targets = view.targets().filter(|target| target.written() && target.policy_uid == policy.uid.digest());
    let anchors = view.anchors.iter().filter(|_| !view.taken_over());
    let mut owners = targets.map(|target| target.owners).chain(anchors.map(|anchor| anchor.owners()));
    owners.any(|owners| owners.policy == 0).then_some(Finding::LookFirst(Look::Policy))
}

/// Row 2.
fn unreadable(case: &Case<'_>) -> Option<Finding> {
    let Some(PolicyState::Unreadable(_, error)) = case.view.policy else { return None };
    let what = format!("TokenPolicy {} does not parse: {error}", case.view.key.policy_key());
    Some(stop(FailureReason::PolicyUnreadable, &what))
}

fn account_absent(case: &Case<'_>) -> Option<Finding> {
    let what = || format!("ServiceAccount {} does not exist", case.view.key.account_key());
    case.view.account.is_none().then(|| stop(FailureReason::AccountNotFound, &what()))
}

/// The API server refuses its tokens by now.
fn account_dying(case: &Case<'_>) -> Option<Finding> {
    account_terminating(case).filter(|_| !case.view.is_account_alive())
}

fn account_terminating(case: &Case<'_>) -> Option<Finding> {
    case.view.account?.dies()?;
    let what = format!("ServiceAccount {} is being deleted", case.view.key.account_key());
    Some(stop(FailureReason::AccountTerminating, &what))
}

fn account_doubtful(case: &Case<'_>) -> Option<Finding> {
    case.view.grant.proof.account_doubtful.then_some(Finding::LookFirst(Look::Account))
}

fn suspended(case: &Case<'_>) -> Option<Finding> {
    case.view.readable()?.spec.suspend.then_some(Finding::Suspended)
}

/// Row 5: the incumbent or an older policy has the name, or it is no name.
fn name_taken(case: &Case<'_>) -> Option<Finding> {
    case.view.name.as_ref().err().cloned().map(Finding::NoName)
}

/// Row 6.
fn name_foreign(case: &Case<'_>) -> Option<Finding> {
    let view = case.view;
    let refused = view
        .failing()
        .filter(|failing| failing.failure.reason == FailureReason::TargetNotOwned && failing.retry_at > view.now);
    if let Some(refused) = refused {
        return Some(Finding::NoName(refused.failure.clone()));
    }
    let owner = view.occupied_by.as_ref()?;
    // Its policy is gone, and took it along: the garbage collector deletes it, or the grant that it belongs to does.
    if view.occupant.as_ref().is_some_and(|occupant| occupant.written() && view.is_dangling(occupant.owners.policy)) {
        return Some(Finding::Dying);
    }
    let GrantKey { namespace, policy, account } = owner;
    let mut what = format!("Secret {namespace}/{} belongs to policy {policy} and account {account}", case.name);
    if let Some(next) = &view.makes_way_for {
        let _ = write!(
            what,
            ", which keep it until Secret {namespace}/{next} holds their token; where each waits for the other's name, a third \
             name in between frees both"
        );
    } else if view.occupant.as_ref().is_some_and(|occupant| occupant.owners.policy == 0) {
        what.push_str(
            ", which may have let it go; it is taken up only for the same account, with the same keys, and while nobody else \
             has changed its data or owns it",
        );
    }
    Some(Finding::NoName(Failure::new(FailureReason::TargetNotOwned, &what)))
}

/// A first write needs proof that there is nothing to overwrite.
fn missing(case: &Case<'_>) -> Option<Finding> {
    if case.target.is_some() {
        return None;
    }
    let view = case.view;
    let seen_before = view.grant.published || !view.anchors.is_empty();
    let why = match (view.old.is_empty(), seen_before) {
        (false, _) => IssueReason::SpecChanged,
        (true, true) => IssueReason::TargetDeleted,
        (true, false) => IssueReason::FirstIssue,
    };
    Some(if view.grant.proof.target_absent { Finding::Issue(why) } else { Finding::Prove(why, case.look()) })
}

fn doubtful(case: &Case<'_>) -> Option<Finding> {
    let doubtful = case.view.grant.proof.target_doubtful;
    doubtful.then(|| Finding::Prove(IssueReason::DataChanged, case.look()))
}

fn taken_over(case: &Case<'_>) -> Option<Finding> {
    let wanted = case.target.is_some() && case.view.taken_over();
    wanted.then_some(Finding::Issue(IssueReason::TakenOver))
}

/// A target without a token: the first step of a binding to it, or somebody removed our annotations.
fn empty(case: &Case<'_>) -> Option<Finding> {
    if case.target?.token.is_some() {
        return None;
    }
    let first = case.view.readable()?.binding() == Binding::Target && !case.view.grant.published;
    Some(Finding::Issue(if first { IssueReason::FirstIssue } else { IssueReason::TargetEmpty }))
}

/// Without the label nobody knows for which policy's UID it was written: that is a repair, not a new token.
fn policy_recreated(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    let other = target.policy_uid != 0 && target.policy_uid != policy.uid.digest();
    other.then_some(Finding::Issue(IssueReason::PolicyRecreated))
}

fn account_recreated(case: &Case<'_>) -> Option<Finding> {
    let (_, target, _) = case.published()?;
    let other = target.account_uid != case.view.account?.uid.digest();
    other.then_some(Finding::Issue(IssueReason::AccountRecreated))
}

/// The API server refuses what its clock calls not yet issued, and no later token would count as newer.
fn not_yet_valid(case: &Case<'_>) -> Option<Finding> {
    let (_, _, token) = case.published()?;
    (token.issued.time() > case.view.now + LEEWAY).then_some(Finding::Issue(IssueReason::NotYetValid))
}

/// A token that is bound to its target goes with that, see `retire`; one that is bound to nothing cannot be revoked.
fn revoked(case: &Case<'_>) -> Option<Finding> {
    let (policy, _, token) = case.published()?;
    let covered = || revoke::covers(case.view, token.issued.time());
    match policy.binding() {
        Binding::Anchor => covered().then_some(Finding::Issue(IssueReason::Revoked)),
        Binding::Target => covered().then_some(Finding::Dying),
        Binding::None => None,
    }
}

fn inputs_changed(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    let other = target.token_inputs != fingerprint(&policy.token_inputs);
    other.then_some(Finding::Issue(IssueReason::SpecChanged))
}

/// The Secret that the token is bound to is gone, or has to be looked at before that is believed.
fn unbound(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, token) = case.published()?;
    if case.view.is_bound(policy, target, token) {
        return None;
    }
    // The Secret has another UID than the one that the token was bound to: it was deleted and put back.
    if policy.binding() == Binding::Target {
        return Some(Finding::Issue(IssueReason::TargetDeleted));
    }
    let name = &token.bond.name;
    let absent = case.view.grant.rare.as_ref().and_then(|rare| rare.anchor_absent.as_ref()) == Some(name);
    // Nothing can have an empty name: somebody else wrote that.
    let sure = name.is_empty() || absent || case.view.anchor(name).is_some();
    Some(if sure {
        Finding::Issue(IssueReason::AnchorDeleted)
    } else {
        Finding::Prove(IssueReason::AnchorDeleted, Look::Anchor(name.clone()))
    })
}

/// Removing the annotation never rotates.
fn rotation_requested(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    let other = policy.rotate.as_deref().is_some_and(|value| *value != *target.rotate());
    other.then_some(Finding::Issue(IssueReason::RotationRequested))
}

/// Under another layout other keys were written; the repair of the layout finds out what is left of them.
fn data_changed(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    let edited = case.has_layout(policy, target) && target.applied.data != policy.applied.data;
    let lost = case.view.grant.rare.as_ref().and_then(|rare| rare.token_lost) == Some(target.version);
    (edited || lost).then_some(Finding::Issue(IssueReason::DataChanged))
}

fn key_gone(case: &Case<'_>) -> Option<Finding> {
    let (_, target, token) = case.published()?;
    case.view.keys.gone(target.signer.as_ref()?, token.issued).map(Finding::Issue)
}

fn expired(case: &Case<'_>) -> Option<Finding> {
    let (_, _, token) = case.published()?;
    (token.expires.time() <= case.view.now).then_some(Finding::Issue(IssueReason::Due))
}

fn due(case: &Case<'_>) -> Option<Finding> {
    let due = case.view.due(case.target?)?;
    (due.at <= case.view.now).then_some(Finding::Issue(IssueReason::Due))
}

fn layout_changed(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    (!case.has_layout(policy, target)).then_some(Finding::Rewrite(IssueReason::LayoutChanged))
}

/// The token is as good as before, and so is the old address for a while: during a change of the CA both are served.
fn address_changed(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    let told = target.layout.tells(case.view.prints.told_by(&policy.spec.secret.format));
    (!told).then_some(Finding::Rewrite(IssueReason::AddressChanged))
}

fn metadata_changed(case: &Case<'_>) -> Option<Finding> {
    let (policy, target, _) = case.published()?;
    let untouched = target.marked && target.applied.metadata == policy.applied.metadata;
    (!untouched).then_some(Finding::Rewrite(IssueReason::MetadataChanged))
}

/// Whether a token that was issued then is older than what is published; instants of issue are whole seconds, so two
/// tokens may have the same. A published token that is dead, or not yet alive, is no rival.
#[must_use]
pub fn outlived(case: &Case<'_>, issued: Time) -> bool {
    let Some((_, _, token)) = case.published() else { return false };
    let dead = matches!(unbound(case), Some(Finding::Issue(_)));
    issued < token.issued.time() && token.issued.time() <= case.view.now + LEEWAY && !dead
}
