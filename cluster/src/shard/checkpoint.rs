//! Checkpoints of this shard's partitions: one at a time, each partition on its own schedule.
//!
//! ```text
//!   tick closes C ──► begin: what is prepared and what is decided as of C, at that moment
//!                 ──► a few rows a turn, while the disk keeps up; older versions where rows have
//!                     changed since, which are kept as long
//!                 ──► what was deleted since the last checkpoint ──► file ──► old files go
//! ```
//! Nothing waits for a checkpoint. A partition whose turn it is and that has not changed is passed
//! over, unless redo is kept for its sake.
//!
//! Invariant: what is in a checkpoint is the partition's state as of a closed epoch: the records of
//! its log with epochs up to that one, and no other.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::disk::{CheckpointName, Completion, FileName, Lane, SegmentName};
use lockstep_proto::ids::{Epoch, PartitionId, Seq, TableId};
use lockstep_proto::limits::CHECKPOINT_SLICES;
use lockstep_proto::placement::key_hash;
use lockstep_proto::process::{Effect, LogLevel, Outputs};
use lockstep_proto::schema::{CATALOG, TableDef, catalog_def};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Standing, View};
use lockstep_storage::Position;
use lockstep_storage::checkpoint::{
    Chain, CheckpointHeader, CheckpointState, CheckpointWriter, Plan,
};

use super::ShardCore;
use super::apply::catalog_table;
use super::pace::{Pace, ROWS_PER_TURN};
use super::partition::Partition;
use super::removals::Removals;

/// So many rows that are passed over take as long as one that is given.
const PASSED_PER_GIVEN: usize = 8;

/// The checkpoints of all of a shard's partitions together take this part of the interval between
/// two of the same partition: the processor is for commits, and what is spread evenly is felt least
/// by those that come last.
const ROUND_OF_INTERVAL: u32 = 2;

/// How long a row's turn is at least, and at most. So many rows would take a sixth of a processor;
/// slower than that, older versions are kept for nothing.
const PACE_MIN: Duration = Duration::from_micros(2);
const PACE_MAX: Duration = Duration::from_micros(100);

/// How long after a failure the next checkpoint is begun.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_millis(50);

/// What is on the disk for one partition.
#[derive(Default)]
struct Kept {
    /// Complete checkpoints.
    files: Vec<CheckpointHeader>,
    /// When the last one was begun.
    begun: Instant,
    /// The end of the log then; `None` if all that can be said is that it may have changed since.
    end: Option<Seq>,
    /// One is wanted as of this epoch or a later one, as soon as can be.
    wanted: Option<Epoch>,
    /// What was durable everywhere when old files were last looked for, and as of when a restart
    /// that goes back to there finds the partition in checkpoints.
    tidied: Epoch,
    covered: Epoch,
}

/// The checkpoint that is being written.
struct Running {
    partition: PartitionId,
    epoch: Epoch,
    plan: Plan,
    pace: Pace,
    writer: CheckpointWriter,
    /// Tables whose rows are still to be given, the current one last.
    tables: Vec<TableId>,
    at: Position,
    /// The tombstone that is next.
    tombstone: u64,
    /// How many tables had been dropped when it began.
    dropped: u64,
    /// The partition has been let go of since: the file is of no use.
    stale: bool,
}

/// What the lane's request that is out is for.
enum Out {
    Writer,
    Removal,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Checkpoints {
    kept: BTreeMap<PartitionId, Kept>,
    running: Option<Box<Running>>,
    out: Option<Out>,
    /// Files to be removed.
    removals: Removals,
    /// Redo of earlier lives, needed until all partitions are held as of this epoch.
    earlier: Vec<SegmentName>,
    earlier_until: Epoch,
    /// Nothing is begun before.
    not_before: Instant,
    /// When the first one could have been begun.
    started: Option<Instant>,
    /// When the last one was finished.
    finished: Option<Instant>,
    /// What was durable everywhere when all replicas were last there: who is away has that much.
    all_here: Epoch,
}

impl Checkpoints {
    /// What was found on the disk.
    pub(super) fn found(&mut self, partition: PartitionId, files: Vec<CheckpointHeader>) {
        self.kept.insert(partition, Kept { files, ..Kept::default() });
    }

    /// Redo of earlier lives.
    pub(super) fn found_redo(&mut self, segments: Vec<SegmentName>, until: Epoch) {
        (self.earlier, self.earlier_until) = (segments, until);
    }

    /// The epoch of which older versions of a partition's rows are still needed.
    pub(super) fn pinned(&self, partition: PartitionId) -> Option<Epoch> {
        let running = self.running.as_ref()?;
        (running.partition == partition).then_some(running.epoch)
    }

    /// Whether a checkpoint of a partition is being written or will be as soon as can be.
    pub(super) fn is_coming(&self, partition: PartitionId) -> bool {
        let wanted = self.kept.get(&partition).is_some_and(|kept| kept.wanted.is_some());
        wanted || self.pinned(partition).is_some() || !self.is_clean(partition)
    }

    /// Whether nothing on this disk could be taken for what the partition was copied from.
    pub(super) fn is_clean(&self, partition: PartitionId) -> bool {
        self.removals.is_clean(partition)
    }

    /// When the core wants to go on without anything having happened.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        running.wants_rows().then_some(running.pace.due())
    }
}

impl Running {
    fn wants_rows(&self) -> bool {
        self.writer.state() == CheckpointState::Writing
            && !self.writer.is_finished()
            && self.writer.has_room()
    }
}

impl Kept {
    /// The newest checkpoint that can be gone on from.
    fn newest(&self, view: &View, to: Epoch) -> Option<CheckpointHeader> {
        Chain::select(&self.files, &view.generations(), to).map(|chain| *chain.newest())
    }

    /// Takes out what is not needed any more now that `durable` is durable everywhere.
    fn tidy(&mut self, view: &View, durable: Epoch) -> Vec<CheckpointName> {
        let became =
            |file: &CheckpointHeader| file.name.epoch > self.tidied && file.name.epoch <= durable;
        if !self.files.iter().any(became) {
            return Vec::new();
        }
        let names = Chain::superfluous(&self.files, &view.generations(), durable);
        self.files.retain(|file| !names.contains(&file.name));
        self.tidied = durable;
        self.covered = self.newest(view, durable).map_or(Epoch(0), |newest| newest.name.epoch);
        names
    }
}

impl ShardCore {
    /// A partition is copied to once more in this life: the log does not go on from checkpoints of
    /// the copy before.
    pub(super) fn drop_checkpoints_of_copy(&mut self, p: PartitionId) {
        let incarnation = self.me.instance.incarnation;
        let checkpoints = &mut self.checkpoints;
        let Some(kept) = checkpoints.kept.get_mut(&p) else { return };
        let gone = kept.files.extract_if(.., |file| file.incarnation == incarnation);
        if self.canary == Some(Canary::KeepFirstCopy) {
            return checkpoints.removals.add(gone.map(|file| FileName::Checkpoint(file.name)));
        }
        gone.for_each(|file| checkpoints.removals.add_misleading(file.name));
        self.abandon_checkpoint(p);
    }

    /// What is being written of a partition is of no use any more. The file may be there already.
    fn abandon_checkpoint(&mut self, p: PartitionId) {
        if let Some(running) = self.checkpoints.running.as_mut().filter(|r| r.partition == p) {
            running.stale = true;
            running.writer.abandon();
        }
    }

    /// A partition is not held here any more: its files go.
    pub(super) fn drop_checkpoints(&mut self, p: PartitionId) {
        let files = self.checkpoints.kept.remove(&p).unwrap_or_default().files.into_iter();
        self.checkpoints.removals.add(files.map(|file| FileName::Checkpoint(file.name)));
        self.abandon_checkpoint(p);
    }

    /// Asks for a checkpoint of a partition as of `epoch` or later, soon.
    pub(super) fn want_checkpoint(&mut self, p: PartitionId, epoch: Epoch) {
        self.checkpoints.kept.entry(p).or_default().wanted = Some(epoch);
        self.checkpoints.not_before = Instant::default();
        // The one under way is in front of it.
        if let Some(running) = &mut self.checkpoints.running {
            running.pace = Pace::new(Duration::ZERO, self.now);
        }
    }

    /// As of when the newest checkpoint of a partition is, if there is one on this disk.
    pub(super) fn checkpointed(&self, p: PartitionId) -> Option<Epoch> {
        let view = self.view.as_ref()?;
        let kept = self.checkpoints.kept.get(&p)?;
        kept.newest(view, Epoch(u64::MAX)).map(|newest| newest.name.epoch)
    }

    /// As of when all partitions are in checkpoints, and when the last one was finished.
    pub(super) fn checkpoints_held(&self) -> (Option<Epoch>, Option<Instant>) {
        let parts = self.parts.iter().flatten();
        let oldest = parts.map(|part| self.checkpointed(part.id).unwrap_or_default()).min();
        (oldest, self.checkpoints.finished)
    }

    /// An epoch has been closed: the moment at which a checkpoint can begin.
    pub(super) fn begin_checkpoint(&mut self, out: &mut Outputs) {
        let Some(view) = self.view.clone() else { return };
        let idle = self.checkpoints.running.is_none() && self.now >= self.checkpoints.not_before;
        if self.options.redo.is_none() || !idle {
            return;
        }
        let started = *self.checkpoints.started.get_or_insert(self.now);
        let due = self.partition_due(&view, started);
        let Some(p) = due else {
            self.checkpoints.not_before = self.now + LOOK;
            return;
        };
        let (closed, now) = (self.part(p).complete_up_to(self.closed), self.now);
        let pace = self.checkpoint_pace(view.config.checkpoint_interval());
        let kept = self.checkpoints.kept.entry(p).or_default();
        let Some(part) = self.parts[usize::from(p.0)].as_mut() else { return };
        // Deletes since the one before must be known.
        let last = kept.newest(&view, closed).filter(|last| {
            last.name.epoch >= part.deletes.known_since() && last.name.epoch < closed
        });
        let plan = match &last {
            Some(last) => Plan::after(last, 1),
            None => Plan::full(CHECKPOINT_SLICES),
        };
        let name =
            CheckpointName { partition: p, generation: view.restart_generation, epoch: closed };
        if kept.files.iter().any(|file| file.name == name) {
            return;
        }
        let header = CheckpointHeader {
            cluster: view.cluster,
            node: self.me.instance.node,
            incarnation: self.me.instance.incarnation,
            name,
            partitions: view.config.partitions,
            plan,
            seq: part.end,
        };
        let mut writer = CheckpointWriter::new(header);
        let Some(tables) = part.put_definitions(closed, &mut writer) else {
            // A table has been dropped in an epoch that is not closed yet.
            return;
        };
        part.put_undecided(closed, &mut writer);
        part.outcomes.save(closed, |piece| writer.outcomes(piece));
        let pace = if kept.wanted.is_some() { Duration::ZERO } else { pace };
        (kept.begun, kept.end, kept.wanted) = (now, Some(part.end), None);
        if plan.previous.is_some() {
            out.mark("checkpoint_begun");
        } else {
            out.mark("full_checkpoint_begun");
        }
        let running = Running {
            partition: p,
            epoch: closed,
            plan,
            // None if the node cannot be in sync before it is done.
            pace: Pace::new(pace, now),
            writer,
            tables,
            at: Position::default(),
            tombstone: 0,
            dropped: part.tables_dropped,
            stale: false,
        };
        self.checkpoints.running = Some(Box::new(running));
    }

    /// How long a row's turn is.
    fn checkpoint_pace(&self, interval: Duration) -> Duration {
        let rows: u64 = self.parts.iter().flatten().map(|part| part.rows()).sum();
        let rows = u32::try_from(rows.max(1)).unwrap_or(u32::MAX);
        (interval / ROUND_OF_INTERVAL / rows).clamp(PACE_MIN, PACE_MAX)
    }

    /// The partition that has waited longest of those whose turn it is.
    fn partition_due(&self, view: &View, started: Instant) -> Option<PartitionId> {
        let interval = view.config.checkpoint_interval();
        let oldest_redo = self.redo.oldest_finished();
        let unknown = Kept::default();
        let due = self.parts.iter().flatten().filter(|part| part.whole).filter_map(|part| {
            let complete = part.complete_up_to(self.closed);
            let unclean = !self.is_clean(part.id);
            if complete < part.versions_from || complete == Epoch(0) || unclean {
                return None;
            }
            let kept = self.checkpoints.kept.get(&part.id).unwrap_or(&unknown);
            if kept.wanted.is_some_and(|wanted| complete >= wanted) {
                return Some((Instant::default(), part.id));
            }
            // Spread over the interval: not all at once in each round.
            let share = u64::from(part.id.0 % 64) * interval.as_nanos() as u64 / 64;
            let first = kept.begun == Instant::default();
            let wait = if first { Duration::from_nanos(share) } else { interval };
            let begins = if first { started } else { kept.begun } + wait;
            let last = || kept.files.last().map_or(Epoch(0), |last| last.name.epoch);
            let holds_redo = || oldest_redo.is_some_and(|oldest| oldest > last());
            let due = begins <= self.now && (kept.end != Some(part.end) || holds_redo());
            due.then_some((begins, part.id))
        });
        due.min().map(|(_, p)| p)
    }

    /// The end of a turn: gives the running checkpoint a few rows, and the disk its requests.
    pub(super) fn settle_checkpoint(&mut self, out: &mut Outputs) {
        let checkpoints = &mut self.checkpoints;
        if checkpoints.running.is_none() && !checkpoints.removals.is_due(self.now) {
            return;
        }
        if let Some(mut running) = checkpoints.running.take() {
            let part = self.parts[usize::from(running.partition.0)].as_deref_mut();
            let part = part.filter(|_| !running.stale);
            if running.wants_rows()
                && let Some(rows) = running.pace.take(self.now, self.busy)
            {
                running.give_rows(part, rows, out);
            }
            self.checkpoints.running = Some(running);
        }
        let checkpoints = &mut self.checkpoints;
        if checkpoints.out.is_some() {
            return;
        }
        let urgent = checkpoints.removals.is_urgent(self.now);
        let running = checkpoints.running.as_mut().filter(|_| !urgent);
        if let Some(request) = running.and_then(|running| running.writer.next_request()) {
            checkpoints.out = Some(Out::Writer);
            out.effect(Effect::Disk { lane: Lane::Checkpoint, request });
        } else if checkpoints.removals.is_due(self.now) {
            checkpoints.out = Some(Out::Removal);
            let request = checkpoints.removals.take();
            out.effect(Effect::Disk { lane: Lane::Checkpoint, request });
        }
    }

    /// A request of the lane was executed, or a part of it.
    pub(super) fn on_checkpoint_done(&mut self, done: Completion, out: &mut Outputs) {
        match self.checkpoints.out.take() {
            Some(Out::Writer) => {}
            Some(Out::Removal) => {
                if done.failed.is_some() {
                    out.mark("removal_of_files_failed");
                }
                self.checkpoints.removals.on_done(&done, self.now);
                // Whoever is copied to may have waited for this.
                self.report_joined(out);
                return;
            }
            None => {
                self.broken("a disk answers that was not asked".to_owned(), out);
                return;
            }
        }
        let Some(mut running) = self.checkpoints.running.take() else { return };
        running.writer.on_done(done);
        let p = running.partition;
        let useless = match running.writer.state() {
            CheckpointState::Writing => false,
            CheckpointState::Done | CheckpointState::Abandoned => running.stale,
            // It may have got its name all the same.
            CheckpointState::Failed(_) => true,
        };
        if useless {
            self.checkpoints.removals.add_misleading(running.writer.header().name);
        }
        match running.writer.state() {
            CheckpointState::Writing => {}
            CheckpointState::Done => {
                out.mark("checkpoint_done");
                self.checkpoints.finished = Some(self.now);
                let header = *running.writer.header();
                if !running.stale {
                    self.checkpoints.kept.entry(p).or_default().files.push(header);
                }
                // The next one may be waited for.
                self.begin_checkpoint(out);
                self.report_joined(out);
                // A node that comes back has one made of every partition: the next at once.
                self.begin_checkpoint(out);
                return;
            }
            CheckpointState::Failed(broken) => {
                if self.checkpoints.kept.entry(p).or_default().end.take().is_some() {
                    out.mark("checkpoint_failed");
                    let file = broken.file.map_or("a directory".to_owned(), |f| f.to_string());
                    let error = broken.error;
                    let text =
                        format!("a checkpoint of {p} failed, the older ones stay: {file}: {error}");
                    out.log(LogLevel::Warn, text);
                }
                self.checkpoints.not_before = self.now + PAUSE;
                if running.writer.is_idle() {
                    return;
                }
            }
            CheckpointState::Abandoned => {
                self.checkpoints.kept.entry(p).or_default().end = None;
                if running.writer.is_idle() {
                    return;
                }
            }
        }
        self.checkpoints.running = Some(running);
    }

    /// Forgets what no checkpoint and no replica that may come back needs any more.
    pub(super) fn forget_changes(&mut self) {
        let Some(view) = self.view.clone() else { return };
        let (closed, durable) = (self.closed, self.redo.durable_everywhere());
        let on_disk = self.options.redo.is_some();
        for part in self.parts.iter_mut().flatten() {
            let complete = part.complete_up_to(closed);
            part.decided.retain(|tx| tx.epoch > complete);
            let here = view.placement(part.id).map_or(0, |placement| placement.replicas.len());
            if here >= usize::from(view.config.replicas) {
                self.checkpoints.all_here = if on_disk { durable } else { closed };
            }
            let kept = self.checkpoints.kept.get(&part.id);
            let last = kept.and_then(|kept| kept.files.last()).map(|last| last.name.epoch);
            let checkpointed = if on_disk { last.unwrap_or_default() } else { closed };
            part.deletes.forget(checkpointed.min(self.checkpoints.all_here));
        }
    }

    /// Removes what no restart can need any more: files older than the chains as of what is durable
    /// everywhere, redo that these cover.
    pub(super) fn tidy_checkpoints(&mut self) {
        let Some(view) = self.view.clone() else { return };
        // Nor this node's own, which may have come back and be behind the others.
        let hasty = self.canary == Some(Canary::TrimRedoTooEarly);
        let durable = self.redo.durable_everywhere().min(self.redo.durable_here());
        let me = view.member(self.me.instance.node);
        let in_sync = me.is_some_and(|member| member.standing == Standing::InSync);
        let settled = in_sync && durable >= self.recovered;
        let durable = if settled { durable } else { self.way_back(durable) };
        let durable = if hasty { self.closed } else { durable };
        let mut covered = Epoch(u64::MAX);
        for part in self.parts.iter().flatten() {
            let kept = self.checkpoints.kept.entry(part.id).or_default();
            let names = kept.tidy(&view, durable);
            covered = covered.min(kept.covered);
            self.checkpoints.removals.add(names.into_iter().map(FileName::Checkpoint));
        }
        if covered == Epoch(u64::MAX) {
            return;
        }
        // Without a log of its own that says how far this life is, the earlier ones say it.
        let until = self.checkpoints.earlier_until;
        if (covered >= until && self.redo.durable_here() > until) || hasty {
            let earlier = std::mem::take(&mut self.checkpoints.earlier);
            self.checkpoints.removals.add(earlier.into_iter().map(FileName::Segment));
        }
        self.checkpoints.removals.add(self.redo.remove_covered(covered));
    }

    /// Until this node is in sync, the cluster may be restarted at an epoch in which it has a gap:
    /// then it goes back to where this life began, for which its files must stay. If that was
    /// ahead of what is durable everywhere, an earlier life may have had such a gap: then it goes
    /// back to where that one began, and everything stays.
    fn way_back(&self, durable: Epoch) -> Epoch {
        if self.canary == Some(Canary::TidyBehindOwnFiles) {
            return durable.min(self.recovered);
        }
        if durable < self.recovered { Epoch(0) } else { self.recovered }
    }
}

impl Running {
    /// Gives the writer a few rows, or what follows them.
    fn give_rows(&mut self, part: Option<&mut Partition>, rows: usize, out: &mut Outputs) {
        let Some(part) = part.filter(|part| part.tables_dropped == self.dropped) else {
            out.mark("checkpoint_abandoned");
            self.writer.abandon();
            return;
        };
        let mut work = 0;
        while let Some(id) = self.tables.last() {
            let Some(table) = part.tables.get_mut(id) else {
                self.tables.pop();
                continue;
            };
            let (plan, writer) = (&self.plan, &mut self.writer);
            let next = table.rows.scan(self.epoch, self.at, |hash, row| {
                work += 1;
                if plan.wants(hash, row.epoch()) {
                    work += PASSED_PER_GIVEN;
                    writer.row(*id, row.schema(), row.epoch(), row.key(), Some(row.value()));
                }
            });
            self.at = next.unwrap_or_default();
            if next.is_none() {
                self.tables.pop();
            }
            work += 1;
            if work >= rows * PASSED_PER_GIVEN || !self.writer.has_room() {
                return;
            }
        }
        self.give_tombstones(part, out);
    }

    /// Gives the writer some of what was deleted since the last checkpoint and is not there again.
    fn give_tombstones(&mut self, part: &mut Partition, out: &mut Outputs) {
        let Some((_, previous)) = self.plan.previous else {
            self.writer.finish();
            return;
        };
        if part.deletes.known_since() > previous {
            // There were too many.
            out.mark("checkpoint_without_tombstones");
            self.writer.abandon();
            return;
        }
        for _ in 0..ROWS_PER_TURN {
            let Some((number, tombstone)) = part.deletes.next(self.tombstone) else {
                self.writer.finish();
                return;
            };
            self.tombstone = number + 1;
            if tombstone.epoch <= previous || tombstone.epoch > self.epoch {
                continue;
            }
            let Some(table) = part.tables.get_mut(&tombstone.table) else { continue };
            let (epoch, key) = (tombstone.epoch, &tombstone.key);
            if table.rows.row_at(self.epoch, key_hash(key), key).is_none() {
                let schema = table.rows.schema();
                self.writer.row(tombstone.table, schema, epoch, key, None);
            }
        }
    }
}

impl Partition {
    /// Gives the definitions of the tables there were as of an epoch, and names the tables; `None`
    /// if one of them is gone.
    fn put_definitions(
        &mut self,
        epoch: Epoch,
        writer: &mut CheckpointWriter,
    ) -> Option<Vec<TableId>> {
        let mut defs: Vec<TableDef> = vec![catalog_def().clone()];
        let catalog = &mut self.tables.get_mut(&CATALOG)?.rows;
        let mut at = Some(Position::default());
        while let Some(from) = at {
            at = catalog.scan(epoch, from, |_, row| defs.extend(catalog_table(row.value())));
        }
        defs.sort_unstable_by_key(|def| def.id);
        for def in &defs {
            self.tables.get(&def.id)?;
            writer.table(def.id, def.version, &def.encode());
        }
        Some(defs.iter().map(|def| def.id).collect())
    }

    /// Gives the records of transactions that were prepared and undecided as of a closed epoch.
    fn put_undecided(&self, epoch: Epoch, writer: &mut CheckpointWriter) {
        let prepared = self.prepared.values().filter(|tx| tx.epoch <= epoch);
        prepared.for_each(|tx| writer.prepared(&tx.record));
        let decided = self.decided.iter().filter(|tx| tx.prepared <= epoch && tx.epoch > epoch);
        decided.for_each(|tx| writer.prepared(&tx.record));
    }
}
