//! Writing the redo log of one shard.
//!
//! Inputs: [`RedoWriter::push`] a record, [`RedoWriter::close`] an epoch, [`RedoWriter::flush`],
//! [`RedoWriter::on_done`] of a request, [`RedoWriter::retry`] after the disk was full. Outputs, to
//! be asked for after any input: [`RedoWriter::next_request`]. Getters: what is durable, how much
//! waits, whether the log still takes anything.
//!
//! ```text
//!           ENOSPC                   any other failure, or a failed sync
//!  Running ───────► Full    Running ─────────────────────────────────────► Broken
//!     ▲              │ retry
//!     └──────────────┘
//! ```
//!
//! A record is copied once, from the log in memory into the group being filled; the group then goes
//! to the disk thread as it is. After a failed sync nobody knows which pages are lost, and the next
//! sync may well succeed, so nothing is ever reported durable again: the node stops, or as the last
//! one of its group goes on with its durable epoch frozen.
//!
//! Invariant: `durable()` is a mark of a group that is synced, as are all groups before it.

use std::collections::VecDeque;

use bytes::BufMut;
use lockstep_proto::ids::{Epoch, Incarnation, ShardId};
use lockstep_proto::limits::{REDO_GROUP_BYTES, REDO_SEGMENT_BYTES};
use lockstep_proto::record;

use super::format::{
    FRAME_BYTES, GROUP_HEADER_BYTES, GroupHeader, HEADER_BYTES, LogIdentity, SegmentHeader,
    add_frame, padding, salt,
};
use crate::disk::{Broken, Completion, Directory, DiskError, FileName, Op, Request, SegmentName};

/// Buffers kept for the next groups.
const SPARES_MAX: usize = 4;

/// Whether the log takes what it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriterState {
    /// All is well.
    Running,
    /// The disk is full; waits for `retry`. What is pushed piles up in memory.
    Full,
    /// Nothing more will be written or become durable.
    Broken(Broken),
}

/// A group that waits to be written.
struct Group {
    header: GroupHeader,
    bytes: Vec<u8>,
}

/// The segment that is being written.
struct Segment {
    name: SegmentName,
    end: u64,
    /// The highest epoch of a record in it and all before it.
    epoch_max: Epoch,
    /// Groups have been written since its last sync.
    dirty: bool,
}

/// See the module text.
pub struct RedoWriter {
    identity: LogIdentity,
    incarnation: Incarnation,
    shard: ShardId,
    segment_bytes_max: u64,
    group_bytes_max: usize,

    /// The group being filled; its header is filled in when it is sealed.
    open: Group,
    sealed: VecDeque<Group>,
    spares: Vec<Vec<u8>>,
    /// The highest epoch closed; the next group to be sealed says so.
    closed: Epoch,
    closed_sealed: Epoch,
    groups: u64,
    waiting_bytes: usize,
    sync_wanted: bool,

    current: Option<Segment>,
    /// The segment before the current one, until that is durable: it may not go before.
    replaced: Option<(SegmentName, Epoch)>,
    /// Segments written to their end, each with the highest epoch in it and before it.
    finished: VecDeque<(SegmentName, Epoch)>,
    /// What is out, in the order of its writes of groups; empty if nothing is.
    out: VecDeque<GroupHeader>,
    waits: bool,
    /// What is left of a request that met a full disk.
    again: Option<Request>,
    written: u64,
    synced: u64,
    closed_written: Epoch,
    durable: Epoch,
    state: WriterState,
}

impl RedoWriter {
    /// The log of a shard in one life of its node; nothing of that life may be on the disk.
    #[must_use]
    pub fn new(identity: LogIdentity, incarnation: Incarnation, shard: ShardId) -> Self {
        Self {
            identity,
            incarnation,
            shard,
            segment_bytes_max: REDO_SEGMENT_BYTES,
            group_bytes_max: REDO_GROUP_BYTES,
            open: Group { header: GroupHeader::default(), bytes: Vec::new() },
            sealed: VecDeque::new(),
            spares: Vec::new(),
            closed: identity.base,
            closed_sealed: identity.base,
            groups: 0,
            waiting_bytes: 0,
            sync_wanted: false,
            current: None,
            replaced: None,
            finished: VecDeque::new(),
            out: VecDeque::new(),
            waits: false,
            again: None,
            written: 0,
            synced: 0,
            closed_written: identity.base,
            durable: identity.base,
            state: WriterState::Running,
        }
    }

    /// The same with other sizes, for tests.
    #[must_use]
    pub fn with_sizes(mut self, segment_bytes_max: u64, group_bytes_max: usize) -> Self {
        (self.segment_bytes_max, self.group_bytes_max) = (segment_bytes_max, group_bytes_max);
        self
    }

    /// Takes a record as it lies in the partition log. A broken log ignores it.
    pub fn push(&mut self, record: &[u8]) {
        if self.is_broken() {
            return;
        }
        let length = u32::try_from(record.len()).expect("records fit a frame");
        let epoch = record::epoch(record).expect("what is in a log is a record");
        let Group { header, bytes } = &mut self.open;
        if header.records == 0 {
            // Room for the whole group at once, unless its last record is a large one.
            bytes.resize(GROUP_HEADER_BYTES, 0);
            bytes.reserve_exact(self.group_bytes_max);
        }
        header.records += 1;
        header.frames = add_frame(header.frames, length, record::checksum(record));
        header.epoch_max = header.epoch_max.max(epoch);
        bytes.put_u32_le(length);
        bytes.extend_from_slice(record);
        self.waiting_bytes += FRAME_BYTES + record.len();
        if bytes.len() >= self.group_bytes_max {
            self.seal();
        }
    }

    /// An epoch is closed, and everything up to it is on this disk once all that was pushed until
    /// now is. While a node is still copying what it missed, this is not so and must not be said.
    pub fn close(&mut self, epoch: Epoch) {
        self.closed = self.closed.max(epoch);
    }

    /// Asks that all pushed and closed so far become durable soon.
    pub fn flush(&mut self) {
        if self.is_broken() {
            return;
        }
        if self.open.header.records > 0 || self.closed > self.closed_sealed {
            self.seal();
        }
        self.sync_wanted |= self.synced < self.groups;
    }

    /// The next thing to do, unless something is being done or nothing can be.
    pub fn next_request(&mut self) -> Option<Request> {
        if self.waits || self.state != WriterState::Running {
            return None;
        }
        let request = match self.again.take() {
            Some(request) => request,
            None => self.compose()?,
        };
        self.waits = true;
        Some(request)
    }

    /// A request was executed, or a part of it.
    pub fn on_done(&mut self, done: Completion) {
        assert!(std::mem::take(&mut self.waits), "an answer to nothing");
        let taken = done.failed.map_or(done.ops.len(), |(at, _)| at);
        let mut ops = done.ops.into_iter();
        ops.by_ref().take(taken).for_each(|op| self.on_taken(op));
        let Some((_, error)) = done.failed else { return };
        let rest: Vec<Op> = ops.collect();
        let failed = rest.first().expect("a failure names its step");
        if error == DiskError::Full && matches!(failed, Op::Create(_) | Op::Write { .. }) {
            self.again = Some(Request { ops: rest });
            self.state = WriterState::Full;
        } else {
            self.state = WriterState::Broken(Broken { file: failed.file(), error });
            self.sealed.clear();
            self.out.clear();
            self.waiting_bytes = 0;
        }
    }

    /// The disk was full: tries again where it stopped.
    pub fn retry(&mut self) {
        if self.state == WriterState::Full {
            self.state = WriterState::Running;
        }
    }

    /// Checkpoints hold everything up to `covered`: forgets the segments that are not needed beside
    /// them, and names them to be removed.
    pub fn remove_covered(&mut self, covered: Epoch) -> Vec<FileName> {
        let mut removed = Vec::new();
        while let Some((name, epoch_max)) = self.finished.front() {
            if *epoch_max > covered {
                break;
            }
            removed.push(FileName::Segment(*name));
            self.finished.pop_front();
        }
        removed
    }

    /// The highest epoch in the oldest segment that has been written to its end: checkpoints of
    /// that epoch would let it go.
    #[must_use]
    pub fn oldest_finished(&self) -> Option<Epoch> {
        self.finished.front().map(|(_, epoch_max)| *epoch_max)
    }

    /// The highest epoch that is on this disk with everything before it.
    #[must_use]
    pub fn durable(&self) -> Epoch {
        self.durable
    }

    /// Whether it works.
    #[must_use]
    pub fn state(&self) -> WriterState {
        self.state
    }

    /// Bytes of records that are not written yet: what slows writers down when it grows.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, WriterState::Broken(_))
    }

    /// Ends the group being filled.
    fn seal(&mut self) {
        let mut spare = self.spares.pop().unwrap_or_default();
        spare.clear();
        let next = Group { header: GroupHeader::default(), bytes: spare };
        let mut group = std::mem::replace(&mut self.open, next);
        if group.header.records == 0 {
            group.bytes.resize(GROUP_HEADER_BYTES, 0);
        }
        let bytes = group.bytes.len();
        group.header.bytes = u32::try_from(bytes - GROUP_HEADER_BYTES).expect("groups are bounded");
        group.header.number = self.groups;
        group.header.synced = self.synced;
        group.header.closed = self.closed;
        group.bytes.put_bytes(0, padding(bytes));
        self.closed_sealed = self.closed;
        self.groups += 1;
        self.sealed.push_back(group);
    }

    /// Everything that waits and fits the current segment, and the sync if one is wanted.
    fn compose(&mut self) -> Option<Request> {
        let mut ops = Vec::new();
        let first = self.sealed.front().map_or(0, |group| group.bytes.len() as u64);
        if first > 0 && !self.has_room(first) {
            self.switch(&mut ops);
        }
        while let Some(group) = self.sealed.front() {
            if !self.has_room(group.bytes.len() as u64) {
                break;
            }
            let group = self.sealed.pop_front().expect("looked at");
            ops.push(self.place(group));
        }
        let all = self.sealed.is_empty();
        if let Some(segment) = &mut self.current
            && self.sync_wanted
            && all
        {
            // Without anything new the sync asked for has been done on the way to this segment.
            if std::mem::take(&mut segment.dirty) {
                ops.push(Op::Sync(FileName::Segment(segment.name)));
            }
            self.sync_wanted = false;
        }
        (!ops.is_empty()).then_some(Request { ops })
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.current.as_ref().is_some_and(|segment| {
            let empty = segment.end == HEADER_BYTES as u64;
            empty || segment.end + bytes <= self.segment_bytes_max
        })
    }

    /// Ends the current segment, so that all in it is durable, and then begins the next.
    fn switch(&mut self, ops: &mut Vec<Op>) {
        let last = self.current.take();
        let (number, epoch_max) =
            last.as_ref().map_or((1, Epoch(0)), |last| (last.name.segment + 1, last.epoch_max));
        if let Some(last) = last {
            if last.dirty {
                ops.push(Op::Sync(FileName::Segment(last.name)));
            }
            self.replaced = Some((last.name, last.epoch_max));
        }
        let name =
            SegmentName { incarnation: self.incarnation, shard: self.shard, segment: number };
        let file = FileName::Segment(name);
        let header = SegmentHeader {
            identity: self.identity,
            name,
            group_first: self.written,
            closed_before: self.closed_written,
            epoch_max_before: epoch_max,
        };
        ops.extend([
            Op::Create(file),
            Op::Write { file, offset: 0, bytes: header.encode() },
            Op::Sync(file),
            Op::SyncDirectory(Directory::Redo),
        ]);
        let end = HEADER_BYTES as u64;
        self.current = Some(Segment { name, end, epoch_max, dirty: false });
    }

    /// Gives a group its place in the current segment.
    fn place(&mut self, mut group: Group) -> Op {
        let segment = self.current.as_mut().expect("there is room in it");
        let salt = salt(self.identity.cluster, self.identity.node, segment.name);
        group.header.put(&mut group.bytes, salt);
        let offset = segment.end;
        segment.end += group.bytes.len() as u64;
        segment.epoch_max = segment.epoch_max.max(group.header.epoch_max);
        segment.dirty = true;
        self.out.push_back(group.header);
        Op::Write { file: FileName::Segment(segment.name), offset, bytes: group.bytes }
    }

    /// One step of a request was taken.
    fn on_taken(&mut self, op: Op) {
        match op {
            Op::Write { offset, bytes, .. } if offset > 0 => {
                let group = self.out.pop_front().expect("groups are written in order");
                self.written += 1;
                self.closed_written = group.closed;
                self.waiting_bytes -= group.bytes as usize;
                if self.spares.len() < SPARES_MAX && bytes.capacity() <= self.group_bytes_max * 2 {
                    self.spares.push(bytes);
                }
            }
            // A header is written before its first sync, so a sync vouches for all written before.
            Op::Sync(_) => {
                self.synced = self.written;
                self.durable = self.closed_written;
            }
            Op::SyncDirectory(_) => self.finished.extend(self.replaced.take()),
            Op::Write { .. } | Op::Create(_) => {}
            Op::Rename { .. }
            | Op::Remove(_)
            | Op::Locate { .. }
            | Op::Clear { .. }
            | Op::RemoveEmpty(_) => unreachable!("never asked for"),
        }
    }
}
