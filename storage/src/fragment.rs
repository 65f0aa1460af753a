//! A fragment: one table's rows in one partition, found by the hash of their key.
//!
//! Besides the newest version of each row it keeps older ones for those who read at a past epoch,
//! until it is told that nobody does any more.
//!
//! Invariant: every row lies under the hash of its key that the caller gave (always the same for
//! the same key), at most one per key, and `bytes` is the sum of what the rows are counted as.

use std::cmp::Ordering;

use lockstep_proto::ids::{Epoch, SchemaVersion};
use lockstep_proto::placement::key_hash;

use crate::block::{Block, Row};
use crate::history::{History, place_of};
use crate::index::{Index, tag_of};

/// What a row is counted as above its key and value: its header (16), its share of the index
/// (about 10.5), and some of what the allocator rounds up.
pub const ROW_OVERHEAD_BYTES: usize = 32;

/// One table's rows in one partition.
pub struct Fragment {
    schema: SchemaVersion,
    rows: Index,
    bytes: usize,
    /// The last block that was replaced within its epoch, for the next one; not counted, since it
    /// is small.
    spare: Option<Block>,
    history: History,
}

/// How far a scan is: everything before this place has been handed out. Places are an order of the
/// rows that no change of the fragment disturbs, and that is the same on all replicas, so a scan
/// needs nothing but its position to go on, here or elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Position(pub u64);

/// Versions of deleted or replaced rows that one step of a scan may meet, on average.
const STEP_VERSIONS: usize = 16;

/// Key and value bytes of a block that is worth keeping as a spare.
const SPARE_BYTES_MAX: usize = 256;

/// Some rows in the order of their keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<'a> {
    /// The rows.
    pub rows: Vec<Row<'a>>,
    /// Whether rows follow that are not in the page.
    pub more: bool,
}

/// What a block is counted as.
fn counted(block: &Block) -> usize {
    block.data_bytes() + ROW_OVERHEAD_BYTES
}

impl Fragment {
    /// A fragment without rows; `schema` is noted in the rows put into it.
    #[must_use]
    pub fn new(schema: SchemaVersion) -> Self {
        Self { schema, rows: Index::default(), bytes: 0, spare: None, history: History::default() }
    }

    /// The version of the definition that new rows are encoded by.
    #[must_use]
    pub fn schema(&self) -> SchemaVersion {
        self.schema
    }

    /// The row of this key. `hash` is [`key_hash`] of it.
    #[must_use]
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        self.rows.find(hash, key).map(Block::row)
    }

    /// Puts a row, in place of the one with the same key if there is one, and tells by how much
    /// the counted bytes changed. Key and value are within their limits. The replaced version is
    /// kept if it is of an earlier epoch.
    pub fn put(&mut self, hash: u64, key: &[u8], value: &[u8], epoch: Epoch) -> i64 {
        let spare = self.spare.take().or_else(|| self.history.recycle());
        let (change, old) = self.replace(hash, key, value, epoch, spare);
        if let Some(old) = old {
            self.let_go(hash, old, epoch);
        }
        change
    }

    /// Makes room for about so many rows that will be loaded, if there are none yet.
    pub fn reserve(&mut self, rows: usize) {
        self.rows.reserve(rows);
    }

    /// As [`Fragment::put`], for rows that come from a disk or another node: nobody reads here at
    /// an epoch in which the version before was the newest, so none is kept.
    pub fn load(&mut self, hash: u64, key: &[u8], value: &[u8], epoch: Epoch) -> i64 {
        let spare = self.spare.take();
        let (change, old) = self.replace(hash, key, value, epoch, spare);
        self.spare = old.filter(|old| old.data_bytes() <= SPARE_BYTES_MAX);
        change
    }

    fn replace(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        epoch: Epoch,
        spare: Option<Block>,
    ) -> (i64, Option<Block>) {
        debug_assert_eq!(hash, key_hash(key), "rows lie under the hash of their key");
        let header = (epoch, self.schema);
        let block = Block::new(spare, tag_of(hash), header, key, value);
        let after = counted(&block);
        let old = self.rows.put(hash, block);
        let before = old.as_ref().map_or(0, counted);
        self.bytes = self.bytes + after - before;
        (after as i64 - before as i64, old)
    }

    /// A version has ceased to be the newest in `epoch`.
    #[inline]
    fn let_go(&mut self, hash: u64, old: Block, epoch: Epoch) {
        if old.row().epoch() < epoch {
            self.history.keep(epoch, hash, old);
        } else if old.data_bytes() <= SPARE_BYTES_MAX {
            self.spare = Some(old);
        }
    }

    /// Removes the row of this key in `epoch`, if there is one, and tells by how much the counted
    /// bytes changed. The version is kept if it is of an earlier epoch.
    pub fn remove(&mut self, hash: u64, key: &[u8], epoch: Epoch) -> i64 {
        let Some(old) = self.rows.remove(hash, key) else { return 0 };
        let before = counted(&old);
        self.bytes -= before;
        self.let_go(hash, old, epoch);
        -(before as i64)
    }

    /// As [`Fragment::remove`], for a row whose older version nobody reads.
    pub fn unload(&mut self, hash: u64, key: &[u8]) -> i64 {
        let before = self.rows.remove(hash, key).map_or(0, |old| counted(&old));
        self.bytes -= before;
        -(before as i64)
    }

    /// The row of this key as of a closed epoch, which is not before the last horizon.
    pub fn row_at(&mut self, epoch: Epoch, hash: u64, key: &[u8]) -> Option<Row<'_>> {
        match self.rows.find(hash, key).map(Block::row) {
            Some(row) if row.epoch() <= epoch => Some(row),
            _ => self.history.find(epoch, hash, key),
        }
    }

    /// Hands out the next few rows as of a closed epoch, each with the hash of its key, and tells
    /// where the scan goes on; `None` at its end. With an epoch that never comes these are the
    /// newest versions. Rows may be written between two steps: a scan at an epoch that is not
    /// before the horizon has each row of that epoch exactly once.
    pub fn scan(
        &mut self,
        epoch: Epoch,
        from: Position,
        take: impl FnMut(u64, Row<'_>),
    ) -> Option<Position> {
        self.scan_to(epoch, from, Position(u64::MAX), take)
    }

    /// The same, but not beyond `to`: where the rows of a step may be too large.
    pub fn scan_to(
        &mut self,
        epoch: Epoch,
        from: Position,
        to: Position,
        mut take: impl FnMut(u64, Row<'_>),
    ) -> Option<Position> {
        let (bucket, last) = self.rows.range_at(from.0);
        let mut last = last.min(to.0);
        if self.history.len() > self.rows.buckets() * STEP_VERSIONS {
            let steps = (self.history.len() / STEP_VERSIONS).next_power_of_two() as u64;
            last = last.min(from.0 | u64::MAX >> steps.trailing_zeros().min(63));
        }
        for row in bucket.iter().map(Block::row) {
            let hash = key_hash(row.key());
            if row.epoch() <= epoch && (from.0..=last).contains(&place_of(hash)) {
                take(hash, row);
            }
        }
        if epoch < Epoch(u64::MAX) {
            self.history.range(epoch, from.0, last, take);
        }
        last.checked_add(1).map(Position)
    }

    /// From now on nobody reads at an epoch before `horizon`: versions replaced until then go,
    /// some with the next writes, more with each of the next calls.
    pub fn free(&mut self, horizon: Epoch) {
        self.history.free(horizon);
    }

    /// How many older versions are kept.
    #[must_use]
    pub fn versions(&self) -> usize {
        self.history.len()
    }

    /// Bytes of keys and values of the older versions.
    #[must_use]
    pub fn versions_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// What the rows are counted as, together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows in no particular order: for sums and checks that do not depend on one.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(Block::row)
    }

    /// The first rows in key order whose key is greater than `after` (an empty `after` is less
    /// than every key): at most `rows_max`, and no more than `bytes_max` of keys and values, but
    /// always one if there is one.
    ///
    /// Without an ordered index every page looks at all rows of the fragment, so a scan of the
    /// whole fragment costs its size times its number of pages.
    #[must_use]
    pub fn page(&self, after: &[u8], rows_max: usize, bytes_max: usize) -> Page<'_> {
        first_of(self.iter(), after, rows_max, bytes_max)
    }

    /// The same as of a closed epoch, which is not before the last horizon.
    #[must_use]
    pub fn page_at(
        &self,
        epoch: Epoch,
        after: &[u8],
        rows_max: usize,
        bytes_max: usize,
    ) -> Page<'_> {
        let newest = self.iter().filter(|row| row.epoch() <= epoch);
        first_of(newest.chain(self.history.all_at(epoch)), after, rows_max, bytes_max)
    }
}

/// The first of these rows behind a key.
fn first_of<'a>(
    all: impl Iterator<Item = Row<'a>>,
    after: &[u8],
    rows_max: usize,
    bytes_max: usize,
) -> Page<'a> {
    let mut smallest = Smallest::new(rows_max.max(1));
    all.filter(|row| row.key() > after).for_each(|row| smallest.offer(row));
    let (mut rows, mut more) = smallest.into_sorted();
    let mut bytes = 0;
    let fitting = rows.iter().take_while(|row| {
        bytes += row.key().len() + row.value().len();
        bytes <= bytes_max
    });
    let fitting = fitting.count().max(1);
    more |= rows.len() > fitting;
    rows.truncate(fitting);
    Page { rows, more }
}

/// Keeps the rows with the smallest keys of all it is offered: collects twice as many, then drops
/// the larger half, so that each row costs a constant number of steps.
struct Smallest<'a> {
    /// With the first bytes of each key, which nearly always decide.
    rows: Vec<(u64, Row<'a>)>,
    wanted: usize,
    /// Once some have been dropped: no larger key is wanted.
    limit: Option<(u64, Row<'a>)>,
    dropped: bool,
}

fn by_key(a: &(u64, Row<'_>), b: &(u64, Row<'_>)) -> Ordering {
    a.0.cmp(&b.0).then_with(|| a.1.key().cmp(b.1.key()))
}

/// The first eight bytes of a key, as a number that orders as they do.
fn prefix(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = key.len().min(8);
    first[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(first)
}

impl<'a> Smallest<'a> {
    fn new(wanted: usize) -> Self {
        Self { rows: Vec::new(), wanted, limit: None, dropped: false }
    }

    fn offer(&mut self, row: Row<'a>) {
        let row = (prefix(row.key()), row);
        if self.limit.as_ref().is_some_and(|limit| by_key(&row, limit).is_gt()) {
            return;
        }
        self.rows.push(row);
        if self.rows.len() == self.wanted * 2 {
            self.drop_larger();
        }
    }

    fn drop_larger(&mut self) {
        if self.rows.len() > self.wanted {
            let (_, largest, _) = self.rows.select_nth_unstable_by(self.wanted - 1, by_key);
            self.limit = Some(*largest);
            self.rows.truncate(self.wanted);
            self.dropped = true;
        }
    }

    /// The rows in order, and whether there were others.
    fn into_sorted(mut self) -> (Vec<Row<'a>>, bool) {
        self.drop_larger();
        self.rows.sort_unstable_by(by_key);
        (self.rows.into_iter().map(|(_, row)| row).collect(), self.dropped)
    }
}
