//! Which rows of a partition were deleted, and when: for checkpoints and for replicas that were
//! away, which have the rows and must hear that they are gone.
//!
//! Invariant: every delete of an epoch after `known_since` is in it.

use std::collections::VecDeque;

use lockstep_proto::ids::{Epoch, TableId};
use lockstep_proto::limits::TOMBSTONES_BYTES_MAX;

/// Bytes a tombstone takes besides its key.
const ENTRY_BYTES: usize = size_of::<Tombstone>() + 16;

/// A deleted row. There may be a newer one of the same key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// When it was deleted.
    pub epoch: Epoch,
    /// From which table.
    pub table: TableId,
    /// Its encoded key.
    pub key: Box<[u8]>,
}

/// See the module text.
#[derive(Default, Debug)]
pub struct Tombstones {
    /// In the order in which they were applied.
    entries: VecDeque<Tombstone>,
    /// The number of the first entry; each further one counts up.
    first: u64,
    known_since: Epoch,
    bytes: usize,
}

impl Tombstones {
    /// None yet; deletes of epochs up to `epoch` are not known.
    #[must_use]
    pub fn since(epoch: Epoch) -> Self {
        Self { known_since: epoch, ..Self::default() }
    }

    /// Notes a delete. When there are too many, the oldest are forgotten.
    pub fn push(&mut self, epoch: Epoch, table: TableId, key: &[u8]) {
        self.bytes += ENTRY_BYTES + key.len();
        self.entries.push_back(Tombstone { epoch, table, key: key.into() });
        while self.bytes > TOMBSTONES_BYTES_MAX {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(gone) = self.entries.pop_front() else { return };
        self.first += 1;
        self.bytes -= ENTRY_BYTES + gone.key.len();
        self.known_since = self.known_since.max(gone.epoch);
    }

    /// Deletes of epochs up to `epoch` need not be known any more.
    pub fn forget(&mut self, epoch: Epoch) {
        while self.entries.front().is_some_and(|oldest| oldest.epoch <= epoch) {
            self.pop();
        }
    }

    /// All deletes of later epochs than this are known.
    #[must_use]
    pub fn known_since(&self) -> Epoch {
        self.known_since
    }

    /// The first entry whose number is not below `from`, with its number. Numbers stay when older
    /// entries are forgotten.
    #[must_use]
    pub fn next(&self, from: u64) -> Option<(u64, &Tombstone)> {
        let number = from.max(self.first);
        let at = usize::try_from(number - self.first).ok()?;
        self.entries.get(at).map(|entry| (number, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(all: &Tombstones, from: u64) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut from = from;
        while let Some((number, entry)) = all.next(from) {
            found.push((number, entry.epoch.0));
            from = number + 1;
        }
        found
    }

    #[test]
    fn deletes_are_known_until_they_are_forgotten() {
        let mut all = Tombstones::since(Epoch(3));
        for epoch in [4, 5, 7, 6, 8] {
            all.push(Epoch(epoch), TableId(1), b"key");
        }
        assert_eq!(all.known_since(), Epoch(3));
        all.forget(Epoch(6));
        assert_eq!(all.known_since(), Epoch(5), "a later one stands before e6");
        assert_eq!(numbers(&all, 0), [(2, 7), (3, 6), (4, 8)]);
        assert_eq!(numbers(&all, 4), [(4, 8)]);
        all.forget(Epoch(8));
        assert_eq!((all.known_since(), all.bytes), (Epoch(8), 0));
        assert_eq!(numbers(&all, 0), []);
    }

    #[test]
    fn too_many_push_out_the_oldest() {
        let mut all = Tombstones::default();
        let key = [0; 4096];
        let fit = TOMBSTONES_BYTES_MAX / (ENTRY_BYTES + key.len());
        for epoch in 1..=fit as u64 + 10 {
            all.push(Epoch(epoch), TableId(1), &key);
        }
        assert_eq!(all.known_since(), Epoch(10));
        assert_eq!(all.next(0).map(|(_, entry)| entry.epoch), Some(Epoch(11)));
        assert!(all.bytes <= TOMBSTONES_BYTES_MAX);
    }
}
