//! The shard core: a thread's share of a data node's partitions, as a deterministic process.
//!
//! It holds rows, locks and logs of its partitions, replicates them, coordinates the transactions
//! of clients that come to it and takes part in those of others. Only the node's control core
//! decides about views; the shard obeys it.
//!
//! The parts, by concern:
//! * [`log`], [`apply`]: the partition log and what records do to rows;
//! * [`execute`], [`evaluate`]: requests of clients, the one-partition fast path;
//! * [`coordinate`], [`decide`]: the coordinator of a transaction on several partitions;
//! * [`participate`]: the participants' side, row locks, votes;
//! * [`takeover`]: transactions of dead coordinators, and outcome questions;
//! * [`read`], [`scan`]: committed reads from any in-sync replica;
//! * [`snapshot`]: reads and scans as of a closed epoch;
//! * [`versions`]: how long older versions of rows are kept;
//! * [`checkpoint`]: what a restart begins with, written from time to time; [`pace`]: how fast;
//! * [`mod@restore`]: what a shard begins with after a restart;
//! * [`redo`]: the redo log, what is durable;
//! * [`enter`]: views, leases, ticks;
//! * [`fence`]: proposals, and partitions that get another primary;
//! * [`join`], [`donor`], [`copied`], [`kept`]: a replica that comes back, and where it copies
//!   from;
//! * [`moves`]: a partition that comes from another node group, or goes to one;
//! * [`progress`]: how far it is, for people;
//! * [`answers`]: what is owed once a log position is stable.

mod answers;
mod apply;
mod backup;
mod checkpoint;
mod client;
mod coordinate;
mod copied;
mod decide;
mod donor;
mod enter;
mod evaluate;
mod execute;
mod fence;
mod inspect;
mod join;
mod kept;
mod links;
mod log;
mod moves;
mod pace;
mod participate;
mod partition;
mod progress;
mod read;
mod redo;
mod removals;
mod restore;
mod scan;
mod snapshot;
mod takeover;
mod versions;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lockstep_proto::canary::Canary;
use lockstep_proto::disk::Lane;
use lockstep_proto::hash::IdMap;
use lockstep_proto::ids::{
    Epoch, NodeId, NodeInstance, PartitionId, ShardAddr, ShardId, TxId, ViewNumber,
};
use lockstep_proto::limits::FRAMES_HELD_MAX;
use lockstep_proto::process::{Effect, Input, LinkEnd, LinkId, Outputs, Peer, Process, Target};
use lockstep_proto::report::Report;
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::bytes::Reader;
use lockstep_proto::wire::client::ShardStatus;
use lockstep_proto::wire::control::JoinStage;
use lockstep_proto::wire::data::Message;
use lockstep_proto::wire::kind;
use lockstep_storage::redo::LogIdentity;

pub use inspect::{PartitionInspection, RowsAt, ShardInspection};
pub use restore::{Restored, RestoredPartition, RestoredShard, restore, restore_lane};

use answers::Owed;
use backup::Backups;
use checkpoint::Checkpoints;
use coordinate::CoordTx;
use donor::Donor;
use evaluate::Staged;
use fence::Fence;
use links::Links;
use partition::Partition;
use progress::Progress;
use read::Reads;
use redo::Redo;
use snapshot::Snapshots;
use takeover::Takeover;

/// How long after a failed dial or a lost link a peer shard is dialled again.
const REDIAL: Duration = Duration::from_millis(20);

/// How much longer the side that is not the one to dial waits before it does so all the same: the
/// other side may not have noticed that the link is gone, and has nothing to send on it.
const REDIAL_FOR_OTHER: Duration = Duration::from_millis(200);

/// How often idle transactions, stuck answers and old outcomes are looked for, in a turn that
/// something else has begun. With the usual heartbeats control's pings alone see to that.
const SWEEP: Duration = Duration::from_millis(80);

/// Where there is none, a turn is begun for it after this time.
const SWEEP_ALONE: Duration = Duration::from_millis(400);

/// What a shard core needs to know at birth.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// The node's life.
    pub instance: NodeInstance,
    /// Which shard of it.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// Wall clock minus boot clock at the start, milliseconds: stamps transactions' ages.
    pub wall_offset_ms: u64,
    /// Its redo log on the node's disk; `None` for a node that keeps its data in memory only.
    pub redo: Option<LogIdentity>,
    /// Bytes of stable records it keeps of one partition for those who join.
    pub kept_max: usize,
    /// A known bug to run with.
    pub canary: Option<Canary>,
}

/// See the module text.
pub struct ShardCore {
    me: ShardAddr,
    options: ShardOptions,
    canary: Option<Canary>,
    now: Instant,
    /// Something was handled in this turn that somebody may wait for.
    busy: bool,
    view: Option<Arc<View>>,
    view_number: ViewNumber,
    /// Whom control has told to refuse until the next view.
    fenced: Vec<NodeInstance>,
    fence: Fence,
    draining: bool,
    epoch: Epoch,
    closed: Epoch,
    /// Highest epoch reported as finished in this view.
    reported: Epoch,
    links: Links,
    /// By partition id; `None` where this shard holds no replica.
    parts: Vec<Option<Box<Partition>>>,
    /// Frames of views this shard does not act in yet.
    held: VecDeque<(LinkId, Box<[u8]>)>,
    /// Frames from this shard to itself.
    loopback: BytesMut,
    coordinated: IdMap<TxId, CoordTx>,
    /// How many decided, unconfirmed transactions each epoch has.
    committing: BTreeMap<Epoch, usize>,
    takeovers: BTreeMap<TxId, Takeover>,
    reads: Reads,
    redo: Redo,
    donor: Donor,
    /// Up to which epoch the node's files had everything when it was started.
    recovered: Epoch,
    /// What was last reported of the partitions that join here.
    joined: Option<(ViewNumber, JoinStage)>,
    /// Pieces of copies have arrived in this turn.
    took: bool,
    /// How far the join of this node is, or how it went.
    progress: Option<Progress>,
    leases: BTreeMap<NodeId, (NodeInstance, Instant)>,
    lease_waiting: Vec<(PartitionId, Owed)>,
    checkpoints: Checkpoints,
    backups: Backups,
    snapshots: Snapshots,
    /// An invariant is broken: the process is ending.
    ended: bool,
    watermarks_due: Vec<PartitionId>,
    /// Status questions waiting for a measurement, by token.
    measuring: VecDeque<(LinkId, u64)>,
    session_next: u32,
    /// Records appended here in an epoch that was closed already: always 0, or I6 is broken.
    late_records: u64,
    swept: Instant,
    data_bytes: i64,
    /// Bytes of row data this shard may admit, by the view.
    data_memory: u64,
    stats: ShardStatus,
    staged: Staged,
    results: BytesMut,
    done_results: Vec<u8>,
    granted: Vec<TxId>,
    /// Transactions that have got the locks they waited for.
    runnable: VecDeque<(PartitionId, TxId)>,
    wounds: Vec<TxId>,
}

impl ShardCore {
    /// A shard that waits for its control core to name a view.
    #[must_use]
    pub fn new(options: ShardOptions) -> Self {
        let me = ShardAddr { instance: options.instance, shard: options.shard };
        Self {
            me,
            canary: options.canary,
            redo: Redo::new(options.redo, &options),
            options,
            now: Instant::default(),
            busy: false,
            view: None,
            view_number: ViewNumber(0),
            fenced: Vec::new(),
            fence: Fence::default(),
            draining: false,
            epoch: Epoch(1),
            closed: Epoch(0),
            reported: Epoch(0),
            links: Links::default(),
            parts: Vec::new(),
            held: VecDeque::new(),
            loopback: BytesMut::new(),
            coordinated: IdMap::default(),
            committing: BTreeMap::new(),
            takeovers: BTreeMap::new(),
            reads: Reads::default(),
            donor: Donor::default(),
            recovered: Epoch(0),
            joined: None,
            took: false,
            progress: None,
            leases: BTreeMap::new(),
            lease_waiting: Vec::new(),
            checkpoints: Checkpoints::default(),
            backups: Backups::default(),
            snapshots: Snapshots::default(),
            ended: false,
            watermarks_due: Vec::new(),
            measuring: VecDeque::new(),
            late_records: 0,
            session_next: 0,
            swept: Instant::default(),
            data_bytes: 0,
            data_memory: 0,
            stats: ShardStatus::default(),
            staged: Staged::default(),
            results: BytesMut::new(),
            done_results: Vec::new(),
            granted: Vec::new(),
            runnable: VecDeque::new(),
            wounds: Vec::new(),
        }
    }

    fn part(&self, p: PartitionId) -> &Partition {
        self.parts[usize::from(p.0)].as_ref().expect("callers name partitions held here")
    }

    fn part_mut(&mut self, p: PartitionId) -> &mut Partition {
        self.parts[usize::from(p.0)].as_mut().expect("callers name partitions held here")
    }

    /// Whether this shard is the primary of a partition, and may append to its log.
    fn leads(&self, p: PartitionId) -> bool {
        let part = self.parts.get(usize::from(p.0)).and_then(Option::as_ref);
        part.is_some_and(|part| part.leads) && !self.fence.stops(p)
    }

    /// The shard core that leads a partition in this view.
    fn primary_of(&self, p: PartitionId) -> Option<ShardAddr> {
        self.view.as_ref()?.primary_of(p)
    }

    /// The number of partitions per table.
    fn partitions(&self) -> u16 {
        self.view.as_ref().map_or(1, |view| view.config.partitions)
    }

    fn raise_epoch(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Sends a message to a shard core, possibly this one. What cannot be sent is lost: entering a
    /// view and every reconnect ask and decide anew.
    fn tell(&mut self, to: ShardAddr, message: &Message<'_>, out: &mut Outputs) {
        if to == self.me {
            message.encode(&mut self.loopback);
        } else if let Some(link) = self.links.shards.get(&to)
            && let Some(buffer) = out.buffer(*link)
        {
            message.encode(buffer);
        }
    }

    /// Handles what the shard has told itself, and the transactions whose locks came free.
    fn run_loopback(&mut self, out: &mut Outputs) {
        loop {
            while let Some((p, tx)) = self.runnable.pop_front() {
                if self.leads(p) {
                    self.run_pending(p, tx, out);
                }
            }
            if self.loopback.is_empty() {
                return;
            }
            let mut frames = std::mem::take(&mut self.loopback);
            let mut reader = Reader::new(&frames);
            while let Ok(length) = reader.u32() {
                let frame = reader.bytes(length as usize).expect("written by tell");
                let message = Message::decode(frame).expect("written by tell");
                self.on_shard_message(None, self.me, message, out);
            }
            if self.loopback.is_empty() {
                frames.clear();
                self.loopback = frames;
            }
        }
    }

    fn on_frame(&mut self, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        let Some(entry) = self.links.find(link) else { return };
        let Some(first) = bytes.first() else {
            self.on_malformed(link, out);
            return;
        };
        match (entry.peer, *first) {
            (Peer::Client, kind::CLIENT) => self.on_client_message(link, bytes, out),
            (Peer::Client, _) => match Message::decode(bytes) {
                Ok(message) => self.on_client_request(link, message, out),
                Err(_) => self.on_malformed(link, out),
            },
            (Peer::Mgmt(_), kind::BACKUP) => self.on_backup_frame(link, bytes, out),
            (Peer::Control(_), kind::SHARD_CONTROL) => self.on_control_frame(bytes, out),
            (Peer::Shard(instance, shard), _) => {
                self.on_shard_frame(link, ShardAddr { instance, shard }, bytes, out);
            }
            _ => self.on_malformed(link, out),
        }
    }

    /// A frame of another shard: held if its view is newer, ignored if it is older or its sender
    /// is fenced or not a member.
    fn on_shard_frame(&mut self, link: LinkId, from: ShardAddr, bytes: &[u8], out: &mut Outputs) {
        let mut reader = Reader::new(bytes.get(1..).unwrap_or_default());
        let Ok(view) = reader.view() else {
            self.on_malformed(link, out);
            return;
        };
        if view > self.view_number {
            out.mark("frame_of_newer_view_held");
            if self.held.len() < FRAMES_HELD_MAX {
                self.held.push_back((link, bytes.into()));
            } else {
                // Dropping one frame of a stream would leave a gap: end the link, start anew.
                out.effect(Effect::Close { link, why: "too many frames of a newer view" });
            }
            return;
        }
        let fencing = self.canary != Some(Canary::NoFencing);
        if fencing && (view < self.view_number || self.fenced.contains(&from.instance)) {
            out.mark("frame_of_older_view_ignored");
            return;
        }
        let known = self.view.as_ref().is_some_and(|view| view.contains(from.instance));
        if !known && fencing && self.canary != Some(Canary::AcceptOldIncarnation) {
            out.mark("frame_of_stranger_ignored");
            return;
        }
        if bytes.first() == Some(&kind::JOIN) {
            return self.on_join_frame(link, from, reader.rest(), out);
        }
        match Message::decode(bytes) {
            Ok(message) => self.on_shard_message(Some(link), from, message, out),
            Err(_) => self.on_malformed(link, out),
        }
    }

    fn on_shard_message(
        &mut self,
        link: Option<LinkId>,
        from: ShardAddr,
        message: Message<'_>,
        out: &mut Outputs,
    ) {
        match message {
            Message::Append { stable, record, .. } => {
                if let Some(link) = link {
                    self.on_append(link, from.instance, stable, record, out);
                }
            }
            Message::Ack { count, .. } => {
                if let Some(link) = link {
                    self.on_ack(link, from, count, out);
                }
            }
            Message::LogEnds { ends, .. } => {
                if let Some(link) = link {
                    self.on_log_ends(link, from, ends, out);
                }
            }
            Message::Stable { ends, .. } => self.on_stable(from.instance, ends, out),
            Message::Forward(forward) => self.on_forward(from, &forward, out),
            Message::Forwarded { tx, partition, step, epoch, refused, results, .. } => {
                self.raise_epoch(epoch);
                self.on_forwarded(tx, partition, step, refused, results, out);
            }
            Message::Prepare { tx, epoch, partition, steps, participants, .. } => {
                self.raise_epoch(epoch);
                self.on_prepare(from, tx, partition, steps, participants, out);
            }
            Message::Voted { tx, partition, vote, results, .. } => {
                self.on_voted(tx, partition, vote, results, out);
            }
            Message::Decide { tx, partition, commit, .. } => {
                self.on_decide(from, tx, partition, commit, out);
            }
            Message::Confirmed { tx, partition, .. } => self.on_confirmed(tx, partition, out),
            Message::Release { tx, partition, .. } => self.on_release(tx, partition),
            Message::Inquire { tx, partition, .. } => self.on_inquire(from, tx, partition, out),
            Message::Resolve { tx, participants, .. } => {
                self.on_resolve(from, tx, participants, out);
            }
            Message::Wound { tx, .. } => self.on_wound(tx, out),
            _ => {
                if let Some(link) = link {
                    self.on_malformed(link, out);
                }
            }
        }
    }

    fn on_malformed(&mut self, link: LinkId, out: &mut Outputs) {
        self.stats.malformed += 1;
        out.mark("malformed_frame");
        out.effect(Effect::Close { link, why: "a frame that is not a message" });
    }

    fn on_link_up(&mut self, link: LinkId, peer: Peer, out: &mut Outputs) {
        match peer {
            Peer::Control(instance) if instance == self.me.instance => {
                self.links.control = Some(link);
            }
            Peer::Shard(instance, shard) => {
                let addr = ShardAddr { instance, shard };
                if let Some(old) = self.links.shards.insert(addr, link) {
                    // The peer has given up the old link before this side noticed.
                    self.links.remove(old);
                    self.on_peer_lost(addr, out);
                    out.effect(Effect::Close { link: old, why: "" });
                }
                self.links.redial.remove(&addr);
                self.links.insert(link, peer);
                self.on_peer_shard_up(link, addr, out);
                return;
            }
            Peer::Client => self.links.clients += 1,
            Peer::Mgmt(_) => {}
            _ => {
                out.effect(Effect::Close { link, why: "a shard has no business with this peer" });
                return;
            }
        }
        self.links.insert(link, peer);
    }

    fn on_link_down(&mut self, link: LinkId, _end: LinkEnd, out: &mut Outputs) {
        let Some(gone) = self.links.remove(link) else { return };
        match gone.peer {
            Peer::Client => {
                self.links.clients -= 1;
                self.snapshots.forget_link(link);
                self.on_client_gone(link, out);
            }
            Peer::Mgmt(_) => self.forget_backup_of(link, out),
            Peer::Shard(instance, shard) => {
                let addr = ShardAddr { instance, shard };
                if self.links.shards.get(&addr) == Some(&link) {
                    self.links.shards.remove(&addr);
                    self.on_peer_lost(addr, out);
                    self.plan_dial(addr, REDIAL);
                }
            }
            _ => {}
        }
    }

    /// Streams to and transactions from a peer end with the link.
    fn on_peer_lost(&mut self, addr: ShardAddr, out: &mut Outputs) {
        for part in self.parts.iter_mut().flatten() {
            for backup in part.backups.iter_mut().filter(|b| b.addr == addr) {
                backup.stream = None;
            }
        }
        self.donor.lost(addr);
        self.drop_open_of(|coordinator| coordinator == addr, out);
    }

    fn on_timeout(&mut self, out: &mut Outputs) {
        let due: Vec<ShardAddr> = self
            .links
            .redial
            .iter()
            .filter(|(_, at)| at.is_some_and(|at| at <= self.now))
            .map(|(addr, _)| *addr)
            .collect();
        for addr in due {
            self.dial(addr, out);
        }
    }

    fn sweep_all(&mut self, out: &mut Outputs) {
        self.swept = self.now;
        self.sweep(out);
        self.watch_streams(out);
        self.watch_redo(out);
        self.watch_joins(out);
        self.watch_backup(out);
        self.run_loopback(out);
    }

    /// Dials a peer shard at its place in the view. The lower node dials.
    fn dial(&mut self, addr: ShardAddr, out: &mut Outputs) {
        let Some(member) = self.view.as_ref().and_then(|view| view.member(addr.instance.node))
        else {
            self.links.redial.remove(&addr);
            return;
        };
        let to = Target::Shard(addr.instance, addr.shard);
        out.effect(Effect::Dial { to, addr: member.addr.clone() });
        self.links.redial.insert(addr, None);
    }

    /// Plans a dial, if the peer is a member: soon if this side is the one to dial.
    fn plan_dial(&mut self, addr: ShardAddr, after: Duration) {
        let member = self.view.as_ref().is_some_and(|view| view.contains(addr.instance));
        if !member || self.me.instance == addr.instance {
            return;
        }
        let mine = self.me.instance.node < addr.instance.node;
        let after = if mine { after } else { after + REDIAL_FOR_OTHER };
        self.links.redial.insert(addr, Some(self.now + after));
    }
}

impl Process for ShardCore {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        self.now = self.now.max(now);
        match input {
            Input::Frame { link, bytes } => {
                self.busy = true;
                self.on_frame(link, bytes, out);
            }
            Input::LinkUp { link, peer } => self.on_link_up(link, peer, out),
            Input::LinkDown { link, end } => self.on_link_down(link, end, out),
            Input::DialFailed { to: Target::Shard(instance, shard), .. } => {
                self.plan_dial(ShardAddr { instance, shard }, REDIAL);
            }
            Input::Timeout => self.on_timeout(out),
            Input::Disk { lane: Lane::Redo, done } => {
                self.busy = true;
                self.on_redo_done(done, out);
            }
            Input::Disk { lane: Lane::Checkpoint, done } => self.on_checkpoint_done(done, out),
            Input::Disk { lane: Lane::Backup, done } => self.on_backup_done(done, out),
            Input::Measured { cpu_us, rss_bytes, .. } => {
                self.on_measured(cpu_us, rss_bytes, out);
            }
            Input::DialFailed { .. }
            | Input::Stored { .. }
            | Input::Recovered { .. }
            | Input::Terminate => {}
        }
        self.run_loopback(out);
    }

    fn settle(&mut self, now: Instant, out: &mut Outputs) {
        self.now = self.now.max(now);
        if self.now >= self.swept + SWEEP {
            self.sweep_all(out);
        }
        self.send_due(out);
        self.finish_in_time(out);
        self.settle_redo(out);
        self.settle_checkpoint(out);
        self.settle_backup(out);
        self.busy = false;
    }

    fn next_timeout(&self) -> Option<Instant> {
        let redial = self.links.redial.values().flatten().min().copied();
        let checkpoint = self.checkpoints.next_timeout();
        let timers = [redial, checkpoint, self.backups.next_timeout(), self.donor.due()];
        timers.into_iter().flatten().chain([self.swept + SWEEP_ALONE]).min()
    }

    fn report(&self, _now: Instant) -> Option<Report> {
        Some(Report::Shard(Box::new(self.status())))
    }
}
