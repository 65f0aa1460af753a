//! The bytes of a redo segment; `docs/FORMAT.md` shows them. All integers are little-endian.
//!
//! Invariant: every byte of a segment is vouched for by a checksum or known to be zero. A record's
//! own checksum vouches for the record; that of its group for lengths and checksums of the records
//! and for the group's header, so that no byte is summed twice. The latter starts from the name of
//! the segment, so that a group can never be taken for one of another file.

use bytes::BufMut;
use lockstep_proto::ids::{ClusterId, Epoch, NodeId, RestartGeneration, ShardId};
use lockstep_proto::record;
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

use crate::disk::{FaultKind, SegmentName};

/// First bytes of a segment.
pub(super) const MAGIC: &[u8; 4] = b"LKSR";
/// First bytes of a group.
pub(super) const GROUP_MAGIC: &[u8; 4] = b"LKSG";
/// The version of the format.
pub(super) const VERSION: u16 = 1;
/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 96;
/// Bytes of a group's header.
pub(super) const GROUP_HEADER_BYTES: usize = 56;
/// Groups begin at multiples of this.
pub(super) const GROUP_ALIGN: usize = 8;
/// In the flags of a segment's header: see [`LogIdentity::joined`].
const JOINED: u16 = 1;
/// Bytes before a record: its length.
pub(super) const FRAME_BYTES: usize = 4;

/// Whose log it is: the same in all segments of one life of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The restart generation.
    pub generation: RestartGeneration,
    /// How many shards the node has in this life.
    pub shards: u16,
    /// What earlier lives wrote counts up to this epoch, and everything up to it is on this disk.
    pub base: Epoch,
    /// The node came back and was copied to: what lies between `base` and the checkpoints made in
    /// this life is in no log.
    pub joined: bool,
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub(super) identity: LogIdentity,
    pub(super) name: SegmentName,
    /// The number of the first group in it. All groups with lower numbers are durable.
    pub(super) group_first: u64,
    /// The epoch that the groups before it complete.
    pub(super) closed_before: Epoch,
    /// The highest epoch of a record in the segments before it.
    pub(super) epoch_max_before: Epoch,
}

/// The header of a group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct GroupHeader {
    /// Bytes that follow, without padding.
    pub(super) bytes: u32,
    pub(super) records: u32,
    /// The sum over lengths and checksums of the records.
    pub(super) frames: u32,
    /// Counts the groups of a log from 0.
    pub(super) number: u64,
    /// Groups of the log that were durable when this one was made.
    pub(super) synced: u64,
    /// The epoch that this and all groups before it complete.
    pub(super) closed: Epoch,
    /// The highest epoch of a record in it.
    pub(super) epoch_max: Epoch,
}

/// What the sums of a segment's groups start from.
pub(super) fn salt(cluster: ClusterId, node: NodeId, name: SegmentName) -> u32 {
    let mut bytes = [0; 32];
    let mut out = &mut bytes[..];
    out.put_u128_le(cluster.0);
    out.put_u16_le(node.0);
    out.put_u16_le(name.shard.0);
    out.put_u32_le(name.incarnation.0);
    out.put_u64_le(name.segment);
    crc32c::crc32c(&bytes)
}

/// Adds a record to the sum over a group's frames.
#[inline]
pub(super) fn add_frame(sum: u32, length: u32, checksum: u32) -> u32 {
    let frame = u64::from(length) | u64::from(checksum) << 32;
    crc32c::crc32c_append(sum, &frame.to_le_bytes())
}

/// The zero bytes after a group of this many bytes.
pub(super) fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(GROUP_ALIGN) - bytes
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(HEADER_BYTES as u16);
        out.put_u32_le(0);
        out.put_u16_le(self.name.shard.0);
        out.put_u16_le(self.identity.shards);
        out.put_u128_le(self.identity.cluster.0);
        out.put_u16_le(self.identity.node.0);
        out.put_u16_le(if self.identity.joined { JOINED } else { 0 });
        out.put_u32_le(self.name.incarnation.0);
        out.put_u32_le(self.identity.generation.0);
        out.put_u32_le(0);
        out.put_u64_le(self.name.segment);
        out.put_u64_le(self.group_first);
        out.put_u64_le(self.identity.base.0);
        out.put_u64_le(self.closed_before.0);
        out.put_u64_le(self.epoch_max_before.0);
        out.put_u64_le(0);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        let sum = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the header at the start of a file. `Ok(None)`: nothing that was ever whole.
    pub(super) fn decode(file: &[u8]) -> Result<Option<Self>, FaultKind> {
        let Some(head) = file.get(..HEADER_BYTES) else { return unfinished(file) };
        if &head[..4] != MAGIC {
            return unfinished(head);
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != VERSION && version != 0 {
            return Err(FaultKind::Version { found: version, read: VERSION });
        }
        let sum = [head[8], head[9], head[10], head[11]];
        let length = u16::from_le_bytes([head[6], head[7]]);
        let whole = u32::from_le_bytes(sum) == crc32c::crc32c(&head[12..]);
        if !whole || version == 0 || usize::from(length) != HEADER_BYTES {
            return Ok(None);
        }
        Self::read(&mut Reader::new(&head[12..])).map(Some).map_err(|_| FaultKind::NotOurs)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let shard = ShardId(r.u16()?);
        let shards = r.u16()?;
        let cluster = ClusterId(u128::from(r.u64()?) | u128::from(r.u64()?) << 64);
        let node = r.node()?;
        let joined = r.u16()? & JOINED != 0;
        let incarnation = lockstep_proto::ids::Incarnation(r.u32()?);
        let generation = RestartGeneration(r.u32()?);
        r.u32()?;
        let name = SegmentName { incarnation, shard, segment: r.u64()? };
        let group_first = r.u64()?;
        let identity = LogIdentity { cluster, node, generation, shards, base: r.epoch()?, joined };
        let closed_before = r.epoch()?;
        let epoch_max_before = r.epoch()?;
        Ok(Self { identity, name, group_first, closed_before, epoch_max_before })
    }
}

/// A file that does not begin with our whole header: never finished, or not ours.
fn unfinished(start: &[u8]) -> Result<Option<SegmentHeader>, FaultKind> {
    let written = start.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let magic = written.min(MAGIC.len());
    if start[..magic] == MAGIC[..magic] { Ok(None) } else { Err(FaultKind::NotOurs) }
}

impl GroupHeader {
    /// Fills in the header at the start of a group.
    pub(super) fn put(&self, group: &mut [u8], salt: u32) {
        let (mut out, _) = group.split_at_mut(GROUP_HEADER_BYTES);
        out.put_slice(GROUP_MAGIC);
        out.put_u32_le(0);
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.records);
        out.put_u32_le(self.frames);
        out.put_u32_le(0);
        out.put_u64_le(self.number);
        out.put_u64_le(self.synced);
        out.put_u64_le(self.closed.0);
        out.put_u64_le(self.epoch_max.0);
        let sum = crc32c::crc32c_append(salt, &group[8..GROUP_HEADER_BYTES]);
        group[4..8].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads the header of a group; `None` if it is not one of the segment with this salt.
    pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let head = bytes.get(..GROUP_HEADER_BYTES)?;
        if &head[..4] != GROUP_MAGIC {
            return None;
        }
        let sum = u32::from_le_bytes(*head[4..].first_chunk()?);
        if sum != crc32c::crc32c_append(salt, &head[8..]) {
            return None;
        }
        Self::read(&mut Reader::new(&head[8..])).ok()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (bytes, records, frames) = (r.u32()?, r.u32()?, r.u32()?);
        r.u32()?;
        Ok(Self {
            bytes,
            records,
            frames,
            number: r.u64()?,
            synced: r.u64()?,
            closed: r.epoch()?,
            epoch_max: r.epoch()?,
        })
    }

    /// Bytes from the start of this group to the next.
    pub(super) fn stride(&self) -> usize {
        let bytes = GROUP_HEADER_BYTES + self.bytes as usize;
        bytes + padding(bytes)
    }
}

/// Records one after the other, as they lie in a group. Ends at the first that cannot be one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What no record was found in.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<FRAME_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        if length < record::HEADER_BYTES {
            return None;
        }
        let (record, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(record)
    }
}
