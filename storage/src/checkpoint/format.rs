//! What a checkpoint says besides blocks and their places ([`crate::framed`]); `docs/FORMAT.md`
//! shows the bytes. All integers are little-endian.

use bytes::BufMut;
use lockstep_proto::ids::{ClusterId, Incarnation, NodeId, RestartGeneration, Seq};
use lockstep_proto::wire::WireError;
use lockstep_proto::wire::bytes::Reader;

use super::plan::Plan;
use crate::disk::{CheckpointName, FaultKind};
use crate::framed::{self, Kind};

pub(super) const KIND: Kind =
    Kind { magic: b"LKSC", trailer_magic: b"LKSE", version: 1, block_header_bytes: 16 };
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

/// What the index says of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) items: u32,
    pub(super) table: u32,
}

/// What the trailer says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Totals {
    pub(super) rows: u64,
    pub(super) deleted: u64,
    pub(super) others: u64,
}

impl CheckpointHeader {
    /// The header's bytes and their checksum.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        KIND.header(|out| {
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
        })
    }

    /// Reads the header at the start of a file.
    pub(super) fn decode(file: &[u8]) -> Result<(Self, u32), FaultKind> {
        let (header, sum) = KIND.read_header(file, Self::read)?;
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

impl framed::Entry for Entry {
    const BYTES: usize = 8;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.items);
        out.put_u32_le(self.table);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { items: r.u32()?, table: r.u32()? })
    }
}

impl framed::Totals for Totals {
    fn put(&self, file_bytes: u64, out: &mut Vec<u8>) {
        out.put_u64_le(self.rows);
        out.put_u64_le(self.deleted);
        out.put_u64_le(self.others);
        out.put_u64_le(file_bytes);
    }

    fn read(r: &mut Reader<'_>) -> Result<(Self, u64), WireError> {
        let totals = Self { rows: r.u64()?, deleted: r.u64()?, others: r.u64()? };
        Ok((totals, r.u64()?))
    }
}
