//! What one kind of watch has told, with the sweep that finds what vanished while nobody watched.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Key {
    /// A key of these parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which namespaces one watch covers; `None` is all of them.
pub type Scope = Option<Arc<str>>;

/// One step of a list-and-watch.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// A list began: everything not named before [`Event::Listed`] is gone.
    Listing,
    /// The list names this object.
    Item(Key, u64, V),
    /// The list is complete.
    Listed,
    /// The watch says this object is now so.
    Applied(Key, u64, V),
    /// The watch says this object was deleted, as of this resourceVersion.
    Deleted(Key, u64),
}

#[derive(Debug)]
struct Row<V> {
    value: V,
    version: u64,
    /// The list that named this row last, or the list under way when we wrote it ourselves.
    list: u32,
}

/// The rows of one kind.
#[derive(Debug)]
pub struct Table<V> {
    /// Ordered, so that the rows of one namespace lie together.
    rows: BTreeMap<Key, Row<V>>,
    lists: HashMap<Scope, List>,
    newest: u64,
}

#[derive(Debug, Default)]
struct List {
    number: u32,
    complete: bool,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), lists: HashMap::new(), newest: 0 }
    }
}

impl<V> Table<V> {
    /// Whether the watch of this scope has listed once.
    #[must_use]
    pub fn listed(&self, scope: &Scope) -> bool {
        self.lists.get(scope).is_some_and(|list| list.complete)
    }

    /// The newest resourceVersion that it knows of.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The row of this key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&V> {
        self.rows.get(key).map(|row| &row.value)
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &V)> {
        self.rows.iter().map(|(key, row)| (key, &row.value))
    }

    /// The rows of one namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &'a Arc<str>) -> impl Iterator<Item = (&'a Key, &'a V)> {
        let rows = self.rows.range(Key { namespace: namespace.clone(), name: "".into() }..);
        rows.take_while(|(key, _)| key.namespace == *namespace).map(|(key, row)| (key, &row.value))
    }

    /// Takes a step of the watch over `scope` in, and returns the keys whose rows changed, with the row that
    /// was there before.
    pub fn apply(&mut self, scope: &Scope, event: Event<V>) -> Vec<(Key, Option<V>)> {
        match event {
            Event::Listing => {
                self.lists.entry(scope.clone()).or_default().number += 1;
                Vec::new()
            }
            Event::Item(key, version, value) => self.item(scope, key, version, value),
            Event::Listed => self.finish(scope),
            Event::Applied(key, version, value) => self.newer(scope, key, version, value),
            Event::Deleted(key, version) => self.deleted(key, version),
        }
    }

    /// Takes the answer to one of our own calls in. The watch may still deliver what was before it.
    pub fn answer(&mut self, scope: &Scope, key: Key, version: u64, value: V) -> Vec<(Key, Option<V>)> {
        self.newer(scope, key, version, value)
    }

    /// There is no such object, whatever its version was.
    pub fn remove(&mut self, key: Key) -> Vec<(Key, Option<V>)> {
        self.rows.remove(&key).map(|row| (key, Some(row.value))).into_iter().collect()
    }

    /// A list may go back in time (a restored etcd), so it wins over everything but what we wrote while it ran.
    fn item(&mut self, scope: &Scope, key: Key, version: u64, value: V) -> Vec<(Key, Option<V>)> {
        let list = self.number(scope);
        match self.rows.get_mut(&key) {
            Some(row) if row.list == list && row.version >= version => Vec::new(),
            Some(row) if row.version == version => {
                row.list = list;
                Vec::new()
            }
            _ => self.put(key, Row { value, version, list }),
        }
    }

    /// Within one watch resourceVersions grow; an older one is news from before our own write.
    fn newer(&mut self, scope: &Scope, key: Key, version: u64, value: V) -> Vec<(Key, Option<V>)> {
        let list = self.number(scope);
        match self.rows.get_mut(&key) {
            Some(row) if row.version >= version => {
                row.list = list;
                Vec::new()
            }
            _ => self.put(key, Row { value, version, list }),
        }
    }

    fn put(&mut self, key: Key, row: Row<V>) -> Vec<(Key, Option<V>)> {
        self.newest = self.newest.max(row.version);
        let before = self.rows.insert(key.clone(), row).map(|row| row.value);
        vec![(key, before)]
    }

    /// There was no such object at this resourceVersion. What has come since stays.
    pub fn deleted(&mut self, key: Key, version: u64) -> Vec<(Key, Option<V>)> {
        self.newest = self.newest.max(version);
        match self.rows.get(&key) {
            Some(row) if row.version <= version => self.remove(key),
            _ => Vec::new(),
        }
    }

    fn finish(&mut self, scope: &Scope) -> Vec<(Key, Option<V>)> {
        let list = self.lists.entry(scope.clone()).or_default();
        list.complete = true;
        let number = list.number;
        let covers = |key: &Key| scope.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let gone = self.rows.extract_if(.., |key, row| covers(key) && row.list != number);
        let gone = gone.map(|(key, row)| (key, Some(row.value))).collect();
        // After a restore versions begin anew from an earlier one.
        self.newest = self.rows.values().map(|row| row.version).max().unwrap_or(0);
        gone
    }

    fn number(&self, scope: &Scope) -> u32 {
        self.lists.get(scope).map_or(0, |list| list.number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ci", name)
    }

    fn list(table: &mut Table<u64>, items: &[(&str, u64)]) -> Vec<String> {
        table.apply(&None, Event::Listing);
        for (name, version) in items {
            table.apply(&None, Event::Item(key(name), *version, *version));
        }
        let mut gone: Vec<_> =
            table.apply(&None, Event::Listed).into_iter().map(|(key, _)| key.name.to_string()).collect();
        gone.sort();
        gone
    }

    #[test]
    fn a_relist_sweeps_exactly_the_absent() {
        let mut table = Table::default();
        assert!(!table.listed(&None));
        list(&mut table, &[("a", 1), ("b", 2), ("c", 3)]);
        assert!(table.listed(&None));
        assert_eq!(list(&mut table, &[("b", 2)]), ["a", "c"]);
    }

    #[test]
    fn an_own_write_is_not_undone_by_older_news() {
        let mut table = Table::default();
        list(&mut table, &[("a", 1)]);
        table.answer(&None, key("a"), 9, 9);
        table.apply(&None, Event::Applied(key("a"), 5, 5));
        table.apply(&None, Event::Deleted(key("a"), 6));
        assert_eq!(table.get(&key("a")), Some(&9));
        table.apply(&None, Event::Deleted(key("a"), 10));
        assert_eq!(table.get(&key("a")), None);
    }

    #[test]
    fn an_own_write_during_a_list_survives_the_list() {
        let mut table = Table::default();
        list(&mut table, &[("a", 1)]);
        table.apply(&None, Event::Listing);
        table.answer(&None, key("a"), 9, 9);
        table.answer(&None, key("b"), 10, 10);
        table.apply(&None, Event::Item(key("a"), 1, 1));
        assert!(table.apply(&None, Event::Listed).is_empty());
        assert_eq!((table.get(&key("a")), table.get(&key("b"))), (Some(&9), Some(&10)));
    }

    #[test]
    fn a_list_after_a_restore_goes_back_in_time() {
        let mut table = Table::default();
        list(&mut table, &[("a", 50)]);
        list(&mut table, &[("a", 20)]);
        assert_eq!(table.get(&key("a")), Some(&20));
    }

    #[test]
    fn scopes_do_not_sweep_each_other() {
        let mut table = Table::default();
        let (one, two): (Scope, Scope) = (Some("one".into()), Some("two".into()));
        table.apply(&one, Event::Listing);
        table.apply(&one, Event::Item(Key::new("one", "a"), 1, 1));
        table.apply(&one, Event::Listed);
        table.apply(&two, Event::Listing);
        assert!(table.apply(&two, Event::Listed).is_empty());
        assert_eq!(table.iter().count(), 1);
    }

    proptest! {
        /// Steps of a server whose objects appear and vanish, seen through lists with gaps.
        #[test]
        fn equals_a_naive_model(steps in proptest::collection::vec((0..4_u8, 0..6_u8), 1..200)) {
            let (mut server, mut table, mut version) = (BTreeMap::new(), Table::default(), 1_u64);
            list(&mut table, &[]);
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
                        list(&mut table, &items);
                        watching = true;
                    }
                }
                if watching && what == 0 {
                    table.apply(&None, Event::Applied(key(&name), version, version));
                } else if watching && what == 1 {
                    table.apply(&None, Event::Deleted(key(&name), version));
                }
                if watching {
                    let rows: BTreeMap<_, _> = table.iter().map(|(key, value)| (key.name.to_string(), *value)).collect();
                    prop_assert_eq!(rows, server.clone());
                }
            }
        }
    }
}
