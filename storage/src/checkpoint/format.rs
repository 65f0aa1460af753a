//! The bytes of a checkpoint; `docs/FORMAT.md` shows them. All integers are little-endian.
//!
//! Invariant: every byte is vouched for by a checksum. Those of the trailer, the index and the
//! blocks start from the header's, those of blocks also from their place, so that no part of one
//! file can be taken for a part of another.

use bytes::BufMut;
use lockstep_proto::ids::{ClusterId, Incarnation, NodeId, RestartGeneration, Seq};
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

use super::plan::Plan;
use crate::disk::{CheckpointName, FaultKind};

pub(super) const MAGIC: &[u8; 4] = b"LKSC";
pub(super) const TRAILER_MAGIC: &[u8; 4] = b"LKSE";
pub(super) const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: usize = 96;
pub(super) const BLOCK_HEADER_BYTES: usize = 16;
pub(super) const INDEX_ENTRY_BYTES: usize = 24;
pub(super) const TRAILER_BYTES: usize = 56;
/// Bytes of a row before its key.
pub(super) const ROW_HEADER_BYTES: usize = 14;
/// In place of the length of a value: the row was deleted.
pub(super) const DELETED: u32 = u32::MAX;

/// What a checkpoint is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that wrote it.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// Partition, restart generation and epoch: its name.
    pub name: CheckpointName,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// Which rows are in it.
    pub plan: Plan,
    /// The end of the partition log when it was begun; for people, nothing depends on it.
    pub seq: Seq,
}

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum BlockKind {
    /// Definitions of tables.
    Tables = 1,
    /// Rows of one table and version of its schema.
    Rows = 2,
    /// Records of prepared, undecided transactions.
    Prepared = 3,
    /// Pieces of the outcome table.
    Outcomes = 4,
}

/// The start of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockHeader {
    pub(super) kind: BlockKind,
    /// For rows: the table and the version of its schema.
    pub(super) table: u32,
    pub(super) schema: u32,
    pub(super) items: u32,
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexEntry {
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) checksum: u32,
    pub(super) items: u32,
    pub(super) table: u32,
}

/// The end of the file, without which it is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Trailer {
    pub(super) index_offset: u64,
    pub(super) blocks: u32,
    pub(super) index_checksum: u32,
    pub(super) rows: u64,
    pub(super) deleted: u64,
    pub(super) others: u64,
    pub(super) file_bytes: u64,
}

/// The checksum of a block that lies at `offset` in the file with this header checksum.
pub(super) fn block_checksum(file: u32, offset: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(file, &offset.to_le_bytes()), block)
}

impl CheckpointHeader {
    /// The header's bytes and their checksum.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(HEADER_BYTES as u16);
        out.put_u32_le(0);
        out.put_u16_le(self.node.0);
        out.put_u16_le(self.name.partition.0);
        out.put_u128_le(self.cluster.0);
        out.put_u32_le(self.incarnation.0);
        out.put_u32_le(self.name.generation.0);
        out.put_u64_le(self.name.epoch.0);
        out.put_u64_le(self.plan.previous.map_or(0, |(_, epoch)| epoch.0));
        out.put_u32_le(self.plan.previous.map_or(0, |(generation, _)| generation.0));
        out.put_u16_le(self.plan.slices);
        out.put_u16_le(self.plan.slice_first);
        out.put_u16_le(self.plan.slice_count);
        out.put_u16_le(self.partitions);
        out.put_u8(u8::from(self.plan.previous.is_some()));
        out.put_bytes(0, 3);
        out.put_u64_le(self.seq.0);
        out.put_bytes(0, 16);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        let sum = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&sum.to_le_bytes());
        (out, sum)
    }

    /// Reads the header at the start of a file.
    pub(super) fn decode(file: &[u8]) -> Result<(Self, u32), FaultKind> {
        let cut = FaultKind::Damaged("the header is cut off");
        if !file.starts_with(&MAGIC[..file.len().min(MAGIC.len())]) {
            return Err(FaultKind::NotOurs);
        }
        let head = file.get(..HEADER_BYTES).ok_or(cut)?;
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != VERSION {
            return Err(FaultKind::Version { found: version, read: VERSION });
        }
        let sum = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let length = u16::from_le_bytes([head[6], head[7]]);
        if sum != crc32c::crc32c(&head[12..]) || usize::from(length) != HEADER_BYTES {
            return Err(FaultKind::Damaged("the header is not what was written"));
        }
        let header = Self::read(&mut Reader::new(&head[12..])).map_err(|_| cut)?;
        let sound = header.plan.is_sound() && header.partitions.is_power_of_two();
        let senseless = FaultKind::Damaged("the header makes no sense");
        if sound { Ok((header, sum)) } else { Err(senseless) }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (node, partition) = (r.node()?, r.partition()?);
        let cluster = ClusterId(u128::from(r.u64()?) | u128::from(r.u64()?) << 64);
        let incarnation = Incarnation(r.u32()?);
        let name = CheckpointName {
            partition,
            generation: RestartGeneration(r.u32()?),
            epoch: r.epoch()?,
        };
        let (epoch, generation) = (r.epoch()?, RestartGeneration(r.u32()?));
        let (slices, slice_first, slice_count) = (r.u16()?, r.u16()?, r.u16()?);
        let partitions = r.u16()?;
        let linked = r.u8()? != 0;
        r.bytes(3)?;
        let previous = linked.then_some((generation, epoch));
        let plan = Plan { previous, slices, slice_first, slice_count };
        Ok(Self { cluster, node, incarnation, name, partitions, plan, seq: r.seq()? })
    }
}

impl BlockHeader {
    pub(super) fn put(&self, block: &mut [u8]) {
        let mut out = block;
        out.put_u8(self.kind as u8);
        out.put_bytes(0, 3);
        out.put_u32_le(self.table);
        out.put_u32_le(self.schema);
        out.put_u32_le(self.items);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = match r.u8()? {
            1 => BlockKind::Tables,
            2 => BlockKind::Rows,
            3 => BlockKind::Prepared,
            4 => BlockKind::Outcomes,
            other => return Err(WireError::UnknownKind(other)),
        };
        r.bytes(3)?;
        Ok(Self { kind, table: r.u32()?, schema: r.u32()?, items: r.u32()? })
    }
}

impl IndexEntry {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.offset);
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.checksum);
        out.put_u32_le(self.items);
        out.put_u32_le(self.table);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            offset: r.u64()?,
            bytes: r.u32()?,
            checksum: r.u32()?,
            items: r.u32()?,
            table: r.u32()?,
        })
    }
}

impl Trailer {
    pub(super) fn put(&self, out: &mut Vec<u8>, file: u32) {
        let start = out.len();
        out.put_slice(TRAILER_MAGIC);
        out.put_u32_le(0);
        out.put_u64_le(self.index_offset);
        out.put_u32_le(self.blocks);
        out.put_u32_le(self.index_checksum);
        out.put_u64_le(self.rows);
        out.put_u64_le(self.deleted);
        out.put_u64_le(self.others);
        out.put_u64_le(self.file_bytes);
        let sum = crc32c::crc32c_append(file, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads the trailer at the end of a file with this header checksum.
    pub(super) fn decode(bytes: &[u8], file: u32) -> Option<Self> {
        let start = bytes.len().checked_sub(TRAILER_BYTES)?;
        let own = &bytes[start..];
        let sum = u32::from_le_bytes(*own[4..].first_chunk()?);
        if &own[..4] != TRAILER_MAGIC || sum != crc32c::crc32c_append(file, &own[8..]) {
            return None;
        }
        let trailer = Self::read(&mut Reader::new(&own[8..])).ok()?;
        (trailer.file_bytes == bytes.len() as u64).then_some(trailer)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            index_offset: r.u64()?,
            blocks: r.u32()?,
            index_checksum: r.u32()?,
            rows: r.u64()?,
            deleted: r.u64()?,
            others: r.u64()?,
            file_bytes: r.u64()?,
        })
    }
}
