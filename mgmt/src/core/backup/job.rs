//! One backup on its way.
//!
//! ```text
//!  Asking ─► Pinning ─► Writing ─► Keeping ─► Finishing ─► Done
//!    ▲          │          │ ▲        │           │
//!    └──────────┴──────────┘ └────────┘           │   a replica lost: its partitions go to others
//!   too late for the epoch, a table dropped or    │
//!   a partition moved: anew as of a later one,    │
//!   a few times                                   │
//!                     any reason to give up ──────┴──► Failed
//! ```
//! A link that ends takes with it all files its shard has written and was not told to keep: the
//! shard removes them, and this side gives their partitions to others. So both sides agree on what
//! there is without a word.

use std::time::Duration;

use lockstep_proto::disk::{Completion, Directory, FileName, Lane, Op, Request};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{
    BackupId, Epoch, NodeInstance, PartitionId, ShardAddr, ShardId, ViewNumber,
};
use lockstep_proto::process::{Effect, LinkId, LogLevel, Outputs, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::backup::{
    BackupMessage, BackupRecord, BackupState, Manifest, PartError, PartSum,
};

use super::shards::{Shard, Shards, Standing, tell};

/// How long shards may take to be there and to pin the epoch; those that take longer are left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a shard is asked how far it is, and how long it may be silent.
const ASK_EVERY: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(10);

/// How long a newer view is waited for.
const STALE: Duration = Duration::from_secs(5);

/// For how long no row may be written.
const STUCK: Duration = Duration::from_secs(120);

/// Epochs that are tried before it is given up.
const ATTEMPTS_MAX: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Asking,
    Pinning,
    Writing,
    Keeping,
    Finishing,
    Over,
}

/// See the module text.
pub(super) struct Job {
    record: BackupRecord,
    view: View,
    phase: Phase,
    shards: Shards,
    attempts: u32,
    /// When the phase is over for those who have said nothing.
    deadline: Instant,
    ask_at: Instant,
    /// When it was further than before.
    moved_on: Instant,
    /// It is on disk at which nodes there may be files: they may be written.
    recorded: bool,
    /// Somebody could not pin the epoch any more.
    too_late: bool,
    /// A shard does not have what it has by this view: there is a newer one, to be waited for.
    stale: Option<(ViewNumber, Instant)>,
    /// Why some shard could not do its part, for whoever has to be told that nobody could.
    trouble: String,
}

impl Job {
    /// Begins a backup.
    pub(super) fn make(now: Instant, record: BackupRecord, view: &View, out: &mut Outputs) -> Self {
        let mut job = Self {
            record,
            view: view.clone(),
            phase: Phase::Asking,
            shards: Shards::default(),
            attempts: 1,
            deadline: now + PATIENCE,
            ask_at: now + ASK_EVERY,
            moved_on: now,
            recorded: false,
            too_late: false,
            stale: None,
            trouble: String::new(),
        };
        job.dial(now, out);
        job
    }

    /// Whom it is about.
    pub(super) fn backup(&self) -> BackupId {
        self.record.backup
    }

    /// How far it is.
    pub(super) fn record(&self) -> &BackupRecord {
        &self.record
    }

    /// Whether there is nothing more to do.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether it has asked the disk here for something and not heard.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.phase == Phase::Finishing
    }

    /// The epoch that is written.
    pub(super) fn pinned(&self) -> Option<(BackupId, Epoch)> {
        let written = matches!(self.phase, Phase::Writing | Phase::Keeping | Phase::Finishing);
        written.then_some((self.record.backup, self.record.epoch))
    }

    /// Dials who is in sync and not there.
    fn dial(&mut self, now: Instant, out: &mut Outputs) {
        for member in self.view.in_sync() {
            for shard in (0..member.shards).map(ShardId) {
                let addr = ShardAddr { instance: member.instance, shard };
                let known = self.shards.all.get(&addr);
                if known.is_some_and(|known| known.standing != Standing::Out) {
                    continue;
                }
                // Files of a link that has ended may be left, and are to be known of.
                let told = known.map_or(0, |known| known.told);
                let to = Target::Shard(addr.instance, addr.shard);
                out.effect(Effect::Dial { to, addr: member.addr.clone() });
                let standing = Standing::Dialled;
                let new = Shard { link: None, standing, heard: now, rows: (0, 0), told, kept: 0 };
                self.shards.all.insert(addr, new);
            }
            let unwanted = &mut self.record.unwanted;
            if !unwanted.contains(&member.instance.node) {
                unwanted.push(member.instance.node);
                self.recorded = false;
            }
        }
    }

    /// A dialled shard is there; false if nobody waits for it.
    pub(super) fn on_shard_up(
        &mut self,
        now: Instant,
        link: LinkId,
        instance: NodeInstance,
        shard: ShardId,
        out: &mut Outputs,
    ) -> bool {
        let backup = self.record.backup;
        let Some(shard) = self.shards.all.get_mut(&ShardAddr { instance, shard }) else {
            return false;
        };
        if shard.standing != Standing::Dialled || self.phase == Phase::Over {
            return false;
        }
        (shard.link, shard.heard) = (Some(link), now);
        // Otherwise it is too late: the epoch is chosen.
        if self.phase != Phase::Asking {
            return false;
        }
        shard.standing = Standing::Asked;
        tell(Some(link), &BackupMessage::Ask { backup }, out);
        true
    }

    /// A shard cannot be reached, or its link has ended.
    pub(super) fn on_shard_lost(
        &mut self,
        now: Instant,
        instance: NodeInstance,
        shard: ShardId,
        out: &mut Outputs,
    ) {
        let addr = ShardAddr { instance, shard };
        let Some(shard) = self.shards.all.get_mut(&addr) else { return };
        if shard.standing == Standing::Out {
            return;
        }
        (shard.standing, shard.link, shard.rows) = (Standing::Out, None, (0, 0));
        if matches!(self.phase, Phase::Writing | Phase::Keeping) && self.shards.has_pieces(addr) {
            out.mark("backup_writer_lost");
            self.trouble = format!("{addr} is gone");
            self.shards.pieces.retain(|_, piece| piece.shard != addr);
            self.phase = Phase::Writing;
        }
        self.go_on(now, out);
    }

    /// A link has ended.
    pub(super) fn on_link_down(&mut self, now: Instant, link: LinkId, out: &mut Outputs) {
        if let Some((addr, _)) = self.shards.find(link) {
            self.on_shard_lost(now, addr.instance, addr.shard, out);
        }
    }

    /// A shard's message.
    pub(super) fn on_shard(
        &mut self,
        now: Instant,
        link: LinkId,
        message: BackupMessage,
        out: &mut Outputs,
    ) {
        let own = self.record.backup;
        let Some((addr, shard)) = self.shards.find(link) else { return };
        shard.heard = now;
        match message {
            BackupMessage::Epoch { backup, epoch }
                if backup == own && shard.standing == Standing::Asked =>
            {
                shard.standing = Standing::Told(epoch);
            }
            BackupMessage::Pinned { backup, epoch, refused }
                if (backup, epoch) == (own, self.record.epoch)
                    && shard.standing == Standing::Pinning =>
            {
                shard.standing = Standing::Pinned;
                if let Some(error) = refused {
                    out.mark("backup_pin_refused");
                    shard.standing = Standing::Spent;
                    self.trouble = format!("{addr}: {error}");
                    self.too_late |= error == PartError::Refused(Code::SnapshotTooOld);
                    if let PartError::Other(other) = error {
                        let text = format!("backup {other} is under way at {addr}; one at a time");
                        return self.give_up(text, out);
                    }
                }
            }
            BackupMessage::Wrote { backup, piece, result } if backup == own => {
                self.on_wrote(now, addr, piece, result, out);
            }
            BackupMessage::Going { backup, rows, row_bytes } if backup == own => {
                shard.rows = (rows, row_bytes);
                self.count(now);
            }
            BackupMessage::Kept { backup, newest } if backup == own => shard.kept = newest,
            _ => {}
        }
        self.go_on(now, out);
    }

    fn on_wrote(
        &mut self,
        now: Instant,
        addr: ShardAddr,
        piece: u32,
        result: Result<PartSum, PartError>,
        out: &mut Outputs,
    ) {
        let Some(wanted) = self.shards.pieces.get_mut(&piece) else { return };
        let error = match result {
            Ok(sum) => {
                wanted.sum = Some(sum);
                return self.count(now);
            }
            Err(error) => error,
        };
        out.mark("backup_part_goes_to_another");
        out.log(LogLevel::Warn, format!("backup {}: {addr}: {error}", self.record.backup));
        self.trouble = format!("{addr}: {error}");
        let removed = self.shards.pieces.remove(&piece);
        let partitions = removed.map(|piece| piece.partitions).unwrap_or_default();
        if let Some(shard) = self.shards.all.get_mut(&addr) {
            shard.standing = Standing::Spent;
        }
        match error {
            PartError::Dropped | PartError::Refused(Code::SnapshotTooOld) => {
                self.start_anew(now, out);
            }
            // It has moved to another node group since the epoch was pinned.
            PartError::Refused(Code::NotReplica) => {
                out.mark("backup_part_has_moved");
                if self.has_moved(addr, &partitions) {
                    self.start_anew(now, out);
                } else {
                    self.stale = Some((self.view.number, now + STALE));
                }
            }
            _ => {}
        }
    }

    /// Whether one of these has gone to another node group, as far as is known here.
    fn has_moved(&self, addr: ShardAddr, partitions: &[PartitionId]) -> bool {
        let Some(member) = self.view.member(addr.instance.node) else { return false };
        let mut placed = partitions.iter().filter_map(|p| self.view.placement(*p));
        placed.any(|placement| placement.group != member.group)
    }

    fn count(&mut self, now: Instant) {
        let (partitions, sum) = self.shards.finished();
        let going = self.shards.all.values().map(|shard| shard.rows);
        let (rows, bytes) = going.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        if (partitions, sum.rows.max(rows)) != (self.record.partitions.0, self.record.rows) {
            self.moved_on = now;
        }
        self.record.partitions.0 = partitions;
        self.record.rows = sum.rows.max(rows);
        self.record.row_bytes = sum.row_bytes.max(bytes);
        self.record.file_bytes = sum.file_bytes;
    }

    /// As of a later epoch, if that has not been tried too often.
    fn start_anew(&mut self, now: Instant, out: &mut Outputs) {
        if self.attempts >= ATTEMPTS_MAX {
            let text = format!("{} epochs were tried; the last: {}", self.attempts, self.trouble);
            return self.give_up(text, out);
        }
        out.mark("backup_started_anew");
        self.attempts += 1;
        (self.too_late, self.stale) = (false, None);
        self.phase = Phase::Asking;
        self.record.state = BackupState::Starting;
        self.deadline = now + PATIENCE;
        self.moved_on = now;
        self.shards.pieces.clear();
        self.shards.all.values_mut().for_each(|shard| shard.rows = (0, 0));
        let ask = BackupMessage::Ask { backup: self.record.backup };
        let there = |standing| !matches!(standing, Standing::Out | Standing::Dialled);
        self.shards.tell_all(there, Standing::Asked, &ask, out);
        self.dial(now, out);
    }

    /// Takes the steps that can be taken now.
    fn go_on(&mut self, now: Instant, out: &mut Outputs) {
        if self.phase == Phase::Asking
            && !self.shards.any(|s| matches!(s, Standing::Dialled | Standing::Asked))
        {
            self.pin(now, out);
        }
        if self.phase == Phase::Pinning && !self.shards.any(|s| s == Standing::Pinning) {
            self.phase = Phase::Writing;
            self.record.state = BackupState::Writing;
        }
        if self.phase == Phase::Writing && self.recorded {
            self.write(now, out);
        }
        if self.phase == Phase::Keeping && self.shards.are_kept() {
            self.finish(now, out);
        }
    }

    fn pin(&mut self, now: Instant, out: &mut Outputs) {
        let told = self.shards.all.values().filter_map(|shard| match shard.standing {
            Standing::Told(epoch) => Some(epoch),
            _ => None,
        });
        // Whatever anybody has been told is of this epoch or an earlier one.
        let Some(epoch) = told.max() else {
            return self.give_up("no data node can be reached".to_owned(), out);
        };
        self.record.epoch = epoch;
        self.phase = Phase::Pinning;
        self.deadline = now + PATIENCE;
        let (backup, dir) = (self.record.backup, self.record.dir.clone());
        let pin = BackupMessage::Pin { backup, epoch, dir };
        let told = |standing| matches!(standing, Standing::Told(_));
        self.shards.tell_all(told, Standing::Pinning, &pin, out);
    }

    fn write(&mut self, now: Instant, out: &mut Outputs) {
        match self.stale {
            Some((view, until)) if view == self.view.number && now < until => return,
            Some(_) => return self.start_anew(now, out),
            None => {}
        }
        let missing = self.shards.missing(self.view.config.partitions);
        if let Err(p) = self.shards.assign(self.record.backup, &missing, &self.view, out) {
            // Another epoch helps where this one was gone already, or where somebody was not asked
            // for it; not where a disk is full.
            if self.too_late || self.is_unasked(p) {
                return self.start_anew(now, out);
            }
            let text = format!("no replica of {p} can write it; {}", self.trouble);
            return self.give_up(text, out);
        }
        if self.shards.pieces.values().all(|piece| piece.sum.is_some()) {
            self.phase = Phase::Keeping;
            self.deadline = now + PATIENCE;
            self.shards.ask_to_keep(self.record.backup, out);
        }
    }

    /// Whether a replica of a partition was not there when the epoch was chosen, and is in sync.
    fn is_unasked(&self, p: PartitionId) -> bool {
        let placement = self.view.placement(p);
        let mut replicas = placement.into_iter().flat_map(|placement| &placement.replicas);
        replicas.any(|node| {
            let addr = self.view.shard_of(p, *node);
            addr.is_some_and(|addr| !self.shards.all.contains_key(&addr))
        })
    }

    /// All parts are there, and will stay: the manifest makes them a backup.
    fn finish(&mut self, now: Instant, out: &mut Outputs) {
        self.phase = Phase::Finishing;
        self.record.state = BackupState::Finishing;
        self.count(now);
        let backup = self.record.backup;
        let nodes = self.view.members.iter().map(|member| (member.instance.node, member.group));
        let manifest = Manifest {
            backup,
            cluster: self.view.cluster,
            asked_ms: self.record.asked_ms,
            epoch: self.record.epoch,
            generation: self.view.restart_generation,
            base: None,
            partitions: self.view.config.partitions,
            replicas: self.view.config.replicas,
            nodes: nodes.collect(),
            parts: self.shards.parts(),
        };
        let (draft, file) = (FileName::Draft(backup), FileName::Manifest(backup));
        let ops = vec![
            self.locate(),
            Op::Remove(draft),
            Op::Create(draft),
            Op::Write { file: draft, offset: 0, bytes: super::manifest_file(&manifest) },
            Op::Sync(draft),
            Op::Rename { from: draft, to: file },
            Op::SyncDirectory(Directory::Backup(backup)),
        ];
        self.ask_disk(ops, out);
    }

    /// A request of the lane for backups was executed.
    pub(super) fn on_disk(&mut self, done: &Completion, out: &mut Outputs) {
        match (self.phase, done.failed) {
            (Phase::Finishing, None) => {
                out.mark("backup_done");
                let end = BackupMessage::End { backup: self.record.backup };
                self.shards.tell_all(|_| true, Standing::Out, &end, out);
                self.record.state = BackupState::Done;
                self.record.parts_at = self.shards.nodes_with_pieces();
                // Who was lost may have begun something.
                let parts_at = &self.record.parts_at;
                self.record.unwanted = self.shards.nodes_told();
                self.record.unwanted.retain(|node| !parts_at.contains(node));
                self.phase = Phase::Over;
                out.log(LogLevel::Info, format!("backup {} is whole", self.record.backup));
            }
            (Phase::Finishing, Some((_, error))) => {
                self.give_up(format!("its manifest cannot be written here: {error}"), out);
            }
            _ => {}
        }
    }

    /// The record is on disk as it is.
    pub(super) fn on_recorded(&mut self, now: Instant, out: &mut Outputs) {
        if !self.recorded {
            self.recorded = true;
            self.moved_on = now;
        }
        self.go_on(now, out);
    }

    /// An operator does not want it any more.
    pub(super) fn abort(&mut self, out: &mut Outputs) -> Result<(), String> {
        match self.phase {
            Phase::Asking | Phase::Pinning | Phase::Writing | Phase::Keeping => {
                self.give_up("an operator has aborted it".to_owned(), out);
                Ok(())
            }
            _ => Err(format!("backup {} cannot be aborted any more", self.record.backup)),
        }
    }

    /// It comes to nothing: whatever there is of it is removed.
    fn give_up(&mut self, why: String, out: &mut Outputs) {
        if self.phase == Phase::Over {
            return;
        }
        out.mark("backup_given_up");
        out.log(LogLevel::Warn, format!("backup {} has failed: {why}", self.record.backup));
        self.record.state = BackupState::Failed(why);
        self.phase = Phase::Over;
    }

    fn locate(&self) -> Op {
        Op::Locate { backup: self.record.backup, at: self.record.dir.clone() }
    }

    #[expect(clippy::unused_self, reason = "one request at a time, by the phases of the job")]
    fn ask_disk(&self, ops: Vec<Op>, out: &mut Outputs) {
        out.effect(Effect::Disk { lane: Lane::Backup, request: Request { ops } });
    }

    /// There is a newer view.
    pub(super) fn on_view(&mut self, now: Instant, view: &View, out: &mut Outputs) {
        let restarted = view.restart_generation != self.view.restart_generation;
        self.view = view.clone();
        if restarted && self.phase != Phase::Finishing {
            self.give_up("the cluster was restarted meanwhile".to_owned(), out);
            return;
        }
        let mut unfinished = self.shards.pieces.values().filter(|piece| piece.sum.is_none());
        let moved = unfinished.any(|piece| self.has_moved(piece.shard, &piece.partitions));
        if self.phase == Phase::Writing && moved {
            out.mark("backup_part_has_moved");
            self.trouble = "partitions have moved to another node group".to_owned();
            self.start_anew(now, out);
        }
        self.go_on(now, out);
    }

    /// The time has come for something.
    pub(super) fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        if now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            let alive = BackupMessage::Alive { backup: self.record.backup };
            let there = |s: &&Shard| matches!(s.standing, Standing::Pinned | Standing::Spent);
            let there = self.shards.all.values().filter(there);
            there.for_each(|shard| tell(shard.link, &alive, out));
        }
        let late = now >= self.deadline;
        let lost: Vec<ShardAddr> = self
            .shards
            .all
            .iter()
            .filter(|(_, shard)| match shard.standing {
                Standing::Dialled | Standing::Asked | Standing::Pinning => late,
                Standing::Pinned | Standing::Spent => now.since(shard.heard) >= SILENCE,
                Standing::Told(_) | Standing::Out => false,
            })
            .map(|(addr, _)| *addr)
            .collect();
        for addr in lost {
            out.mark("backup_shard_silent");
            if let Some(link) = self.shards.all.get(&addr).and_then(|shard| shard.link) {
                let why = "it does not answer about a backup";
                out.effect(Effect::Close { link, why });
            }
            self.on_shard_lost(now, addr.instance, addr.shard, out);
        }
        if self.phase == Phase::Writing && now.since(self.moved_on) >= STUCK {
            let what = match self.recorded {
                true => "nothing was written",
                false => "the disk here has not taken its record",
            };
            self.give_up(format!("{what} for {} s", STUCK.as_secs()), out);
        }
        if self.phase != Phase::Over {
            self.go_on(now, out);
        }
    }

    /// When the time comes.
    pub(super) fn next_timeout(&self) -> Instant {
        let waits = self
            .shards
            .any(|s| matches!(s, Standing::Dialled | Standing::Asked | Standing::Pinning));
        if waits { self.ask_at.min(self.deadline) } else { self.ask_at }
    }

    /// Lets go of the shards.
    pub(super) fn end(&self, out: &mut Outputs) {
        for link in self.shards.all.values().filter_map(|shard| shard.link) {
            out.effect(Effect::Close { link, why: "" });
        }
    }
}
