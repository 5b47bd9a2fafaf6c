//! Policies of a cluster-scoped kind: what each asks for, what keeps them all from being done, and the writes of their
//! statuses.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    controller::Outcome,
    outbox::Outbox,
    slab::Slab,
    store::{Changed, Store, WatchEvent},
};
use crate::core::{
    Time,
    condition::{conditions, stopped},
    failure::Failure,
    id::{Key, Name, Uid},
    object::Object,
    reason::FailureReason,
    request::{self, Answer, Request},
};

/// Tickets of statuses have this bit: no slab gets so large that those of objects had it.
const STATUS: u32 = 1 << 31;

/// What a policy of one kind asks for.
pub trait Policy: Sized {
    /// The spec as the API has it.
    type Spec: DeserializeOwned;
    /// The status as the API has it.
    type Status: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned;
    /// The kind.
    const KIND: &'static str;
    /// Its plural in paths.
    const PLURAL: &'static str;

    /// Reads a spec.
    ///
    /// # Errors
    /// With the field and what is wrong about it.
    fn read(spec: Self::Spec) -> Result<Self, String>;
}

/// A policy as it is stored.
#[derive(Clone, Debug)]
pub struct Stored<P: Policy> {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Deletion has begun: it reports, and nothing else.
    pub terminating: bool,
    /// What it asks for, or why its spec does not parse.
    pub asks: Result<P, String>,
    /// The status, to write only differences.
    pub status: P::Status,
}

impl<P: Policy> Stored<P> {
    /// Reads an object field by field, so that a wrong one spoils no other.
    #[must_use]
    pub fn parse<K>(object: Object<K>) -> Self {
        let (meta, spec, status) = object.parts();
        Self {
            uid: meta.uid.unwrap_or_default().into(),
            generation: meta.generation.unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
            asks: spec.and_then(P::read),
            status,
        }
    }

    /// Whether both ask for the same: they differ in nothing but their status.
    fn asks_as(&self, other: &Self) -> bool {
        let asked = |of: &Self| (of.uid.clone(), of.generation, of.terminating, of.asks.as_ref().err().cloned());
        asked(self) == asked(other)
    }
}

/// The link beside a policy.
#[derive(Debug)]
struct PolicyLink<S> {
    name: Name,
    /// The status that is being written, or was, and the watch has not shown yet.
    written: Option<S>,
}

/// The policies of a kind.
#[derive(Debug)]
pub struct Policies<P: Policy> {
    store: Store<Stored<P>, PolicyLink<P::Status>>,
    outbox: Outbox,
    /// Writes under way: the row, and the UID of the policy in it.
    calls: Slab<(u32, Uid)>,
    /// Watches that fail, and calls of the kinds that fail.
    failures: BTreeMap<&'static str, Failure>,
}

impl<P: Policy> Policies<P> {
    /// None known. `seed` is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            store: Store::new(1, seed),
            outbox: Outbox::default(),
            calls: Slab::default(),
            failures: BTreeMap::new(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Stored<P>)> {
        self.store.iter().filter_map(|(_, stored, link)| Some((&link.name, stored?)))
    }

    /// Those that something may be done for.
    pub fn acting(&self) -> impl Iterator<Item = (&Name, &P)> {
        let acting = self.iter().filter(|(_, stored)| !stored.terminating);
        acting.filter_map(|(name, stored)| Some((name, stored.asks.as_ref().ok()?)))
    }

    /// One that does not parse, if there is any.
    #[must_use]
    pub fn unreadable(&self) -> Option<&Name> {
        self.iter().find(|(_, stored)| !stored.terminating && stored.asks.is_err()).map(|(name, _)| name)
    }

    /// Takes a step of the watch in; whether somebody asks for something else now.
    pub fn observe(&mut self, event: WatchEvent<Stored<P>>, now: Time) -> bool {
        let listed = matches!(event, WatchEvent::Listed);
        let changed = self.store.apply(0, event, |key| PolicyLink { name: key.name.clone(), written: None });
        let asked = listed || changed.iter().any(|changed| !self.asks_as_before(changed));
        if listed {
            // What was written and is not in the list is lost, as after a restore.
            for id in self.store.iter().map(|(id, ..)| id).collect::<Vec<_>>() {
                self.store.link_mut(id).into_iter().for_each(|link| link.written = None);
            }
        }
        for Changed { id, before } in changed {
            self.settle(id, before.as_ref(), now);
        }
        if asked {
            self.mark_all(now);
        }
        asked
    }

    fn asks_as_before(&self, changed: &Changed<Stored<P>>) -> bool {
        changed.before.as_ref().zip(self.store.get(changed.id)).is_some_and(|(before, after)| before.asks_as(after))
    }

    /// A status that another one took the place of, ours or somebody else's, is looked at; a policy that is gone has none.
    fn settle(&mut self, id: u32, before: Option<&Stored<P>>, now: Time) {
        let Some(after) = self.store.get(id) else {
            self.outbox.forget(id);
            return self.store.release(id);
        };
        if before.map(|stored| &stored.status) != Some(&after.status) {
            self.outbox.mark(id, 0, true, now);
        }
        self.store.link_mut(id).into_iter().for_each(|link| link.written = None);
    }

    /// A status is made of all objects, so each is computed once a second at most.
    pub fn mark_all(&mut self, now: Time) {
        for (id, ..) in self.store.iter() {
            self.outbox.mark(id, 0, true, now);
        }
    }

    /// A watch, or a kind of call, fails, or works again; the failure before.
    pub fn note(&mut self, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        let before = match failure {
            Some(failure) => self.failures.insert(kind, failure),
            None => self.failures.remove(kind),
        };
        if before.as_ref() != self.failures.get(kind) {
            self.mark_all(now);
        }
        before
    }

    /// Whether this failure of a kind has another reason than the one before: that is news.
    #[must_use]
    pub fn is_new(&self, kind: &str, failure: &Failure) -> bool {
        self.failures.get(kind).is_none_or(|before| before.reason != failure.reason)
    }

    /// The failures, by kind of watch or call.
    #[must_use]
    pub const fn failures(&self) -> &BTreeMap<&'static str, Failure> {
        &self.failures
    }

    /// The next write of a status that differs from the stored one; `status` computes that of a policy that parses.
    pub fn take(
        &mut self,
        most: usize,
        now: Time,
        status: impl Fn(&Self, u32) -> Option<P::Status>,
    ) -> Option<(u32, Request)> {
        while let Some(id) = self.outbox.take(most, now) {
            let status = self.told_unreadable(id, now).or_else(|| status(self, id));
            if let Some((uid, request)) = self.write(id, status) {
                return Some((STATUS | self.calls.insert((id, uid)), request));
            }
        }
        None
    }

    /// A policy, and the status that it has or is about to have.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<(&Name, &Stored<P>, &P::Status)> {
        let (stored, link) = (self.store.get(id).filter(|_| self.store.listed(0))?, self.store.link(id)?);
        Some((&link.name, stored, link.written.as_ref().unwrap_or(&stored.status)))
    }

    /// The status of a policy that does not parse.
    fn told_unreadable(&self, id: u32, now: Time) -> Option<P::Status> {
        let (name, stored, before) = self.get(id)?;
        let error = stored.asks.as_ref().err()?;
        let message = format!("{} {name} does not parse: {error}", P::KIND);
        let failure = Failure::new(FailureReason::PolicyUnreadable, &message);
        let before = serde_json::to_value(before).ok()?["conditions"].take();
        let before: Vec<Condition> = serde_json::from_value(before).unwrap_or_default();
        let at = stored.generation;
        let conditions = conditions(stopped(&failure), &before, at, now);
        serde_json::from_value(json!({"observedGeneration": at, "conditions": conditions})).ok()
    }

    /// The write of this status, unless it has it, with the UID of the policy.
    fn write(&mut self, id: u32, status: Option<P::Status>) -> Option<(Uid, Request)> {
        let write = self.get(id).zip(status).filter(|((.., before), status)| *before != status);
        let Some(((name, stored, _), status)) = write else {
            self.outbox.unchanged(id);
            return None;
        };
        let uid = Uid::read(&stored.uid);
        let request = request::apply_status(P::KIND, P::PLURAL, &Key::new("", name.clone()), uid, &status);
        if let Some(link) = self.store.link_mut(id) {
            link.written = Some(status);
        }
        Some((uid, request))
    }

    /// Takes in how a write ended.
    ///
    /// # Errors
    /// With the answer, when the ticket is not of a status.
    pub fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Result<Outcome, Answer> {
        if ticket & STATUS == 0 {
            return Err(answer);
        }
        let call = self.calls.remove(ticket & !STATUS);
        Ok(call.map(|(id, uid)| self.written(id, uid, answer, now)).unwrap_or_default())
    }

    fn written(&mut self, id: u32, uid: Uid, answer: Answer, now: Time) -> Outcome {
        if self.store.get(id).map(|stored| Uid::read(&stored.uid)) != Some(uid) {
            return Outcome::default();
        }
        // What was written counts until the watch shows it.
        if let Some(link) = self.store.link_mut(id).filter(|_| answer.is_err()) {
            link.written = None;
        }
        self.outbox.answered(id, answer, now)
    }

    /// When the next status may be written.
    #[must_use]
    pub fn next_wake(&self, most: usize, now: Time) -> Option<Time> {
        self.outbox.next_wake(most, now)
    }
}
