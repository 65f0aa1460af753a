//! A fragment: one table's rows in one partition, found by the hash of their key.
//!
//! Invariant: every row lies under the hash of its key that the caller gave (always the same for
//! the same key), at most one per key, and `bytes` is the sum of what the rows are counted as.

use std::collections::BinaryHeap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use lockstep_proto::ids::{Epoch, SchemaVersion};
use lockstep_proto::placement::key_hash;

use crate::block::{Block, Row};

/// What a row is counted as above its key and value: header (16), its share of the index (10 to 20
/// bytes as the index fills up and grows), and what the allocator rounds up.
pub const ROW_OVERHEAD_BYTES: usize = 40;

/// One table's rows in one partition.
pub struct Fragment {
    schema: SchemaVersion,
    rows: HashTable<Block>,
    bytes: usize,
}

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
        Self { schema, rows: HashTable::new(), bytes: 0 }
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
        self.rows.find(hash, |block| block.key() == key).map(Block::row)
    }

    /// Puts a row, in place of the one with the same key if there is one, and tells by how much
    /// the counted bytes changed. Key and value are within their limits.
    pub fn put(&mut self, hash: u64, key: &[u8], value: &[u8], epoch: Epoch) -> i64 {
        debug_assert_eq!(hash, key_hash(key), "rows lie under the hash of their key");
        let block = Block::new(epoch, self.schema, key, value);
        let after = counted(&block);
        let entry =
            self.rows.entry(hash, |block| block.key() == key, |block| key_hash(block.key()));
        let before = match entry {
            Entry::Occupied(mut occupied) => counted(&std::mem::replace(occupied.get_mut(), block)),
            Entry::Vacant(vacant) => {
                vacant.insert(block);
                0
            }
        };
        self.bytes = self.bytes + after - before;
        after as i64 - before as i64
    }

    /// Removes the row of this key, if there is one, and tells by how much the counted bytes
    /// changed.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> i64 {
        let Ok(entry) = self.rows.find_entry(hash, |block| block.key() == key) else { return 0 };
        let (block, _) = entry.remove();
        let before = counted(&block);
        self.bytes -= before;
        -(before as i64)
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
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
    /// Without an ordered index every page looks at all rows of the fragment: n log `rows_max`
    /// steps, so a scan of the whole fragment costs that times its number of pages.
    #[must_use]
    pub fn page(&self, after: &[u8], rows_max: usize, bytes_max: usize) -> Page<'_> {
        let rows_max = rows_max.max(1);
        let mut smallest: BinaryHeap<ByKey<'_>> = BinaryHeap::new();
        let mut more = false;
        for row in self.iter().filter(|row| row.key() > after) {
            if smallest.len() < rows_max {
                smallest.push(ByKey(row));
                continue;
            }
            more = true;
            let mut largest = smallest.peek_mut().expect("at least one row is asked for");
            if row.key() < largest.0.key() {
                *largest = ByKey(row);
            }
        }
        let mut rows: Vec<Row<'_>> =
            smallest.into_sorted_vec().into_iter().map(|ByKey(row)| row).collect();
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
}

/// A row that is ordered by its key.
struct ByKey<'a>(Row<'a>);

impl PartialEq for ByKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey<'_> {}

impl PartialOrd for ByKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key().cmp(other.0.key())
    }
}
