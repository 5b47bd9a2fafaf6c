//! All Secrets with legacy tokens and their policies: which call comes next, and what its answer means.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LegacyAct, Surroundings, decide_all,
    event::{LegacyEvent, LegacyNews},
    policy::LegacyPolicy,
    references::{By, References},
    token::LegacyToken,
};
use chrono::TimeDelta;

use crate::{
    api::legacy_token_policy::LegacyTokenCounts,
    core::{
        Time,
        failure::Failure,
        id::{Key, Name},
        kernel::{
            controller::{Controller, Outcome},
            policies::{Policies, Stored},
            store::{Changed, Store, WatchEvent},
            tended::{End, Ended, Tending},
        },
        request::{Answer, Request},
    },
};

/// Pause after a step. Each is two events, and ten events a second are sent: half of them are left to others.
const PACE: TimeDelta = TimeDelta::milliseconds(400);
/// Pause after a step that failed, and sends no event: many that are refused do not hold up the others.
const PACE_OF_FAILURES: TimeDelta = TimeDelta::milliseconds(40);

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

/// What the watches show.
#[derive(Debug)]
pub struct Known {
    pub(super) tokens: Tending<LegacyToken>,
    pub(super) references: References,
    pub(super) namespaces: Store<Labels, Key>,
    tracking: Store<Option<Time>, Key>,
}

/// Everything known.
#[derive(Debug)]
pub struct Legacy {
    known: Known,
    policies: Policies<LegacyPolicy>,
    events: Vec<LegacyEvent>,
    /// When the last step began, or failed, and the pause after it.
    stepped: Option<(Time, TimeDelta)>,
}

/// Takes a step of a watch in, and returns the objects of which something else is known now, once all is. The next of many
/// objects that a list names is no reason to judge a Secret.
fn changes<V: PartialEq>(store: &mut Store<V, Key>, event: WatchEvent<V>) -> Vec<Key> {
    let mut changed = Vec::new();
    for Changed { id, before } in store.apply(0, event, Key::clone) {
        let differs = store.listed(0) && before.as_ref() != store.get(id);
        changed.extend(store.link(id).filter(|_| differs).cloned());
        store.release(id);
    }
    changed
}

impl Known {
    pub(super) fn tracked(&self) -> Option<Time> {
        self.tracking.iter().find_map(|(_, since, _)| *since?)
    }

    pub(super) fn listed(&self) -> bool {
        self.tokens.listed() && self.references.listed() && self.namespaces.listed(0) && self.tracking.listed(0)
    }

    /// Whether everything is known that a write needs: a policy that does not parse may keep any Secret.
    pub(super) fn acts(&self, policies: &Policies<LegacyPolicy>) -> bool {
        let watched = self.listed() && policies.failures().is_empty();
        watched && self.tracked().is_some() && policies.unreadable().is_none()
    }

    /// A pod or an account has begun or ceased to refer to a Secret. A pod that goes may come back at once.
    fn referred(&mut self, by: By, key: &Key, now: Time) {
        let is_free = by == By::Pod && !self.references.is_mounted(key);
        if let Some(token) = self.tokens.named_mut(key).filter(|_| is_free) {
            token.released = Some(now);
        }
        self.tokens.judge(key, now);
    }

    pub(super) fn is_for(&self, policy: &LegacyPolicy, namespace: &str) -> bool {
        policy.is_for(|| self.namespaces.find(0, "", namespace).and_then(|id| self.namespaces.get(id)))
    }

    /// For each Secret, what is known besides it; the parts that are the same for all are found once.
    pub(super) fn around(
        &self,
        policies: &Policies<LegacyPolicy>,
        now: Time,
    ) -> impl Fn(&Key, &LegacyToken) -> Surroundings {
        let (tracked, acts) = (self.tracked(), self.acts(policies));
        move |key, token| {
            let keeps = |policy: &LegacyPolicy| policy.keeps(token) && self.is_for(policy, &key.namespace);
            let kept = policies.acting().any(|(_, policy)| keeps(policy));
            Surroundings { now, tracked, mounted: self.references.is_mounted(key), kept, acts }
        }
    }
}

impl Legacy {
    /// Nothing known. `seed` is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let known = Known {
            tokens: Tending::new(seed),
            references: References::new(seed),
            namespaces: Store::new(1, seed),
            tracking: Store::new(1, seed),
        };
        Self { known, policies: Policies::new(seed), events: Vec::new(), stepped: None }
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
        self.known.tokens.waiting()
    }

    /// Until when no Secret is judged, since one was written just now. A clock that went back ends the pause.
    fn paused(&self, now: Time) -> Option<Time> {
        self.stepped.filter(|(at, _)| *at <= now).map(|(at, pause)| at + pause).filter(|until| *until > now)
    }

    /// Decides about one Secret, and begins the call that it needs.
    fn judge(&mut self, id: u32, now: Time) {
        let Some((key, token)) = self.known.tokens.get(id) else { return };
        let policies = self.policies.acting().filter(|(_, policy)| self.known.is_for(policy, &key.namespace));
        let around = self.known.around(&self.policies, now)(key, token);
        match decide_all(around, token, policies) {
            LegacyAct::Step(step) => {
                self.stepped = Some((now, PACE));
                self.known.tokens.step(id, step);
            }
            LegacyAct::Wait(until) => drop(self.known.tokens.rest(id, until)),
        }
        self.policies.mark_all(now);
    }

    fn token_answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        let Some(Ended { key, object, step, end, is_news }) = self.known.tokens.answered(ticket, answer, now) else {
            return Outcome::default();
        };
        let failure = if let End::Failed(failure) = &end { Some(failure.clone()) } else { None };
        if failure.is_some() {
            self.stepped = Some((now, PACE_OF_FAILURES));
        }
        let what = match (end, step) {
            (End::Done, Some(step)) => Some(LegacyNews::Done(step)),
            (End::Failed(failure), _) if is_news => Some(LegacyNews::Failing(failure)),
            _ => None,
        };
        let event =
            |what| LegacyEvent { secret: key, uid: object.uid.to_string().into(), account: object.account, what };
        self.events.extend(what.map(event));
        self.policies.mark_all(now);
        Outcome { failure, ..Outcome::default() }
    }
}

impl Controller for Legacy {
    type Change = LegacyChange;
    type News = LegacyEvent;

    fn observe(&mut self, _: u16, change: LegacyChange, now: Time) {
        let concerns_all = match change {
            LegacyChange::Policy(event) => self.policies.observe(event, now),
            LegacyChange::Namespace(event) => {
                let listed = matches!(event, WatchEvent::Listed);
                for Key { name, .. } in changes(&mut self.known.namespaces, event) {
                    self.known.tokens.judge_those(|key| key.namespace == name, now);
                    self.policies.mark_all(now);
                }
                listed
            }
            LegacyChange::Tracking(event) => {
                matches!(event, WatchEvent::Listed) | !changes(&mut self.known.tracking, event).is_empty()
            }
            LegacyChange::Token(event) => {
                // Those of a long list's beginning were judged before the list had ended.
                let listed = matches!(event, WatchEvent::Listed);
                if self.known.tokens.observe(event, now) {
                    self.policies.mark_all(now);
                }
                listed
            }
            LegacyChange::References(by, event) => {
                let listed = matches!(event, WatchEvent::Listed);
                for key in self.known.references.observe(by, event) {
                    self.known.referred(by, &key, now);
                }
                listed
            }
        };
        if concerns_all {
            self.known.tokens.judge_all(now);
            self.policies.mark_all(now);
        }
    }

    /// While a watch fails nothing is written.
    fn watch_health(&mut self, _: u16, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        let works = failure.is_none();
        let before = self.policies.note(kind, failure, now);
        if works && before.is_some() {
            self.known.tokens.judge_all(now);
        }
        before
    }

    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        self.known.tokens.wake(now);
        loop {
            if let Some(call) = self.known.tokens.call() {
                return Some(call);
            }
            if self.paused(now).is_some() {
                return None;
            }
            let id = self.known.tokens.due(decisions)?;
            self.judge(id, now);
        }
    }

    fn take_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)> {
        self.policies.take(most, now, |policies, id| self.known.status(policies, id, now))
    }

    fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        self.policies.answered(ticket, answer, now).unwrap_or_else(|answer| self.token_answered(ticket, answer, now))
    }

    fn next_wake(&self, free: bool, writes: usize, now: Time) -> Option<Time> {
        let due = self.known.tokens.next_wake(now).filter(|_| free).map(|at| at.max(self.paused(now).unwrap_or(at)));
        due.into_iter().chain(self.policies.next_wake(writes, now)).min()
    }

    fn news(&mut self) -> Vec<LegacyEvent> {
        std::mem::take(&mut self.events)
    }

    fn lead(&mut self, _: Time) {}
}

#[cfg(test)]
mod tests;
