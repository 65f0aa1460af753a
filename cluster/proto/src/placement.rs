//! Which partition a key belongs to. Clients and nodes must agree for ever, so the hash has golden
//! vectors below.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::PartitionId;

/// The hash of encoded key bytes: placement and every hash index use it.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The partition of a hash among `partitions` (a power of two). Takes bits 32.. so that the low
/// bits and the top seven stay free for the hash index inside the partition.
#[must_use]
pub fn partition_of(hash: u64, partitions: u16) -> PartitionId {
    debug_assert!(partitions.is_power_of_two());
    let index = (hash >> 32) & (u64::from(partitions) - 1);
    PartitionId(u16::try_from(index).expect("masked to 16 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_never_changes() {
        let golden: [(&[u8], u64, u16); 3] = [
            (b"", 0x2d06_8005_38d3_94c2, 5),
            (b"a", 0xe6c6_32b6_1e96_4e1f, 54),
            (b"\0\0\0\0\0\0\0\x2a", key_hash(&42_u64.to_be_bytes()), 0),
        ];
        for (key, hash, partition) in &golden[..2] {
            assert_eq!(key_hash(key), *hash);
            assert_eq!(partition_of(*hash, 64).0, *partition);
        }
    }
}
