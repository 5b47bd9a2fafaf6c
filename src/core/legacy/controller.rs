//! All Secrets with legacy tokens and their policies: which call comes next, and what its answer means.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LegacyAct, Surroundings, decide_all,
    event::{LegacyEvent, LegacyNews},
    policy::LegacyPolicy,
    references::{By, References},
    status::{self, LegacyContext},
    token::LegacyToken,
};
use chrono::TimeDelta;

use crate::{
    api::legacy_token_policy::{LegacyMode, LegacyTokenCounts, LegacyTokenPolicyStatus},
    core::{
        Time,
        failure::Failure,
        id::{Name, Uid},
        kernel::{
            controller::{Controller, Outcome},
            policies::{Policies, Policy as _, Stored, unreadable},
            slab::Slab,
            store::{Store, WatchEvent},
            tended::{End, Ended, Tending},
        },
        request::{Answer, Request},
    },
};

/// Name of calls about single Secrets.
const CALLS: &str = "calls";
/// Pause between two steps. Each is two events, and ten events a second are sent: half of them are left to others.
const PACE: TimeDelta = TimeDelta::milliseconds(400);

/// Labels of a namespace.
type Labels = BTreeMap<String, String>;

/// A step of a watch.
#[derive(Debug)]
pub enum LegacyChange {
    /// Of a Secret with a legacy token.
    Token(WatchEvent<LegacyToken>),
    /// Of a policy.
    Policy(WatchEvent<Stored<LegacyPolicy>>),
    /// Of the Secrets that a pod or an account refers to.
    References(By, WatchEvent<BTreeSet<Name>>),
    /// Of the labels of a namespace.
    Namespace(WatchEvent<Labels>),
    /// Of the ConfigMap that says since when uses are recorded.
    Tracking(WatchEvent<Option<Time>>),
}

/// A call under way.
#[derive(Debug)]
enum LegacyCall {
    /// About a Secret, under its own ticket.
    Token(u32),
    /// The status of the policy in this row, which has this UID.
    Status(u32, Uid),
}

/// Everything known.
#[derive(Debug)]
pub struct Legacy {
    tokens: Tending<LegacyToken>,
    policies: Policies<LegacyPolicy>,
    references: References,
    namespaces: Store<Labels, ()>,
    tracking: Store<Option<Time>, ()>,
    calls: Slab<LegacyCall>,
    events: Vec<LegacyEvent>,
    /// When the last step began.
    stepped: Option<Time>,
}

/// Takes a step of a watch in; whether anything changed.
fn changes<V>(store: &mut Store<V, ()>, event: WatchEvent<V>) -> bool {
    let listed = matches!(event, WatchEvent::Listed);
    let changed = store.apply(0, event, |_| ());
    let any = !changed.is_empty();
    for changed in changed {
        store.release(changed.id);
    }
    listed || any
}

impl Legacy {
    /// Nothing known. `seed` is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            tokens: Tending::new(seed),
            policies: Policies::new(seed),
            references: References::new(seed),
            namespaces: Store::new(1, seed),
            tracking: Store::new(1, seed),
            calls: Slab::default(),
            events: Vec::new(),
            stepped: None,
        }
    }

    /// Whether anything but policies has to be watched at all.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.policies.len() > 0
    }

    /// The counts of each policy, as its status has them.
    pub fn counts(&self) -> impl Iterator<Item = (&Name, &LegacyTokenCounts)> {
        self.policies.iter().filter_map(|(name, stored)| Some((name, stored.status.tokens.as_ref()?)))
    }

    /// Secrets that wait to be judged.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.tokens.waiting()
    }

    fn tracked(&self) -> Option<Time> {
        self.tracking.iter().find_map(|(_, since, ())| *since?)
    }

    fn listed(&self) -> bool {
        self.tokens.listed() && self.references.listed() && self.namespaces.listed(0) && self.tracking.listed(0)
    }

    /// Whether everything is known that a write needs.
    fn acts(&self) -> bool {
        let watches = self.policies.failures().keys().all(|kind| *kind == CALLS);
        self.listed() && watches && self.tracked().is_some()
    }

    /// Until when no Secret is judged, since one was written just now. A clock that went back ends the pause.
    fn paused(&self, now: Time) -> Option<Time> {
        self.stepped.filter(|at| *at <= now).map(|at| at + PACE).filter(|until| *until > now)
    }

    fn is_for(&self, policy: &LegacyPolicy, namespace: &str) -> bool {
        policy.is_for(self.namespaces.find(0, "", namespace).and_then(|id| self.namespaces.get(id)))
    }

    /// Something about Secrets has changed. The failure of calls is over when it is for the last of them.
    fn changed(&mut self, now: Time) {
        if !self.tokens.fails() {
            self.policies.note(CALLS, None, now);
        }
        self.policies.mark_all(now);
    }

    /// Decides about one Secret, and begins the call that it needs.
    fn judge(&mut self, id: u32, now: Time) {
        let Some((key, token)) = self.tokens.get(id) else { return };
        let policies = self.policies.acting().filter(|(_, policy)| self.is_for(policy, &key.namespace));
        let (tracked, mounted) = (self.tracked(), self.references.is_mounted(key));
        match decide_all(Surroundings { now, tracked, mounted, acts: self.acts() }, token, policies) {
            LegacyAct::Step(step) => {
                self.stepped = Some(now);
                self.tokens.step(id, step);
            }
            LegacyAct::Wait(until) => self.tokens.rest(id, until),
        }
        self.changed(now);
    }

    fn token_answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        let Some(Ended { key, object, step, end }) = self.tokens.answered(ticket, answer, now) else {
            return Outcome::default();
        };
        let failure = if let End::Failed(failure) = &end { Some(failure.clone()) } else { None };
        let what = match (end, step) {
            (End::Done, Some(step)) => Some(LegacyNews::Done(step)),
            // A thousand Secrets that cannot be written for one reason are one piece of news.
            (End::Failed(failure), _) => self.policies.is_new(CALLS, &failure).then_some(LegacyNews::Failing(failure)),
            _ => None,
        };
        let event =
            |what| LegacyEvent { secret: key, uid: object.uid.to_string().into(), account: object.account, what };
        self.events.extend(what.map(event));
        if failure.is_some() {
            self.policies.note(CALLS, failure.clone(), now);
        }
        self.changed(now);
        Outcome { failure, ..Outcome::default() }
    }

    /// A watch that fails, or a call about a Secret that a policy is to act on.
    fn failure(&self, id: u32) -> Option<&Failure> {
        let watch = self.policies.failures().iter().find(|(kind, _)| **kind != CALLS).map(|(_, failure)| failure);
        let policy = self.policies.get(id).and_then(|(_, stored, _)| stored.asks.as_ref().ok());
        let policy = policy.filter(|policy| policy.mode > LegacyMode::Report);
        let mut calls =
            self.tokens.failures().filter(|(key, _)| policy.is_some_and(|it| self.is_for(it, &key.namespace)));
        watch.or_else(|| Some(calls.next()?.1))
    }

    fn status(&self, id: u32, now: Time) -> Option<LegacyTokenPolicyStatus> {
        let failure = self.failure(id);
        if !self.listed() && failure.is_none() {
            return None;
        }
        let (name, stored, before) = self.policies.get(id)?;
        Some(match &stored.asks {
            Ok(policy) => {
                let secrets = self.tokens.iter().filter(|(key, _)| self.is_for(policy, &key.namespace));
                let context = LegacyContext {
                    now,
                    generation: stored.generation,
                    tracked: self.tracked(),
                    references: &self.references,
                    acts: self.acts(),
                    failure,
                };
                status::summarise(policy, before, secrets, context)
            }
            Err(error) => LegacyTokenPolicyStatus {
                conditions: unreadable(LegacyPolicy::KIND, name, error, &before.conditions, now),
                ..LegacyTokenPolicyStatus::default()
            },
        })
    }
}

impl Controller for Legacy {
    type Change = LegacyChange;
    type News = LegacyEvent;

    fn observe(&mut self, _: u16, change: LegacyChange, now: Time) {
        let concerns_all = match change {
            LegacyChange::Policy(event) => self.policies.observe(event, now),
            LegacyChange::Namespace(event) => changes(&mut self.namespaces, event),
            LegacyChange::Tracking(event) => changes(&mut self.tracking, event),
            LegacyChange::Token(event) => {
                if self.tokens.observe(event, now) {
                    self.changed(now);
                }
                false
            }
            LegacyChange::References(by, event) => {
                let listed = matches!(event, WatchEvent::Listed);
                for key in self.references.observe(by, event) {
                    self.tokens.judge(&key, now);
                }
                listed
            }
        };
        if concerns_all {
            self.tokens.judge_all(now);
            self.changed(now);
        }
    }

    /// While a watch fails nothing is written.
    fn watch_health(&mut self, _: u16, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        let works = failure.is_none();
        let before = self.policies.note(kind, failure, now);
        if works && before.is_some() {
            self.tokens.judge_all(now);
        }
        before
    }

    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        self.tokens.wake(now);
        loop {
            if let Some((ticket, request)) = self.tokens.call() {
                return Some((self.calls.insert(LegacyCall::Token(ticket)), request));
            }
            if self.paused(now).is_some() {
                return None;
            }
            let id = self.tokens.due(decisions)?;
            self.judge(id, now);
        }
    }

    fn take_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)> {
        while let Some(id) = self.policies.due(most, now) {
            let status = self.status(id, now);
            if let Some((uid, request)) = self.policies.write(id, status) {
                return Some((self.calls.insert(LegacyCall::Status(id, uid)), request));
            }
        }
        None
    }

    fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        match self.calls.remove(ticket) {
            Some(LegacyCall::Token(ticket)) => self.token_answered(ticket, answer, now),
            Some(LegacyCall::Status(id, uid)) => self.policies.written(id, uid, answer, now),
            None => Outcome::default(),
        }
    }

    fn next_wake(&self, free: bool, writes: usize, now: Time) -> Option<Time> {
        let due = self.tokens.next_wake(now).filter(|_| free).map(|at| at.max(self.paused(now).unwrap_or(at)));
        due.into_iter().chain(self.policies.next_wake(writes, now)).min()
    }

    fn news(&mut self) -> Vec<LegacyEvent> {
        std::mem::take(&mut self.events)
    }

    fn lead(&mut self, _: Time) {}
}

#[cfg(test)]
mod tests;
