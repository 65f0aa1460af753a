//! Parts of backups: what a management server wants of this shard's partitions as of a closed
//! epoch, in files.
//!
//! ```text
//!   Pin(E) ──► E is closed here ──► versions as of E are kept ──► Pinned
//!   Write(partitions) ──► a few rows a turn, while the disk keeps up ──► file ──► Wrote
//!   Keep ──► the files stay          the link ends before ──► they are removed
//! ```
//! Nothing waits for a backup, and no more than one is under way. A shard decides nothing: which
//! partitions it writes is the management server's business, which gives each to one replica that
//! has pinned the epoch.
//!
//! Invariants: a part has the state as of the pinned epoch and nothing else, or there is none; what
//! was not told to be kept goes with the link.

use std::collections::VecDeque;
use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::disk::{Completion, Directory, Lane, Op, PartName, Request};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{BackupId, Epoch, PartitionId, ShardId, TableId};
use lockstep_proto::limits::PARTITIONS_MAX;
use lockstep_proto::process::{Effect, LinkId, LogLevel, Outputs};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::time::Instant;
use lockstep_proto::wire::backup::{BackupMessage, PartError, PartSum};
use lockstep_proto::wire::codec;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::Position;
use lockstep_storage::backup::{PartHeader, PartState, PartWriter};

use super::ShardCore;
use super::apply::catalog_table;
use super::pace::Pace;
use super::partition::Partition;

/// How long a management server may be silent before its backup is given up here.
const SILENCE: Duration = Duration::from_secs(15);

/// How long the turn of a row is beside commits, and how much faster it goes without: most of the
/// processor is for commits.
const PACE: Duration = Duration::from_micros(16);
const FASTER_ALONE: u32 = 4;

/// Removals that may wait for the disk.
const CLEARINGS_MAX: usize = 16;

/// Files that may be wanted and not begun.
const PIECES_MAX: usize = 1024;

/// The partition whose copy of the catalog is backed up.
const CATALOG_OF: PartitionId = PartitionId(0);

/// A backup that is under way.
struct Active {
    backup: BackupId,
    link: LinkId,
    epoch: Epoch,
    dir: Option<String>,
    /// Files wanted and not begun.
    queue: VecDeque<(u32, Vec<PartitionId>)>,
    running: Option<Box<Running>>,
    /// Something was written, and nobody has said that it is to be kept.
    loose: bool,
    /// The newest file that was wanted.
    newest: u32,
    /// In files that are done.
    rows: u64,
    row_bytes: u64,
    heard: Instant,
}

/// The file that is being written.
struct Running {
    piece: u32,
    writer: PartWriter,
    /// Partitions that have not been given, the current one last.
    partitions: Vec<PartitionId>,
    /// Tables of the current partition whose rows are still to be given, the current one last;
    /// `None` before the first.
    tables: Option<Vec<TableId>>,
    at: Position,
    pace: Pace,
    /// Why it is given up.
    failed: Option<PartError>,
}

/// Files that are to be removed, and who wants to know.
struct Clearing {
    backup: BackupId,
    dir: Option<String>,
    shard: Option<ShardId>,
    tell: Option<LinkId>,
}

/// What the lane's request that is out is for.
enum Out {
    Writer(BackupId, u32),
    Clearing(BackupId, Option<LinkId>),
}

/// See the module text.
#[derive(Default)]
pub(super) struct Backups {
    active: Option<Active>,
    clearing: VecDeque<Clearing>,
    out: Option<Out>,
    /// Control was told that an epoch is pinned.
    told_pinned: bool,
}

impl Backups {
    /// When the core wants to go on without anything having happened.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let running = self.active.as_ref()?.running.as_ref()?;
        running.wants_rows().then_some(running.pace.due())
    }

    fn is_of(&self, link: LinkId, backup: BackupId) -> bool {
        self.active.as_ref().is_some_and(|active| (active.link, active.backup) == (link, backup))
    }
}

impl Running {
    fn wants_rows(&self) -> bool {
        let writing = self.writer.state() == PartState::Writing && !self.writer.is_finished();
        writing && self.writer.has_room()
    }
}

impl ShardCore {
    /// A frame of a management server.
    pub(super) fn on_backup_frame(&mut self, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        let Ok(message) = BackupMessage::parse(&bytes[1..]) else {
            return self.on_malformed(link, out);
        };
        if let Some(active) = self.backups.active.as_mut().filter(|active| active.link == link) {
            active.heard = self.now;
            self.snapshots.touch(active.epoch, link, self.now);
        }
        match message {
            BackupMessage::Ask { backup } => {
                let message = BackupMessage::Epoch { backup, epoch: self.epoch };
                tell(link, &message, out);
            }
            BackupMessage::Pin { backup, epoch, dir } => {
                self.on_pin(link, bytes, (backup, epoch, dir), out);
            }
            BackupMessage::Write { backup, piece, partitions } => {
                self.on_write(link, backup, piece, partitions, out);
            }
            BackupMessage::Alive { backup } if self.backups.is_of(link, backup) => {
                let (rows, row_bytes) = self.backed_up();
                tell(link, &BackupMessage::Going { backup, rows, row_bytes }, out);
            }
            BackupMessage::Keep { backup, newest } if self.backups.is_of(link, backup) => {
                let Some(active) = &mut self.backups.active else { return };
                active.loose &= active.newest != newest;
                tell(link, &BackupMessage::Kept { backup, newest }, out);
            }
            BackupMessage::End { backup } if self.backups.is_of(link, backup) => {
                self.backups.active = None;
                self.snapshots.forget_link(link);
            }
            BackupMessage::Clear { backup, dir } => self.on_clear(link, backup, dir, out),
            // The backup it is about is over here.
            BackupMessage::Alive { .. }
            | BackupMessage::Keep { .. }
            | BackupMessage::End { .. } => {
                out.mark("backup_message_too_late");
            }
            _ => self.on_malformed(link, out),
        }
    }

    fn on_pin(
        &mut self,
        link: LinkId,
        bytes: &[u8],
        (backup, epoch, dir): (BackupId, Epoch, Option<String>),
        out: &mut Outputs,
    ) {
        let refuse = |refused, out: &mut Outputs| {
            tell(link, &BackupMessage::Pinned { backup, epoch, refused: Some(refused) }, out);
        };
        if let Some(other) = self.backups.active.as_ref().filter(|active| active.link != link) {
            out.mark("backup_refused_beside_another");
            return refuse(PartError::Other(other.backup), out);
        }
        if let Err(code) = self.admit_past(epoch) {
            return refuse(PartError::Refused(code), out);
        }
        if epoch > self.closed {
            out.mark("backup_waits_for_close");
            return self.snapshots.wait_with_frame(epoch, link, bytes, &mut self.redo);
        }
        // What it has written before, as of an earlier epoch, is not wanted any more, promised or
        // not.
        if let Some(active) = &mut self.backups.active {
            active.loose |= active.newest > 0;
        }
        self.end_backup(out);
        if !self.snapshots.pin(epoch, link, self.now) {
            return refuse(PartError::Refused(Code::SnapshotTooOld), out);
        }
        self.backups.active = Some(Active {
            backup,
            link,
            epoch,
            dir,
            queue: VecDeque::new(),
            running: None,
            loose: false,
            newest: 0,
            rows: 0,
            row_bytes: 0,
            heard: self.now,
        });
        tell(link, &BackupMessage::Pinned { backup, epoch, refused: None }, out);
    }

    fn on_write(
        &mut self,
        link: LinkId,
        backup: BackupId,
        piece: u32,
        partitions: Vec<PartitionId>,
        out: &mut Outputs,
    ) {
        let active = self.backups.active.as_mut();
        let active = active.filter(|active| (active.link, active.backup) == (link, backup));
        let Some(active) = active.filter(|active| active.queue.len() < PIECES_MAX) else {
            let result = Err(PartError::Refused(Code::SnapshotTooOld));
            return tell(link, &BackupMessage::Wrote { backup, piece, result }, out);
        };
        if partitions.len() > PARTITIONS_MAX {
            return self.on_malformed(link, out);
        }
        (active.loose, active.newest) = (true, piece);
        active.queue.push_back((piece, partitions));
    }

    fn on_clear(&mut self, link: LinkId, backup: BackupId, dir: Option<String>, out: &mut Outputs) {
        if self.backups.is_of(link, backup) {
            self.backups.active = None;
            self.snapshots.forget_link(link);
        } else if self.backups.active.as_ref().is_some_and(|active| active.backup == backup) {
            // Another server would name what is removed here.
            out.mark("backup_removal_refused");
            let failed = Some(PartError::Other(backup));
            return tell(link, &BackupMessage::Cleared { backup, failed }, out);
        }
        // The first shard also removes what is there of shards that the node no longer has.
        let shard = (self.me.shard.0 > 0).then_some(self.me.shard);
        self.clear_backup(Clearing { backup, dir, shard, tell: Some(link) }, out);
    }

    fn clear_backup(&mut self, clearing: Clearing, out: &mut Outputs) {
        if self.backups.clearing.len() >= CLEARINGS_MAX {
            out.mark("backup_clearing_dropped");
            return;
        }
        self.backups.clearing.push_back(clearing);
    }

    /// A link of a management server has ended.
    pub(super) fn forget_backup_of(&mut self, link: LinkId, out: &mut Outputs) {
        self.snapshots.forget_link(link);
        if self.backups.active.as_ref().is_some_and(|active| active.link == link) {
            out.mark("backup_ends_with_its_link");
            self.end_backup(out);
        }
    }

    /// Looks whether the one who wanted a backup is still there.
    pub(super) fn watch_backup(&mut self, out: &mut Outputs) {
        let Some(active) = &self.backups.active else { return };
        if self.now.since(active.heard) >= SILENCE {
            let (link, why) = (active.link, "nothing was heard of its backup");
            out.effect(Effect::Close { link, why });
            self.forget_backup_of(link, out);
        }
    }

    /// Ends what is under way, and removes what nobody has said is to be kept.
    fn end_backup(&mut self, out: &mut Outputs) {
        let Some(active) = self.backups.active.take() else { return };
        self.snapshots.forget_link(active.link);
        if active.loose {
            out.mark("backup_files_removed");
            let text = format!("backup {} is given up: its files here are removed", active.backup);
            out.log(LogLevel::Warn, text);
            let (backup, shard) = (active.backup, Some(self.me.shard));
            self.clear_backup(Clearing { backup, dir: active.dir, shard, tell: None }, out);
        }
    }

    /// Rows given to files so far, and their bytes.
    fn backed_up(&self) -> (u64, u64) {
        let Some(active) = &self.backups.active else { return (0, 0) };
        let sum = active.running.as_ref().map(|running| running.writer.sum());
        let (rows, bytes) = sum.map_or((0, 0), |sum| (sum.rows, sum.row_bytes));
        (active.rows + rows, active.row_bytes + bytes)
    }

    /// The end of a turn: gives the running part a few rows, and the disk its requests.
    pub(super) fn settle_backup(&mut self, out: &mut Outputs) {
        let pinned = self.backups.active.is_some();
        if pinned != self.backups.told_pinned {
            self.backups.told_pinned = pinned;
            self.report(&ShardControl::BackupPinned { pinned }, out);
        }
        if self.backups.active.is_none() && self.backups.clearing.is_empty() {
            return;
        }
        self.begin_part();
        self.give_part();
        let Backups { active, clearing, out: busy, .. } = &mut self.backups;
        if busy.is_some() {
            return;
        }
        if let Some(next) = clearing.pop_front() {
            let Clearing { backup, dir, shard, tell } = next;
            let node = self.me.instance.node;
            let mut ops = vec![
                Op::Locate { backup, at: dir },
                Op::Clear { backup, node, shard },
                // Or they are back after a loss of power, when nobody knows of them any more.
                Op::SyncDirectory(Directory::Backup(backup)),
            ];
            // Otherwise it may be about to be written to again, and others may share it.
            ops.extend(tell.map(|_| Op::RemoveEmpty(backup)));
            *busy = Some(Out::Clearing(backup, tell));
            return out.effect(Effect::Disk { lane: Lane::Backup, request: Request { ops } });
        }
        let Some(active) = active else { return };
        let Some(running) = &mut active.running else { return };
        if let Some(request) = running.writer.next_request() {
            *busy = Some(Out::Writer(active.backup, running.piece));
            out.effect(Effect::Disk { lane: Lane::Backup, request });
        }
    }

    /// Begins the next file that is wanted.
    fn begin_part(&mut self) {
        let (Some(active), Some(view)) = (&mut self.backups.active, &self.view) else { return };
        if active.running.is_some() {
            return;
        }
        let Some((piece, mut partitions)) = active.queue.pop_front() else { return };
        partitions.reverse();
        let header = PartHeader {
            cluster: view.cluster,
            incarnation: self.me.instance.incarnation,
            name: PartName {
                backup: active.backup,
                node: self.me.instance.node,
                shard: self.me.shard,
                piece,
            },
            epoch: active.epoch,
            generation: view.restart_generation,
            partitions: view.config.partitions,
            base: None,
        };
        active.running = Some(Box::new(Running {
            piece,
            writer: PartWriter::new(header, active.dir.clone()),
            partitions,
            tables: None,
            at: Position::default(),
            pace: Pace::new(PACE, self.now).faster_alone(FASTER_ALONE),
            failed: None,
        }));
    }

    /// Gives the file that is being written a few rows.
    fn give_part(&mut self) {
        let Some(mut active) = self.backups.active.take() else { return };
        if let Some(running) = &mut active.running
            && running.wants_rows()
            && let Some(rows) = running.pace.take(self.now, self.busy)
        {
            let epoch = active.epoch;
            self.snapshots.touch(epoch, active.link, self.now);
            let hasty = self.canary == Some(Canary::BackupOfNow);
            let read_at = if hasty { Epoch(u64::MAX) } else { epoch };
            let given = match running.partitions.last() {
                Some(p) => self.has_past(*p, epoch).map_err(PartError::Refused),
                None => Ok(()),
            };
            let parts = &mut self.parts;
            let given = given.and_then(|()| running.give_rows(parts, (epoch, read_at), rows));
            if let Err(error) = given {
                running.failed = Some(error);
                running.writer.abandon();
            }
        }
        self.backups.active = Some(active);
    }

    /// A request of the lane was executed, or a part of it.
    pub(super) fn on_backup_done(&mut self, done: Completion, out: &mut Outputs) {
        match self.backups.out.take() {
            Some(Out::Clearing(backup, to)) => {
                let failed = done.failed.map(|(_, error)| PartError::Disk(error));
                if let Some(link) = to {
                    tell(link, &BackupMessage::Cleared { backup, failed }, out);
                }
            }
            Some(Out::Writer(backup, piece)) => {
                let active = self.backups.active.as_mut();
                let Some(active) = active.filter(|active| active.backup == backup) else { return };
                let Some(running) = active.running.as_mut().filter(|r| r.piece == piece) else {
                    return;
                };
                running.writer.on_done(done);
                let result = match running.writer.state() {
                    PartState::Done => Ok(running.writer.sum()),
                    PartState::Failed(error) if running.writer.is_idle() => {
                        Err(running.failed.or(error.map(PartError::Disk)).unwrap_or(
                            // Nothing else ends it.
                            PartError::Refused(Code::SnapshotTooOld),
                        ))
                    }
                    PartState::Writing | PartState::Failed(_) => return,
                };
                self.end_part(piece, result, out);
            }
            None => self.broken("a disk answers that was not asked".to_owned(), out),
        }
    }

    fn end_part(&mut self, piece: u32, result: Result<PartSum, PartError>, out: &mut Outputs) {
        let Some(active) = &mut self.backups.active else { return };
        active.running = None;
        match &result {
            Ok(sum) => {
                active.rows += sum.rows;
                active.row_bytes += sum.row_bytes;
                out.mark("backup_part_written");
            }
            Err(_) => out.mark("backup_part_failed"),
        }
        let message = BackupMessage::Wrote { backup: active.backup, piece, result };
        tell(active.link, &message, out);
    }
}

impl Running {
    /// Gives the writer a few rows, or says that there are no more.
    fn give_rows(
        &mut self,
        parts: &mut [Option<Box<Partition>>],
        (epoch, read_at): (Epoch, Epoch),
        rows: usize,
    ) -> Result<(), PartError> {
        let mut work = 0;
        while let Some(p) = self.partitions.last().copied() {
            let part = parts.get_mut(usize::from(p.0)).and_then(Option::as_deref_mut);
            let part = part.ok_or(PartError::Refused(Code::NotReplica))?;
            if self.tables.is_none() {
                self.tables = Some(part.tables_at(epoch)?);
                self.at = Position::default();
            }
            while let Some(id) = self.tables.as_ref().and_then(|tables| tables.last()).copied() {
                let table = part.tables.get_mut(&id).ok_or(PartError::Dropped)?;
                let writer = &mut self.writer;
                let next = table.rows.scan(read_at, self.at, |_, row| {
                    work += 1;
                    writer.row(p, id, row.schema(), row.key(), row.value());
                });
                self.at = next.unwrap_or_default();
                if next.is_none() {
                    self.tables.as_mut().and_then(Vec::pop);
                }
                work += 1;
                if work >= rows || !self.writer.has_room() {
                    return Ok(());
                }
            }
            self.tables = None;
            self.partitions.pop();
            if !self.partitions.is_empty() {
                // Whether the next one is here is looked at first.
                return Ok(());
            }
        }
        self.writer.finish();
        Ok(())
    }
}

impl Partition {
    /// The tables there were as of a closed epoch whose rows are to be backed up here.
    fn tables_at(&mut self, epoch: Epoch) -> Result<Vec<TableId>, PartError> {
        let mut tables = Vec::new();
        let catalog = self.tables.get_mut(&CATALOG).ok_or(PartError::Dropped)?;
        let mut at = Some(Position::default());
        while let Some(from) = at {
            at = catalog.rows.scan(epoch, from, |_, row| {
                // One that is being loaded is not there for anybody.
                let def = catalog_table(row.value()).filter(|def| !def.is_loading());
                tables.extend(def.map(|def| def.id));
            });
        }
        if self.id == CATALOG_OF {
            tables.push(CATALOG);
        }
        tables.sort_unstable_by(|a, b| b.cmp(a));
        Ok(tables)
    }
}

fn tell(link: LinkId, message: &BackupMessage, out: &mut Outputs) {
    if let Some(buffer) = out.buffer(link) {
        codec::frame_cold(buffer, kind::BACKUP, message);
    }
}
