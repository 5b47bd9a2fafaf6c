//! Objects that are looked after one by one: each is judged when it has changed or its time has come, gets one call at a time,
//! and after a call that failed another one after a pause.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
};

use chrono::TimeDelta;
use secrecy::SecretString;

use super::{
    queue::{Lane, Queue},
    slab::Slab,
    store::{Changed, Store, WatchEvent},
};
use crate::core::{
    Time,
    failure::Failure,
    id::{Key, Uid},
    reason::FailureReason,
    request::{Answer, Request},
    schedule::{quick_retry, went_back},
};

/// Longest pause after a step that failed, if the step knows no other: what could not be done is done 4 s after it can be.
pub const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(4);
/// All work is of one kind, and nobody's comes before another's.
const LANE: Lane = Lane { namespace: 0, kind: 0 };

/// An object of this kind, and its version.
pub type Found<V> = Option<(u64, V)>;

/// An object as far as decisions need it.
pub trait Tended: Clone + Debug {
    /// What can be done to it.
    type Step: Clone + Debug;

    /// `metadata.uid`.
    fn uid(&self) -> Uid;

    /// Takes over what the object before knew and no watch shows.
    fn follow(&mut self, _before: &Self) {}

    /// Whether it is judged before the others.
    fn is_urgent(&self) -> bool {
        false
    }

    /// The call of a step. It names UID and resourceVersion, so that it never meets another object.
    fn request(&self, key: &Key, step: &Self::Step) -> Request;

    /// The call that reads the object.
    fn look(key: &Key) -> Request;

    /// The object after a step, by the body of the answer; nothing when it is gone.
    ///
    /// # Errors
    /// When the answer has another form.
    fn after(&self, step: &Self::Step, what: &str, body: &SecretString) -> Result<Found<Self>, Failure>;

    /// The object in the answer to [`Tended::look`].
    ///
    /// # Errors
    /// When the answer has another form.
    fn found(what: &str, body: &SecretString) -> Result<Found<Self>, Failure>;

    /// Longest pause after this step failed.
    fn longest_pause(_: Option<&Self::Step>) -> TimeDelta {
        LONGEST_PAUSE
    }
}

/// How an object is being looked after.
#[derive(Debug)]
struct Link {
    key: Key,
    busy: bool,
    failures: u32,
    /// When it is judged again.
    due: Option<Time>,
}

/// A call under way; without a step it reads how an object is that had changed.
#[derive(Debug)]
struct Call<V: Tended> {
    id: u32,
    object: V,
    step: Option<V::Step>,
    what: String,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended<V: Tended> {
    /// The object's name.
    pub key: Key,
    /// The object as it was.
    pub object: V,
    /// The step; none when it was read again.
    pub step: Option<V::Step>,
    /// Its end.
    pub end: End,
    /// It failed, and no other object fails for that reason: a thousand are one piece of news.
    pub is_news: bool,
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It did what it should.
    Done,
    /// There was no such object.
    Gone,
    /// Somebody had changed the object, which is read again.
    Conflict,
    /// It brought nothing.
    Failed(Failure),
}

/// The objects of a kind.
#[derive(Debug)]
pub struct Tending<V: Tended> {
    store: Store<V, Link>,
    queue: Queue<Time>,
    calls: Slab<Call<V>>,
    pending: VecDeque<(u32, Request)>,
    /// Objects whose last call failed, and how.
    failing: BTreeMap<u32, Failure>,
    latest: Time,
}

impl<V: Tended> Tending<V> {
    /// None known. `seed` is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            store: Store::new(1, seed),
            queue: Queue::default(),
            calls: Slab::default(),
            pending: VecDeque::new(),
            failing: BTreeMap::new(),
            latest: Time::MIN_UTC,
        }
    }

    /// Whether the watch has listed once.
    #[must_use]
    pub fn listed(&self) -> bool {
        self.store.listed(0)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &V)> {
        self.store.iter().filter_map(|(_, object, link)| Some((&link.key, object?)))
    }

    /// An object and its name.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<(&Key, &V)> {
        Some((&self.store.link(id)?.key, self.store.get(id)?))
    }

    /// An object, to note what no watch shows.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        self.store.get_mut(id)
    }

    /// The object of this name, to note what no watch shows.
    pub fn named_mut(&mut self, key: &Key) -> Option<&mut V> {
        self.store.get_mut(self.store.find(0, &key.namespace, &key.name)?)
    }

    /// Objects that wait to be judged.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.ready_count()
    }

    /// The objects whose last call failed, and how.
    pub fn failures(&self) -> impl Iterator<Item = (&Key, &Failure)> {
        self.failing.iter().filter_map(|(id, failure)| Some((self.get(*id)?.0, failure)))
    }

    /// Takes a step of the watch in; whether anything changed.
    pub fn observe(&mut self, event: WatchEvent<V>, now: Time) -> bool {
        let listed = matches!(event, WatchEvent::Listed);
        let changed = self.apply(event);
        for id in &changed {
            self.schedule(*id, now);
        }
        listed || !changed.is_empty()
    }

    fn apply(&mut self, event: WatchEvent<V>) -> Vec<u32> {
        let changed = self.store.apply(0, event, Link::new);
        let follow = |Changed { id, before }: Changed<V>| {
            if let Some((after, before)) = self.store.get_mut(id).zip(before) {
                after.follow(&before);
            }
            id
        };
        changed.into_iter().map(follow).collect()
    }

    /// Everything is judged again.
    pub fn judge_all(&mut self, now: Time) {
        self.judge_those(|_| true, now);
    }

    /// The objects whose names are such are judged again.
    pub fn judge_those(&mut self, such: impl Fn(&Key) -> bool, now: Time) {
        let those = self.store.iter().filter(|(.., link)| such(&link.key)).map(|(id, ..)| id);
        for id in those.collect::<Vec<u32>>() {
            self.schedule(id, now);
        }
    }

    /// The object of this name is judged again.
    pub fn judge(&mut self, key: &Key, now: Time) {
        if let Some(id) = self.store.find(0, &key.namespace, &key.name) {
            self.schedule(id, now);
        }
    }

    /// Lets an object be judged at `at`, or forgets it when it is gone. One that is being worked on is judged when that
    /// ends; one whose last call failed not before its pause is over.
    fn schedule(&mut self, id: u32, at: Time) {
        let gone = self.store.get(id).is_none();
        let Some(link) = self.store.link_mut(id).filter(|link| !link.busy) else { return };
        if gone {
            self.forget(id);
        } else if link.failures == 0 || link.due.is_none_or(|due| due > at + LONGEST_PAUSE) {
            self.judge_at(id, at);
        }
    }

    fn forget(&mut self, id: u32) {
        self.queue.remove(id);
        self.store.release(id);
        self.failing.remove(&id);
    }

    fn judge_at(&mut self, id: u32, at: Time) {
        if let Some(link) = self.store.link_mut(id).filter(|link| !link.busy) {
            link.due = Some(at);
            self.queue.sleep(id, at);
        }
    }

    /// Pauses are short: when the clock goes back, which this returns, none is waited for twice.
    pub fn wake(&mut self, now: Time) -> bool {
        let back = went_back(&mut self.latest, now);
        if back {
            let failing = self.store.iter().filter(|(.., link)| link.failures > 0).map(|(id, ..)| id);
            for id in failing.collect::<Vec<u32>>() {
                self.judge_at(id, now);
            }
        }
        while let Some(id) = self.queue.woken(now) {
            let is_urgent = self.store.get(id).is_some_and(V::is_urgent);
            self.queue.ready(id, LANE, if is_urgent { Time::UNIX_EPOCH } else { now });
        }
        back
    }

    /// The next call.
    pub fn call(&mut self) -> Option<(u32, Request)> {
        self.pending.pop_front()
    }

    /// The next object to be judged: [`Tending::step`] or [`Tending::rest`] follows.
    pub fn due(&mut self, decisions: &mut usize) -> Option<u32> {
        let left = decisions.checked_sub(1)?;
        let (id, _) = self.queue.take()?;
        *decisions = left;
        self.store.link_mut(id).into_iter().for_each(|link| link.due = None);
        Some(id)
    }

    /// Nothing is to be done until then; whether a failure is over by that.
    pub fn rest(&mut self, id: u32, until: Option<Time>) -> bool {
        if let Some(at) = until {
            self.judge_at(id, at);
        }
        self.recovered(id)
    }

    /// Begins a step.
    pub fn step(&mut self, id: u32, step: V::Step) {
        if let Some(object) = self.store.get(id).cloned() {
            self.begin(id, object, Some(step));
        }
    }

    fn begin(&mut self, id: u32, object: V, step: Option<V::Step>) {
        let Some(link) = self.store.link_mut(id) else { return };
        link.busy = true;
        let request = step.as_ref().map_or_else(|| V::look(&link.key), |step| object.request(&link.key, step));
        let what = request.what.clone();
        let ticket = self.calls.insert(Call { id, object, step, what });
        self.pending.push_back((ticket, request));
    }

    /// Takes an answer in. The object is judged again, after a pause if the call failed.
    pub fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Option<Ended<V>> {
        let Call { id, object, step, what } = self.calls.remove(ticket)?;
        let link = self.store.link_mut(id)?;
        link.busy = false;
        let key = link.key.clone();
        let end = match answer {
            Ok(body) => self.learn(id, &object, step.as_ref(), &what, &body),
            Err(refusal) if refusal.code == Some(404) => {
                self.gone(id, object.uid());
                End::Gone
            }
            Err(refusal) if refusal.code == Some(409) && step.is_some() => End::Conflict,
            Err(refusal) => End::Failed(refusal.failure),
        };
        let is_news = matches!(&end, End::Failed(failure) if !self.fails_for(failure.reason));
        if end == End::Conflict {
            self.bump(id);
            self.begin(id, object.clone(), None);
        } else {
            self.settle(id, step.as_ref(), &end, now);
        }
        Some(Ended { key, object, step, end, is_news })
    }

    fn fails_for(&self, reason: FailureReason) -> bool {
        self.failing.values().any(|failure| failure.reason == reason)
    }

    /// Our own call says how things are before the watch does.
    fn learn(&mut self, id: u32, object: &V, step: Option<&V::Step>, what: &str, body: &SecretString) -> End {
        let found = step.map_or_else(|| V::found(what, body), |step| object.after(step, what, body));
        match (found, self.store.link(id).map(|link| link.key.clone())) {
            (Ok(Some((version, after))), Some(key)) => drop(self.apply(WatchEvent::Applied(key, version, after))),
            (Ok(_), _) => self.gone(id, object.uid()),
            (Err(failure), _) => return End::Failed(failure),
        }
        End::Done
    }

    /// A deleted object is gone, unless another of that name has come since.
    fn gone(&mut self, id: u32, uid: Uid) {
        let Some(key) = self.store.link(id).map(|link| link.key.clone()) else { return };
        let version = self.store.version(id);
        if self.store.get(id).is_some_and(|known| known.uid() == uid) {
            self.apply(WatchEvent::Deleted(key, version));
        }
    }

    fn bump(&mut self, id: u32) -> u32 {
        let Some(link) = self.store.link_mut(id) else { return 1 };
        link.failures += 1;
        link.failures
    }

    fn recovered(&mut self, id: u32) -> bool {
        self.store.link_mut(id).into_iter().for_each(|link| link.failures = 0);
        self.failing.remove(&id).is_some()
    }

    fn settle(&mut self, id: u32, step: Option<&V::Step>, end: &End, now: Time) {
        let again = match end {
            End::Failed(failure) => {
                self.failing.insert(id, failure.clone());
                failure.not_before(now).max(now + quick_retry(self.bump(id), V::longest_pause(step)))
            }
            // The first is settled by the look. Later ones wait: the look may show less than the watch has shown.
            _ if step.is_none() => {
                let conflicts = self.store.link(id).map_or(0, |link| link.failures);
                let again_and_again = conflicts.checked_sub(1).filter(|n| *n > 0);
                again_and_again.map_or(now, |n| now + quick_retry(n, LONGEST_PAUSE))
            }
            _ => {
                self.recovered(id);
                now
            }
        };
        if self.store.get(id).is_none() {
            self.forget(id);
        } else {
            self.judge_at(id, again);
        }
    }

    /// When there is something to do if nothing changes.
    #[must_use]
    pub fn next_wake(&self, now: Time) -> Option<Time> {
        let ready = self.queue.ready_count() > 0 || !self.pending.is_empty();
        ready.then_some(now).into_iter().chain(self.queue.next_wake()).min()
    }
}

impl Link {
    fn new(key: &Key) -> Self {
        Self { key: key.clone(), busy: false, failures: 0, due: None }
    }
}
