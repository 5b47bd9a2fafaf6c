//! Failures in a row, and grants of one namespace that fail for the same reason: one probes, the others wait for it.

use std::collections::{BTreeSet, HashMap};

use super::Grants;
use crate::core::{
    Time,
    failure::Failure,
    grant::{Failing, Retirement, event::GrantNews},
    id::{GrantKey, stable_hash},
    reason::FailureReason,
    schedule,
};

/// The work that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Issuing and repairing.
    Issue,
    /// Retiring.
    Revoke,
}

type Cause = (u32, FailureReason, Kind);

#[derive(Debug)]
struct Trouble {
    probe: u32,
    waiting: BTreeSet<u32>,
}

/// Causes that lie in a namespace.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    open: HashMap<Cause, Trouble>,
    /// The causes that a grant probes or waits for.
    of: HashMap<u32, Vec<Cause>>,
}

impl Troubles {
    /// Whether this grant is the one that probes; else it is entered as waiting.
    fn probes(&mut self, id: u32, cause: Cause) -> bool {
        let trouble = self.open.entry(cause).or_insert_with(|| Trouble { probe: id, waiting: BTreeSet::new() });
        let causes = self.of.entry(id).or_default();
        if !causes.contains(&cause) {
            causes.push(cause);
        }
        let probes = trouble.probe == id;
        if !probes {
            trouble.waiting.insert(id);
        }
        probes
    }

    /// The grant has nothing to do with causes any more but with those to be kept; those who waited for it.
    fn leave(&mut self, id: u32, keep: impl Fn(&Cause) -> bool) -> Vec<(u32, Kind)> {
        let Some(causes) = self.of.remove(&id) else { return Vec::new() };
        let (kept, left): (Vec<Cause>, Vec<Cause>) = causes.into_iter().partition(|cause| keep(cause));
        if !kept.is_empty() {
            self.of.insert(id, kept);
        }
        let mut released = Vec::new();
        for cause in left {
            let Some(trouble) = self.open.get_mut(&cause) else { continue };
            trouble.waiting.remove(&id);
            if trouble.probe == id {
                released.extend(
                    self.open.remove(&cause).into_iter().flat_map(|trouble| trouble.waiting).map(|id| (id, cause.2)),
                );
            }
        }
        for (waiting, _) in &released {
            if let Some(causes) = self.of.get_mut(waiting) {
                causes.retain(|cause| self.open.contains_key(cause));
            }
        }
        released
    }

    /// Everybody who has to do with an API server that does not answer.
    fn unanswered(&self, covers: impl Fn(u32) -> bool) -> Vec<(u32, Kind)> {
        let causes = self
            .open
            .iter()
            .filter(|((namespace, reason, _), _)| *reason == FailureReason::ApiUnavailable && covers(*namespace));
        let all = causes.flat_map(|((.., kind), trouble)| {
            trouble.waiting.iter().copied().chain([trouble.probe]).map(|id| (id, *kind))
        });
        all.collect()
    }
}

impl Grants {
    /// Counts a failure and sets the next try.
    pub(super) fn fail(&mut self, id: u32, failure: Failure, now: Time) {
        let failing = self.grants.get(id).and_then(|grant| grant.failing().cloned());
        let Some(failing) = self.next_try(id, Kind::Issue, failing, failure, now) else { return };
        if let Some(grant) = self.grants.get_mut(id) {
            let prompt = failing.is_prompt();
            let retry_at = if prompt { now } else { failing.retry_at };
            grant.rare().failing = Some(Box::new(Failing { retry_at, ..failing }));
        }
    }

    /// A retirement failed: it has a back-off of its own, and is reported once, with the way to do it by hand.
    pub(super) fn fail_to_revoke(
        &mut self,
        id: u32,
        key: &GrantKey,
        retirement: &Retirement,
        mut failure: Failure,
        now: Time,
    ) {
        let by_hand = format!("; by hand: kubectl -n {} delete secret {}", key.namespace, retirement.secret);
        failure.message.push_str(&by_hand);
        let before = self.grants.get(id).and_then(|grant| grant.rare.as_ref()?.unrevoked.as_deref().cloned());
        let known = before.as_ref().map(|failing| (failing.failure.reason, failing.asked));
        let asked = retirement.is_asked() || before.as_ref().is_some_and(|failing| failing.asked);
        let Some(failing) = self.next_try(id, Kind::Revoke, before, failure, now) else { return };
        let news = (known != Some((failing.failure.reason, asked))).then(|| failing.failure.clone());
        if let Some(grant) = self.grants.get_mut(id) {
            grant.rare().unrevoked = Some(Box::new(Failing { asked, ..failing }));
        }
        if let Some(failure) = news {
            self.report(id, GrantNews::RevocationFailing(failure));
        }
    }

    /// A deletion that somebody asked for is not answered. It is told as one that fails, unless that is known.
    pub(super) fn tell_unanswered(&mut self, id: u32, retirement: &Retirement, now: Time) {
        let Some(grant) = self.grants.get(id) else { return };
        if grant.rare.as_ref().is_some_and(|rare| rare.unrevoked.is_some()) {
            return;
        }
        let key = self.key(grant);
        let what = format!("delete Secret {}/{}", key.namespace, retirement.secret);
        let failure = Failure::unanswered(&what, "no answer yet");
        self.fail_to_revoke(id, &key, retirement, failure, now);
        // There is no next try before the answer, and what else is to be revoked does not wait for it.
        self.try_now(id, Kind::Revoke, now);
    }

    /// Somebody asks for another revocation: it does not wait for the next try of anything earlier.
    pub(super) fn revoke_anew(&mut self, id: u32, now: Time) {
        let Some(rare) = self.grants.get(id).and_then(|grant| grant.rare.as_ref()) else { return };
        let (issue, revoke) = (rare.failing.is_some(), rare.unrevoked.is_some());
        if issue {
            self.try_now(id, Kind::Issue, now);
        }
        if revoke {
            self.try_now(id, Kind::Revoke, now);
        }
    }

    fn next_try(
        &mut self,
        id: u32,
        kind: Kind,
        before: Option<Failing>,
        failure: Failure,
        now: Time,
    ) -> Option<Failing> {
        let grant = self.grants.get(id)?;
        let (expires, (namespace, _), key) = (grant.counted.expires.time(), self.place(grant), self.key(grant));
        let hash = stable_hash([&*key.namespace, &*key.policy, &*key.account]);
        let waits = failure.reason.shared() && !self.troubles.probes(id, (namespace, failure.reason, kind));
        // Calls of one round that fail are one failure.
        let before = before.filter(|before| kind == Kind::Revoke || before.failure.reason == failure.reason);
        let count = before.map_or(1, |before| before.count + u32::from(before.retry_at <= now));
        // The probe will tell; should it fail for a reason of its own, the longest pause is the bound.
        let pauses = if waits { u32::MAX } else { count };
        let retry_at = schedule::retry_at(now, pauses, Some(expires), hash).max(failure.not_before(now));
        Some(Failing { failure, count, retry_at, asked: false })
    }

    /// The grant does not fail any more but for reasons that are kept: those that waited for its probe try now.
    pub(super) fn release(&mut self, id: u32, keep: impl Fn(FailureReason, Kind) -> bool, now: Time) {
        for (waiting, kind) in self.troubles.leave(id, |(_, reason, kind)| keep(*reason, *kind)) {
            self.try_now(waiting, kind, now);
        }
    }

    pub(super) fn try_now(&mut self, id: u32, kind: Kind, now: Time) {
        if let Some(rare) = self.grants.get_mut(id).and_then(|grant| grant.rare.as_mut()) {
            let failing = match kind {
                Kind::Issue => &mut rare.failing,
                Kind::Revoke => &mut rare.unrevoked,
            };
            if let Some(failing) = failing {
                failing.retry_at = Time::MIN_UTC;
            }
        }
        self.wake(id, now);
    }

    /// The API server answers again: everybody who waited for that tries now, most urgent first.
    pub(super) fn answering_again(&mut self, scope: u16, now: Time) {
        let covers = |namespace: u32| self.namespaces.get(namespace).is_some_and(|place| place.scope == scope);
        for (id, kind) in self.troubles.unanswered(covers) {
            self.try_now(id, kind, now);
        }
    }
}
