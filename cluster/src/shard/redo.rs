//! The shard's redo log: every record that enters a partition log here goes there too; epochs are
//! closed in it as the cluster closes them, and what is on disk is told to control.
//!
//! Nothing waits for the disk but who asked for it: a record is copied into the group being filled,
//! and groups go to the disk in the background. An epoch is made durable within [`REDO_FLUSH`], or
//! at once when somebody waits for it, and not at all while nothing has happened in it anywhere.
//!
//! Invariant: an epoch is closed in the log only when all its records have been pushed, and only
//! while this node's disk has, or is about to have, everything before it: not while the node copies
//! what it missed.

use std::collections::BTreeMap;

use lockstep_proto::canary::Canary;
use lockstep_proto::disk::{Completion, FileName, Lane, Op, Request};
use lockstep_proto::durability::{DiskReport, DiskState, Pulse};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, NodeId, PartitionId};
use lockstep_proto::limits::{REDO_FLUSH, REDO_RETRY, REDO_STALL, REDO_WAITING_BYTES_MAX};
use lockstep_proto::process::{Effect, LogLevel, Outputs};
use lockstep_proto::record;
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Standing, View};
use lockstep_proto::wire::client::DiskStatus;
use lockstep_proto::wire::op::Ops;
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::redo::{LogIdentity, RedoWriter, WriterState};

use super::ShardCore;
use super::answers::Owed;
use super::partition::Partition;

/// What a shard knows about durability, its own and everybody's.
pub(super) struct Redo {
    /// `None`: this node keeps its data in memory only.
    log: Option<Log>,
    /// Everything before what is pushed is on this disk, or nothing was.
    whole: bool,
    /// This node is attached and not in sync yet.
    catches_up: bool,
    /// What the last tick said.
    pulse: Pulse,
    /// The nodes of this node group, and what the last tick said of their disks.
    mates: Vec<NodeId>,
    some_slow: bool,
    some_full: bool,
    /// What control should know, and what it was told.
    report: DiskReport,
    reported: DiskReport,
    /// Answers that wait for their epoch to be durable.
    waiting: BTreeMap<Epoch, Vec<(PartitionId, Owed)>>,
}

struct Log {
    writer: RedoWriter,
    /// What the last flush closed, and when it was.
    flushed: Epoch,
    flushed_at: Instant,
    /// A request is out since then.
    out_since: Option<Instant>,
    /// The disk was full: when to try again.
    retry_at: Option<Instant>,
    /// Syncs that a canary has left out of the request that is out, by their place in it.
    skipped: Vec<(usize, Op)>,
}

impl Log {
    fn state(&self, now: Instant) -> DiskState {
        match self.writer.state() {
            WriterState::Broken(_) => DiskState::Broken,
            _ if self.out_since.is_some_and(|at| now.since(at) >= REDO_STALL) => DiskState::Stuck,
            WriterState::Full => DiskState::Full,
            WriterState::Running if self.is_behind() => DiskState::Slow,
            WriterState::Running => DiskState::Well,
        }
    }

    fn is_behind(&self) -> bool {
        self.writer.waiting_bytes() > REDO_WAITING_BYTES_MAX
    }
}

impl Redo {
    pub(super) fn new(identity: Option<LogIdentity>, shard: &super::ShardOptions) -> Self {
        let log = identity.map(|identity| Log {
            writer: RedoWriter::new(identity, shard.instance.incarnation, shard.shard),
            flushed: identity.base,
            flushed_at: Instant::default(),
            out_since: None,
            retry_at: None,
            skipped: Vec::new(),
        });
        let base = identity.map_or(Epoch(0), |identity| identity.base);
        let report = DiskReport { durable: base, ..DiskReport::default() };
        let (pulse, waiting) = (Pulse::default(), BTreeMap::new());
        Self {
            log,
            whole: false,
            catches_up: false,
            pulse,
            mates: Vec::new(),
            some_slow: false,
            some_full: false,
            report,
            reported: report,
            waiting,
        }
    }

    /// Takes a record that has entered a partition log.
    #[inline]
    pub(super) fn push(&mut self, record: &[u8]) {
        let epoch = record::epoch(record).unwrap_or_default();
        self.report.worked = self.report.worked.max(epoch);
        if let Some(log) = &mut self.log {
            log.writer.push(record);
        }
    }

    /// Checkpoints hold everything up to an epoch: names the segments that are not needed beside
    /// them.
    pub(super) fn remove_covered(&mut self, covered: Epoch) -> Vec<FileName> {
        self.log.as_mut().map_or(Vec::new(), |log| log.writer.remove_covered(covered))
    }

    /// The highest epoch in the oldest segment that could go.
    pub(super) fn oldest_finished(&self) -> Option<Epoch> {
        self.log.as_ref().and_then(|log| log.writer.oldest_finished())
    }

    /// What is durable on all members.
    pub(super) fn durable_everywhere(&self) -> Epoch {
        self.pulse.durable
    }

    /// Whether the cluster could come back at an epoch, or later, without the rest of this node
    /// group: each other one has a disk that is not lost, and those all have it, as has this one.
    pub(super) fn is_carried(
        &self,
        epoch: Epoch,
        (view, me): (&View, NodeId),
        canary: Option<Canary>,
    ) -> bool {
        let mine = view.member(me).map(|member| member.group);
        let holds = |group| {
            if canary == Some(Canary::TakeOverBeyondOthers) {
                return true;
            }
            let mut members = view.in_sync().filter(|member| member.group == group);
            members.any(|member| !self.pulse.has_lost(member.instance.node))
        };
        // A lost disk may hold a checkpoint of what has come, and a log that ends before it.
        let lost = self.pulse.has_lost(me) && canary != Some(Canary::TakeOverOnLostDisk);
        epoch <= self.pulse.durable
            || epoch <= self.pulse.carried
                && !lost
                && view.in_sync().all(|member| Some(member.group) == mine || holds(member.group))
    }

    /// What is durable on this node.
    pub(super) fn durable_here(&self) -> Epoch {
        self.report.durable
    }

    /// Somebody waits until an epoch is durable.
    pub(super) fn want_durable(&mut self, epoch: Epoch) {
        self.report.awaited = self.report.awaited.max(epoch);
    }

    /// Somebody waits until an epoch is closed.
    pub(super) fn need_closed(&mut self, epoch: Epoch) {
        self.report.needed = self.report.needed.max(epoch);
    }

    /// A view begins.
    pub(super) fn enter(&mut self, view: &View, me: NodeId) {
        let standing = view.member(me).map(|member| member.standing);
        let group = view.member(me).map(|member| member.group);
        let mates = view.members.iter().filter(|member| Some(member.group) == group);
        self.mates = mates.map(|member| member.instance.node).collect();
        self.whole = standing.is_some_and(|standing| standing >= Standing::Attached);
        self.catches_up = standing == Some(Standing::Attached);
        // The tick that follows tells control all there is to tell.
        self.reported = DiskReport::default();
    }

    /// Closes what is closed and has not been, and asks for it to become durable, if it is time.
    fn flush(&mut self, now: Instant, closed: Epoch) {
        let Some(log) = self.log.as_mut().filter(|_| self.whole) else { return };
        if self.catches_up && closed < self.pulse.floor {
            return;
        }
        // Of epochs in which nothing happened nothing need be said, but by one who has to show that
        // it has all that the others have, and once in each life: no log at all is no log that was
        // always empty, and leads nowhere.
        let wanted = self.pulse.worked.max(self.pulse.awaited);
        let first = log.flushed == Epoch(0);
        let news = if self.catches_up || first { closed } else { closed.min(wanted) };
        if news <= log.flushed {
            return;
        }
        let hurry = self.pulse.awaited > self.pulse.durable;
        if hurry || now.since(log.flushed_at) >= REDO_FLUSH {
            log.writer.close(closed);
            log.writer.flush();
            log.flushed = closed;
            log.flushed_at = now;
        }
    }

    /// Whether operations may be carried out as far as the disks of this node group go. One that
    /// has failed refuses nothing: its node is left out, or serves on as the last of its group.
    #[inline]
    pub(super) fn admit_writes(&self, ops: Ops<'_>) -> Result<(), Code> {
        let slow = self.some_slow || self.log.as_ref().is_some_and(Log::is_behind);
        let full = self.some_full || self.report.state == DiskState::Full;
        if slow && ops.iter().any(|op| op.kind.writes()) {
            return Err(Code::DiskSlow);
        }
        if full && ops.iter().any(|op| op.kind.grows()) {
            return Err(Code::DiskFull);
        }
        Ok(())
    }

    /// Whether a commit may be asked to wait for the disks.
    pub(super) fn admit_durable(&self) -> Result<(), Code> {
        let possible = self.log.is_some() && !self.pulse.frozen;
        if possible { Ok(()) } else { Err(Code::NotDurable) }
    }

    /// Whether somebody waits for an epoch to close, or to become durable.
    #[inline]
    pub(super) fn hurries(&self, closed: Epoch) -> bool {
        self.pulse.hurries(closed)
    }

    /// Whether nobody waits for the disks.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nobody anywhere waits for the disks, or has said so.
    fn is_at_rest(&self) -> bool {
        self.report.awaited.max(self.pulse.awaited) <= self.pulse.durable
    }

    /// What must not wait for the next tick.
    fn is_urgent(&self) -> bool {
        let (now, told) = (&self.report, &self.reported);
        let waits = self.pulse.awaited > self.pulse.durable && now.durable > told.durable;
        let wants = now.awaited > told.awaited || now.needed > told.needed;
        let begins = self.pulse.quiet && now.worked > told.worked;
        waits || wants || begins || now.state != told.state
    }
}

impl ShardCore {
    /// What a tick says beside epochs.
    pub(super) fn on_pulse(&mut self, pulse: Pulse, out: &mut Outputs) {
        self.redo.some_slow = pulse.has(DiskState::Slow, &self.redo.mates);
        self.redo.some_full = pulse.has(DiskState::Full, &self.redo.mates);
        self.redo.pulse = pulse;
        self.redo.report.whole = self.is_whole();
        self.redo.report.founded = self.founded();
        let closed = self.closable();
        self.redo.flush(self.now, closed);
        self.settle_durable(out);
        if self.redo.report != self.redo.reported {
            self.report_disk(out);
        }
    }

    /// What is owed for a commit of this epoch to one who wants it on disk. The disks are asked at
    /// once, while the backups are.
    pub(super) fn once_durable(&mut self, epoch: Epoch, owed: Owed) -> Owed {
        self.redo.report.awaited = self.redo.report.awaited.max(epoch);
        Owed::OnceDurable(Box::new((epoch, owed)))
    }

    /// The commit is stable; now for the disks.
    pub(super) fn wait_durable(
        &mut self,
        p: PartitionId,
        (epoch, owed): (Epoch, Owed),
        out: &mut Outputs,
    ) {
        self.redo.waiting.entry(epoch).or_default().push((p, owed));
        self.settle_durable(out);
    }

    /// Settles what is durable by now, or never will be.
    fn settle_durable(&mut self, out: &mut Outputs) {
        let later = self.redo.waiting.split_off(&self.redo.pulse.durable.next());
        let settled = std::mem::replace(&mut self.redo.waiting, later);
        if !settled.is_empty() || self.redo.is_at_rest() {
            let left: usize = self.redo.waiting.values().map(Vec::len).sum();
            let count = left + settled.values().map(Vec::len).sum::<usize>();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let before = self.redo.report.waiters;
            self.redo.report.waiters = count.max(before - before.div_ceil(8));
        }
        for (p, owed) in settled.into_values().flatten() {
            out.mark("answered_when_durable");
            self.settle_debt(p, owed, out);
        }
        if !self.redo.pulse.frozen {
            return;
        }
        for (_, owed) in std::mem::take(&mut self.redo.waiting).into_values().flatten() {
            out.mark("durability_lost");
            if let Owed::Done { link, request, .. }
            | Owed::Answer { link, request, .. }
            | Owed::Outcome { link, request, .. } = owed
            {
                self.refuse_request(link, request, Code::DurabilityLost, out);
            }
        }
    }

    /// Whether this disk has what a joining partition was copied from.
    pub(super) fn is_on_disk(&self, part: &Partition) -> bool {
        self.checkpointed(part.id) >= Some(part.versions_from) && self.is_clean(part.id)
    }

    /// Whether nothing of an earlier copy of a partition can be found on this disk.
    pub(super) fn is_clean(&self, p: PartitionId) -> bool {
        self.checkpoints.is_clean(p) || self.canary == Some(Canary::CountBeforeRemoved)
    }

    /// Whether this disk has, or the redo log leads to, everything this shard holds.
    pub(super) fn is_whole(&self) -> bool {
        let mut joining = self.parts.iter().flatten().filter(|part| part.join.is_some());
        joining.all(|part| part.whole && (self.options.redo.is_none() || self.is_on_disk(part)))
    }

    /// The newest of the checkpoints that hold what was copied.
    pub(super) fn founded(&self) -> Epoch {
        let joining = self.parts.iter().flatten().filter(|part| part.join.is_some());
        joining.filter_map(|part| self.checkpointed(part.id)).max().unwrap_or_default()
    }

    /// The last epoch that can be closed on this disk: everything of it must be in the redo log or
    /// in checkpoints.
    pub(super) fn closable(&self) -> Epoch {
        let closable = |part: &Partition| match &part.join {
            // Until its rows are here it is none of this node's: others have it on their disks.
            Some(_) if self.receives(part) && !part.whole => self.closed,
            Some(_) if !self.receives(part) && !self.is_on_disk(part) => Epoch(0),
            _ => part.complete_up_to(self.closed),
        };
        let parts = self.parts.iter().flatten();
        parts.map(|part| closable(part)).min().unwrap_or(self.closed)
    }

    /// How the disk is, for people.
    pub(super) fn disk_status(&self) -> Option<DiskStatus> {
        let log = self.redo.log.as_ref()?;
        let (checkpointed, finished) = self.checkpoints_held();
        let ms = |since: Instant| self.now.since(since).as_millis() as u64;
        Some(DiskStatus {
            state: self.redo.report.state,
            durable: self.redo.report.durable,
            durable_everywhere: self.redo.pulse.durable,
            worked: self.redo.pulse.worked.max(self.redo.report.worked),
            redo_waiting_bytes: log.writer.waiting_bytes() as u64,
            redo_request_ms: log.out_since.map(ms),
            checkpointed,
            checkpoint_age_ms: finished.map(ms),
        })
    }

    fn report_disk(&mut self, out: &mut Outputs) {
        self.redo.reported = self.redo.report;
        self.report(&ShardControl::Disk(self.redo.report), out);
    }

    /// The end of a turn: the disk gets what it is due, control what it must know.
    pub(super) fn settle_redo(&mut self, out: &mut Outputs) {
        if let Some(log) = &mut self.redo.log {
            if let Some(mut request) = log.writer.next_request() {
                log.out_since = Some(self.now);
                if self.canary == Some(Canary::SkipFsync) {
                    log.skipped = skip_syncs(&mut request);
                }
                out.effect(Effect::Disk { lane: Lane::Redo, request });
            }
            if log.is_behind() != (self.redo.report.state == DiskState::Slow) {
                self.redo.report.state = log.state(self.now);
            }
        }
        if self.redo.is_urgent() {
            self.report_disk(out);
        }
    }

    /// A request of the redo log was executed, or a part of it.
    pub(super) fn on_redo_done(&mut self, mut done: Completion, out: &mut Outputs) {
        let Some(log) = &mut self.redo.log else { return };
        log.out_since = None;
        for (at, sync) in std::mem::take(&mut log.skipped) {
            if done.failed.is_none() {
                done.ops.insert(at, sync);
            }
        }
        log.writer.on_done(done);
        let state = log.state(self.now);
        match log.writer.state() {
            WriterState::Running => {}
            WriterState::Full => {
                out.mark("redo_disk_full");
                if self.redo.report.state != DiskState::Full {
                    let text = "the disk is full: new rows are refused until there is space again";
                    out.log(LogLevel::Warn, text);
                }
                log.retry_at = Some(self.now + REDO_RETRY);
            }
            WriterState::Broken(broken) => {
                out.mark("redo_disk_broken");
                let file = broken.file.map_or("a directory".to_owned(), |file| file.to_string());
                let text = format!("the redo log is broken: {file}: {}", broken.error);
                out.log(LogLevel::Warn, text);
            }
        }
        self.redo.report.durable = log.writer.durable();
        self.redo.report.state = state;
    }

    /// From time to time: a full disk is tried again, one that does not answer is noticed.
    pub(super) fn watch_redo(&mut self, out: &mut Outputs) {
        let Some(log) = &mut self.redo.log else { return };
        if log.retry_at.take_if(|at| *at <= self.now).is_some() {
            out.mark("redo_retried");
            log.writer.retry();
        }
        let state = log.state(self.now);
        // A full disk counts as full until a try has succeeded.
        let trying = self.redo.report.state == DiskState::Full && log.out_since.is_some();
        if !trying || state > DiskState::Full {
            self.redo.report.state = state;
        }
        let closed = self.closable();
        self.redo.flush(self.now, closed);
    }
}

/// Takes the syncs out of a request. A bug, for the canary.
fn skip_syncs(request: &mut Request) -> Vec<(usize, Op)> {
    let mut skipped = Vec::new();
    for (at, op) in std::mem::take(&mut request.ops).into_iter().enumerate() {
        match op {
            Op::Sync(_) => skipped.push((at, op)),
            _ => request.ops.push(op),
        }
    }
    skipped
}
