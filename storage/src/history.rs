//! Versions of a fragment's rows that were replaced or deleted, kept for readers at past epochs.
//!
//! They lie in the order in which they were replaced, so that keeping one is a push and freeing is
//! popping from the front, by epoch and in bulk. Nobody walks rows for that. What finds one by its
//! key is made when a reader first asks, and forgotten when none asks any more, so that writers who
//! are never read at a past epoch do not pay for it.
//!
//! Invariant: a version is kept once at most, and only if its successor is of a later epoch: closed
//! epochs are read, and of each row an epoch has one version, the last.

use std::collections::{BTreeSet, VecDeque};

use lockstep_proto::ids::Epoch;

use crate::block::{Block, Row};

/// Versions that are looked through one by one; more get a lookup.
const LOOKUP_FROM: u64 = 32;

/// Versions that one call frees at least, if there are so many, and of more this part: a reader who
/// has held many back for long must not cost those who come after it a long turn.
const FREED_AT_ONCE: usize = 256;
const FREED_PART: usize = 16;

/// Entries for which memory is kept after they are gone.
const CAPACITY_KEPT: usize = 1024;

/// A version, and when it ceased to be the newest.
struct Replaced {
    epoch: Epoch,
    hash: u64,
    block: Block,
}

/// Finds the versions from some number on by the position of their row.
struct Lookup {
    from: u64,
    to: u64,
    places: BTreeSet<(u64, u64)>,
    used: bool,
}

/// See the module text.
#[derive(Default)]
pub(crate) struct History {
    entries: VecDeque<Replaced>,
    /// The number of the first entry; each further one counts up.
    first: u64,
    /// For each epoch the first entry replaced in it, unless one of a later epoch came before. A
    /// commit may be applied behind records of later epochs, so this is not the same as an order.
    marks: VecDeque<(Epoch, u64)>,
    /// What was replaced up to this epoch is not needed.
    horizon: Epoch,
    lookup: Option<Lookup>,
    bytes: usize,
}

/// Where a row lies in the order of scans. See [`crate::fragment::Position`].
#[inline]
pub(crate) fn place_of(hash: u64) -> u64 {
    hash.reverse_bits()
}

impl History {
    /// How many versions.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of keys and values in them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a version that was replaced in `epoch`.
    #[inline]
    pub(crate) fn keep(&mut self, epoch: Epoch, hash: u64, block: Block) {
        if self.marks.back().is_none_or(|(last, _)| *last < epoch) {
            self.marks.push_back((epoch, self.end()));
        }
        self.bytes += block.data_bytes();
        self.entries.push_back(Replaced { epoch, hash, block });
    }

    /// A version that nobody needs any more, if the oldest is one: its allocation is used again.
    #[inline]
    pub(crate) fn recycle(&mut self) -> Option<Block> {
        let oldest = self.entries.front()?;
        if oldest.epoch <= self.horizon { self.pop() } else { None }
    }

    /// From now on nobody reads at an epoch before `horizon`. Frees some of what was not needed at
    /// the time of the call before this one; in between, writers use the allocations again.
    pub(crate) fn free(&mut self, horizon: Epoch) {
        let count = FREED_AT_ONCE.max(self.entries.len() / FREED_PART);
        for _ in 0..count {
            if self.recycle().is_none() {
                break;
            }
        }
        self.horizon = self.horizon.max(horizon);
        if self.entries.capacity() > CAPACITY_KEPT.max(self.entries.len() * 4) {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        self.lookup = self.lookup.take().filter(|lookup| lookup.used);
        if let Some(lookup) = &mut self.lookup {
            lookup.used = false;
        }
    }

    fn pop(&mut self) -> Option<Block> {
        let Replaced { hash, block, .. } = self.entries.pop_front()?;
        if let Some(lookup) = &mut self.lookup
            && self.first >= lookup.from
        {
            lookup.places.remove(&(place_of(hash), self.first));
        }
        self.first += 1;
        self.bytes -= block.data_bytes();
        while self.marks.get(1).is_some_and(|(_, next)| *next <= self.first) {
            self.marks.pop_front();
        }
        Some(block)
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Nothing before this entry was replaced after the epoch.
    fn since(&self, epoch: Epoch) -> u64 {
        let at = self.marks.partition_point(|(mark, _)| *mark <= epoch);
        self.marks.get(at).map_or(self.end(), |(_, first)| (*first).max(self.first))
    }

    fn entry(&self, number: u64) -> &Replaced {
        &self.entries[(number - self.first) as usize]
    }

    /// The version of this row as of an epoch, if the newest one is of a later epoch or is gone.
    pub(crate) fn find(&mut self, epoch: Epoch, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        let place = place_of(hash);
        let is_it = |entry: &&Replaced| {
            entry.hash == hash && entry.is_as_of(epoch) && entry.block.key() == key
        };
        let since = self.since(epoch);
        if self.end() - since <= LOOKUP_FROM {
            let skipped = (since - self.first) as usize;
            return self.entries.iter().skip(skipped).find(is_it).map(|entry| entry.block.row());
        }
        self.look_from(since);
        let lookup = self.lookup.as_ref()?;
        let found = lookup.places.range((place, 0)..=(place, u64::MAX));
        found.map(|(_, number)| self.entry(*number)).find(is_it).map(|entry| entry.block.row())
    }

    /// All versions as of an epoch whose newer one is of a later epoch.
    pub(crate) fn all_at(&self, epoch: Epoch) -> impl Iterator<Item = Row<'_>> {
        let skipped = (self.since(epoch) - self.first) as usize;
        let all = self.entries.iter().skip(skipped);
        all.filter(move |entry| entry.is_as_of(epoch)).map(|entry| entry.block.row())
    }

    /// All versions as of an epoch whose newer one is of a later epoch, of the rows whose place
    /// is in `first..=last`.
    pub(crate) fn range(
        &mut self,
        epoch: Epoch,
        first: u64,
        last: u64,
        mut take: impl FnMut(u64, Row<'_>),
    ) {
        let since = self.since(epoch);
        if self.end() - since <= LOOKUP_FROM {
            let skipped = (since - self.first) as usize;
            let all = self.entries.iter().skip(skipped);
            let wanted = |entry: &&Replaced| (first..=last).contains(&place_of(entry.hash));
            all.filter(wanted)
                .filter(|entry| entry.is_as_of(epoch))
                .for_each(|entry| take(entry.hash, entry.block.row()));
            return;
        }
        self.look_from(since);
        let Some(lookup) = &self.lookup else { return };
        let found = lookup.places.range((first, 0)..=(last, u64::MAX));
        found
            .map(|(_, number)| self.entry(*number))
            .filter(|entry| entry.is_as_of(epoch))
            .for_each(|entry| take(entry.hash, entry.block.row()));
    }

    /// Sees to it that the lookup has all entries from a number on.
    fn look_from(&mut self, from: u64) {
        let end = self.end();
        let known = self.lookup.take().filter(|lookup| lookup.from <= from);
        let mut lookup = known.unwrap_or_else(|| {
            let skipped = (from - self.first) as usize;
            let all = self.entries.iter().skip(skipped).zip(from..);
            let places = all.map(|(entry, number)| (place_of(entry.hash), number)).collect();
            Lookup { from, to: end, places, used: true }
        });
        for number in lookup.to.max(self.first)..end {
            lookup.places.insert((place_of(self.entry(number).hash), number));
        }
        (lookup.to, lookup.used) = (end, true);
        self.lookup = Some(lookup);
    }
}

impl Replaced {
    fn is_as_of(&self, epoch: Epoch) -> bool {
        epoch < self.epoch && self.block.row().epoch() <= epoch
    }
}
