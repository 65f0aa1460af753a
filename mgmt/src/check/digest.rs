//! What is kept of a table's rows to compare them: a sum of hashes that does not depend on the
//! order of rows, in slices by key, so that a difference is found again by collecting one slice.

use std::collections::BTreeMap;

use lockstep_proto::placement::key_hash;

/// Slices of a digest.
const SLICES: usize = 64;

/// Rows of one slice that are collected at most, from each replica.
const COLLECTED_MAX: usize = 100_000;

/// Stands for any number of rows. Two of different rows are equal with a chance of 2^-64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    rows: u64,
    slices: Box<[u64; SLICES]>,
}

impl Default for Digest {
    fn default() -> Self {
        Self { rows: 0, slices: Box::new([0; SLICES]) }
    }
}

/// The slice a key is in. Places in a partition are decided by other bits of the hash.
fn slice_of(hash: u64) -> usize {
    (hash as usize) % SLICES
}

/// The hash of a row and its key; `key` is the hash of the key.
fn row_hash(key: u64, row: &[u8]) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&key.to_le_bytes());
    both[8..].copy_from_slice(&key_hash(row).to_le_bytes());
    key_hash(&both)
}

impl Digest {
    /// Takes in a row. The order of rows makes no difference.
    pub fn add(&mut self, key: &[u8], row: &[u8]) {
        let hash = key_hash(key);
        let slice = &mut self.slices[slice_of(hash)];
        *slice = slice.wrapping_add(row_hash(hash, row));
        self.rows += 1;
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// One number for people to compare.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.slices.iter().fold(0, |sum, slice| sum.wrapping_mul(31).wrapping_add(*slice))
    }

    /// The first slice in which another digest is different.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        self.slices.iter().zip(other.slices.iter()).position(|(one, two)| one != two)
    }
}

/// The rows of one slice.
#[derive(Debug)]
pub struct Slice {
    slice: usize,
    rows: BTreeMap<Box<[u8]>, u64>,
    full: bool,
}

impl Slice {
    /// None yet, of this slice.
    #[must_use]
    pub fn new(slice: usize) -> Self {
        Self { slice, rows: BTreeMap::new(), full: false }
    }

    /// Takes in a row if it is of this slice.
    pub fn add(&mut self, key: &[u8], row: &[u8]) {
        let hash = key_hash(key);
        if slice_of(hash) != self.slice {
            return;
        }
        if self.rows.len() < COLLECTED_MAX {
            self.rows.insert(key.into(), row_hash(hash, row));
        } else {
            self.full = true;
        }
    }

    /// The smallest keys whose rows are not the same in another one, with where they are: here,
    /// there. None if there are too many rows to tell.
    #[must_use]
    pub fn differences<'a>(&'a self, other: &'a Self, most: usize) -> Vec<(&'a [u8], bool, bool)> {
        if self.full || other.full {
            return Vec::new();
        }
        let (here, there) = (&self.rows, &other.rows);
        let gone = here.iter().filter(|(key, hash)| there.get(*key) != Some(*hash));
        let gone = gone.map(|(key, _)| (&**key, true, there.contains_key(key)));
        let new = there.keys().filter(|key| !here.contains_key(*key));
        let mut all: Vec<_> = gone.chain(new.map(|key| (&**key, false, true))).collect();
        all.sort_unstable();
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &[(&str, &str)]) -> Digest {
        let mut digest = Digest::default();
        rows.iter().for_each(|(key, row)| digest.add(key.as_bytes(), row.as_bytes()));
        digest
    }

    #[test]
    fn rows_are_compared_whatever_their_order() {
        let rows = [("a", "1"), ("b", "2"), ("c", "3")];
        let turned = [rows[2], rows[0], rows[1]];
        assert_eq!(digest(&rows), digest(&turned));
        let others: [&[(&str, &str)]; 5] = [
            &[("a", "1"), ("b", "2"), ("c", "4")],
            &[("a", "2"), ("b", "1"), ("c", "3")],
            &[("a", "1"), ("b", "2")],
            &[("a", "1"), ("b", "2"), ("c", "3"), ("c", "3")],
            &[("a1", ""), ("b", "2"), ("c", "3")],
        ];
        for other in others {
            let (one, two) = (digest(&rows), digest(other));
            assert!(one != two && one.first_difference(&two).is_some(), "{other:?}");
            assert_ne!(one.sum(), two.sum(), "{other:?}");
        }
    }

    #[test]
    fn the_keys_that_differ_are_found() {
        let keys: Vec<String> = (0..1000).map(|key| format!("{key:04}")).collect();
        let rows = |changed: &str| {
            let row = |key: &String| if key == changed { "new" } else { "old" };
            keys.iter().map(|key| (key.clone(), row(key))).collect::<Vec<_>>()
        };
        let (old, mut new) = (rows(""), rows("0500"));
        let digests = [&old, &new].map(|rows| {
            let mut digest = Digest::default();
            rows.iter().for_each(|(key, row)| digest.add(key.as_bytes(), row.as_bytes()));
            digest
        });
        let slice = digests[0].first_difference(&digests[1]).expect("they differ");
        // A row is missing in the same slice, and one in another.
        let hash_of = |key: &str| slice_of(key_hash(key.as_bytes()));
        let beside = keys.iter().find(|key| hash_of(key) == slice && *key != "0500").unwrap();
        let elsewhere = keys.iter().find(|key| hash_of(key) != slice).unwrap();
        new.retain(|(key, _)| key != beside && key != elsewhere);
        let [old, new] = [&old, &new].map(|rows| {
            let mut collected = Slice::new(slice);
            rows.iter().for_each(|(key, row)| collected.add(key.as_bytes(), row.as_bytes()));
            collected
        });
        let mut expected = vec![(&b"0500"[..], true, true), (beside.as_bytes(), true, false)];
        expected.sort_unstable();
        assert_eq!(old.differences(&new, 5), expected);
        assert_eq!(new.differences(&old, 1).len(), 1);
        assert!(old.differences(&old, 5).is_empty());
    }
}
