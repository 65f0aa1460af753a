//! The control core of a data node: who is here, which view is in force, who may read, what the
//! epoch is. Only control decides; shards are told.
//!
//! It is cut by concern, each file with the part of [`ControlCore`]'s methods that belongs to it:
//! * [`links`]: connections to peers, management servers and this node's shards;
//! * [`heartbeat`]: heartbeats, leases, suspicion, proof of death, stalls;
//! * [`member`]: answering proposals, adopting and entering views;
//! * [`president`]: making proposals and the view that follows;
//! * [`arbitration`]: asking the arbitrator, replacing it, registering views;
//! * [`configure`]: changes of the configuration;
//! * [`disk`]: what is durable, hurried and slow ticks, disks that fail;
//! * [`returns`]: members that come back: admitted, attached, promoted, leading again;
//! * [`roster`]: seats for newcomers, orders of operators, who has lost its seat;
//! * [`transfer`]: partitions that move to another node group;
//! * [`epochs`]: ticks, reports, seals;
//! * [`shards`]: fan-out to the shards, pings;
//! * [`leave`]: SIGTERM and every other way to end.
//!
//! The rules themselves are pure machines in `lockstep-proto` (`lease`, `suspicion`, `agreement`,
//! `survival`, `register`, `epochs`); this core wires them together and owns the timers.
//!
//! Invariants: a view is on disk before the node acts in it; a node answers a proposal only while
//! it acts in the view the proposal changes; it refuses everything from nodes that an answered
//! proposal drops; nobody acts in a view without X while a promise to X may still run.

mod arbitration;
mod configure;
mod disk;
mod epochs;
mod heartbeat;
mod leave;
mod links;
mod member;
mod president;
mod report;
mod returns;
mod roster;
mod shards;
mod state;
mod transfer;

use std::time::Duration;

use lockstep_proto::agreement::AnswerBook;
use lockstep_proto::canary::Canary;
use lockstep_proto::configuration::ConfigChange;
use lockstep_proto::durability::{DiskTicker, MemberDisks};
use lockstep_proto::epochs::{MemberEpochs, Ticker};
use lockstep_proto::ids::{Epoch, MgmtId, NodeInstance, ViewNumber};
use lockstep_proto::lease::Leases;
use lockstep_proto::process::{Input, LinkId, Outputs, Peer, Process};
use lockstep_proto::register::Lineage;
use lockstep_proto::report::Report;
use lockstep_proto::suspicion::Suspicion;
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::shard_control::ShardControl;

pub use self::leave::exit_code;
use self::leave::{Leave, Stopping, Told};
use self::links::Links;
use self::member::{Gathering, Pending};
use self::president::Proposing;
use self::returns::Returns;
use self::roster::Wishes;
use self::shards::ShardState;
use self::state::State;

/// Peers that were never heard are not suspected before this long after the start: the processes
/// of a cluster do not start at the same moment.
const START_GRACE: Duration = Duration::from_secs(5);

/// What a control core starts with.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// This node's life.
    pub instance: NodeInstance,
    /// The view it starts in, already on disk; this life is a member.
    pub view: View,
    /// The management servers it knows from its configuration.
    pub mgmt: Vec<(MgmtId, String)>,
    /// How many shard cores it has.
    pub shards: u16,
    /// A bug to switch on.
    pub canary: Option<Canary>,
}

/// The control core. See the module text.
#[derive(Debug)]
pub struct ControlCore {
    me: NodeInstance,
    canary: Option<Canary>,
    state: State,
    /// The newest view on disk; the shards have been told to enter it.
    view: View,
    links: Links,
    shards: Vec<ShardState>,
    suspicion: Suspicion,
    leases: Leases,
    leases_news: LeaseNews,
    /// Answers to heartbeats that wait for the next beat: what they promise is promised already.
    promises_untold: Vec<(NodeInstance, ControlMessage)>,
    /// Members found dead while they still promised not to act without this node: nobody can have
    /// acted without it on an answer of theirs.
    died_in_time: Vec<NodeInstance>,
    book: AnswerBook,
    gathering: Option<Gathering>,
    proposing: Option<Proposing>,
    returns: Returns,
    /// A change of the configuration that this node, as president, is to make.
    config_wanted: Option<Box<ConfigChange>>,
    wishes: Wishes,
    /// The highest attempt of others for the next view, told by a member that answered it.
    number_told: ViewNumber,
    /// A new arbitrator did not register: none is tried before this.
    arbitrator_barred_until: Instant,
    pending: Option<Pending>,
    lineage: Lineage,
    ticker: Ticker,
    epochs: MemberEpochs,
    disk_ticker: DiskTicker,
    /// The last epoch ended here that somebody wants on the disks.
    awaited_last: Epoch,
    disks: MemberDisks,
    /// This node asks to be left out, because its disk has failed or does not answer.
    disk_lost: bool,
    leave: Leave,
    told: Told,
    /// It leaves because it has lost its seat, to come back as a new life.
    leaves_again: bool,
    /// It leaves because it has lost its seat.
    leaves_by_order: bool,
    stopping: Option<Stopping>,
    /// The shards have been told to serve nobody any more.
    retired: bool,
    timers: Timers,
    /// Names stores, arbitrator requests and pings.
    counter: u64,
}

/// So many heartbeats for each time that the shards are pinged and told of leases: a wake-up of
/// theirs costs more than what it brings.
const BEATS_PER_PING: u64 = 2;

/// What the shards have not been told yet about leases.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum LeaseNews {
    Told,
    Moved,
    Urgent,
}

/// When something is to be done. The beat does everything that is repeated.
#[derive(Debug, Default)]
struct Timers {
    started: bool,
    /// When anything was handled last; a long gap means that this core was stalled.
    handled: Instant,
    /// When a stranger was told the view last.
    stranger_told: Option<Instant>,
    beat: Instant,
    beats: u64,
    tick: Option<Instant>,
    /// When a tick has raised the epoch last.
    raised: Instant,
    /// When there was work somewhere last, as far as the ticking member knows.
    worked: Instant,
    silence: Option<Instant>,
    /// When it has settled who else is silent.
    settled: Option<Instant>,
    lease_end: Option<Instant>,
}

impl ControlCore {
    /// A core that has not started: it does at its first input.
    ///
    /// # Panics
    /// If this life of the node is not a member of the view.
    #[must_use]
    pub fn new(options: ControlOptions) -> Self {
        let ControlOptions { instance: me, view, mgmt, shards, canary } = options;
        assert!(view.contains(me), "a node starts in a view that has it");
        let start = Instant::default();
        Self {
            me,
            canary,
            state: State::Entering,
            links: Links::new(me, &view, mgmt),
            shards: (0..shards).map(|_| ShardState::default()).collect(),
            suspicion: Suspicion::new(me, &view, start, START_GRACE),
            leases: Leases::default(),
            leases_news: LeaseNews::Told,
            promises_untold: Vec::new(),
            died_in_time: Vec::new(),
            book: AnswerBook::default(),
            gathering: None,
            proposing: None,
            returns: Returns::default(),
            config_wanted: None,
            wishes: Wishes::default(),
            number_told: ViewNumber(0),
            arbitrator_barred_until: start,
            pending: None,
            lineage: Lineage::new(view.identity()),
            ticker: Ticker::default(),
            epochs: MemberEpochs::new(shards),
            disk_ticker: DiskTicker::default(),
            awaited_last: Epoch(0),
            disks: MemberDisks::new(shards),
            disk_lost: false,
            leave: Leave::No,
            told: Told::Nothing,
            leaves_again: false,
            leaves_by_order: false,
            stopping: None,
            retired: false,
            timers: Timers::default(),
            counter: 0,
            view,
        }
    }

    /// The newest view this node has on disk.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether all shards of this node act in [`ControlCore::view`] and the node has not stopped.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.state.acts() && !self.retired && self.stopping.is_none()
    }

    /// The highest epoch that this node knows to be on the disks of all members that count.
    #[must_use]
    pub fn epoch_durable(&self) -> Epoch {
        self.disks.pulse().durable
    }

    /// The highest closed epoch this node knows.
    #[must_use]
    pub fn epoch_closed(&self) -> Epoch {
        self.epochs.closed()
    }

    fn start(&mut self, now: Instant, out: &mut Outputs) {
        self.timers.started = true;
        self.timers.beat = now;
        self.timers.handled = now;
        self.suspicion = Suspicion::new(self.me, &self.view, now, START_GRACE);
        self.links.start(now);
        self.enter_epochs(now);

        self.links.dial_due(now, out);
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn on_link_up(&mut self, now: Instant, link: LinkId, peer: Peer, out: &mut Outputs) {
        let peer = self.as_member(peer);
        if !self.links.up(link, peer, now, out) {
            return;
        }
        match peer {
            Peer::Shard(_, shard) => self.on_shard_up(shard, out),
            Peer::Control(node) => self.on_control_up(now, link, node, out),
            Peer::Watch(node) => self.suspicion.watch_up(node),
            Peer::Mgmt(_) => self.register_view(now, out),
            Peer::Newcomer | Peer::Client => {}
        }
    }

    fn on_link_down(
        &mut self,
        now: Instant,
        link: LinkId,
        end: lockstep_proto::process::LinkEnd,
        out: &mut Outputs,
    ) {
        let Some(peer) = self.links.down(link, now) else { return };
        match peer {
            Peer::Shard(_, shard) => self.on_shard_down(shard, out),
            Peer::Watch(node) => self.on_watch_down(node, end, out),
            Peer::Control(_) | Peer::Mgmt(_) | Peer::Newcomer | Peer::Client => {}
        }
        self.links.dial_due(now, out);
    }

    fn on_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        let Some(peer) = self.links.peer(link) else { return };
        let understood = match (peer, bytes.split_first()) {
            (Peer::Shard(_, shard), Some((&kind::SHARD_CONTROL, body))) => {
                let parsed = lockstep_proto::wire::codec::decode::<ShardControl>(body);
                parsed.map(|message| self.on_shard(now, shard, message, out)).is_ok()
            }
            (Peer::Control(node), Some((&kind::CONTROL, body))) => {
                let parsed = ControlMessage::parse(body);
                parsed.map(|message| self.on_control(now, link, node, message, out)).is_ok()
            }
            (Peer::Mgmt(id), Some((&kind::CONTROL, body))) => {
                let parsed = ControlMessage::parse(body);
                parsed.map(|message| self.on_mgmt(now, id, message, out)).is_ok()
            }
            _ => false,
        };
        if !understood {
            out.mark("control_frame_malformed");
            self.links.close(link, "a frame that is no message of this link", out);
        }
    }

    fn on_control(
        &mut self,
        now: Instant,
        link: LinkId,
        from: NodeInstance,
        message: ControlMessage,
        out: &mut Outputs,
    ) {
        if let ControlMessage::NewView { view } = message {
            return self.on_new_view(from, *view, out);
        }
        if let ControlMessage::Returned(returned) = message {
            return self.on_returned(now, link, from, *returned, out);
        }
        if !self.view.contains(from) {
            return self.tell_stranger(now, link, &message, out);
        }
        if self.suspicion.is_refused(from) && self.canary != Some(Canary::NoFencing) {
            if let ControlMessage::Answered { proposal, answer } = message {
                self.on_last_answer(now, from, proposal, *answer, out);
            }
            return;
        }
        self.suspicion.heard(from, now);
        match message {
            ControlMessage::Heartbeat { sent, view, epoch, unheard, pinned } => {
                self.epochs.raise(epoch);
                self.returns.note_pinned(from, pinned);
                self.on_heartbeat(now, from, (sent, view), &unheard, out);
            }
            ControlMessage::HeartbeatAnswer { sent, promise } => {
                self.on_heartbeat_answer(now, from, sent, promise);
            }
            ControlMessage::Tick { view, epoch, sealed, closed, pulse } => {
                let news = lockstep_proto::epochs::TickNews { epoch, sealed, closed };
                self.on_tick(from, view, (news, pulse), out);
            }
            ControlMessage::EpochReport { view, epoch, finished, confirmed, disk } => {
                self.on_epoch_report(from, view, epoch, (finished, confirmed, disk));
            }
            ControlMessage::Propose { base, proposal, change } => {
                self.on_propose(now, from, base, proposal, change, out);
            }
            ControlMessage::Answered { proposal, answer } => {
                self.on_answered(now, from, proposal, *answer, out);
            }
            ControlMessage::AnsweredHigher { proposal, highest } => {
                self.on_answered_higher(now, proposal, highest, out);
            }
            ControlMessage::SideLost { proposal, text } => {
                self.on_side_lost(now, from, proposal, text, out);
            }
            ControlMessage::LeaveRequest => self.on_leave_request(now, from, out),
            ControlMessage::Configure { change } => self.on_configure(now, change, false, out),
            ControlMessage::Joining { view, stage } => {
                self.on_joining(now, from, view, stage, out);
            }
            ControlMessage::Order(order) => self.on_order(now, order, out),
            ControlMessage::NewView { .. }
            | ControlMessage::Newcome(_)
            | ControlMessage::Seated { .. }
            | ControlMessage::AskArbitrator { .. }
            | ControlMessage::RegisterView { .. }
            | ControlMessage::ArbitratorVerdict { .. }
            | ControlMessage::RegisteredView { .. }
            | ControlMessage::Report { .. }
            | ControlMessage::AdmissionPending { .. }
            | ControlMessage::Admitted { .. }
            | ControlMessage::AdmissionRefused { .. }
            | ControlMessage::ArbitratorReady { .. }
            | ControlMessage::Returned(_)
            | ControlMessage::Forming { .. } => out.mark("control_message_misplaced"),
        }
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        if now >= self.timers.beat {
            self.on_beat(now, out);
        }
        if self.timers.tick.is_some_and(|at| now >= at) {
            self.tick(now, out);
        }
        let settled = self.timers.settled.is_some_and(|at| now >= at);
        if settled || self.timers.silence.is_some_and(|at| now > at) {
            self.reconsider(now, out);
        }
        if self.timers.lease_end.is_some_and(|at| now >= at) && !self.is_over() {
            self.timers.lease_end = None;
            self.advance(now, out);
        }
    }

    /// Whether the process has ended or is about to.
    fn is_over(&self) -> bool {
        self.state == State::Ended || self.stopping.is_some()
    }

    /// Everything that is repeated, once per heartbeat interval.
    fn on_beat(&mut self, now: Instant, out: &mut Outputs) {
        let interval = self.view.config.heartbeat();
        let next = self.timers.beat + interval;
        self.timers.beat = if next > now { next } else { now + interval };
        self.timers.beats += 1;
        self.send_heartbeats(now, out);
        if self.timers.beats.is_multiple_of(BEATS_PER_PING) {
            if self.leases_news == LeaseNews::Moved {
                self.leases_news = LeaseNews::Urgent;
            }
            self.ping_shards(now, out);
        }
        self.prove_deaths(out);
        self.links.dial_due(now, out);
        self.repeat_proposal(now, out);
        self.tell_joining(now, out);
        self.end_if_alone(now, out);
        self.repeat_arbitration(now, out);
        self.register_view(now, out);
        self.heed_disk(now, out);
        self.tell_seated(out);
        self.leave_lost_seat(now, out);
        self.go_on_leaving(now, out);
        self.reconsider(now, out);
    }
}

impl Process for ControlCore {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        if self.state == State::Ended {
            return;
        }
        if self.stopping.is_some() {
            return self.stop_if_due(now, out);
        }
        if !self.timers.started {
            self.start(now, out);
        }
        self.note_stall(now, out);
        match input {
            Input::LinkUp { link, peer } => self.on_link_up(now, link, peer, out),
            Input::LinkDown { link, end } => self.on_link_down(now, link, end, out),
            Input::DialFailed { to, addr: _, error } => self.on_dial_failed(now, to, error, out),
            Input::Frame { link, bytes } => self.on_frame(now, link, bytes, out),
            Input::Stored { token, ok } => self.on_stored(now, token, ok, out),
            Input::Timeout => self.on_timeout(now, out),
            Input::Terminate => self.on_terminate(now, out),
            Input::Measured { .. } | Input::Disk { .. } | Input::Recovered { .. } => {}
        }
    }

    fn settle(&mut self, now: Instant, out: &mut Outputs) {
        if self.is_over() {
            return;
        }
        if self.leases_news == LeaseNews::Urgent {
            self.tell_leases(out);
        }
        self.report_epochs(false, out);
        self.hurry(now, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        if self.state == State::Ended {
            return None;
        }
        if let Some(stopping) = &self.stopping {
            return Some(stopping.at);
        }
        let timers = &self.timers;
        // Silence is suspicion only after, not at, the moment it reaches the suspicion time.
        let silence = timers.silence.map(|at| at + Duration::from_nanos(1));
        let others = [timers.tick, silence, timers.settled, timers.lease_end];
        others.into_iter().flatten().chain([timers.beat]).min()
    }

    fn report(&self, now: Instant) -> Option<Report> {
        Some(Report::Control(Box::new(self.to_report(now))))
    }
}
