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

use bytes::BufMut;
use lockstep_proto::ids::{PartitionId, SchemaVersion, TableId};
use lockstep_proto::limits::BACKUP_BLOCK_BYTES;
use lockstep_proto::wire::backup::PartSum;

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Entry, KIND, Packing, PartHeader, ROW_HEADER_BYTES, Totals,
};
use crate::disk::{Completion, Directory, DiskError, FileName, Op, Request};
use crate::framed::{Framer, Progress};

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
    framer: Framer,
    block_bytes_max: usize,
    /// The block being filled, unpacked.
    open: BlockHeader,
    rows: Vec<u8>,
    totals: Totals,
    /// Length and checksum of the file, once they are known.
    whole: (u64, u32),
    finished: bool,
    state: PartState,
}

impl PartWriter {
    /// Begins a part; `at` is the operator's directory.
    #[must_use]
    pub fn new(header: PartHeader, at: Option<String>) -> Self {
        let file = FileName::Unfinished(header.name);
        let locate = Op::Locate { backup: header.name.backup, at };
        Self {
            header,
            framer: Framer::new(&KIND, file, header.encode(), Some(locate)),
            block_bytes_max: BACKUP_BLOCK_BYTES,
            open: empty(PartitionId(0), TableId(0), SchemaVersion(0)),
            rows: Vec::new(),
            totals: Totals::default(),
            whole: (0, 0),
            finished: false,
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
    pub fn state(&self) -> PartState {
        self.state
    }

    /// What has been put into it so far; for the whole, once it is done.
    #[must_use]
    pub fn sum(&self) -> PartSum {
        PartSum {
            rows: self.totals.rows,
            row_bytes: self.totals.row_bytes,
            file_bytes: self.whole.0,
            checksum: self.whole.1,
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
        let name = self.header.name;
        let directory = Directory::Backup(name.backup);
        self.whole = self.framer.finish(&self.totals, FileName::Part(name), directory);
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
        let name = self.header.name;
        self.framer.remove([FileName::Unfinished(name), FileName::Part(name)]);
        self.finished = true;
    }

    /// The next thing to do, unless something is being done or nothing is to be.
    pub fn next_request(&mut self) -> Option<Request> {
        self.framer.next_request()
    }

    /// A request was executed, or a part of it.
    pub fn on_done(&mut self, done: Completion) {
        let progress = self.framer.on_done(done);
        if self.state != PartState::Writing {
            return;
        }
        match progress {
            Progress::Going => {}
            Progress::Whole => self.state = PartState::Done,
            Progress::Broken(broken) => self.remove(Some(broken.error)),
        }
    }

    /// Ends the block being filled.
    fn seal(&mut self) {
        if self.rows.is_empty() || self.state != PartState::Writing {
            return self.rows.clear();
        }
        let mut header = self.open;
        header.unpacked = self.rows.len() as u32;
        let mut bytes = self.framer.buffer();
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
        let BlockHeader { rows, table, unpacked, partition, .. } = header;
        self.framer.block(bytes, &Entry { rows, table, unpacked, partition });
        self.open.rows = 0;
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
