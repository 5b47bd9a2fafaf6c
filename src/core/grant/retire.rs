//! Which anchors to delete now. Nothing that blocks issuing blocks this.

use std::{cmp::Reverse, collections::HashMap};

use chrono::TimeDelta;

use super::{
    Retirement,
    checks::{Case, Finding},
    look::Look,
    revoke,
    view::{Placed, PlacedAnchor, View},
};
use crate::core::{
    Time,
    id::{Name, Secs, Uid},
    place::secret::Target,
    reason::RetireReason,
};

/// An anchor that no target names was left behind by a crash, or another process is at work: after this long it
/// is the former.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(60);

/// A deletion that somebody asked for and that is not answered is told after this long. People are promised to hear within
/// 5 s, and a status waits up to a second for its turn.
const TOLD_AFTER: TimeDelta = TimeDelta::seconds(3);

/// How a target names an anchor.
#[derive(Clone, Copy)]
enum Mention {
    Current { issued: Secs, expires: Secs, id: Uid },
    Previous { issued: Secs, retires: Secs, id: Uid },
    Not,
}

/// What the targets of a grant say of its anchors. Somebody may have made thousands of both, so each is visited once.
struct Mentions<'a> {
    /// By name and UID; with the account of the token where that is another one than the grant's.
    by_bond: HashMap<(&'a str, Uid), (Mention, Option<&'a Name>)>,
    /// The age of the youngest anchor whose token is published, by creation and by the order in which we saw it.
    youngest: Option<(Secs, Reverse<usize>)>,
}

impl<'a> Mentions<'a> {
    fn of(view: &'a View<'a>) -> Self {
        let mut by_bond = HashMap::new();
        for entry in view.targets().flat_map(|target| target.object.previous()) {
            let mention = Mention::Previous { issued: entry.issued, retires: entry.retires, id: entry.id };
            by_bond.entry((&*entry.bond.name, entry.bond.uid)).or_insert((mention, entry.account.as_deref()));
        }
        for token in view.targets().filter_map(|target| target.object.token.as_ref()) {
            let mention = Mention::Current { issued: token.issued, expires: token.expires, id: token.id };
            by_bond.insert((&*token.bond.name, token.bond.uid), (mention, None));
        }
        // The server's instants are whole seconds; within one, the order in which we saw them counts. Believed only while
        // nobody has touched the annotations, `previous` among them.
        let untouched = |target: &&Placed<'_, Target>| {
            view.readable().is_some_and(|policy| target.applied.metadata == policy.applied.metadata)
        };
        let tokens = view.targets().filter(untouched).filter_map(|target| target.object.token.as_ref());
        let youngest = tokens.filter_map(|token| view.anchor(&token.bond.name)).map(age).max();
        Self { by_bond, youngest }
    }

    fn named(&self, name: &str, uid: Uid) -> Mention {
        self.by_bond.get(&(name, uid)).map_or(Mention::Not, |(mention, _)| *mention)
    }

    /// Id of the token bound to an anchor, as far as a target names it, or did.
    fn token_of(&self, anchor: &PlacedAnchor<'_>) -> Option<Uid> {
        match self.named(&anchor.anchor.name, anchor.uid) {
            Mention::Current { id, .. } | Mention::Previous { id, .. } => Some(id),
            Mention::Not => anchor.token_id,
        }
    }
}

fn age(anchor: &PlacedAnchor<'_>) -> (Secs, Reverse<usize>) {
    (anchor.created, Reverse(anchor.nth))
}

/// Every anchor, and every target that is an anchor itself, to delete now.
#[must_use]
pub fn due(view: &View<'_>, drop_attempt: bool) -> Vec<Retirement> {
    let failing = view.grant.rare.as_ref().and_then(|rare| rare.unrevoked.as_ref());
    if failing.is_some_and(|failing| view.now < failing.retry_at) {
        return Vec::new();
    }
    let (end, mentions) = (end(view), Mentions::of(view));
    let anchors = view.anchors.iter().filter_map(|anchor| {
        let name = &anchor.anchor.name;
        let named = mentions.named(name, anchor.uid);
        let cause = match end {
            Some(cause) if view.deletes(anchor.owners().policy) => Some(cause),
            // What was let go is still revoked where somebody asks for it, and else lives until its token expires.
            Some(_) => is_revoked(view, anchor, named).then_some(RetireReason::RevokeIssuedBefore),
            None if view.policy.is_none() => None,
            None if is_held(view, name) => discarded(view, drop_attempt, named),
            None => cause(view, &mentions, anchor, named),
        };
        // With `Retain`, and after the policy let go, an anchor still goes when its token cannot be alive.
        let cause = cause.or_else(|| is_expired(view, anchor, named).then_some(RetireReason::Expired))?;
        Some(retirement(view, &mentions, &anchor.anchor, anchor.uid, mentions.token_of(anchor), cause))
    });
    let under_way = |retirement: &Retirement| view.retiring().iter().any(|known| known.uid == retirement.uid);
    anchors.chain(targets(view, &mentions, end)).filter(|retirement| !under_way(retirement)).collect()
}

/// With the policy gone the owner references of exactly this version decide: the garbage collector may be taking them off
/// (`--cascade=orphan`), and nobody here has heard of it yet.
fn retirement<T>(
    view: &View<'_>,
    mentions: &Mentions<'_>,
    secret: &Placed<'_, T>,
    uid: Uid,
    token_id: Option<Uid>,
    cause: RetireReason,
) -> Retirement {
    let version = view.policy.is_none().then_some(secret.version);
    let reason = revoke::reason(view, cause);
    let account = mentions.by_bond.get(&(&*secret.name, uid)).and_then(|(_, account)| account.cloned());
    Retirement { secret: secret.name.clone(), uid, version, token_id, cause, reason, since: view.now, account }
}

/// A deletion that somebody asked for and that has been under way for long.
#[must_use]
pub fn unanswered(view: &View<'_>) -> Option<Retirement> {
    let late = |retirement: &&Retirement| retirement.is_asked() && retirement.since + TOLD_AFTER <= view.now;
    view.retiring().iter().find(late).cloned()
}

/// The cause that takes all anchors of a grant, once its end is sure.
fn end(view: &View<'_>) -> Option<RetireReason> {
    let sure = Case::of(view).first(1)? == Finding::End;
    let selected = view.grant.unselected_since().is_none();
    sure.then_some(if selected { RetireReason::PolicyDeleted } else { RetireReason::Unselected })
}

fn is_held(view: &View<'_>, name: &str) -> bool {
    view.attempt().and_then(|attempt| attempt.bond.as_ref()).is_some_and(|bond| bond.name == name)
}

/// A held token without use goes at once, unless the write whose answer was lost may have published it: then
/// its anchor is left to the sweep, which looks first.
fn discarded(view: &View<'_>, drop_attempt: bool, named: Mention) -> Option<RetireReason> {
    let published = matches!(named, Mention::Current { .. }) || view.grant.proof.target_doubtful;
    (drop_attempt && !published).then_some(RetireReason::Discarded)
}

/// Whether somebody revoked it. Where no target names the anchor, its token's issue is unknown: the token may be as old as
/// the anchor.
fn is_revoked(view: &View<'_>, anchor: &PlacedAnchor<'_>, named: Mention) -> bool {
    let issued = match named {
        Mention::Current { issued, .. } | Mention::Previous { issued, .. } => issued,
        Mention::Not => anchor.created,
    };
    revoke::covers(view, issued.time())
}

fn cause(view: &View<'_>, mentions: &Mentions<'_>, anchor: &PlacedAnchor<'_>, named: Mention) -> Option<RetireReason> {
    match named {
        Mention::Current { .. } | Mention::Previous { .. } => planned(view, named),
        Mention::Not if is_revoked(view, anchor, named) => Some(RetireReason::RevokeIssuedBefore),
        // A Secret of the target's name that is not ours may be ours with its annotations removed.
        Mention::Not if view.grant.proof.target_foreign || view.occupied_by.is_some() => None,
        Mention::Not => {
            let (cause, ripe) = ripe(view, mentions, anchor);
            (ripe.time() <= view.now && view.grant.target_seen >= ripe).then_some(cause)
        }
    }
}

/// Why a token that a target names ends by now.
fn planned(view: &View<'_>, named: Mention) -> Option<RetireReason> {
    match named {
        Mention::Current { issued, .. } | Mention::Previous { issued, .. } if revoke::covers(view, issued.time()) => {
            Some(RetireReason::RevokeIssuedBefore)
        }
        Mention::Previous { retires, .. } => (retires.time() <= view.now).then_some(RetireReason::OverlapEnded),
        Mention::Current { .. } | Mention::Not => None,
    }
}

/// Why the token of an anchor that is gone was to end by now, if it was.
#[must_use]
pub fn planned_end(view: &View<'_>, name: &str, uid: Uid) -> Option<RetireReason> {
    planned(view, Mentions::of(view).named(name, uid))
}

/// Why and when an anchor that no target names may go. That it is not named is absence, and needs a look from
/// that second on: the watch on targets may be behind the one on anchors. A published token whose anchor is younger is the
/// successor of this one's.
fn ripe(view: &View<'_>, mentions: &Mentions<'_>, anchor: &PlacedAnchor<'_>) -> (RetireReason, Secs) {
    let superseded = mentions.youngest.is_some_and(|youngest| youngest > age(anchor));
    match (superseded, view.targets().next()) {
        // The watch said so; the look that comes first finds a Secret that only lost its label.
        _ if anchor.target_deleted => (RetireReason::TargetDeleted, anchor.seen),
        (true, _) => (RetireReason::Superseded, anchor.seen),
        (false, None) if view.grant.published && view.grant.proof.target_absent => {
            (RetireReason::TargetDeleted, anchor.seen)
        }
        _ => (RetireReason::Lost, Secs::not_before(anchor.seen.time() + LOST_AFTER)),
    }
}

/// No token bound to the anchor can be alive. The current one of a living policy is left to its renewal.
fn is_expired(view: &View<'_>, anchor: &PlacedAnchor<'_>, named: Mention) -> bool {
    let over = match named {
        Mention::Current { expires, .. } => view.readable().is_none() && expires.time() <= view.now,
        Mention::Previous { .. } | Mention::Not => true,
    };
    over && anchor.dies_at_latest.is_some_and(|dies| dies.time() <= view.now)
}

/// The look at the target that a sweep needs first: the one that the grant wants, else the one that the anchor
/// was made for.
#[must_use]
pub fn look(view: &View<'_>) -> Option<Look> {
    let mentions = Mentions::of(view);
    let mut unnamed = view.anchors.iter().filter(|anchor| {
        let name = &anchor.anchor.name;
        !is_held(view, name) && matches!(mentions.named(name, anchor.uid), Mention::Not)
    });
    let anchor = unnamed.find(|anchor| {
        let (_, ripe) = ripe(view, &mentions, anchor);
        ripe.time() <= view.now && view.grant.target_seen < ripe
    })?;
    let made_for = || anchor.target().or(view.home.as_ref().filter(|_| !anchor.is_stripped())).cloned();
    view.name.clone().ok().or_else(made_for).filter(|name| !name.is_empty()).map(Look::Target)
}

/// When the next anchor has to be looked at again, after these retirements begin.
#[must_use]
pub fn next(view: &View<'_>, begun: &[Retirement]) -> Option<Time> {
    let mentions = Mentions::of(view);
    let times = view.anchors.iter().filter_map(|anchor| match mentions.named(&anchor.anchor.name, anchor.uid) {
        Mention::Current { .. } => None,
        Mention::Previous { retires, .. } => Some(retires),
        Mention::Not => Some(ripe(view, &mentions, anchor).1),
    });
    let ends = view.anchors.iter().filter_map(|anchor| anchor.dies_at_latest);
    let again = view.grant.rare.as_ref().and_then(|rare| rare.unrevoked.as_ref()).map(|failing| failing.retry_at);
    let instants = revoke::asked(view).map(|revocation| revocation.before);
    let asked = view.retiring().iter().chain(begun).filter(|retirement| retirement.is_asked());
    let told = asked.map(|retirement| retirement.since + TOLD_AFTER);
    times.chain(ends).map(Secs::time).chain(again).chain(instants).chain(told).filter(|time| *time > view.now).min()
}

/// Targets that tokens are bound to: all such tokens die with the Secret. One that is younger than the instant has never
/// held an older token.
fn targets(view: &View<'_>, mentions: &Mentions<'_>, end: Option<RetireReason>) -> impl Iterator<Item = Retirement> {
    let bound = view.targets().filter(|target| target.written() && target.binds_tokens(view.now));
    bound.filter_map(move |target| {
        let revoked = || revoke::covers(view, target.created.time()).then_some(RetireReason::RevokeIssuedBefore);
        let cause = end.filter(|_| view.deletes(target.owners.policy)).or_else(revoked)?;
        let token_id = target.object.token.as_ref().map(|token| token.id);
        Some(retirement(view, mentions, target, target.uid, token_id, cause))
    })
}
