//! The order of work: each namespace that waits gets an equal share of the slots, each kind of work in it too, and within a
//! kind the earliest deadline comes first.

use std::collections::{BTreeSet, HashMap};

use crate::core::{Time, id::Secs};

/// A scale of instants that the sleepers wake by.
pub trait Instant: Copy + Ord {
    /// The first instant of the scale that is not before `time`.
    fn not_before(time: Time) -> Self;
    /// The instant.
    fn time(self) -> Time;
}

impl Instant for Secs {
    fn not_before(time: Time) -> Self {
        Self::not_before(time)
    }

    fn time(self) -> Time {
        self.time()
    }
}

impl Instant for Time {
    fn not_before(time: Time) -> Self {
        time
    }

    fn time(self) -> Time {
        self
    }
}

/// Room for wake-ups is added for so many at a time: doubling would leave up to half of it empty.
const STEP: usize = 1024;

/// Work of one kind in one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Number of the namespace.
    pub namespace: u32,
    /// Number of the kind of work.
    pub kind: u8,
}

/// Keys that sleep until an instant, and keys that are ready.
#[derive(Debug, Default)]
pub struct Queue<I> {
    sleeping: BTreeSet<(I, u32)>,
    lanes: HashMap<Lane, State<I>>,
    /// Kinds of work that a namespace has lanes for, and how much of it runs.
    namespaces: HashMap<u32, Load>,
    /// Lanes in which somebody is ready: those of the least served namespace and lane first, then by kind and deadline.
    heads: BTreeSet<Head<I>>,
    /// Service that the namespace had received that was taken from last: a newcomer begins there, and catches up on nothing.
    clock: u64,
    /// When each sleeper wakes, by number: a hash table would take three times the room.
    wakes: Vec<Option<I>>,
    /// Deadline and lane of each that is ready. Sleepers are many, and have no room for a lane.
    waits: HashMap<u32, (I, Lane)>,
}

/// Work under way and received of a namespace, the same of a lane, then kind and deadline.
type Head<I> = ((u32, u64), (u32, u64), u8, I, Lane);

#[derive(Debug)]
struct State<I> {
    ready: BTreeSet<(I, u32)>,
    running: u32,
    /// Keys taken, counted from where its namespace's other lanes stood when it came.
    served: u64,
    head: Option<Head<I>>,
}

#[derive(Debug, Default)]
struct Load {
    running: u32,
    /// Keys taken, counted from where the others stood when it came.
    served: u64,
    /// As [`Queue::clock`], for its lanes.
    clock: u64,
    kinds: Vec<u8>,
}

impl<I: Instant> Queue<I> {
    /// Lets a key sleep until `at`, wherever it was.
    pub fn sleep(&mut self, key: u32, at: Time) {
        self.remove(key);
        let at = I::not_before(at);
        self.sleeping.insert((at, key));
        let place = key as usize;
        if self.wakes.len() <= place {
            self.wakes.reserve_exact((place + 1).next_multiple_of(STEP) - self.wakes.len());
            self.wakes.resize(place + 1, None);
        }
        self.wakes[place] = Some(at);
    }

    /// Makes a key ready, to be taken by its deadline, or by the earlier one that it waits for in this lane already.
    pub fn ready(&mut self, key: u32, lane: Lane, deadline: Time) {
        let deadline = I::not_before(deadline);
        let before = self.waits.get(&key).filter(|(_, waits)| *waits == lane).map(|(deadline, _)| *deadline);
        let deadline = before.map_or(deadline, |before| before.min(deadline));
        self.remove(key);
        self.lane(lane).ready.insert((deadline, key));
        self.waits.insert(key, (deadline, lane));
        self.settle(lane);
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: u32) {
        if let Some(at) = self.wakes.get_mut(key as usize).and_then(Option::take) {
            self.sleeping.remove(&(at, key));
        }
        if let Some((deadline, lane)) = self.waits.remove(&key) {
            self.lane(lane).ready.remove(&(deadline, key));
            self.settle(lane);
            // A map keeps the room of its fullest hour: a first list makes everything ready once.
            if self.waits.len() < self.waits.capacity() / 8 {
                self.waits.shrink_to(2 * self.waits.len());
            }
        }
    }

    /// A sleeper whose time has come; it is forgotten here.
    pub fn woken(&mut self, now: Time) -> Option<u32> {
        let (_, key) = *self.sleeping.first().filter(|(at, _)| at.time() <= now)?;
        self.remove(key);
        Some(key)
    }

    /// When the next sleeper wakes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        self.sleeping.first().map(|(at, _)| at.time())
    }

    /// Whether this key is neither asleep nor ready.
    #[cfg(test)]
    pub fn is_idle(&self, key: u32) -> bool {
        self.wakes.get(key as usize).is_none_or(Option::is_none) && !self.waits.contains_key(&key)
    }

    /// Takes the next ready key, with its lane. That counts as service, whether a call comes of it or not.
    pub fn take(&mut self) -> Option<(u32, Lane)> {
        let (.., lane) = *self.heads.first()?;
        let state = self.lanes.get_mut(&lane)?;
        let (_, key) = *state.ready.first()?;
        let received = state.served;
        state.served += 1;
        if let Some(namespace) = self.namespaces.get_mut(&lane.namespace) {
            self.clock = self.clock.max(namespace.served);
            namespace.clock = namespace.clock.max(received);
            namespace.served += 1;
        }
        self.remove(key);
        self.settle_all(lane);
        Some((key, lane))
    }

    /// Counts a call of this lane as running, until [`Queue::stopped`].
    pub fn started(&mut self, lane: Lane) {
        self.lane(lane).running += 1;
        self.namespaces.entry(lane.namespace).and_modify(|namespace| namespace.running += 1);
        self.settle_all(lane);
    }

    /// Ends what [`Queue::started`] began.
    pub fn stopped(&mut self, lane: Lane) {
        let state = self.lane(lane);
        state.running = state.running.saturating_sub(1);
        if let Some(namespace) = self.namespaces.get_mut(&lane.namespace) {
            namespace.running = namespace.running.saturating_sub(1);
        }
        self.settle_all(lane);
    }

    /// How many keys sleep or are ready.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sleeping.len() + self.waits.len()
    }

    /// How many keys are ready.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.waits.len()
    }

    fn lane(&mut self, lane: Lane) -> &mut State<I> {
        let newcomer = || Load { served: self.clock, ..Load::default() };
        let namespace = self.namespaces.entry(lane.namespace).or_insert_with(newcomer);
        if !namespace.kinds.contains(&lane.kind) {
            namespace.kinds.push(lane.kind);
        }
        let served = namespace.clock;
        self.lanes.entry(lane).or_insert_with(|| State { ready: BTreeSet::new(), running: 0, served, head: None })
    }

    fn settle_all(&mut self, lane: Lane) {
        let kinds = self.namespaces.get(&lane.namespace).map(|namespace| namespace.kinds.clone()).unwrap_or_default();
        for kind in kinds {
            self.settle(Lane { kind, ..lane });
        }
    }

    /// Brings the head of a lane up to date; forgets a lane in which nothing waits or runs.
    fn settle(&mut self, lane: Lane) {
        let Some(namespace) = self.namespaces.get_mut(&lane.namespace) else { return };
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        let (of_all, of_it) = ((namespace.running, namespace.served), (state.running, state.served));
        let head = state.ready.first().map(|(deadline, _)| (of_all, of_it, lane.kind, *deadline, lane));
        let before = std::mem::replace(&mut state.head, head);
        if before != head {
            before.map(|before| self.heads.remove(&before));
            head.map(|head| self.heads.insert(head));
        }
        if state.ready.is_empty() && state.running == 0 {
            self.lanes.remove(&lane);
            namespace.kinds.retain(|kind| *kind != lane.kind);
            if namespace.kinds.is_empty() {
                self.namespaces.remove(&lane.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Numbers = Queue<Secs>;

    fn lane(namespace: u32, kind: u8) -> Lane {
        Lane { namespace, kind }
    }

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(seconds, 0).unwrap()
    }

    fn run(queue: &mut Numbers) -> Option<u32> {
        let (key, lane) = queue.take()?;
        queue.started(lane);
        Some(key)
    }

    #[test]
    fn the_earliest_deadline_comes_first() {
        let mut queue = Numbers::default();
        queue.ready(1, lane(0, 0), at(9));
        queue.ready(2, lane(1, 0), at(1));
        queue.ready(1, lane(0, 0), at(0));
        assert_eq!(
            [queue.take(), queue.take(), queue.take()].map(|taken| taken.map(|(key, _)| key)),
            [Some(1), Some(2), None]
        );
    }

    #[test]
    fn to_be_made_ready_again_costs_nobody_its_turn() {
        let mut queue = Numbers::default();
        for (key, deadline) in [(1, 5), (2, 6), (1, 7)] {
            queue.ready(key, lane(0, 0), at(deadline));
        }
        assert_eq!(queue.take().map(|(key, _)| key), Some(1));
    }

    #[test]
    fn slots_are_shared_among_all_namespaces_that_wait() {
        let mut queue = Numbers::default();
        for key in 0..60 {
            queue.ready(key, lane(key % 2, 0), at(i64::from(key)));
        }
        queue.ready(100, lane(7, 0), at(1000));
        let taken: Vec<_> = (0..9).filter_map(|_| run(&mut queue)).collect();
        assert!(taken[..3].contains(&100), "{taken:?}");
        for greedy in [0, 1] {
            assert_eq!(taken.iter().filter(|key| **key != 100 && **key % 2 == greedy).count(), 4, "{taken:?}");
        }
    }

    #[test]
    fn more_namespaces_than_slots_are_served_in_turn() {
        let mut queue = Numbers::default();
        for key in 0..400 {
            queue.ready(key, lane(key % 40, 2), at(0));
        }
        let mut running: std::collections::VecDeque<Lane> = std::collections::VecDeque::new();
        let mut next = |queue: &mut Numbers| {
            if running.len() == 8 {
                queue.stopped(running.pop_front().unwrap());
            }
            let (key, lane) = queue.take().unwrap();
            queue.started(lane);
            running.push_back(lane);
            key
        };
        let round: std::collections::BTreeSet<u32> = (0..40).map(|_| next(&mut queue) % 40).collect();
        assert_eq!(round.len(), 40, "each once before any twice");
        queue.ready(1000, lane(90, 1), at(50_000));
        let waited = (0..400).find(|_| next(&mut queue) == 1000).unwrap();
        assert!(waited <= 41, "{waited} calls before a newcomer's");
    }

    #[test]
    fn with_one_slot_each_kind_of_work_has_its_turn_and_hands_come_first() {
        let mut queue = Numbers::default();
        for key in 0..60 {
            queue.ready(key, lane(0, 2), at(0));
        }
        let one = |queue: &mut Numbers| {
            let (key, lane) = queue.take().unwrap();
            queue.started(lane);
            queue.stopped(lane);
            key
        };
        for _ in 0..5 {
            one(&mut queue);
        }
        for key in 100..103 {
            queue.ready(key, lane(0, 0), at(1000));
            queue.ready(key + 100, lane(0, 1), at(500));
        }
        let taken: Vec<u32> = (0..9).map(|_| one(&mut queue)).collect();
        assert_eq!(taken[..2], [100, 200], "{taken:?}");
        assert_eq!(taken.iter().filter(|key| **key >= 100).count(), 6, "{taken:?}");
    }

    #[test]
    fn kinds_of_work_share_the_slots_of_their_namespace() {
        let mut queue = Numbers::default();
        for key in 0..60 {
            queue.ready(key, lane(0, 1), at(0));
        }
        queue.ready(100, lane(0, 0), at(1000));
        assert_eq!([run(&mut queue), run(&mut queue)], [Some(100), Some(0)]);
    }

    /// Work that makes no call is work all the same: a crowd of it holds up nobody.
    #[test]
    fn decisions_without_a_call_are_shared_as_well() {
        let mut queue = Numbers::default();
        for key in 0..60 {
            queue.ready(key, lane(0, 0), at(0));
        }
        for _ in 0..10 {
            queue.take().unwrap();
        }
        queue.ready(100, lane(1, 0), at(1000));
        queue.ready(101, lane(1, 1), at(1000));
        let taken: Vec<u32> = (0..4).filter_map(|_| queue.take()).map(|(key, _)| key).collect();
        assert!(taken.contains(&100) && taken.contains(&101), "{taken:?}");
    }

    #[test]
    fn a_namespace_that_waits_is_next_when_others_end() {
        let mut queue = Numbers::default();
        queue.ready(1, lane(0, 0), at(0));
        queue.ready(2, lane(0, 0), at(0));
        run(&mut queue);
        queue.ready(3, lane(1, 0), at(50));
        assert_eq!(run(&mut queue), Some(3));
        queue.stopped(lane(0, 0));
        queue.stopped(lane(1, 0));
        assert_eq!(run(&mut queue), Some(2));
        queue.stopped(lane(0, 0));
        assert!(queue.lanes.is_empty() && queue.namespaces.is_empty() && queue.heads.is_empty());
    }

    #[test]
    fn sleepers_wake_in_time() {
        let mut queue = Numbers::default();
        queue.sleep(1, at(5));
        queue.sleep(2, at(3));
        queue.sleep(1, at(9));
        assert_eq!(queue.next_wake(), Some(at(3)));
        assert_eq!((queue.woken(at(5)), queue.woken(at(8))), (Some(2), None));
        assert!(queue.is_idle(2) && !queue.is_idle(1));
    }

    proptest! {
        #[test]
        fn gives_everything_out_once(entries in proptest::collection::btree_map(0..60_u32, (0..3_u32, 0..2_u8, 0..100_i64), 0..60)) {
            let mut queue = Numbers::default();
            for (key, (namespace, kind, deadline)) in &entries {
                queue.ready(*key, lane(*namespace, *kind), at(*deadline));
            }
            prop_assert_eq!(queue.ready_count(), entries.len());
            let mut taken: Vec<u32> = std::iter::from_fn(|| queue.take()).map(|(key, _)| key).collect();
            taken.sort_unstable();
            prop_assert_eq!(taken, entries.keys().copied().collect::<Vec<_>>());
        }
    }
}
