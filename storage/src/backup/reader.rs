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

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, HEADER_BYTES, INDEX_ENTRY_BYTES, IndexEntry, Packing,
    PartHeader, ROW_HEADER_BYTES, TRAILER_BYTES, Trailer, block_checksum,
};
use crate::disk::{FaultKind, FileFault, FileName};

/// A complete part.
#[derive(Clone, Copy, Debug)]
pub struct PartFile<'a> {
    header: PartHeader,
    bytes: &'a [u8],
    index: &'a [u8],
    checksum: u32,
    sum: u32,
    trailer: Trailer,
}

/// A block, not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct PartBlock<'a> {
    name: PartName,
    entry: IndexEntry,
    bytes: &'a [u8],
    file: u32,
}

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
        let end = bytes.len().saturating_sub(TRAILER_BYTES);
        let Some((trailer, sum)) = Trailer::decode(bytes, checksum) else {
            return Err(FileFault::damaged(file, end, "no trailer for a file of this length"));
        };
        let index = usize::try_from(trailer.index_offset).ok().and_then(|at| bytes.get(at..end));
        let Some(index) = index else {
            return Err(FileFault::damaged(file, end, "an index outside the file"));
        };
        let at = end - index.len();
        let opened = Self { header, bytes, index, checksum, sum, trailer };
        let index_sum = crc32c::crc32c_append(checksum, index);
        if index_sum != trailer.index_checksum || !opened.is_seamless(at) {
            return Err(FileFault::damaged(file, at, "the index is not what was written"));
        }
        Ok(opened)
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
            rows: self.trailer.rows,
            row_bytes: self.trailer.row_bytes,
            file_bytes: self.trailer.file_bytes,
            checksum: self.sum,
        }
    }

    /// Its blocks, in the order in which they were written.
    pub fn blocks(&self) -> impl Iterator<Item = PartBlock<'a>> + use<'a> {
        let Self { header, bytes, checksum, .. } = *self;
        entries(self.index).map(move |entry| {
            let start = entry.offset as usize;
            let bytes = &bytes[start..start + entry.bytes as usize];
            PartBlock { name: header.name, entry, bytes, file: checksum }
        })
    }

    /// Whether the blocks fill the file from the header to the index, without gap or overlap.
    fn is_seamless(&self, index_at: usize) -> bool {
        let mut end = HEADER_BYTES as u64;
        let (mut count, mut rows) = (0, 0);
        for entry in entries(self.index) {
            if entry.offset != end || (entry.bytes as usize) < BLOCK_HEADER_BYTES {
                return false;
            }
            end += u64::from(entry.bytes);
            rows += u64::from(entry.rows);
            count += 1;
        }
        let whole = self.index.len() == count as usize * INDEX_ENTRY_BYTES;
        let counted = count == self.trailer.blocks && rows == self.trailer.rows;
        whole && end == index_at as u64 && counted
    }
}

impl PartBlock<'_> {
    /// The partition it is of, as the index says.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.entry.partition
    }

    /// The table it is of, as the index says.
    #[must_use]
    pub fn table(&self) -> TableId {
        TableId(self.entry.table)
    }

    /// How many rows it has, as the index says.
    #[must_use]
    pub fn row_count(&self) -> u32 {
        self.entry.rows
    }

    /// How long they are, unpacked, as the index says.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u32 {
        self.entry.unpacked
    }

    /// Checks the block and gives its rows, unpacked into `room`.
    ///
    /// # Errors
    /// If it is not what was written.
    pub fn rows<'r>(&self, room: &'r mut Unpacked) -> Result<Rows<'r>, FileFault> {
        let file = FileName::Part(self.name);
        let fault = |what| FileFault::damaged(file, self.entry.offset as usize, what);
        if block_checksum(self.file, self.entry.offset, self.bytes) != self.entry.checksum {
            return Err(fault("a block does not match its checksum"));
        }
        let mut reader = Reader::new(self.bytes);
        let Ok(header) = BlockHeader::read(&mut reader) else {
            return Err(fault("a block of a kind that does not exist"));
        };
        let IndexEntry { rows, table, unpacked, partition, .. } = self.entry;
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

fn entries(index: &[u8]) -> impl Iterator<Item = IndexEntry> + use<'_> {
    index
        .chunks_exact(INDEX_ENTRY_BYTES)
        .map_while(|bytes| IndexEntry::read(&mut Reader::new(bytes)).ok())
}
