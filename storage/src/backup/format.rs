//! What a part says besides blocks and their places ([`crate::framed`]); `docs/FORMAT.md` shows
//! the bytes. All integers are little-endian.

use bytes::BufMut;
use lockstep_proto::disk::PartName;
use lockstep_proto::ids::{
    BackupId, ClusterId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, ShardId,
};
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

use crate::disk::FaultKind;
use crate::framed::{self, Kind};

pub(super) const KIND: Kind = Kind {
    magic: b"LKSB",
    trailer_magic: b"LKSP",
    version: 1,
    block_header_bytes: BLOCK_HEADER_BYTES,
};
pub(super) const BLOCK_HEADER_BYTES: usize = 24;
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

/// What the index says of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) rows: u32,
    pub(super) table: u32,
    pub(super) unpacked: u32,
    pub(super) partition: PartitionId,
}

/// What the trailer says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Totals {
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
}

impl PartHeader {
    /// The header's bytes and their checksum.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        KIND.header(|out| {
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
        })
    }

    /// Reads the header at the start of a file.
    pub(super) fn decode(file: &[u8]) -> Result<(Self, u32), FaultKind> {
        KIND.read_header(file, Self::read)
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

impl framed::Entry for Entry {
    const BYTES: usize = 16;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.rows);
        out.put_u32_le(self.table);
        out.put_u32_le(self.unpacked);
        out.put_u16_le(self.partition.0);
        out.put_u16_le(0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (rows, table, unpacked) = (r.u32()?, r.u32()?, r.u32()?);
        let partition = r.partition()?;
        r.u16()?;
        Ok(Self { rows, table, unpacked, partition })
    }
}

impl framed::Totals for Totals {
    fn put(&self, file_bytes: u64, out: &mut Vec<u8>) {
        out.put_u64_le(self.rows);
        out.put_u64_le(self.row_bytes);
        out.put_u64_le(file_bytes);
        out.put_u64_le(0);
    }

    fn read(r: &mut Reader<'_>) -> Result<(Self, u64), WireError> {
        let totals = Self { rows: r.u64()?, row_bytes: r.u64()? };
        Ok((totals, r.u64()?))
    }
}
