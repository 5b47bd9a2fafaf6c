//! Values that many rows have in common: one copy of each is kept, and how many rows have it is counted.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
    sync::Arc,
};

/// Below so many, copies that nobody holds any more take no room worth a sweep.
const FEW: usize = 64;

/// How many rows have each value that any has.
pub type Tally<T> = BTreeMap<T, u32>;

/// Counts so many rows more.
pub fn tally<T: Ord>(counts: &mut Tally<T>, value: T, by: i32) {
    let count = counts.get(&value).copied().unwrap_or_default().saturating_add_signed(by);
    if count == 0 {
        counts.remove(&value);
    } else {
        counts.insert(value, count);
    }
}

/// One copy of each value.
#[derive(Debug)]
pub struct Pool<T> {
    copies: HashSet<Arc<T>>,
    /// When there are so many, those that nobody holds go.
    sweep_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { copies: HashSet::new(), sweep_at: FEW }
    }
}

impl<T: Eq + Hash> Pool<T> {
    /// The one copy of this value. Copies that nobody holds any more go whenever their number may have doubled.
    pub fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.copies.get(&value) {
            return known.clone();
        }
        if self.copies.len() >= self.sweep_at {
            self.copies.retain(|copy| Arc::strong_count(copy) > 1);
            self.sweep_at = (2 * self.copies.len()).max(FEW);
        }
        self.copies.insert(value.clone());
        value
    }

    /// Every value that is held.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.copies.iter().map(|copy| &**copy)
    }
}
