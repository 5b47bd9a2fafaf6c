//! Who is decided next, and what the decision means for the grant.

use chrono::TimeDelta;

use super::{Index, Job};
use crate::core::{
    Time,
    facts::{PolicyState, Target},
    failure::Reason,
    grant::GrantKey,
    notice::{Notice, What},
    plan::{self, Act, Cause, Decision, Retirement, Standing},
    table::Key,
};

impl Index {
    /// Makes a grant ready to be decided, if its lists are complete and it is not being worked on.
    pub(super) fn wake(&mut self, key: &GrantKey) {
        if !self.is_complete(&key.namespace) {
            return;
        }
        let deadline = self.deadline(key);
        match self.grants.get(key) {
            // A busy grant is decided again when its job ends.
            Some(grant) if grant.busy.is_none() => self.queue.ready(key, deadline),
            _ => {}
        }
    }

    /// Until when the grant can wait: the end of its published token, or not at all.
    pub(super) fn deadline(&self, key: &GrantKey) -> Time {
        let grant = self.grants.get(key);
        let target = grant
            .and_then(|grant| grant.wanted.clone())
            .and_then(|name| self.targets.get(&Key { namespace: key.namespace.clone(), name }));
        target.and_then(|target| target.token.as_ref()).map_or(Time::MIN_UTC, |token| token.expires_at)
    }

    /// The most urgent job for one of `slots` places, if any work is ready.
    pub fn take(&mut self, slots: usize, now: Time) -> Option<Job> {
        for key in self.queue.wake(now) {
            self.wake(&key);
        }
        while let Some(key) = self.queue.take(slots) {
            if let Some(job) = self.decide(&key, now) {
                self.queue.started(&key);
                return Some(job);
            }
        }
        None
    }

    /// When [`Index::take`] has something to do again if nothing changes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        self.queue.next_wake().into_iter().chain(self.statuses.next_wake()).min()
    }

    /// Decides for one grant: work to do now, or sleep.
    pub(super) fn decide(&mut self, key: &GrantKey, now: Time) -> Option<Job> {
        let mut decision = plan::decide(now, &self.facts(key)?);
        decision.retire.retain(|retirement| !self.is_claimed(key, retirement));
        self.stand(key, &decision, now);
        let known = self.known();
        let grant = self.grants.get_mut(key)?;
        if decision.drop_attempt {
            grant.memory.attempt = None;
        }
        if let Some(attempt) = decision.act.attempt() {
            grant.memory.attempt = Some(Box::new(attempt.clone()));
        }
        match &decision.act {
            Act::Idle(until) if decision.retire.is_empty() => {
                if let Some(until) = until {
                    // A due time in the past would spin: whatever it is, a second later is soon enough.
                    self.queue.sleep(key, (*until).max(now + TimeDelta::seconds(1)));
                }
                None
            }
            _ => {
                grant.retiring = decision.retire.iter().map(|retirement| retirement.secret.clone()).collect();
                grant.busy = Some(Box::new(known));
                Some(Job { grant: key.clone(), decision })
            }
        }
    }

    /// An anchor that looks left behind by one grant may be named by a target of another: then somebody changed the
    /// anchor's annotations, and the target counts.
    fn is_claimed(&self, key: &GrantKey, retirement: &Retirement) -> bool {
        let unnamed =
            matches!(retirement.cause, Cause::Lost | Cause::Superseded | Cause::TargetDeleted | Cause::Expired);
        let names = |target: &Target| {
            let token = target.token.as_ref().map(|token| (&token.anchor, &token.anchor_uid));
            let mut named = token.into_iter().chain(target.previous.iter().map(|entry| (&entry.anchor, &entry.uid)));
            named.any(|(anchor, uid)| *anchor == retirement.secret && *uid == retirement.uid)
        };
        let others = |target: &Target| *target.policy != *key.policy || *target.service_account != *key.account;
        unnamed && self.targets.in_namespace(&key.namespace).any(|(_, target)| others(target) && names(target))
    }

    /// Notes how the grant stands, and tells when it began or ceased to fail.
    pub(super) fn stand(&mut self, key: &GrantKey, decision: &Decision, now: Time) {
        let Some(grant) = self.grants.get_mut(key) else { return };
        let settled = decision.standing == Standing::Ready && matches!(decision.act, Act::Idle(_));
        let recovered = settled && grant.memory.failing.take_if(|failing| failing.retry_at <= now).is_some();
        if grant.standing == decision.standing {
            return;
        }
        grant.standing = decision.standing.clone();
        let told = grant.told;
        let news = match &decision.standing {
            // That a policy does not parse is told once for the policy, not for each of its accounts.
            Standing::Failing(failure) if failure.reason == Reason::PolicyUnreadable => None,
            Standing::Failing(failure) => Some(What::Failing(failure.clone())).filter(|_| told != Some(failure.reason)),
            Standing::Ready => told.map(|_| What::Recovered),
            Standing::Working | Standing::Unselected => None,
        };
        if let Some(what) = news {
            grant.since = now;
            grant.told = what.failure().map(|failure| failure.reason);
            self.notify(key, what);
        }
        if recovered || told.is_some() {
            self.release(key, self.grants.get(key).and_then(|grant| grant.told));
        }
        self.statuses.mark(key.policy_key(), now);
    }

    pub(super) fn notify(&mut self, key: &GrantKey, what: What) {
        let target = self.grants.get(key).and_then(|grant| grant.wanted.as_ref().or(grant.targets.first()));
        let target = target.map(ToString::to_string);
        self.notify_about(key, target, what);
    }

    /// As [`Index::notify`], about the Secret of this name.
    pub(super) fn notify_about(&mut self, key: &GrantKey, target: Option<String>, what: What) {
        let policy = self.policies.get(&key.policy_key());
        let policy_uid = policy.map(|policy| policy.uid().into()).unwrap_or_default();
        let generation = policy.map_or(0, PolicyState::generation);
        self.notices.push(Notice { grant: key.clone(), policy_uid, generation, target, what });
    }

    /// What happened since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}
