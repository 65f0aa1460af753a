//! Reading a finished part in place, from a slice that may be memory-mapped.
//!
//! [`PartFile::open`] checks header, trailer and index, which are small. Each block is checked
//! when its rows are asked for; blocks do not depend on each other, so many threads may read one
//! file.
//!
//! Invariant: a row is handed out only from a block that matches its checksum, and nothing is
//! unpacked beyond the limit, whatever the file claims.

use lockstep_proto::disk::PartName;
use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
use lockstep_proto::limits::BACKUP_BLOCK_BYTES_MAX;
use lockstep_proto::wire::backup::PartSum;
use lockstep_proto::wire::bytes::Reader;

use super::format::{BlockHeader, Entry, KIND, Packing, PartHeader, ROW_HEADER_BYTES, Totals};
use crate::disk::{FaultKind, FileFault, FileName};
use crate::framed::{Framed, RawBlock};

/// A complete part.
#[derive(Clone, Copy, Debug)]
pub struct PartFile<'a> {
    header: PartHeader,
    framed: Framed<'a, Entry, Totals>,
    bytes: u64,
}

/// A block, not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct PartBlock<'a>(RawBlock<'a, Entry>);

/// The rows of one table and version of its schema in one partition, unpacked.
#[derive(Default, Debug)]
pub struct Unpacked {
    bytes: Vec<u8>,
}

/// A row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredRow<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded value.
    pub value: &'a [u8],
}

/// The rows of a block that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Where they are.
    pub partition: PartitionId,
    /// Of which table.
    pub table: TableId,
    /// Of which version of its schema.
    pub schema: SchemaVersion,
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Rows<'a> {
    type Item = StoredRow<'a>;

    #[inline]
    fn next(&mut self) -> Option<StoredRow<'a>> {
        let left = self.left.checked_sub(1)?;
        let (head, rest) = self.rest.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let key = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let value = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let (key, rest) = rest.split_at_checked(key)?;
        let (value, rest) = rest.split_at_checked(value as usize)?;
        (self.rest, self.left) = (rest, left);
        Some(StoredRow { key, value })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl<'a> PartFile<'a> {
    /// Opens a file that lies under this name.
    ///
    /// # Errors
    /// What is wrong, if it is not a complete part under its own name.
    pub fn open(name: PartName, bytes: &'a [u8]) -> Result<Self, FileFault> {
        let file = FileName::Part(name);
        let (header, checksum) =
            PartHeader::decode(bytes).map_err(|kind| FileFault::whole(file, kind))?;
        if header.name != name {
            let kind = FaultKind::Misnamed(FileName::Part(header.name));
            return Err(FileFault::whole(file, kind));
        }
        let framed: Framed<'a, Entry, Totals> = Framed::open(&KIND, file, bytes, checksum)?;
        let rows: u64 = framed.entries().map(|(entry, _)| u64::from(entry.rows)).sum();
        if rows != framed.totals.rows {
            return Err(framed.index_fault());
        }
        Ok(Self { header, framed, bytes: bytes.len() as u64 })
    }

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &PartHeader {
        &self.header
    }

    /// What it says is in it.
    #[must_use]
    pub fn sum(&self) -> PartSum {
        PartSum {
            rows: self.framed.totals.rows,
            row_bytes: self.framed.totals.row_bytes,
            file_bytes: self.bytes,
            checksum: self.framed.sum,
        }
    }

    /// Its blocks, in the order in which they were written.
    pub fn blocks(&self) -> impl Iterator<Item = PartBlock<'a>> + use<'a> {
        self.framed.blocks().map(PartBlock)
    }
}

impl PartBlock<'_> {
    /// The partition it is of, as the index says.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.0.entry.partition
    }

    /// The table it is of, as the index says.
    #[must_use]
    pub fn table(&self) -> TableId {
        TableId(self.0.entry.table)
    }

    /// How many rows it has, as the index says.
    #[must_use]
    pub fn row_count(&self) -> u32 {
        self.0.entry.rows
    }

    /// How long they are, unpacked, as the index says.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u32 {
        self.0.entry.unpacked
    }

    /// Checks the block and gives its rows, unpacked into `room`.
    ///
    /// # Errors
    /// If it is not what was written.
    pub fn rows<'r>(&self, room: &'r mut Unpacked) -> Result<Rows<'r>, FileFault> {
        let fault = |what| self.0.fault(what);
        if !self.0.is_as_written() {
            return Err(fault("a block does not match its checksum"));
        }
        let mut reader = Reader::new(self.0.bytes);
        let Ok(header) = BlockHeader::read(&mut reader) else {
            return Err(fault("a block of a kind that does not exist"));
        };
        let Entry { rows, table, unpacked, partition } = self.0.entry;
        if (header.rows, header.table, header.unpacked, header.partition)
            != (rows, table, unpacked, partition)
        {
            return Err(fault("a block with other contents than the index says"));
        }
        let length = unpacked as usize;
        if length > BACKUP_BLOCK_BYTES_MAX {
            return Err(fault("a block that is too long"));
        }
        let packed = reader.rest();
        room.bytes.resize(length, 0);
        let got = match header.packing {
            Packing::None if packed.len() == length => {
                room.bytes.copy_from_slice(packed);
                Some(length)
            }
            Packing::None => None,
            Packing::Lz4 => lz4_flex::block::decompress_into(packed, &mut room.bytes).ok(),
        };
        if got != Some(length) {
            return Err(fault("a block that does not unpack to its length"));
        }
        let (table, schema) = (TableId(table), SchemaVersion(header.schema));
        let all = Rows { partition, table, schema, rest: &room.bytes, left: rows };
        let mut walk = all;
        walk.by_ref().for_each(drop);
        let whole = walk.left == 0 && walk.rest.is_empty();
        if whole { Ok(all) } else { Err(fault("a block whose rows do not fill it")) }
    }
}
