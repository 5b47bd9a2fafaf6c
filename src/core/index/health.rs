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

/// What `/readyz` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the first lists are done.
    pub ready: bool,
    /// What is awaited and what fails, a line each; a process may be ready without.
    pub lacks: Vec<String>,
}

impl Index {
    /// Ready when each scope has listed once or was refused, but not when all were: of several namespaces one that grants
    /// nothing must hold up neither the others nor a rollout for ever. Once true it stays so.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let settled = |scope| self.is_listed(scope) || self.refused.contains(scope);
        let ready = self.scopes.iter().all(settled) && self.scopes.iter().any(|scope| self.is_listed(scope));
        let mut lacks = self.waiting_for();
        lacks.extend(self.unhealthy.values().map(|failure| failure.message.clone()));
        Readiness { ready, lacks }
    }

    fn waiting_for(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for scope in &self.scopes {
            let place = scope.as_deref().unwrap_or("all namespaces");
            for (kind, listed) in self.listed(scope) {
                if !listed {
                    waiting.push(format!("waiting for {kind} in {place}"));
                }
            }
        }
        waiting
    }

    fn is_listed(&self, scope: &Scope) -> bool {
        self.listed(scope).iter().all(|(_, listed)| *listed)
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
        self.is_listed(&self.scope(namespace))
    }

    /// A watch fails, or works again; the failure before. Policies whose grants cannot be decided for it say so.
    pub fn watch_health(
        &mut self,
        scope: &Scope,
        kind: &'static str,
        failure: Option<Failure>,
        now: Time,
    ) -> Option<Failure> {
        if failure.as_ref().is_some_and(|failure| failure.reason == Reason::Forbidden) {
            self.refused.insert(scope.clone());
        }
        let watch = (scope.clone(), kind);
        let before = if let Some(failure) = failure {
            self.unhealthy.insert(watch, failure)
        } else {
            self.answering_again(scope);
            self.unhealthy.remove(&watch)
        };
        let covers = |key: &&Key| scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let policies: Vec<Key> = self.policies.iter().map(|(key, _)| key).filter(covers).cloned().collect();
        for key in policies {
            self.statuses.mark(key, now);
        }
        before
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
        if !self.is_listed(scope) || !self.opened.insert(scope.clone()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{facts::Site, index::Change, table::Event};

    fn index(namespaces: &[&str]) -> Index {
        let site = Site { server: "https://api".into(), ca: Vec::new(), internal: false };
        Index::new(site, namespaces.iter().map(|&name| Some(name.into())).collect())
    }

    fn list(index: &mut Index, name: &str) {
        for event in [
            Change::Policy(Event::Listed),
            Change::Account(Event::Listed),
            Change::Target(Event::Listed),
            Change::Anchor(Event::Listed),
        ] {
            index.apply(&Some(name.into()), event, Time::UNIX_EPOCH);
        }
    }

    fn fail(index: &mut Index, name: &str, reason: Reason) {
        let failure = Failure::new(reason, &format!("watch tokenpolicies in {name}"));
        index.watch_health(&Some(name.into()), KINDS[0], Some(failure), Time::UNIX_EPOCH);
    }

    #[test]
    fn is_ready_when_all_is_listed() {
        let mut index = index(&["a", "b"]);
        list(&mut index, "a");
        let waiting = KINDS.map(|kind| format!("waiting for {kind} in b"));
        assert_eq!(index.readiness(), Readiness { ready: false, lacks: waiting.into() });
        list(&mut index, "b");
        assert_eq!(index.readiness(), Readiness { ready: true, lacks: Vec::new() });
    }

    #[test]
    fn one_namespace_of_several_that_is_refused_holds_nobody_up_and_is_named() {
        let mut index = index(&["a", "b"]);
        fail(&mut index, "b", Reason::Forbidden);
        assert!(!index.readiness().ready, "a is not listed yet");
        list(&mut index, "a");
        let Readiness { ready, lacks } = index.readiness();
        assert!(ready && lacks.len() == 5 && lacks[4].starts_with("watch tokenpolicies in b"), "{lacks:?}");
        // It is granted now, and lists: that is no reason to be taken out of service.
        index.watch_health(&Some("b".into()), KINDS[0], None, Time::UNIX_EPOCH);
        assert!(index.readiness().ready);
    }

    #[test]
    fn without_any_right_and_without_an_answer_it_is_not_ready() {
        for (reason, of_a) in [(Reason::Forbidden, false), (Reason::ApiUnavailable, true)] {
            let mut index = index(&["a", "b"]);
            if of_a {
                list(&mut index, "a");
            } else {
                fail(&mut index, "a", reason);
            }
            fail(&mut index, "b", reason);
            assert!(!index.readiness().ready, "{reason:?}");
        }
    }
}
