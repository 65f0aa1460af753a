//! Writing a checkpoint.
//!
//! Inputs: tables, rows, prepared records and outcomes in any order, best with those of a kind and
//! table together; then [`CheckpointWriter::finish`]; [`CheckpointWriter::on_done`] of a request.
//! Output: [`CheckpointWriter::next_request`]. Whoever has the rows gives some whenever
//! [`CheckpointWriter::has_room`], so that a slow disk costs no memory and no pause is longer than
//! the filling of a block.
//!
//! ```text
//!  Writing ──(finish; all written, synced, renamed, directory synced)──► Done
//!     ├──────(any failure)──► Failed: the partial file is removed, the older checkpoints stay
//!     └──────(abandon)──────► Abandoned: likewise
//! ```
//! Invariant: the final name is given to a file only after all its bytes are synced.

use std::collections::VecDeque;

use bytes::BufMut;
use lockstep_proto::ids::{Epoch, SchemaVersion, TableId};
use lockstep_proto::limits::CHECKPOINT_BLOCK_BYTES;

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, BlockKind, CheckpointHeader, DELETED, INDEX_ENTRY_BYTES,
    IndexEntry, TRAILER_BYTES, Trailer, block_checksum,
};
use crate::disk::{Broken, Completion, Directory, FileName, Op, Request};

/// Full blocks that may wait for the disk.
const BLOCKS_WAITING_MAX: usize = 4;

/// How far a checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointState {
    /// It takes rows, or is being written to the end.
    Writing,
    /// It is on the disk under its name.
    Done,
    /// It will not be; the disk may have a partial file, which is to be removed by the request that
    /// follows.
    Failed(Broken),
    /// It was given up; the request that follows removes the partial file.
    Abandoned,
}

/// See the module text.
pub struct CheckpointWriter {
    header: CheckpointHeader,
    file_checksum: u32,
    block_bytes_max: usize,
    /// The block being filled; its kind, table and schema say what may be added.
    open: Option<(BlockHeader, Vec<u8>)>,
    waiting: VecDeque<Op>,
    spares: Vec<Vec<u8>>,
    index: Vec<IndexEntry>,
    totals: Trailer,
    end: u64,
    finished: bool,
    waits: bool,
    state: CheckpointState,
}

impl CheckpointWriter {
    /// Begins a checkpoint.
    #[must_use]
    pub fn new(header: CheckpointHeader) -> Self {
        let file = FileName::Partial(header.name);
        let (bytes, file_checksum) = header.encode();
        let end = bytes.len() as u64;
        // One of the same name may be left from an attempt that failed.
        let begin = [Op::Remove(file), Op::Create(file), Op::Write { file, offset: 0, bytes }];
        Self {
            header,
            file_checksum,
            block_bytes_max: CHECKPOINT_BLOCK_BYTES,
            open: None,
            waiting: VecDeque::from(begin),
            spares: Vec::new(),
            index: Vec::new(),
            totals: Trailer::default(),
            end,
            finished: false,
            waits: false,
            state: CheckpointState::Writing,
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
    pub fn header(&self) -> &CheckpointHeader {
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
    pub fn state(&self) -> CheckpointState {
        self.state
    }

    /// Adds a table: its definition as `TableDef::encode` makes it.
    pub fn table(&mut self, table: TableId, schema: SchemaVersion, definition: &[u8]) {
        let out = self.item(BlockKind::Tables, TableId(0), SchemaVersion(0));
        out.put_u32_le(8 + definition.len() as u32);
        out.put_u32_le(table.0);
        out.put_u32_le(schema.0);
        out.put_slice(definition);
        self.totals.others += 1;
        self.end_item();
    }

    /// Adds a row as of the epoch, or with `None` that it was deleted in `epoch`.
    pub fn row(
        &mut self,
        table: TableId,
        schema: SchemaVersion,
        epoch: Epoch,
        key: &[u8],
        value: Option<&[u8]>,
    ) {
        let length = value.map_or(DELETED, |value| value.len() as u32);
        let out = self.item(BlockKind::Rows, table, schema);
        out.put_u64_le(epoch.0);
        out.put_u32_le(length);
        out.put_u16_le(key.len() as u16);
        out.put_slice(key);
        out.put_slice(value.unwrap_or_default());
        match value {
            Some(_) => self.totals.rows += 1,
            None => self.totals.deleted += 1,
        }
        self.end_item();
    }

    /// Adds the `Prepare` record of a transaction that is undecided as of the epoch.
    pub fn prepared(&mut self, record: &[u8]) {
        self.framed(BlockKind::Prepared, record);
    }

    /// Adds a piece of the outcome table.
    pub fn outcomes(&mut self, piece: &[u8]) {
        self.framed(BlockKind::Outcomes, piece);
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
        self.totals.put(&mut bytes, self.file_checksum);
        let (from, to) =
            (FileName::Partial(self.header.name), FileName::Checkpoint(self.header.name));
        self.waiting.extend([
            Op::Write { file: from, offset: self.end, bytes },
            Op::Sync(from),
            Op::Rename { from, to },
            Op::SyncDirectory(Directory::Checkpoint),
        ]);
    }

    /// Gives it up, unless it has been given everything.
    pub fn abandon(&mut self) {
        if self.state == CheckpointState::Writing && !self.finished {
            self.remove(CheckpointState::Abandoned);
        }
    }

    /// Ends in `state`, after the partial file is removed.
    fn remove(&mut self, state: CheckpointState) {
        self.state = state;
        self.open = None;
        self.waiting.clear();
        self.waiting.push_back(Op::Remove(FileName::Partial(self.header.name)));
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
        if self.state != CheckpointState::Writing {
            // If the file cannot be removed now, the next start or the next attempt does it.
            return;
        }
        if let Some((at, error)) = done.failed {
            let file = done.ops[at].file();
            self.remove(CheckpointState::Failed(Broken { file, error }));
            return;
        }
        if matches!(done.ops.last(), Some(Op::SyncDirectory(_))) {
            self.state = CheckpointState::Done;
        }
        for op in done.ops {
            if let Op::Write { bytes, .. } = op
                && self.spares.len() < BLOCKS_WAITING_MAX
            {
                self.spares.push(bytes);
            }
        }
    }

    /// Adds bytes with their length before them.
    fn framed(&mut self, kind: BlockKind, bytes: &[u8]) {
        let out = self.item(kind, TableId(0), SchemaVersion(0));
        out.put_u32_le(bytes.len() as u32);
        out.put_slice(bytes);
        self.totals.others += 1;
        self.end_item();
    }

    /// The block that takes an item of this kind.
    fn item(&mut self, kind: BlockKind, table: TableId, schema: SchemaVersion) -> &mut Vec<u8> {
        let wanted = BlockHeader { kind, table: table.0, schema: schema.0, items: 0 };
        let fits =
            |(header, _): &(BlockHeader, Vec<u8>)| BlockHeader { items: 0, ..*header } == wanted;
        if !self.open.as_ref().is_some_and(fits) {
            self.seal();
        }
        let (header, bytes) = self.open.get_or_insert_with(|| {
            let mut bytes = self.spares.pop().unwrap_or_default();
            bytes.clear();
            bytes.resize(BLOCK_HEADER_BYTES, 0);
            bytes.reserve(self.block_bytes_max);
            (wanted, bytes)
        });
        header.items += 1;
        bytes
    }

    fn end_item(&mut self) {
        let full = |(_, bytes): &(_, Vec<u8>)| bytes.len() >= self.block_bytes_max;
        if self.open.as_ref().is_some_and(full) {
            self.seal();
        }
    }

    /// Ends the block being filled.
    fn seal(&mut self) {
        let Some((header, mut bytes)) = self.open.take() else { return };
        if self.state != CheckpointState::Writing {
            return;
        }
        header.put(&mut bytes);
        let offset = self.end;
        self.index.push(IndexEntry {
            offset,
            bytes: bytes.len() as u32,
            checksum: block_checksum(self.file_checksum, offset, &bytes),
            items: header.items,
            table: header.table,
        });
        self.end += bytes.len() as u64;
        self.waiting.push_back(Op::Write {
            file: FileName::Partial(self.header.name),
            offset,
            bytes,
        });
    }
}
