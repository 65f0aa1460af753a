//! Writing a part.
//!
//! Inputs: rows, best with those of a partition and table together; then [`PartWriter::finish`];
//! [`PartWriter::on_done`] of a request. Output: [`PartWriter::next_request`]. Whoever has the rows
//! gives some whenever [`PartWriter::has_room`], so that a slow disk costs no memory and no pause
//! is longer than the packing of a block.
//!
//! ```text
//!  Writing ──(finish; all written, synced, renamed, directory synced)──► Done
//!     └──────(any failure, or abandon)──► Failed: the unfinished file is removed
//! ```
//! Invariant: the final name is given to a file only after all its bytes are synced.

use std::collections::VecDeque;

use bytes::BufMut;
use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
use lockstep_proto::limits::BACKUP_BLOCK_BYTES;
use lockstep_proto::wire::backup::PartSum;

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, INDEX_ENTRY_BYTES, IndexEntry, Packing, PartHeader,
    ROW_HEADER_BYTES, TRAILER_BYTES, Trailer, block_checksum,
};
use crate::disk::{Completion, Directory, DiskError, FileName, Op, Request};

/// Packed blocks that may wait for the disk.
const BLOCKS_WAITING_MAX: usize = 8;

/// How far a part is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartState {
    /// It takes rows, or is being written to the end.
    Writing,
    /// It is on the disk under its name.
    Done,
    /// It will not be, for what the disk has said if it was the disk; the request that follows
    /// removes what there is of it.
    Failed(Option<DiskError>),
}

/// See the module text.
pub struct PartWriter {
    header: PartHeader,
    file_checksum: u32,
    block_bytes_max: usize,
    /// The block being filled, unpacked.
    open: BlockHeader,
    rows: Vec<u8>,
    waiting: VecDeque<Op>,
    spares: Vec<Vec<u8>>,
    index: Vec<IndexEntry>,
    totals: Trailer,
    sum: u32,
    end: u64,
    finished: bool,
    waits: bool,
    state: PartState,
}

impl PartWriter {
    /// Begins a part; `at` is the operator's directory.
    #[must_use]
    pub fn new(header: PartHeader, at: Option<String>) -> Self {
        let file = FileName::Unfinished(header.name);
        let (bytes, file_checksum) = header.encode();
        let end = bytes.len() as u64;
        let backup = header.name.backup;
        let begin = [
            Op::Locate { backup, at },
            Op::Remove(file),
            Op::Create(file),
            Op::Write { file, offset: 0, bytes },
        ];
        Self {
            header,
            file_checksum,
            block_bytes_max: BACKUP_BLOCK_BYTES,
            open: empty(PartitionId(0), TableId(0), SchemaVersion(0)),
            rows: Vec::new(),
            waiting: VecDeque::from(begin),
            spares: Vec::new(),
            index: Vec::new(),
            totals: Trailer::default(),
            sum: 0,
            end,
            finished: false,
            waits: false,
            state: PartState::Writing,
        }
    }

    /// The same with smaller blocks, for tests.
    #[must_use]
    pub fn with_block_bytes(mut self, bytes_max: usize) -> Self {
        self.block_bytes_max = bytes_max;
        self
    }

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &PartHeader {
        &self.header
    }

    /// Whether it wants more just now. More is taken all the same, and kept in memory.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.len() < BLOCKS_WAITING_MAX
    }

    /// Whether it has been given everything, or wants nothing any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether nothing is out and nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.waits && self.waiting.is_empty()
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> PartState {
        self.state
    }

    /// What has been put into it so far; for the whole, once it is done.
    #[must_use]
    pub fn sum(&self) -> PartSum {
        PartSum {
            rows: self.totals.rows,
            row_bytes: self.totals.row_bytes,
            file_bytes: self.totals.file_bytes,
            checksum: self.sum,
        }
    }

    /// Adds a row as of the epoch.
    pub fn row(
        &mut self,
        partition: PartitionId,
        table: TableId,
        schema: SchemaVersion,
        key: &[u8],
        value: &[u8],
    ) {
        let BlockHeader { partition: p, table: t, schema: s, .. } = self.open;
        if (p, t, s) != (partition, table.0, schema.0) {
            self.seal();
            self.open = empty(partition, table, schema);
        }
        self.rows.put_u16_le(key.len() as u16);
        self.rows.put_u32_le(value.len() as u32);
        self.rows.put_slice(key);
        self.rows.put_slice(value);
        self.open.rows += 1;
        self.totals.rows += 1;
        self.totals.row_bytes += (key.len() + value.len()) as u64;
        if self.rows.len() + ROW_HEADER_BYTES >= self.block_bytes_max {
            self.seal();
        }
    }

    /// Nothing more is to be added.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.seal();
        let mut bytes = Vec::with_capacity(self.index.len() * INDEX_ENTRY_BYTES + TRAILER_BYTES);
        self.index.iter().for_each(|entry| entry.put(&mut bytes));
        self.totals.index_offset = self.end;
        self.totals.index_checksum = crc32c::crc32c_append(self.file_checksum, &bytes);
        self.totals.blocks = self.index.len() as u32;
        self.totals.file_bytes = self.end + (bytes.len() + TRAILER_BYTES) as u64;
        self.sum = self.totals.put(&mut bytes, self.file_checksum);
        let name = self.header.name;
        let (from, to) = (FileName::Unfinished(name), FileName::Part(name));
        self.waiting.extend([
            Op::Write { file: from, offset: self.end, bytes },
            Op::Sync(from),
            Op::Rename { from, to },
            Op::SyncDirectory(Directory::Backup(name.backup)),
        ]);
    }

    /// Gives it up, unless it is done.
    pub fn abandon(&mut self) {
        if self.state == PartState::Writing {
            self.remove(None);
        }
    }

    /// Ends after what there is of the file is removed, under either name.
    fn remove(&mut self, error: Option<DiskError>) {
        self.state = PartState::Failed(error);
        self.rows = Vec::new();
        self.waiting.clear();
        let name = self.header.name;
        self.waiting.push_back(Op::Remove(FileName::Unfinished(name)));
        self.waiting.push_back(Op::Remove(FileName::Part(name)));
        self.finished = true;
    }

    /// The next thing to do, unless something is being done or nothing is to be.
    pub fn next_request(&mut self) -> Option<Request> {
        if self.waits || self.waiting.is_empty() {
            return None;
        }
        self.waits = true;
        Some(Request { ops: self.waiting.drain(..).collect() })
    }

    /// A request was executed, or a part of it.
    pub fn on_done(&mut self, done: Completion) {
        assert!(std::mem::take(&mut self.waits), "an answer to nothing");
        if self.state != PartState::Writing {
            return;
        }
        if let Some((_, error)) = done.failed {
            return self.remove(Some(error));
        }
        if matches!(done.ops.last(), Some(Op::SyncDirectory(_))) {
            self.state = PartState::Done;
        }
        for op in done.ops {
            if let Op::Write { bytes, .. } = op
                && self.spares.len() < BLOCKS_WAITING_MAX
            {
                self.spares.push(bytes);
            }
        }
    }

    /// Ends the block being filled.
    fn seal(&mut self) {
        if self.rows.is_empty() || self.state != PartState::Writing {
            return self.rows.clear();
        }
        let mut header = self.open;
        header.unpacked = self.rows.len() as u32;
        let mut bytes = self.spares.pop().unwrap_or_default();
        bytes.resize(
            BLOCK_HEADER_BYTES + lz4_flex::block::get_maximum_output_size(self.rows.len()),
            0,
        );
        let packed = lz4_flex::block::compress_into(&self.rows, &mut bytes[BLOCK_HEADER_BYTES..]);
        match packed.ok().filter(|packed| *packed < self.rows.len()) {
            Some(packed) => {
                header.packing = Packing::Lz4;
                bytes.truncate(BLOCK_HEADER_BYTES + packed);
            }
            None => {
                bytes.truncate(BLOCK_HEADER_BYTES);
                bytes.extend_from_slice(&self.rows);
            }
        }
        self.rows.clear();
        header.put(&mut bytes);
        let offset = self.end;
        self.index.push(IndexEntry {
            offset,
            bytes: bytes.len() as u32,
            checksum: block_checksum(self.file_checksum, offset, &bytes),
            rows: header.rows,
            table: header.table,
            unpacked: header.unpacked,
            partition: header.partition,
        });
        self.open.rows = 0;
        self.end += bytes.len() as u64;
        let file = FileName::Unfinished(self.header.name);
        self.waiting.push_back(Op::Write { file, offset, bytes });
    }
}

fn empty(partition: PartitionId, table: TableId, schema: SchemaVersion) -> BlockHeader {
    BlockHeader {
        packing: Packing::None,
        partition,
        table: table.0,
        schema: schema.0,
        rows: 0,
        unpacked: 0,
    }
}
