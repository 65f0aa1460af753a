//! Reading a finished checkpoint in place, from a slice that may be memory-mapped.
//!
//! [`CheckpointFile::open`] checks header, trailer and index, which are small. Each block is
//! checked when its items are asked for; blocks do not depend on each other, so many threads may
//! load one file. No item is copied.
//!
//! Invariant: an item is handed out only from a block that matches its checksum. Whoever meets a
//! fault in a later block must throw away what he has loaded.

use std::marker::PhantomData;

use lockstep_proto::ids::{ClusterId, Epoch, NodeId, PartitionId, SchemaVersion, TableId};
use lockstep_proto::wire::bytes::Reader;

use super::format::{
    BlockHeader, BlockKind, CheckpointHeader, DELETED, Entry, KIND, ROW_HEADER_BYTES, Totals,
};
use crate::disk::{CheckpointName, FaultKind, FileFault, FileName};
use crate::framed::{Framed, RawBlock};
use lockstep_proto::generations::Generations;

/// Whose files they must be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// What counts of which restart generation.
    pub generations: Generations,
}

/// A complete checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointFile<'a> {
    header: CheckpointHeader,
    framed: Framed<'a, Entry, Totals>,
    trusted: bool,
}

/// A block, not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    raw: RawBlock<'a, Entry>,
    trusted: bool,
}

/// A row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredRow<'a> {
    /// When it was last written.
    pub epoch: Epoch,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded value; `None`: it was deleted.
    pub value: Option<&'a [u8]>,
}

/// A table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredTable<'a> {
    /// Which.
    pub table: TableId,
    /// The version of its schema.
    pub schema: SchemaVersion,
    /// Its definition, for `TableDef::decode`.
    pub definition: &'a [u8],
}

/// What a block holds, each kind to be walked without copying.
#[derive(Clone, Copy, Debug)]
pub enum Items<'a> {
    /// Definitions of tables.
    Tables(Walk<'a, StoredTable<'a>>),
    /// Rows of one table and version of its schema.
    Rows(TableId, SchemaVersion, Walk<'a, StoredRow<'a>>),
    /// Records of prepared transactions.
    Prepared(Walk<'a, &'a [u8]>),
    /// Pieces for `Outcomes::load`.
    Outcomes(Walk<'a, &'a [u8]>),
}

/// What a block can hold.
pub trait StoredItem<'a>: Sized {
    /// Takes an item off the front; `None` if there is none.
    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])>;
}

/// The items of a block that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a, T> {
    rest: &'a [u8],
    left: u32,
    items: PhantomData<T>,
}

impl<'a, T: StoredItem<'a>> Walk<'a, T> {
    /// All items of a block; `None` if they are not as many as it says.
    fn new(bytes: &'a [u8], count: u32) -> Option<Self> {
        let all = Self { rest: bytes, left: count, items: PhantomData };
        let mut walk = Self { ..all };
        walk.by_ref().for_each(drop);
        (walk.left == 0 && walk.rest.is_empty()).then_some(all)
    }
}

impl<'a, T: StoredItem<'a>> Iterator for Walk<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        let left = self.left.checked_sub(1)?;
        let (item, rest) = T::take(self.rest)?;
        (self.rest, self.left) = (rest, left);
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl<'a> CheckpointFile<'a> {
    /// Opens a file that lies under this name.
    ///
    /// # Errors
    /// What is wrong, if it is not a complete checkpoint of this node's under its own name.
    pub fn open(
        expected: &Expected,
        name: CheckpointName,
        bytes: &'a [u8],
    ) -> Result<Self, FileFault> {
        let file = FileName::Checkpoint(name);
        let whole = |kind| FileFault::whole(file, kind);
        let (header, checksum) = CheckpointHeader::decode(bytes).map_err(whole)?;
        if let Some(kind) = foreign(expected, name, &header) {
            return Err(whole(kind));
        }
        let framed = Framed::open(&KIND, file, bytes, checksum)?;
        Ok(Self { header, framed, trusted: false })
    }

    /// The same, its blocks taken for what was written. A bug, for the canary.
    pub(crate) fn trusted(self) -> Self {
        Self { trusted: true, ..self }
    }

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &CheckpointHeader {
        &self.header
    }

    /// How many rows are in it, and how many deleted ones.
    #[must_use]
    pub fn rows(&self) -> (u64, u64) {
        (self.framed.totals.rows, self.framed.totals.deleted)
    }

    /// Its blocks, in the order in which they were written.
    pub fn blocks(&self) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let trusted = self.trusted;
        self.framed.blocks().map(move |raw| Block { raw, trusted })
    }

    /// How many rows of a table there are, deleted ones among them: never more than would fit their
    /// blocks, whatever the index says.
    #[must_use]
    pub fn rows_of(&self, table: TableId) -> usize {
        let own = self.framed.entries().filter(|(entry, _)| entry.table == table.0);
        own.map(|(entry, bytes)| (entry.items as usize).min(bytes as usize / ROW_HEADER_BYTES))
            .sum()
    }
}

impl<'a> Block<'a> {
    /// Whether it has rows, if it is what was written.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.raw.bytes.first() == Some(&(BlockKind::Rows as u8))
    }

    /// Checks the block and gives what is in it.
    ///
    /// # Errors
    /// If it is not what was written.
    pub fn items(&self) -> Result<Items<'a>, FileFault> {
        let fault = |what| self.raw.fault(what);
        if !self.raw.is_as_written() && !self.trusted {
            return Err(fault("a block does not match its checksum"));
        }
        let mut reader = Reader::new(self.raw.bytes);
        let Ok(header) = BlockHeader::read(&mut reader) else {
            return Err(fault("a block of a kind that does not exist"));
        };
        let Entry { items: count, .. } = self.raw.entry;
        if header.items != count {
            return Err(fault("a block with another number of items than the index says"));
        }
        let bytes = reader.rest();
        let (table, schema) = (TableId(header.table), SchemaVersion(header.schema));
        let items = match header.kind {
            BlockKind::Tables => Walk::new(bytes, count).map(Items::Tables),
            BlockKind::Rows => Walk::new(bytes, count).map(|rows| Items::Rows(table, schema, rows)),
            BlockKind::Prepared => Walk::new(bytes, count).map(Items::Prepared),
            BlockKind::Outcomes => Walk::new(bytes, count).map(Items::Outcomes),
        };
        items.ok_or_else(|| fault("a block whose items do not fill it"))
    }
}

fn foreign(
    expected: &Expected,
    name: CheckpointName,
    header: &CheckpointHeader,
) -> Option<FaultKind> {
    if header.cluster != expected.cluster {
        return Some(FaultKind::OtherCluster(header.cluster));
    }
    if header.node != expected.node {
        return Some(FaultKind::OtherNode(header.node));
    }
    if header.name != name {
        return Some(FaultKind::Misnamed(FileName::Checkpoint(header.name)));
    }
    if expected.generations.limit(name.generation).is_none() {
        return Some(FaultKind::OtherGeneration(name.generation));
    }
    let fits = header.partitions == expected.partitions
        && name.partition < PartitionId(expected.partitions);
    (!fits).then_some(FaultKind::Damaged("a partition that the cluster does not have"))
}

impl<'a> StoredItem<'a> for StoredRow<'a> {
    #[inline]
    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let epoch = Epoch(u64::from_le_bytes(*head.first_chunk()?));
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let key = usize::from(u16::from_le_bytes([head[12], head[13]]));
        let (key, rest) = rest.split_at_checked(key)?;
        if length == DELETED {
            return Some((Self { epoch, key, value: None }, rest));
        }
        let (value, rest) = rest.split_at_checked(length as usize)?;
        Some((Self { epoch, key, value: Some(value) }, rest))
    }
}

impl<'a> StoredItem<'a> for &'a [u8] {
    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (length, rest) = bytes.split_first_chunk()?;
        rest.split_at_checked(u32::from_le_bytes(*length) as usize)
    }
}

impl<'a> StoredItem<'a> for StoredTable<'a> {
    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (item, rest) = <&[u8]>::take(bytes)?;
        let mut reader = Reader::new(item);
        let (table, schema) = (reader.table().ok()?, SchemaVersion(reader.u32().ok()?));
        Some((Self { table, schema, definition: reader.rest() }, rest))
    }
}
