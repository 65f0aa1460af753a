//! The hash index of a fragment: from the hash of a key to the block of its row, by linear hashing.
//!
//! Rows lie in buckets of some sixteen, each an exactly sized list of tagged pointers. When rows
//! become too many for the buckets, **one** bucket is split in two, the next in turn, and the other
//! way round when they become few. So memory follows the number of rows in small steps (a table
//! that doubles is half empty on average and, while it moves, there twice), and no insert takes
//! longer than the split of one bucket. It costs about 10.5 bytes per row.
//!
//! Bits of the hash: the low ones choose the bucket, the top sixteen are the tag, those between
//! have chosen the partition.
//!
//! Invariant: with `n` buckets, a row lies in bucket `hash mod m` where `m` is the least power of
//! two not below `n`, or, if that is not below `n`, in bucket `hash mod m/2`.

use lockstep_proto::placement::key_hash;

use crate::block::Block;

/// Rows per bucket, on average, above which a bucket is split.
const BUCKET_ROWS: usize = 16;

/// Rows per bucket, on average, below which two buckets are joined. Far enough from the other, so
/// that no bucket is split and joined over and over.
const BUCKET_ROWS_MIN: usize = 8;

/// The rows of a fragment, by the hash of their keys.
#[derive(Default)]
pub(crate) struct Index {
    buckets: Vec<Vec<Block>>,
    len: usize,
}

/// The tag of rows whose keys have this hash.
#[inline]
pub(crate) fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16
}

/// The bucket of a hash among `count`, which is not zero.
#[inline]
fn bucket_of(hash: u64, count: usize) -> usize {
    let mask = usize::MAX >> (count - 1).leading_zeros().min(63);
    let bucket = hash as usize & mask;
    if bucket < count { bucket } else { bucket & mask >> 1 }
}

#[inline]
fn find_in(bucket: &[Block], hash: u64, key: &[u8]) -> Option<usize> {
    let tag = tag_of(hash);
    bucket.iter().position(|block| block.tag() == tag && block.key() == key)
}

/// Adds a block, growing in steps of what allocators round up to anyway.
fn push(bucket: &mut Vec<Block>, block: Block) {
    if bucket.len() == bucket.capacity() {
        bucket.reserve_exact((bucket.len() / 8).next_power_of_two().max(2));
    }
    bucket.push(block);
}

impl Index {
    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes buckets for so many rows, if there are none yet.
    pub(crate) fn reserve(&mut self, rows: usize) {
        if self.buckets.is_empty() {
            let count = rows / BUCKET_ROWS;
            self.buckets.reserve_exact(count);
            self.buckets.resize_with(count, || Vec::with_capacity(BUCKET_ROWS));
        }
    }

    /// The row of this key.
    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<&Block> {
        if self.buckets.is_empty() {
            return None;
        }
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        find_in(bucket, hash, key).map(|at| &bucket[at])
    }

    /// Puts a row whose key has this hash, and gives back the one it takes the place of.
    pub(crate) fn put(&mut self, hash: u64, block: Block) -> Option<Block> {
        if self.buckets.is_empty() {
            self.buckets.push(Vec::new());
        }
        let count = self.buckets.len();
        let bucket = &mut self.buckets[bucket_of(hash, count)];
        if let Some(at) = find_in(bucket, hash, block.key()) {
            return Some(std::mem::replace(&mut bucket[at], block));
        }
        push(bucket, block);
        self.len += 1;
        if self.len > self.buckets.len() * BUCKET_ROWS {
            self.split();
        }
        None
    }

    /// Takes out the row of this key.
    pub(crate) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Block> {
        if self.buckets.is_empty() {
            return None;
        }
        let count = self.buckets.len();
        let bucket = &mut self.buckets[bucket_of(hash, count)];
        let at = find_in(bucket, hash, key)?;
        let block = bucket.swap_remove(at);
        if bucket.capacity() - bucket.len() >= BUCKET_ROWS_MIN {
            bucket.shrink_to_fit();
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else if self.len < self.buckets.len() * BUCKET_ROWS_MIN {
            self.join();
        }
        Some(block)
    }

    /// The bucket that a row at this place of the order of scans lies in, and the last place of
    /// that bucket. The order is that of the hash read backwards, bit by bit: as the low bits
    /// choose the bucket, a bucket is a range of it, and a split or a join cuts or unites ranges
    /// that lie side by side.
    pub(crate) fn range_at(&self, place: u64) -> (&[Block], u64) {
        let count = self.buckets.len();
        if count == 0 {
            return (&[], u64::MAX);
        }
        let bucket = bucket_of(place.reverse_bits(), count);
        let whole = count.next_power_of_two();
        let split = bucket >= whole / 2 || bucket + whole / 2 < count;
        let bits = whole.trailing_zeros() - u32::from(!split);
        (&self.buckets[bucket], place | u64::MAX >> bits)
    }

    /// How many buckets.
    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// All rows, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Block> {
        self.buckets.iter().flatten()
    }

    /// Adds one bucket, with the rows of an older one that belong there now.
    fn split(&mut self) {
        let count = self.buckets.len() + 1;
        // The bucket that the new one's rows were in as long as there was no such bucket.
        let older = bucket_of(self.buckets.len() as u64, self.buckets.len());
        let all = std::mem::take(&mut self.buckets[older]);
        let (stay, go): (Vec<Block>, Vec<Block>) =
            all.into_iter().partition(|block| bucket_of(key_hash(block.key()), count) == older);
        self.buckets[older] = exactly(stay);
        if self.buckets.len() == self.buckets.capacity() {
            self.buckets.reserve_exact(self.buckets.len() / 8 + 1);
        }
        self.buckets.push(exactly(go));
    }

    /// Removes the last bucket and gives its rows back to the one they came from.
    fn join(&mut self) {
        if self.buckets.len() < 2 {
            return;
        }
        let last = self.buckets.pop().expect("there are two");
        let older = bucket_of(self.buckets.len() as u64, self.buckets.len());
        let bucket = &mut self.buckets[older];
        bucket.reserve_exact(last.len());
        bucket.extend(last);
        if self.buckets.capacity() - self.buckets.len() > self.buckets.len() / 4 + 1 {
            self.buckets.shrink_to_fit();
        }
    }
}

fn exactly(mut bucket: Vec<Block>) -> Vec<Block> {
    bucket.shrink_to_fit();
    bucket
}
