//! Which lists are complete, which watches fail, and what starts when they no longer do.

use std::sync::Arc;

use chrono::TimeDelta;

use super::{Index, KINDS};
use crate::core::{
    Time,
    failure::{Failure, Reason},
    grant::GrantKey,
    table::{Key, Scope},
};

/// A token or anchor younger than this at start was probably made by the process before.
const RESTART_CHARGE: TimeDelta = TimeDelta::seconds(10);

impl Index {
    /// Lists that have not been complete once, as `kind in namespace`.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for scope in &self.scopes {
            let place = scope.as_deref().unwrap_or("all namespaces");
            for (kind, listed) in self.listed(scope) {
                if !listed {
                    waiting.push(format!("{kind} in {place}"));
                }
            }
        }
        waiting
    }

    pub(super) fn listed(&self, scope: &Scope) -> [(&'static str, bool); 4] {
        [
            (KINDS[0], self.policies.listed(scope)),
            (KINDS[1], self.accounts.listed(scope)),
            (KINDS[2], self.targets.listed(scope)),
            (KINDS[3], self.anchors.listed(scope)),
        ]
    }

    /// Nothing is decided for a namespace before each of its four streams has listed once: a half-built view
    /// would take everything for missing.
    pub(super) fn is_complete(&self, namespace: &Arc<str>) -> bool {
        self.listed(&self.scope(namespace)).iter().all(|(_, listed)| *listed)
    }

    /// A watch fails, or works again. Policies whose grants cannot be decided for it say so.
    pub fn watch_health(&mut self, scope: &Scope, kind: &'static str, failure: Option<Failure>, now: Time) {
        if let Some(failure) = failure {
            self.unhealthy.insert((scope.clone(), kind), failure);
        } else {
            self.unhealthy.remove(&(scope.clone(), kind));
            self.answering_again(scope);
        }
        let covers = |key: &&Key| scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let policies: Vec<Key> = self.policies.iter().map(|(key, _)| key).filter(covers).cloned().collect();
        for key in policies {
            self.statuses.mark(key, now);
        }
    }

    /// The API server answers again: what waited for that is tried now, most urgent first.
    pub(super) fn answering_again(&mut self, scope: &Scope) {
        let waiting = self.grants.iter_mut().filter_map(|(key, grant)| {
            let covered = scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
            let failing = grant.memory.failing.as_mut().filter(|_| covered)?;
            (failing.failure.reason == Reason::ApiUnavailable).then(|| {
                failing.retry_at = Time::MIN_UTC;
                key.clone()
            })
        });
        for key in waiting.collect::<Vec<_>>() {
            self.wake(&key);
        }
    }

    /// The first failing watch over this namespace, if any.
    pub(super) fn unhealthy(&self, namespace: &Arc<str>) -> Option<&Failure> {
        let scope = self.scope(namespace);
        self.unhealthy.iter().find(|((failing, _), _)| *failing == scope).map(|(_, failure)| failure)
    }

    /// After the last first list of a scope every grant of it is decided once.
    pub(super) fn open(&mut self, scope: &Scope, now: Time) {
        let complete = self.listed(scope).iter().all(|(_, listed)| *listed);
        if !complete || !self.opened.insert(scope.clone()) {
            return;
        }
        let covers = |key: &GrantKey| scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let grants: Vec<GrantKey> = self.grants.keys().filter(|key| covers(key)).cloned().collect();
        for key in &grants {
            self.charge_restart(key, now);
            self.wake(key);
        }
        self.mark_all(now);
    }

    /// This process begins to act. What it saw before says nothing of what the one before it had under way: anchors count
    /// as first seen now, and what is listed is decided as after a start.
    pub fn lead(&mut self, now: Time) {
        for (_, seen) in self.grants.values_mut().flat_map(|grant| &mut grant.anchors) {
            *seen = now;
        }
        self.opened.clear();
        for scope in self.scopes.clone() {
            self.open(&scope, now);
        }
    }

    /// A process that dies right after every mint must not get a full budget each time.
    pub(super) fn charge_restart(&mut self, key: &GrantKey, now: Time) {
        let Some(facts) = self.facts(key) else { return };
        let issued = facts.target().and_then(|target| target.token.as_ref()).map(|token| token.issued_at);
        let newest = facts.anchors.values().map(|(anchor, _)| anchor.created).chain(issued).max();
        if newest.is_some_and(|newest| now - newest < RESTART_CHARGE) {
            self.grant(key, now).memory.budget.spend(now, None);
        }
    }
}
