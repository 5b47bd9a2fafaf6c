//! Objects of one kind: what watches and answers have shown of them, with the sweep that finds what vanished while
//! nobody watched.

use std::{hash::Hasher as _, num::NonZeroU16};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::slab::Slab;
use crate::core::id::{Key, Name};

/// Which namespaces one watch covers; `None` is all of them.
pub type Scope = Option<Name>;

/// One step of a list-and-watch.
#[derive(Clone, Debug)]
pub enum WatchEvent<V> {
    /// A list began: everything not named before [`WatchEvent::Listed`] is gone.
    Listing,
    /// The list names this object.
    Item(Key, u64, V),
    /// The list is complete.
    Listed,
    /// The watch says this object is now so.
    Applied(Key, u64, V),
    /// The watch says this object was deleted, as of this resourceVersion.
    Deleted(Key, u64),
    /// Nobody watches any more: nothing is known until the next list is complete.
    Stopped,
}

impl<V> WatchEvent<V> {
    /// The object that the watch shows.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Item(key, ..) | Self::Applied(key, ..) => Some(key),
            Self::Listing | Self::Listed | Self::Deleted(..) | Self::Stopped => None,
        }
    }
}

/// A row that changed.
#[derive(Debug)]
pub struct Changed<V> {
    /// Its number.
    pub id: u32,
    /// The object that was there before.
    pub before: Option<V>,
}

/// The rows of one kind. Each holds an object and what its controller keeps beside it (`L`); a row without an object
/// stays until it is released.
#[derive(Debug)]
pub struct Store<V, L> {
    rows: Slab<StoreRow<V, L>>,
    /// One for each scope.
    lists: Vec<ListState>,
    seed: u64,
}

#[derive(Debug)]
struct StoreRow<V, L> {
    /// Hash of namespace and name.
    hash: u64,
    version: u64,
    /// The list that named this row last, or the list under way when an answer did. Two bytes are enough, as each list
    /// renumbers what it names; the number that none has lets the slab mark an empty place without a byte more.
    list: NonZeroU16,
    scope: u16,
    value: Option<V>,
    link: L,
}

#[derive(Debug)]
struct ListState {
    ids: HashTable<u32>,
    number: NonZeroU16,
    complete: bool,
    newest: u64,
}

impl Default for ListState {
    fn default() -> Self {
        Self { ids: HashTable::new(), number: NonZeroU16::MIN, complete: false, newest: 0 }
    }
}

impl<V, L> Store<V, L> {
    /// No rows, under so many scopes. `seed` is secret: two names of one 64-bit hash would be one row.
    #[must_use]
    pub fn new(scopes: usize, seed: u64) -> Self {
        Self { rows: Slab::default(), lists: (0..scopes).map(|_| ListState::default()).collect(), seed }
    }

    /// Whether the watch of this scope has listed once.
    #[must_use]
    pub fn listed(&self, scope: u16) -> bool {
        self.lists[usize::from(scope)].complete
    }

    /// The newest resourceVersion that is known of a scope.
    #[must_use]
    pub fn newest(&self, scope: u16) -> u64 {
        self.lists[usize::from(scope)].newest
    }

    /// The object of a row.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&V> {
        self.rows.get(id)?.value.as_ref()
    }

    /// The object of a row, to change what no version tells.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        self.rows.get_mut(id)?.value.as_mut()
    }

    /// The link that is kept beside the object.
    #[must_use]
    pub fn link(&self, id: u32) -> Option<&L> {
        self.rows.get(id).map(|row| &row.link)
    }

    /// The link that is kept beside the object.
    pub fn link_mut(&mut self, id: u32) -> Option<&mut L> {
        self.rows.get_mut(id).map(|row| &mut row.link)
    }

    /// The resourceVersion of a row's object.
    #[must_use]
    pub fn version(&self, id: u32) -> u64 {
        self.rows.get(id).map_or(0, |row| row.version)
    }

    /// The scope of a row.
    #[must_use]
    pub fn scope(&self, id: u32) -> u16 {
        self.rows.get(id).map_or(0, |row| row.scope)
    }

    /// All rows, with and without an object.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Option<&V>, &L)> {
        self.rows.iter().map(|(id, row)| (id, row.value.as_ref(), &row.link))
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The row of this name.
    #[must_use]
    pub fn find(&self, scope: u16, namespace: &str, name: &str) -> Option<u32> {
        self.by_hash(scope, self.hash(namespace, name))
    }

    /// The row of this name; an empty one if there is none.
    pub fn ensure(&mut self, scope: u16, namespace: &str, name: &str, link: impl FnOnce() -> L) -> u32 {
        let hash = self.hash(namespace, name);
        self.by_hash(scope, hash).unwrap_or_else(|| self.create(scope, hash, link()))
    }

    /// Gives a row up that has no object.
    pub fn release(&mut self, id: u32) {
        if self.rows.get(id).is_some_and(|row| row.value.is_none())
            && let Some(row) = self.rows.remove(id)
        {
            let ids = &mut self.lists[usize::from(row.scope)].ids;
            if let Ok(entry) = ids.find_entry(row.hash, |known| *known == id) {
                entry.remove();
            }
            // It would keep the room of its fullest hour.
            if ids.is_empty() {
                *ids = HashTable::new();
            }
        }
    }

    /// Takes a step of the watch over `scope` in, and returns the rows that changed.
    pub fn apply(&mut self, scope: u16, event: WatchEvent<V>, link: impl FnOnce(&Key) -> L) -> Vec<Changed<V>> {
        match event {
            WatchEvent::Listing => {
                self.begin(scope);
                Vec::new()
            }
            WatchEvent::Item(key, version, value) => {
                self.shown(scope, &key, version, value, true, link).into_iter().collect()
            }
            WatchEvent::Listed => self.finish(scope),
            WatchEvent::Applied(key, version, value) => {
                self.shown(scope, &key, version, value, false, link).into_iter().collect()
            }
            WatchEvent::Deleted(key, version) => self.deleted(scope, &key, version).into_iter().collect(),
            WatchEvent::Stopped => self.stop(scope),
        }
    }

    fn begin(&mut self, scope: u16) {
        let list = &mut self.lists[usize::from(scope)];
        list.number = list.number.checked_add(1).unwrap_or(NonZeroU16::MIN);
    }

    /// As after a list that names nothing, and yet nothing is listed.
    fn stop(&mut self, scope: u16) -> Vec<Changed<V>> {
        self.begin(scope);
        let gone = self.finish(scope);
        self.lists[usize::from(scope)].complete = false;
        gone
    }

    /// Takes an object in. Within one watch resourceVersions grow; an older one is news from before a write of our own. A
    /// list may go back in time (a restored etcd), so it wins over everything but what was written while it ran.
    fn shown(
        &mut self,
        scope: u16,
        key: &Key,
        version: u64,
        value: V,
        listed: bool,
        link: impl FnOnce(&Key) -> L,
    ) -> Option<Changed<V>> {
        let list = self.lists[usize::from(scope)].number;
        let id = self.ensure(scope, &key.namespace, &key.name, || link(key));
        let row = self.rows.get_mut(id)?;
        let stale = row.version >= version && (!listed || row.list == list);
        let known = row.version == version && row.value.is_some();
        // What is too old to be taken in says nothing against what a list names later.
        if listed || known || !stale {
            row.list = list;
        }
        if stale || known { None } else { self.put(id, version, value) }
    }

    fn put(&mut self, id: u32, version: u64, value: V) -> Option<Changed<V>> {
        let row = self.rows.get_mut(id)?;
        row.version = version;
        let before = row.value.replace(value);
        let list = &mut self.lists[usize::from(row.scope)];
        list.newest = list.newest.max(version);
        Some(Changed { id, before })
    }

    /// There was no such object at this resourceVersion. What has come since stays.
    fn deleted(&mut self, scope: u16, key: &Key, version: u64) -> Option<Changed<V>> {
        let list = &mut self.lists[usize::from(scope)];
        list.newest = list.newest.max(version);
        let number = list.number;
        let id = self.find(scope, &key.namespace, &key.name)?;
        let row = self.rows.get_mut(id).filter(|row| row.version <= version)?;
        (row.version, row.list) = (version, number);
        row.value.take().map(|value| Changed { id, before: Some(value) })
    }

    fn finish(&mut self, scope: u16) -> Vec<Changed<V>> {
        let list = &mut self.lists[usize::from(scope)];
        (list.complete, list.newest) = (true, 0);
        let mut gone = Vec::new();
        for id in &list.ids {
            let Some(row) = self.rows.get_mut(*id) else { continue };
            if row.list != list.number
                && let Some(value) = row.value.take()
            {
                gone.push(Changed { id: *id, before: Some(value) });
            } else if row.value.is_some() {
                // After a restore versions begin anew from an earlier one.
                list.newest = list.newest.max(row.version);
            }
        }
        gone
    }

    fn create(&mut self, scope: u16, hash: u64, link: L) -> u32 {
        let id = self.rows.insert(StoreRow { hash, version: 0, list: NonZeroU16::MIN, scope, value: None, link });
        let rows = &self.rows;
        let rehash = |id: &u32| rows.get(*id).map_or(0, |row| row.hash);
        self.lists[usize::from(scope)].ids.insert_unique(hash, id, rehash);
        id
    }

    fn by_hash(&self, scope: u16, hash: u64) -> Option<u32> {
        let same = |id: &u32| self.rows.get(*id).is_some_and(|row| row.hash == hash);
        self.lists[usize::from(scope)].ids.find(hash, same).copied()
    }

    fn hash(&self, namespace: &str, name: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, 0);
        for part in [namespace, name] {
            hasher.write(part.as_bytes());
            // No UTF-8 text holds this byte, so that "a", "bc" is another name than "ab", "c".
            hasher.write_u8(0xff);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Names = Store<u64, Name>;

    fn key(name: &str) -> Key {
        Key::new("ci", name)
    }

    fn apply(store: &mut Names, scope: u16, event: WatchEvent<u64>) -> Vec<String> {
        let changed = store.apply(scope, event, |key| key.name.clone());
        let mut names: Vec<String> =
            changed.iter().map(|changed| store.link(changed.id).unwrap().to_string()).collect();
        names.sort();
        names
    }

    fn list(store: &mut Names, items: &[(&str, u64)]) -> Vec<String> {
        apply(store, 0, WatchEvent::Listing);
        for (name, version) in items {
            apply(store, 0, WatchEvent::Item(key(name), *version, *version));
        }
        apply(store, 0, WatchEvent::Listed)
    }

    fn get(store: &Names, name: &str) -> Option<u64> {
        store.find(0, "ci", name).and_then(|id| store.get(id)).copied()
    }

    fn answer(store: &mut Names, name: &str, version: u64) {
        apply(store, 0, WatchEvent::Applied(key(name), version, version));
    }

    #[test]
    fn a_relist_sweeps_exactly_the_absent() {
        let mut store = Names::new(1, 7);
        assert!(!store.listed(0));
        list(&mut store, &[("a", 1), ("b", 2), ("c", 3)]);
        assert!(store.listed(0));
        assert_eq!(list(&mut store, &[("b", 2)]), ["a", "c"]);
    }

    #[test]
    fn an_own_write_is_not_undone_by_older_news() {
        let mut store = Names::new(1, 7);
        list(&mut store, &[("a", 1)]);
        answer(&mut store, "a", 9);
        apply(&mut store, 0, WatchEvent::Applied(key("a"), 5, 5));
        apply(&mut store, 0, WatchEvent::Deleted(key("a"), 6));
        assert_eq!(get(&store, "a"), Some(9));
        apply(&mut store, 0, WatchEvent::Deleted(key("a"), 10));
        assert_eq!(get(&store, "a"), None);
    }

    #[test]
    fn an_own_write_during_a_list_survives_the_list() {
        let mut store = Names::new(1, 7);
        list(&mut store, &[("a", 1)]);
        apply(&mut store, 0, WatchEvent::Listing);
        answer(&mut store, "a", 9);
        answer(&mut store, "b", 10);
        apply(&mut store, 0, WatchEvent::Item(key("a"), 1, 1));
        assert!(apply(&mut store, 0, WatchEvent::Listed).is_empty());
        assert_eq!((get(&store, "a"), get(&store, "b")), (Some(9), Some(10)));
    }

    #[test]
    fn a_list_after_a_restore_goes_back_in_time() {
        let mut store = Names::new(1, 7);
        list(&mut store, &[("a", 50)]);
        list(&mut store, &[("a", 20)]);
        assert_eq!((get(&store, "a"), store.newest(0)), (Some(20), 20));
    }

    #[test]
    fn a_watch_that_stopped_leaves_nothing_and_nothing_counts_as_listed() {
        let mut store = Names::new(1, 7);
        list(&mut store, &[("a", 1), ("b", 2)]);
        assert_eq!(apply(&mut store, 0, WatchEvent::Stopped), ["a", "b"]);
        assert!(!store.listed(0));
        (0..2).for_each(|id| store.release(id));
        assert_eq!((store.len(), store.lists[0].ids.capacity()), (0, 0));
        list(&mut store, &[("a", 1)]);
        assert_eq!((store.listed(0), get(&store, "a")), (true, Some(1)), "of the same version as before");
    }

    #[test]
    fn scopes_do_not_sweep_each_other() {
        let mut store = Names::new(2, 7);
        apply(&mut store, 0, WatchEvent::Listing);
        apply(&mut store, 0, WatchEvent::Item(Key::new("one", "a"), 1, 1));
        apply(&mut store, 0, WatchEvent::Listed);
        apply(&mut store, 1, WatchEvent::Listing);
        assert!(apply(&mut store, 1, WatchEvent::Listed).is_empty());
        assert_eq!(store.iter().count(), 1);
    }

    #[test]
    fn a_row_without_an_object_stays_until_it_is_released() {
        let mut store = Names::new(1, 7);
        let id = store.ensure(0, "ci", "a", || "a".into());
        assert_eq!((store.get(id), store.find(0, "ci", "a")), (None, Some(id)));
        apply(&mut store, 0, WatchEvent::Applied(key("a"), 1, 1));
        store.release(id);
        assert_eq!(store.get(id), Some(&1), "an object holds its row");
        apply(&mut store, 0, WatchEvent::Deleted(key("a"), 2));
        store.release(id);
        assert_eq!((store.find(0, "ci", "a"), store.len()), (None, 0));
    }

    /// The versions of a restored etcd begin anew: an answer from before the list ends is older than what was known.
    #[test]
    fn a_list_that_went_back_in_time_wins_over_what_an_answer_showed_meanwhile() {
        let mut store = Names::new(1, 7);
        list(&mut store, &[("a", 900)]);
        apply(&mut store, 0, WatchEvent::Listing);
        answer(&mut store, "a", 500);
        apply(&mut store, 0, WatchEvent::Item(key("a"), 500, 500));
        apply(&mut store, 0, WatchEvent::Listed);
        assert_eq!(get(&store, "a"), Some(500));
    }

    proptest! {
        /// Steps of a server whose objects appear and vanish, seen through lists with gaps.
        #[test]
        fn equals_a_naive_model(steps in proptest::collection::vec((0..4_u8, 0..6_u8), 1..200)) {
            let (mut server, mut store, mut version) = (BTreeMap::new(), Names::new(1, 7), 1_u64);
            list(&mut store, &[]);
            let mut watching = true;
            for (what, name) in steps {
                let name = name.to_string();
                version += 1;
                match what {
                    0 => { server.insert(name.clone(), version); }
                    1 => { server.remove(&name); }
                    2 => watching = false,
                    _ => {
                        let items: Vec<_> = server.iter().map(|(name, version)| (name.as_str(), *version)).collect();
                        list(&mut store, &items);
                        watching = true;
                    }
                }
                if watching && what == 0 {
                    apply(&mut store, 0, WatchEvent::Applied(key(&name), version, version));
                } else if watching && what == 1 {
                    apply(&mut store, 0, WatchEvent::Deleted(key(&name), version));
                }
                if watching {
                    let rows = store.iter().filter_map(|(_, value, name)| Some((name.to_string(), *value?)));
                    prop_assert_eq!(rows.collect::<BTreeMap<_, _>>(), server.clone());
                }
            }
        }
    }
}
