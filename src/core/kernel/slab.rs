//! Rows under numbers.

/// Rows that are allocated together. One growing vector would hold up to twice its rows, and copy them all as it grows.
const CHUNK: usize = 256;

/// Rows under numbers that are used again once freed.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts a row in, and returns its number.
    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(id) = self.free.pop() {
            let (chunk, at) = place(id);
            self.chunks[chunk][at] = Some(value);
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.len() - 1;
        let at = self.chunks[chunk].len();
        self.chunks[chunk].push(Some(value));
        u32::try_from(chunk * CHUNK + at).unwrap_or(u32::MAX)
    }

    /// The row of this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&T> {
        let (chunk, at) = place(id);
        self.chunks.get(chunk)?.get(at)?.as_ref()
    }

    /// The row of this number.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        let (chunk, at) = place(id);
        self.chunks.get_mut(chunk)?.get_mut(at)?.as_mut()
    }

    /// Takes a row out.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let (chunk, at) = place(id);
        let row = self.chunks.get_mut(chunk)?.get_mut(at)?.take()?;
        self.free.push(id);
        self.len -= 1;
        // One chunk stays: a table of few calls is empty again and again.
        if self.len == 0 && self.chunks.len() > 1 {
            *self = Self::default();
        }
        Some(row)
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.chunks.iter().flatten()).filter_map(|(id, row)| Some((id, row.as_ref()?)))
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
}

fn place(id: u32) -> (usize, usize) {
    (id as usize / CHUNK, id as usize % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..600).map(|n| slab.insert(n)).collect();
        assert_eq!((slab.len(), slab.get(ids[599])), (600, Some(&599)));
        assert_eq!(slab.remove(ids[3]), Some(3));
        assert_eq!(slab.get(ids[3]), None);
        assert_eq!(slab.remove(ids[3]), None);
        assert_eq!(slab.insert(7), ids[3]);
        assert_eq!(slab.iter().filter(|(_, row)| **row == 7).count(), 2);
    }

    #[test]
    fn an_empty_slab_gives_its_room_back() {
        let mut slab = Slab::default();
        let ids: Vec<u32> = (0..600).map(|n| slab.insert(n)).collect();
        for id in ids {
            assert!(slab.remove(id).is_some());
        }
        assert_eq!((slab.chunks.len(), slab.free.capacity()), (0, 0));
        assert_eq!((slab.insert(7), slab.get(0)), (0, Some(&7)));
    }
}
