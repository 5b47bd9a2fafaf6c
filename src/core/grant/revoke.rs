//! Revocations that somebody asked for by an instant: which tokens they cover.

use super::view::View;
use crate::core::{
    Time,
    failure::Failure,
    meta,
    reason::{FailureReason, RetireReason},
    revocation::Revocation,
};

/// The revocations that somebody asks of the grant: on its policy for all of its tokens, or on one of its targets.
pub fn asked<'a>(view: &'a View<'_>) -> impl Iterator<Item = &'a Revocation> {
    let on_policy = view.policy.and_then(|policy| policy.head().revocation.as_ref());
    let on_targets = view.targets().filter_map(|target| target.object.revocation());
    on_policy.into_iter().chain(on_targets).filter_map(|asked| asked.as_ref().ok())
}

/// The latest of the instants that have been reached.
fn reached<'a>(view: &'a View<'_>) -> Option<&'a Revocation> {
    asked(view).filter(|revocation| revocation.before <= view.now).max_by_key(|revocation| revocation.before)
}

/// Whether a token issued then is revoked by now.
#[must_use]
pub fn covers(view: &View<'_>, issued: Time) -> bool {
    reached(view).is_some_and(|revocation| issued < revocation.before)
}

/// Until when no token is requested, because it could seem to be issued before the instant.
#[must_use]
pub fn pause(view: &View<'_>) -> Option<Time> {
    reached(view).map(Revocation::replace_at).filter(|at| *at > view.now)
}

/// A request that is not carried out must not pass for done: an annotation of a target that says no instant (that of a
/// policy is reported once for the policy), or tokens that cannot be revoked.
#[must_use]
pub fn unheard(view: &View<'_>) -> Option<Failure> {
    let ends = view.policy.is_none_or(|state| state.head().terminating);
    let targets = view.targets().filter(|target| !(ends && view.deletes(target.owners.policy)));
    targets.into_iter().find_map(|target| {
        let secret = || format!("Secret {}/{}", view.key.namespace, target.name);
        if let Some(Err(error)) = target.revocation() {
            return Some(Failure::new(FailureReason::RevocationTimeInvalid, &format!("{}: {error}", secret())));
        }
        let mut alive = target.irrevocable(view.now).filter(|(issued, _)| covers(view, *issued));
        let (issued, account) = alive.next()?;
        let what = format!(
            "{}: a token of ServiceAccount {} with binding None, issued at {}, before the instant asked for, cannot be revoked, \
             and lives until it expires",
            secret(),
            account.unwrap_or(&view.key.account),
            meta::text(issued)
        );
        Some(Failure::new(FailureReason::RevocationUnsupported, &what))
    })
}

/// The word that somebody gave as the reason of a revocation they asked for.
#[must_use]
pub fn reason(view: &View<'_>, cause: RetireReason) -> Option<Box<str>> {
    reached(view).filter(|_| cause == RetireReason::RevokeIssuedBefore).map(|revocation| revocation.reason.clone())
}
