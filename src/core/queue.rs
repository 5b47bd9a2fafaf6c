//! Which grant is decided next: the earliest deadline first, but one namespace may not fill more than half of
//! the slots while others wait.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Time, grant::GrantKey};

type Deadline = (Time, GrantKey);

/// Grants that sleep until an instant, and grants that are ready, by deadline.
#[derive(Debug, Default)]
pub struct Queue {
    sleeping: BTreeSet<Deadline>,
    ready: HashMap<Arc<str>, BTreeSet<Deadline>>,
    /// The first of every namespace in `ready`: at most two namespaces can be over their half, so a pop looks at
    /// three of these at most.
    heads: BTreeSet<(Time, Arc<str>)>,
    running: HashMap<Arc<str>, usize>,
    places: HashMap<GrantKey, Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Sleeping(Time),
    Ready(Time),
}

impl Queue {
    /// Lets a grant sleep until `at`, wherever it was.
    pub fn sleep(&mut self, key: &GrantKey, at: Time) {
        self.remove(key);
        self.sleeping.insert((at, key.clone()));
        self.places.insert(key.clone(), Place::Sleeping(at));
    }

    /// Makes a grant ready, to be taken by its deadline.
    pub fn ready(&mut self, key: &GrantKey, deadline: Time) {
        self.remove(key);
        self.edit(&key.namespace, |ready| ready.insert((deadline, key.clone())));
        self.places.insert(key.clone(), Place::Ready(deadline));
    }

    /// Forgets a grant.
    pub fn remove(&mut self, key: &GrantKey) {
        match self.places.remove(key) {
            Some(Place::Sleeping(at)) => {
                self.sleeping.remove(&(at, key.clone()));
            }
            Some(Place::Ready(deadline)) => {
                self.edit(&key.namespace, |ready| ready.remove(&(deadline, key.clone())));
            }
            None => {}
        }
    }

    /// The sleeping grants whose time has come.
    pub fn wake(&mut self, now: Time) -> Vec<GrantKey> {
        let mut woken = Vec::new();
        while self.sleeping.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.sleeping.pop_first() else {
                break;
            };
            self.places.remove(&key);
            woken.push(key);
        }
        woken
    }

    /// When the next sleeping grant wakes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        self.sleeping.first().map(|(at, _)| *at)
    }

    /// Takes the next ready grant for one of `slots` places.
    pub fn take(&mut self, slots: usize) -> Option<GrantKey> {
        let under_half = |namespace: &Arc<str>| self.running.get(namespace).copied().unwrap_or(0) < slots.div_ceil(2);
        let fair = self.heads.iter().find(|(_, namespace)| under_half(namespace));
        let (_, namespace) = fair.or_else(|| self.heads.first()).cloned()?;
        let key = self.ready.get(&namespace)?.first()?.1.clone();
        self.remove(&key);
        Some(key)
    }

    /// Counts a grant as running, until [`Queue::stopped`].
    pub fn started(&mut self, key: &GrantKey) {
        *self.running.entry(key.namespace.clone()).or_default() += 1;
    }

    /// Ends what [`Queue::started`] began.
    pub fn stopped(&mut self, key: &GrantKey) {
        if let Some(running) = self.running.get_mut(&key.namespace) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&key.namespace);
            }
        }
    }

    /// How many grants are ready.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.ready.values().map(BTreeSet::len).sum()
    }

    fn edit(&mut self, namespace: &Arc<str>, change: impl FnOnce(&mut BTreeSet<Deadline>) -> bool) {
        let ready = self.ready.entry(namespace.clone()).or_default();
        let before = ready.first().map(|(deadline, _)| *deadline);
        change(ready);
        let after = ready.first().map(|(deadline, _)| *deadline);
        if after.is_none() {
            self.ready.remove(namespace);
        }
        if before != after {
            before.map(|deadline| self.heads.remove(&(deadline, namespace.clone())));
            after.map(|deadline| self.heads.insert((deadline, namespace.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(namespace: &str, account: &str) -> GrantKey {
        GrantKey { namespace: namespace.into(), policy: "p".into(), account: account.into() }
    }

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn the_earliest_deadline_comes_first() {
        let mut queue = Queue::default();
        queue.ready(&key("a", "late"), at(9));
        queue.ready(&key("b", "soon"), at(1));
        queue.ready(&key("a", "late"), at(0));
        assert_eq!(queue.take(4), Some(key("a", "late")));
        assert_eq!(queue.take(4), Some(key("b", "soon")));
        assert_eq!(queue.take(4), None);
    }

    #[test]
    fn one_namespace_takes_half_while_others_wait() {
        let mut queue = Queue::default();
        for n in 0..10 {
            queue.ready(&key("greedy", &n.to_string()), at(n));
        }
        queue.ready(&key("modest", "x"), at(100));
        let taken: Vec<_> = (0..4).filter_map(|_| queue.take(4).inspect(|key| queue.started(key))).collect();
        assert_eq!(taken.iter().filter(|key| &*key.namespace == "modest").count(), 1);
        assert_eq!(taken[2], key("modest", "x"));
    }

    #[test]
    fn sleepers_wake_in_time() {
        let mut queue = Queue::default();
        queue.sleep(&key("a", "x"), at(5));
        queue.sleep(&key("a", "y"), at(3));
        queue.sleep(&key("a", "x"), at(9));
        assert_eq!(queue.next_wake(), Some(at(3)));
        assert_eq!(queue.wake(at(5)), [key("a", "y")]);
        assert!(queue.wake(at(8)).is_empty());
    }

    proptest! {
        #[test]
        fn gives_everything_out_once_and_in_order(entries in proptest::collection::btree_map((0..3_u8, 0..50_u8), 0..100_i64, 0..60)) {
            let mut queue = Queue::default();
            for ((namespace, account), deadline) in &entries {
                queue.ready(&key(&namespace.to_string(), &account.to_string()), at(*deadline));
            }
            prop_assert_eq!(queue.ready_count(), entries.len());
            let mut taken = Vec::new();
            while let Some(key) = queue.take(8) {
                let entry = (key.namespace.parse::<u8>().unwrap(), key.account.parse::<u8>().unwrap());
                taken.push(entries[&entry]);
            }
            prop_assert_eq!(taken.len(), entries.len());
            prop_assert!(taken.is_sorted());
        }
    }
}
