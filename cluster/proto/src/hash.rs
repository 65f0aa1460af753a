//! Hash maps keyed by ids: a fixed, fast hasher, so that runs are repeatable. Keys come from the
//! cluster itself or are spread by [`crate::placement::key_hash`] first; flooding is bounded by the
//! limits on what a client may name.

use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by an id. Never iterate it where the order reaches an output.
pub type IdMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiply-rotate hashing of a few machine words.
#[derive(Clone, Copy, Default, Debug)]
pub struct IdHasher(u64);

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl IdHasher {
    #[inline]
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for IdHasher {
    #[inline]
    fn finish(&self) -> u64 {
        // The top bits of a product are its best; hashbrown takes bits from both ends.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.add(u64::from(value));
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.add(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }
}
