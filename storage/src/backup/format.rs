//! The bytes of a part; `docs/FORMAT.md` shows them. All integers are little-endian.
//!
//! Invariant: every byte is vouched for by a checksum. Those of the trailer, the index and the
//! blocks start from the header's, those of blocks also from their place, so that no part of one
//! file can be taken for a part of another. The trailer's vouches for the index, and that for the
//! blocks: who knows it knows the file.

use bytes::BufMut;
use lockstep_proto::disk::PartName;
use lockstep_proto::ids::{
    BackupId, ClusterId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, ShardId,
};
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

use crate::disk::FaultKind;

pub(super) const MAGIC: &[u8; 4] = b"LKSB";
pub(super) const TRAILER_MAGIC: &[u8; 4] = b"LKSP";
pub(super) const VERSION: u16 = 1;
pub(super) const HEADER_BYTES: usize = 96;
pub(super) const BLOCK_HEADER_BYTES: usize = 24;
pub(super) const INDEX_ENTRY_BYTES: usize = 32;
pub(super) const TRAILER_BYTES: usize = 56;
/// Bytes of a row before its key.
pub(super) const ROW_HEADER_BYTES: usize = 6;

/// What a part is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartHeader {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that wrote it, in which of its lives.
    pub incarnation: Incarnation,
    /// Backup, node, shard and number: its name.
    pub name: PartName,
    /// As of which epoch.
    pub epoch: Epoch,
    /// The restart generation that epoch belongs to.
    pub generation: RestartGeneration,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// The backup that this one supplements, and as of when that is; none yet.
    pub base: Option<(BackupId, Epoch)>,
}

/// How the rows of a block are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Packing {
    /// As they are: where packing does not make them smaller.
    None = 0,
    /// LZ4, one block without a frame.
    Lz4 = 1,
}

/// The start of a block: rows of one table and version of its schema, in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockHeader {
    pub(super) packing: Packing,
    pub(super) partition: PartitionId,
    pub(super) table: u32,
    pub(super) schema: u32,
    pub(super) rows: u32,
    /// How long they are, unpacked.
    pub(super) unpacked: u32,
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexEntry {
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) checksum: u32,
    pub(super) rows: u32,
    pub(super) table: u32,
    pub(super) unpacked: u32,
    pub(super) partition: PartitionId,
}

/// The end of the file, without which it is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Trailer {
    pub(super) index_offset: u64,
    pub(super) blocks: u32,
    pub(super) index_checksum: u32,
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
    pub(super) file_bytes: u64,
}

/// The checksum of a block that lies at `offset` in the file with this header checksum.
pub(super) fn block_checksum(file: u32, offset: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(file, &offset.to_le_bytes()), block)
}

impl PartHeader {
    /// The header's bytes and their checksum.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(HEADER_BYTES as u16);
        out.put_u32_le(0);
        out.put_u16_le(self.name.node.0);
        out.put_u16_le(self.name.shard.0);
        out.put_u128_le(self.cluster.0);
        out.put_u64_le(self.name.backup.0);
        out.put_u32_le(self.name.piece);
        out.put_u32_le(self.incarnation.0);
        out.put_u64_le(self.epoch.0);
        out.put_u32_le(self.generation.0);
        out.put_u16_le(self.partitions);
        out.put_u8(u8::from(self.base.is_some()));
        out.put_u8(0);
        out.put_u64_le(self.base.map_or(0, |(backup, _)| backup.0));
        out.put_u64_le(self.base.map_or(0, |(_, epoch)| epoch.0));
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
        Ok((header, sum))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (node, shard) = (NodeId(r.u16()?), ShardId(r.u16()?));
        let cluster = ClusterId(u128::from(r.u64()?) | u128::from(r.u64()?) << 64);
        let name = PartName { backup: BackupId(r.u64()?), node, shard, piece: r.u32()? };
        let incarnation = Incarnation(r.u32()?);
        let (epoch, generation) = (r.epoch()?, RestartGeneration(r.u32()?));
        let partitions = r.u16()?;
        let based = r.u8()? != 0;
        r.u8()?;
        let base = (BackupId(r.u64()?), r.epoch()?);
        let base = based.then_some(base);
        Ok(Self { cluster, incarnation, name, epoch, generation, partitions, base })
    }
}

impl BlockHeader {
    pub(super) fn put(&self, block: &mut [u8]) {
        let mut out = block;
        out.put_u8(self.packing as u8);
        out.put_u8(0);
        out.put_u16_le(self.partition.0);
        out.put_u32_le(self.table);
        out.put_u32_le(self.schema);
        out.put_u32_le(self.rows);
        out.put_u32_le(self.unpacked);
        out.put_u32_le(0);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let packing = match r.u8()? {
            0 => Packing::None,
            1 => Packing::Lz4,
            other => return Err(WireError::UnknownKind(other)),
        };
        r.u8()?;
        let partition = r.partition()?;
        let (table, schema, rows, unpacked) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        r.u32()?;
        Ok(Self { packing, partition, table, schema, rows, unpacked })
    }
}

impl IndexEntry {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.offset);
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.checksum);
        out.put_u32_le(self.rows);
        out.put_u32_le(self.table);
        out.put_u32_le(self.unpacked);
        out.put_u16_le(self.partition.0);
        out.put_u16_le(0);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let entry = Self {
            offset: r.u64()?,
            bytes: r.u32()?,
            checksum: r.u32()?,
            rows: r.u32()?,
            table: r.u32()?,
            unpacked: r.u32()?,
            partition: r.partition()?,
        };
        r.u16()?;
        Ok(entry)
    }
}

impl Trailer {
    /// Appends it; gives its checksum, which vouches for the file.
    pub(super) fn put(&self, out: &mut Vec<u8>, file: u32) -> u32 {
        let start = out.len();
        out.put_slice(TRAILER_MAGIC);
        out.put_u32_le(0);
        out.put_u64_le(self.index_offset);
        out.put_u32_le(self.blocks);
        out.put_u32_le(self.index_checksum);
        out.put_u64_le(self.rows);
        out.put_u64_le(self.row_bytes);
        out.put_u64_le(self.file_bytes);
        out.put_u64_le(0);
        let sum = crc32c::crc32c_append(file, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// Reads the trailer at the end of a file with this header checksum, and its own checksum.
    pub(super) fn decode(bytes: &[u8], file: u32) -> Option<(Self, u32)> {
        let start = bytes.len().checked_sub(TRAILER_BYTES)?;
        let own = &bytes[start..];
        let sum = u32::from_le_bytes(*own[4..].first_chunk()?);
        if &own[..4] != TRAILER_MAGIC || sum != crc32c::crc32c_append(file, &own[8..]) {
            return None;
        }
        let trailer = Self::read(&mut Reader::new(&own[8..])).ok()?;
        (trailer.file_bytes == bytes.len() as u64).then_some((trailer, sum))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            index_offset: r.u64()?,
            blocks: r.u32()?,
            index_checksum: r.u32()?,
            rows: r.u64()?,
            row_bytes: r.u64()?,
            file_bytes: r.u64()?,
        })
    }
}
