//! What `revoke-issued-before` asks of a grant: on its policy for all of its tokens, or on one of its targets.

use super::{Cause, Facts, Retirement};
use crate::core::{
    Time,
    facts::Target,
    failure::{Failure, Reason},
    revocation::Revocation,
};

fn asked<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Revocation> {
    let on_policy = facts.readable().and_then(|policy| policy.revocation.as_ref());
    let on_targets = facts.targets().filter_map(|(_, target)| target.revocation.as_deref()).collect::<Vec<_>>();
    on_policy.into_iter().chain(on_targets).filter_map(|asked| asked.as_ref().ok())
}

/// The latest of the instants that have been reached.
pub(super) fn reached<'a>(now: Time, facts: &Facts<'a>) -> Option<&'a Revocation> {
    asked(facts).filter(|revocation| revocation.before <= now).max_by_key(|revocation| revocation.before)
}

/// Whether a token issued then is revoked by now.
pub(super) fn covers(now: Time, facts: &Facts<'_>, issued: Time) -> bool {
    reached(now, facts).is_some_and(|revocation| issued < revocation.before)
}

/// Until when no token is requested, because it could seem to be issued before the instant.
pub(super) fn pause(now: Time, facts: &Facts<'_>) -> Option<Time> {
    reached(now, facts).map(Revocation::replace_at).filter(|at| *at > now)
}

/// The next instant to come.
pub(super) fn next(now: Time, facts: &Facts<'_>) -> Option<Time> {
    asked(facts).map(|revocation| revocation.before).filter(|before| *before > now).min()
}

/// What was asked for and is not carried out must not pass for done: an annotation of the target that says no instant
/// (that of a policy is told of once for the policy), or tokens that cannot be revoked.
pub(super) fn unheard(now: Time, facts: &Facts<'_>, target: &Target) -> Option<Failure> {
    if let Some(Err(error)) = target.revocation.as_deref() {
        return Some(Failure::new(Reason::RevocationTimeInvalid, &error.to_string()));
    }
    let alive = target.irrevocable(now).any(|issued| covers(now, facts, issued));
    let what = "a token with binding None was issued before the instant, cannot be revoked, and lives until it expires";
    alive.then(|| Failure::new(Reason::RevocationUnsupported, what))
}

/// Targets that tokens are bound to: all such tokens die with the Secret. One that is younger than the instant has never
/// held an older token.
pub(super) fn targets(now: Time, facts: &Facts<'_>) -> Vec<Retirement> {
    let due = facts
        .targets()
        .filter(|(_, target)| target.written && target.binds_tokens(now) && covers(now, facts, target.created));
    due.map(|(name, target)| Retirement {
        secret: name.into(),
        uid: target.uid.clone(),
        token_id: target.token.as_ref().map(|token| token.id.clone()),
        cause: Cause::RevokeIssuedBefore,
        reason: reason(now, facts, Cause::RevokeIssuedBefore),
    })
    .collect()
}

/// The word that somebody gave as the reason of a revocation they asked for.
pub(super) fn reason(now: Time, facts: &Facts<'_>, cause: Cause) -> Option<Box<str>> {
    reached(now, facts).filter(|_| cause == Cause::RevokeIssuedBefore).map(|revocation| revocation.reason.clone())
}
