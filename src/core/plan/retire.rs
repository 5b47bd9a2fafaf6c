//! Which anchors to delete now. Nothing that blocks issuing blocks this.

use chrono::TimeDelta;

use super::{Ending, Facts, Look, deletes, ending, revoke};
use crate::core::{
    Time,
    facts::{Anchor, Target},
    render,
};

/// An anchor that no target names is what a crash left behind, or another process at work: after this long it
/// is the former.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(60);

/// Why an anchor is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Its token was replaced long enough ago.
    OverlapEnded,
    /// Its token was replaced and nobody remembers it, or more than eight were remembered.
    Superseded,
    /// It was left behind by a crash or a failed request.
    Lost,
    /// Its token has expired.
    Expired,
    /// The policy goes.
    PolicyDeleted,
    /// The policy does not select the account any more.
    Unselected,
    /// Its token was minted and then not needed.
    Discarded,
    /// The target that named it was deleted.
    TargetDeleted,
    /// Somebody else deleted it, to revoke its token.
    ByHand,
    /// Somebody asked for it with the annotation of this name.
    RevokeIssuedBefore,
}

impl Cause {
    /// The word in events, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OverlapEnded => "OverlapEnded",
            Self::Superseded => "Superseded",
            Self::Lost => "Lost",
            Self::Expired => "Expired",
            Self::PolicyDeleted => "PolicyDeleted",
            Self::Unselected => "Unselected",
            Self::Discarded => "Discarded",
            Self::TargetDeleted => "TargetDeleted",
            Self::ByHand => "ByHand",
            Self::RevokeIssuedBefore => "RevokeIssuedBefore",
        }
    }
}

impl Cause {
    /// The end that was planned when the successor was published: no news.
    #[must_use]
    pub const fn is_planned(self) -> bool {
        matches!(self, Self::OverlapEnded | Self::Expired)
    }
}

/// One Secret to delete, because the token that is bound to it is to die: an anchor, or a target with
/// `binding: Target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Its name.
    pub secret: Box<str>,
    /// Its UID: a Secret re-created under the same name is another one.
    pub uid: Box<str>,
    /// The token bound to it, where known.
    pub token_id: Option<Box<str>>,
    /// Why.
    pub cause: Cause,
    /// The word in `revoke-reason`, where that is the cause.
    pub reason: Option<Box<str>>,
}

impl Retirement {
    /// Whether it only clears away what a crash, a refused request or a lost race left behind: no Secret was ever seen
    /// to hold a token that is bound to it.
    #[must_use]
    pub const fn is_sweep(&self) -> bool {
        matches!(self.cause, Cause::Lost | Cause::Superseded | Cause::Discarded) && self.token_id.is_none()
    }

    /// The word for people and metrics: what somebody gave as their reason, else the cause.
    #[must_use]
    pub fn why(&self) -> &str {
        self.reason.as_deref().unwrap_or(self.cause.as_str())
    }
}

/// How a target names an anchor.
enum Named {
    Current { issued_at: Time, expires_at: Time, token_id: Box<str> },
    Previous { issued_at: Time, retires_at: Time, token_id: Box<str> },
    Not,
}

/// Every anchor, and every target that is an anchor itself, to delete now.
pub(super) fn due(now: Time, facts: &Facts<'_>, drop_attempt: bool) -> Vec<Retirement> {
    if facts.memory.retire_after.is_some_and(|after| now < after) {
        return Vec::new();
    }
    let end = end(now, facts);
    let anchors = facts.anchors.iter().filter_map(|(name, (anchor, seen))| {
        let named = named(facts, name, &anchor.uid);
        let cause = match end {
            Some(cause) => deletes(facts, anchor.owners.policy.as_deref()).then_some(cause),
            None if is_held(facts, name) => discarded(facts, drop_attempt, &named),
            None => cause(now, facts, anchor, *seen, &named),
        };
        // With `Retain`, and after the policy let go, an anchor still goes when its token cannot be alive.
        let cause = cause.or_else(|| is_expired(now, facts, anchor, &named).then_some(Cause::Expired))?;
        let token_id = token_of(facts, name, &anchor.uid);
        let reason = revoke::reason(now, facts, cause);
        Some(Retirement { secret: (*name).into(), uid: anchor.uid.clone(), token_id, cause, reason })
    });
    anchors.chain(revoke::targets(now, facts)).collect()
}

/// The cause that takes all anchors of a grant, once its end is sure.
fn end(now: Time, facts: &Facts<'_>) -> Option<Cause> {
    let sure = ending(now, facts)? == Ending::Sure;
    let selected = facts.memory.unselected_since.is_none();
    sure.then_some(if selected { Cause::PolicyDeleted } else { Cause::Unselected })
}

fn is_held(facts: &Facts<'_>, name: &str) -> bool {
    facts.memory.attempt.as_ref().and_then(|attempt| attempt.bound.as_ref()).is_some_and(|bound| bound.name == name)
}

/// A held token without use goes at once, unless the write whose answer was lost may have published it: then
/// its anchor is left to the sweep, which looks first.
fn discarded(facts: &Facts<'_>, drop_attempt: bool, named: &Named) -> Option<Cause> {
    let published = matches!(named, Named::Current { .. }) || facts.memory.proof.target_doubtful;
    (drop_attempt && !published).then_some(Cause::Discarded)
}

fn cause(now: Time, facts: &Facts<'_>, anchor: &Anchor, seen: Time, named: &Named) -> Option<Cause> {
    // What the anchor of a token that nobody names was for is not known: the token may be as old as the anchor.
    let issued = match named {
        Named::Current { issued_at, .. } | Named::Previous { issued_at, .. } => *issued_at,
        Named::Not => anchor.created,
    };
    if revoke::covers(now, facts, issued) {
        return Some(Cause::RevokeIssuedBefore);
    }
    match named {
        Named::Current { .. } => None,
        Named::Previous { retires_at, .. } => (*retires_at <= now).then_some(Cause::OverlapEnded),
        // A Secret of the target's name that is not ours may be ours with its annotations removed.
        Named::Not if is_foreign(facts) => None,
        Named::Not => {
            let (cause, ripe) = ripe(facts, anchor, seen);
            (ripe <= now && looked_since(facts, ripe)).then_some(cause)
        }
    }
}

/// Why and when an anchor that no target names may go. That it is not named is absence, and needs a look after
/// that instant: the watch on targets may be behind the one on anchors.
fn ripe(facts: &Facts<'_>, anchor: &Anchor, seen: Time) -> (Cause, Time) {
    let superseded = facts.targets().any(|(_, target)| supersedes(facts, target, anchor, seen));
    let memory = facts.memory;
    match (superseded, facts.targets().next()) {
        (true, _) => (Cause::Superseded, seen),
        (false, None) if memory.published && memory.proof.target_absent => (Cause::TargetDeleted, seen),
        _ => (Cause::Lost, seen + LOST_AFTER),
    }
}

fn is_foreign(facts: &Facts<'_>) -> bool {
    facts.memory.proof.target_foreign || facts.occupant.is_some() && facts.target().is_none()
}

/// A published token whose anchor is younger than `anchor` is the successor of the latter's. The server's instants
/// are whole seconds; within one, the order in which we saw them counts. Believed only while nobody has touched
/// the annotations, `previous` among them.
fn supersedes(facts: &Facts<'_>, target: &Target, anchor: &Anchor, seen: Time) -> bool {
    let untouched = facts.readable().is_some_and(|policy| target.owned.metadata == render::owned(policy).metadata);
    let published = target.token.as_ref().and_then(|token| facts.anchors.get(&*token.anchor));
    untouched && published.is_some_and(|(published, since)| (published.created, *since) > (anchor.created, seen))
}

fn looked_since(facts: &Facts<'_>, since: Time) -> bool {
    facts.memory.proof.target_seen.is_some_and(|seen| seen > since)
}

/// No token bound to the anchor can be alive. The current one of a living policy is left to its renewal.
fn is_expired(now: Time, facts: &Facts<'_>, anchor: &Anchor, named: &Named) -> bool {
    let over = match named {
        Named::Current { expires_at, .. } => facts.readable().is_none() && *expires_at <= now,
        Named::Previous { .. } | Named::Not => true,
    };
    over && anchor.dies_at_latest.is_some_and(|dies| dies <= now)
}

fn named(facts: &Facts<'_>, name: &str, uid: &str) -> Named {
    let mut tokens = facts.targets().filter_map(|(_, target)| target.token.as_ref());
    if let Some(token) = tokens.find(|token| *token.anchor == *name && *token.anchor_uid == *uid) {
        return Named::Current { issued_at: token.issued_at, expires_at: token.expires_at, token_id: token.id.clone() };
    }
    let mut entries = facts.targets().flat_map(|(_, target)| &target.previous);
    let entry = entries.find(|entry| *entry.anchor == *name && *entry.uid == *uid);
    entry.map_or(Named::Not, |entry| Named::Previous {
        issued_at: entry.issued_at,
        retires_at: entry.retires_at,
        token_id: entry.token_id.clone(),
    })
}

/// Id of the token bound to an anchor, as far as a target names it.
pub(super) fn token_of(facts: &Facts<'_>, name: &str, uid: &str) -> Option<Box<str>> {
    match named(facts, name, uid) {
        Named::Current { token_id, .. } | Named::Previous { token_id, .. } => Some(token_id),
        Named::Not => facts.memory.unnamed.iter().find(|(anchor, _)| **anchor == *uid).map(|(_, id)| id.clone()),
    }
}

/// The look at the target that a sweep needs first: the one that the grant wants, else the one that the anchor
/// was made for.
pub(super) fn look(now: Time, facts: &Facts<'_>) -> Option<Look> {
    let mut unnamed = facts
        .anchors
        .iter()
        .filter(|(name, (anchor, _))| !is_held(facts, name) && matches!(named(facts, name, &anchor.uid), Named::Not));
    let (_, (anchor, _)) = unnamed.find(|(_, (anchor, seen))| {
        let (_, ripe) = ripe(facts, anchor, *seen);
        ripe <= now && !looked_since(facts, ripe)
    })?;
    let name = facts.name.clone().unwrap_or_else(|_| anchor.target.to_string());
    (!name.is_empty()).then_some(Look::Target(name))
}

/// When the next anchor has to be looked at again.
pub(super) fn next(now: Time, facts: &Facts<'_>) -> Option<Time> {
    let times = facts.anchors.iter().filter_map(|(name, (anchor, seen))| match named(facts, name, &anchor.uid) {
        Named::Current { .. } => None,
        Named::Previous { retires_at, .. } => Some(retires_at),
        Named::Not => Some(ripe(facts, anchor, *seen).1),
    });
    let ends = facts.anchors.values().filter_map(|(anchor, _)| anchor.dies_at_latest);
    times.chain(ends).chain(facts.memory.retire_after).filter(|time| *time > now).min()
}
