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

use bytes::BufMut;
use lockstep_proto::ids::{Epoch, SchemaVersion, TableId};
use lockstep_proto::limits::CHECKPOINT_BLOCK_BYTES;

use super::format::{BlockHeader, BlockKind, CheckpointHeader, DELETED, Entry, KIND, Totals};
use crate::disk::{Broken, Completion, Directory, FileName, Request};
use crate::framed::{Framer, Progress};

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
    framer: Framer,
    block_bytes_max: usize,
    /// The block being filled; its kind, table and schema say what may be added.
    open: Option<(BlockHeader, Vec<u8>)>,
    totals: Totals,
    finished: bool,
    state: CheckpointState,
}

impl CheckpointWriter {
    /// Begins a checkpoint.
    #[must_use]
    pub fn new(header: CheckpointHeader) -> Self {
        let file = FileName::Partial(header.name);
        Self {
            header,
            framer: Framer::new(&KIND, file, header.encode(), None),
            block_bytes_max: CHECKPOINT_BLOCK_BYTES,
            open: None,
            totals: Totals::default(),
            finished: false,
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
        self.framer.waiting() < BLOCKS_WAITING_MAX
    }

    /// Whether it has been given everything, or wants nothing any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether nothing is out and nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.framer.is_idle()
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
        let name = FileName::Checkpoint(self.header.name);
        self.framer.finish(&self.totals, name, Directory::Checkpoint);
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
        self.framer.remove([FileName::Partial(self.header.name)]);
        self.finished = true;
    }

    /// The next thing to do, unless something is being done or nothing is to be.
    pub fn next_request(&mut self) -> Option<Request> {
        self.framer.next_request()
    }

    /// A request was executed, or a part of it.
    pub fn on_done(&mut self, done: Completion) {
        let progress = self.framer.on_done(done);
        if self.state != CheckpointState::Writing {
            // If the file cannot be removed now, the next start or the next attempt does it.
            return;
        }
        match progress {
            Progress::Going => {}
            Progress::Whole => self.state = CheckpointState::Done,
            Progress::Broken(broken) => self.remove(CheckpointState::Failed(broken)),
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
            let mut bytes = self.framer.buffer();
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
        self.framer.block(bytes, &Entry { items: header.items, table: header.table });
    }
}
