//! Which lists are complete, which watches fail, and what starts when they no longer do.

use chrono::TimeDelta;

use super::{Grants, KINDS};
use crate::{
    api::token_policy::AccountFailure,
    core::{Time, failure::Failure, id::Secs, kernel::outbox::Outbox, meta, reason::FailureReason},
};

/// A token or anchor younger than this at start was probably made by the process before.
const RESTART_CHARGE: TimeDelta = TimeDelta::seconds(10);

/// People who ask for a revocation are told when the first lists take longer. They are promised to hear within 5 s.
const LISTED_WITHIN: TimeDelta = TimeDelta::seconds(3);

/// The answer of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the first lists are done.
    pub ready: bool,
    /// Lists that are awaited, watches that fail, and a limit that refuses everything, a line each; a process may be ready without.
    pub lacks: Vec<String>,
}

impl Grants {
    /// The answer of `/readyz`, if it may have changed since the last call.
    ///
    /// Ready when each scope has listed once or was refused, but not when all were: of several namespaces one that grants
    /// nothing must hold up neither the others nor a rollout for ever. Once true it stays so.
    pub fn readiness(&mut self) -> Option<Readiness> {
        if !std::mem::take(&mut self.readiness_changed) {
            return None;
        }
        let numbers = || 0..u16::try_from(self.scopes.len()).unwrap_or(u16::MAX);
        let settled = |number| self.is_listed(number) || self.scopes[usize::from(number)].refused;
        let ready = numbers().all(settled) && numbers().any(|number| self.is_listed(number));
        let mut lacks: Vec<String> = numbers().flat_map(|number| self.waiting_for(number)).collect();
        let failing = self.scopes.iter().flat_map(|scope| scope.unhealthy.values());
        lacks.extend(failing.map(|failure| failure.message.to_string()));
        lacks.extend(self.audience_refused.clone());
        Some(Readiness { ready, lacks })
    }

    fn waiting_for(&self, number: u16) -> Vec<String> {
        let place = self.scopes[usize::from(number)].name.as_deref().unwrap_or("all namespaces").to_owned();
        let waiting = self.listed_kinds(number).into_iter().filter(|(_, listed)| !listed);
        waiting.map(|(kind, _)| format!("waiting for {kind} in {place}")).collect()
    }

    fn is_listed(&self, number: u16) -> bool {
        self.listed_kinds(number).iter().all(|(_, listed)| *listed)
    }

    /// Whether the grants of a scope may be decided: every list that a decision reads is complete.
    pub(super) fn is_open(&self, number: u16) -> bool {
        self.scopes.get(usize::from(number)).is_some_and(|scope| scope.opened)
    }

    /// Whether the lists that revoking reads are complete: it reads no accounts.
    pub(super) fn knows_secrets(&self, number: u16) -> bool {
        self.policies.listed(number) && self.targets.listed(number) && self.anchors.listed(number)
    }

    /// Revocations that are asked for do not wait for the list of accounts.
    pub(super) fn open_for_revoking(&mut self, number: u16, now: Time) {
        if self.is_open(number) || !self.knows_secrets(number) {
            return;
        }
        for policy in self.policies_in(number) {
            self.grants_of_policy(policy).into_iter().for_each(|grant| self.wake(grant, now));
        }
    }

    /// When people who ask for a revocation are told that the lists are not complete.
    pub(super) fn told_at(&self, now: Time) -> Option<Time> {
        self.started.map(|started| started + LISTED_WITHIN).filter(|at| *at > now)
    }

    /// Takes down, once, that all lists should be complete by now.
    pub(super) fn note_late(&mut self, now: Time) {
        let Some(started) = self.started else { return };
        if self.late || now < started + LISTED_WITHIN {
            return;
        }
        self.late = true;
        self.mark_closed(now);
    }

    /// Policies whose grants cannot be decided yet may have to say so.
    fn mark_closed(&mut self, now: Time) {
        for number in 0..u16::try_from(self.scopes.len()).unwrap_or(u16::MAX) {
            if !self.is_open(number) {
                self.policies_in(number).into_iter().for_each(|policy| self.mark(policy, now));
            }
        }
    }

    fn listed_kinds(&self, number: u16) -> [(&'static str, bool); 4] {
        [
            (KINDS[0], self.policies.listed(number)),
            (KINDS[1], self.accounts.listed(number)),
            (KINDS[2], self.targets.listed(number)),
            (KINDS[3], self.anchors.listed(number)),
        ]
    }

    /// A watch fails, or works again; the failure before. Policies whose grants cannot be decided for it say so.
    pub(super) fn health(
        &mut self,
        number: u16,
        kind: &'static str,
        failure: Option<&Failure>,
        now: Time,
    ) -> Option<Failure> {
        let scope = self.scopes.get_mut(usize::from(number))?;
        scope.refused |= failure.is_some_and(|failure| failure.reason == FailureReason::Forbidden);
        let before = match failure {
            Some(failure) => scope.unhealthy.insert(kind, failure.clone()),
            None => scope.unhealthy.remove(kind),
        };
        if before.as_ref() != failure {
            self.readiness_changed = true;
            for policy in self.policies_in(number) {
                self.mark(policy, now);
            }
        }
        if failure.is_none() {
            self.answering_again(number, now);
        }
        before
    }

    /// Rows of the policies of a scope.
    pub(super) fn policies_in(&self, number: u16) -> Vec<u32> {
        match self.scopes.get(usize::from(number)).and_then(|scope| scope.name.as_ref()) {
            Some(name) => {
                let place = self.by_name.get(name).and_then(|id| self.namespaces.get(*id));
                place.map(|place| place.policies.iter().copied().collect()).unwrap_or_default()
            }
            None => self.policies.iter().map(|(id, ..)| id).collect(),
        }
    }

    /// After the last first list of a scope every grant of it is decided once. Nothing is decided before: a half-built view
    /// would take everything for missing.
    pub(super) fn open(&mut self, number: u16, now: Time) {
        if self.is_open(number) || !self.is_listed(number) {
            return;
        }
        self.scopes[usize::from(number)].opened = true;
        for policy in self.policies_in(number) {
            for id in self.grants_of_policy(policy) {
                self.admit(id, now);
            }
            // A standby would recall what the leader tells something else of by the time it takes over.
            if self.started.is_some() {
                self.recall_failures(policy);
            }
            self.mark(policy, now);
        }
    }

    /// The process before has told of what the status names. That a policy does not parse is told once for all accounts.
    fn recall_failures(&mut self, policy: u32) {
        let (Some(state), Some(link)) = (self.policies.get(policy), self.policies.link(policy)) else { return };
        let Some(place) = self.namespaces.get(link.namespace) else { return };
        let recall = |failure: &AccountFailure| {
            let account = self.accounts.find(place.scope, &place.name, &failure.service_account)?;
            let since = Secs::of(meta::time(&failure.since)?);
            let reason = failure.reason.parse().ok().filter(|reason| *reason != FailureReason::PolicyUnreadable)?;
            Some((self.member(policy, account)?, (reason, since)))
        };
        for (id, told) in state.head().status.failures.iter().filter_map(recall).collect::<Vec<_>>() {
            if let Some(grant) = self.grants.get_mut(id).filter(|grant| grant.reported().is_none()) {
                grant.rare().reported = Some(told);
            }
        }
    }

    fn admit(&mut self, id: u32, now: Time) {
        self.leave_out(id);
        let targets: Vec<u32> = self.grants.get(id).map(|grant| self.targets_of(grant).collect()).unwrap_or_default();
        for target in targets {
            self.adopt_named(target, now);
        }
        self.charge_restart(id, now);
        self.doubt(id, now);
        self.wake(id, now);
    }

    /// This process begins to act. The previous leader may have work in flight, so the age of every anchor starts again, and
    /// every grant is decided as after a start.
    pub(super) fn begin_to_lead(&mut self, now: Time) {
        // Statuses that have waited for minutes would go out before the first calls are answered.
        self.outbox = Outbox::default();
        self.started = Some(now);
        let anchors: Vec<u32> = self.anchors.iter().map(|(id, ..)| id).collect();
        for id in anchors {
            if let Some(link) = self.anchors.link_mut(id) {
                link.seen = Secs::not_before(now);
            }
        }
        for number in 0..u16::try_from(self.scopes.len()).unwrap_or(u16::MAX) {
            self.scopes[usize::from(number)].opened = false;
            self.open(number, now);
        }
        self.mark_closed(now);
    }

    /// A process that dies right after every mint must not get a full budget each time.
    fn charge_restart(&mut self, id: u32, now: Time) {
        let Some(grant) = self.grants.get(id) else { return };
        let tokens = self.targets_of(grant).filter_map(|target| self.targets.get(target)?.token.as_ref());
        let anchors = self.anchors_of(grant).filter_map(|anchor| self.anchors.get(anchor));
        let newest = tokens.map(|token| token.issued).chain(anchors.map(|anchor| anchor.created)).max();
        if newest.is_some_and(|newest| now - newest.time() < RESTART_CHARGE)
            && let Some(grant) = self.grants.get_mut(id)
        {
            grant.budget.spend(now, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        grant::{controller::Change, model::server::address},
        kernel::{controller::Controller as _, store::WatchEvent},
        place::applied::Demanded,
    };

    fn grants(namespaces: &[&str]) -> Grants {
        Grants::new(address(), Demanded::default(), namespaces.iter().map(|&name| Some(name.into())).collect(), 7)
    }

    fn list(grants: &mut Grants, scope: u16) {
        for event in [
            Change::Policy(WatchEvent::Listed),
            Change::Account(WatchEvent::Listed),
            Change::Target(WatchEvent::Listed),
            Change::Anchor(WatchEvent::Listed),
        ] {
            grants.observe(scope, event, Time::UNIX_EPOCH);
        }
    }

    fn fail(grants: &mut Grants, scope: u16, reason: FailureReason) {
        let failure = Failure::new(reason, "watch tokenpolicies in b");
        grants.health(scope, KINDS[0], Some(&failure), Time::UNIX_EPOCH);
    }

    #[test]
    fn is_ready_when_all_is_listed() {
        let mut grants = grants(&["a", "b"]);
        list(&mut grants, 0);
        let waiting = KINDS.map(|kind| format!("waiting for {kind} in b"));
        assert_eq!(grants.readiness(), Some(Readiness { ready: false, lacks: waiting.into() }));
        assert_eq!(grants.readiness(), None, "nothing has changed");
        list(&mut grants, 1);
        assert_eq!(grants.readiness(), Some(Readiness { ready: true, lacks: Vec::new() }));
    }

    #[test]
    fn one_namespace_of_several_that_is_refused_holds_nobody_up_and_is_named() {
        let mut grants = grants(&["a", "b"]);
        fail(&mut grants, 1, FailureReason::Forbidden);
        assert!(!grants.readiness().unwrap().ready, "a is not listed yet");
        list(&mut grants, 0);
        let Readiness { ready, lacks } = grants.readiness().unwrap();
        assert!(ready && lacks.len() == 5 && lacks[4].starts_with("watch tokenpolicies in b"), "{lacks:?}");
        // It is granted now, and lists: that is no reason to be taken out of service.
        grants.health(1, KINDS[0], None, Time::UNIX_EPOCH);
        assert!(grants.readiness().unwrap().ready);
    }

    #[test]
    fn limits_that_refuse_every_token_are_named_and_keep_nobody_from_being_ready() {
        let mut grants = grants(&["a"]);
        list(&mut grants, 0);
        for (refusal, lacks) in [(Some("add it".to_owned()), 1), (None, 0)] {
            grants.observe_audience(refusal, Time::UNIX_EPOCH);
            let readiness = grants.readiness().unwrap();
            assert!(readiness.ready && readiness.lacks.len() == lacks, "{readiness:?}");
        }
    }

    #[test]
    fn without_any_right_and_without_an_answer_it_is_not_ready() {
        for (reason, of_a) in [(FailureReason::Forbidden, false), (FailureReason::ApiUnavailable, true)] {
            let mut grants = grants(&["a", "b"]);
            if of_a {
                list(&mut grants, 0);
            } else {
                fail(&mut grants, 0, reason);
            }
            fail(&mut grants, 1, reason);
            assert!(!grants.readiness().unwrap().ready, "{reason:?}");
        }
    }
}
