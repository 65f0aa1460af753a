//! A small deterministic network for control cores: real cores and real bytes, shards that answer
//! at once, arbitrators with a real register, and faults by name.
//!
//! It is not the simulator: no randomness, one fixed delay, no load. It exists so that a broken
//! agreement is found where it is written.

mod api;
mod shard;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::BytesMut;

use lockstep_cluster::{ControlCore, ControlOptions};
use lockstep_proto::arbitrator::ApiArbitrator;
use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, MgmtId, NodeId, NodeInstance, PartitionId,
    RestartGeneration, ShardId, ViewNumber,
};
use lockstep_proto::orders::Order;
use lockstep_proto::process::{
    DialError, Effect, Exit, Input, LinkEnd, LinkId, Outputs, Peer, Process, Target,
};
use lockstep_proto::register::Register;
use lockstep_proto::roster::Roster;
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, ClusterConfig, Member, Placement, Standing, View};
use lockstep_proto::wire::codec::{decode, frame_cold};
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::shard_control::ShardControl;

use self::shard::FakeShard;

const DELAY: Duration = Duration::from_micros(100);
const STORE_DELAY: Duration = Duration::from_millis(1);

/// A party by number: nodes from 1, management servers from [`MGMT`].
pub(crate) type Id = u16;
/// The first management server's number in this network.
pub(crate) const MGMT: Id = 1000;

pub(crate) fn instance(id: Id) -> NodeInstance {
    NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
}

/// What becomes of a message that is about to be delivered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Deliver,
    Lose,
}

enum Event {
    Wake(Id),
    Frame(Id, LinkId, Vec<u8>),
    Up(Id, LinkId, Peer),
    Down(Id, LinkId, LinkEnd),
    DialFailed(Id, Target, DialError),
    Dial(Id, Target),
    Stored(Id, u64),
}

pub(crate) struct Node {
    pub(crate) core: ControlCore,
    out: Outputs,
    pub(crate) exit: Option<Exit>,
    dead: bool,
    paused: Option<Vec<Event>>,
    shard_link: LinkId,
    pub(crate) shard: FakeShard,
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    bodies: Vec<Option<Event>>,
    pub(crate) nodes: BTreeMap<Id, Node>,
    registers: BTreeMap<Id, Register>,
    mgmt_down: BTreeSet<Id>,
    /// Management servers whose directory was emptied.
    pub(crate) registers_lost: BTreeSet<Id>,
    apis: BTreeMap<Id, ApiArbitrator>,
    /// Processes of API nodes so far.
    lives: u32,
    /// Both ends of every connection.
    conns: BTreeMap<(Id, LinkId), (Id, LinkId)>,
    kinds: BTreeMap<(Id, LinkId), Peer>,
    cuts: BTreeSet<(Id, Id)>,
    mgmt_out: BTreeMap<Id, Outputs>,
    pub(crate) marks: BTreeSet<&'static str>,
    /// Looks at every control message before it is delivered: (from, to, message).
    #[allow(clippy::type_complexity, reason = "one hook, named here")]
    pub(crate) hook: Option<Box<dyn FnMut(Id, Id, &ControlMessage) -> Fate>>,
    /// Every view a node has acted in, with when.
    pub(crate) acted: Vec<(Instant, Id, View)>,
}

/// A view of `groups` × `replicas` nodes numbered from 1, seniority by number, one partition per
/// node; group g has the nodes g, g + groups, … so that zones cut across groups.
pub(crate) fn first_view(groups: u16, replicas: u16, mgmts: u16) -> View {
    let group = |id: Id| GroupId((id - 1) % groups);
    let member = |id: Id| Member {
        instance: instance(id),
        group: group(id),
        zone: String::new(),
        addr: format!("n{id}"),
        shards: 1,
        seniority: u64::from(id),
        standing: Standing::InSync,
    };
    let nodes = groups * replicas;
    let placement = |id: Id| {
        let mut replicas: Vec<NodeId> =
            (1..=nodes).filter(|n| group(*n) == group(id)).map(NodeId).collect();
        let at = replicas.iter().position(|n| n.0 == id).expect("its own group");
        replicas.rotate_left(at);
        Placement {
            group: group(id),
            local_index: 0,
            primary: NodeId(id),
            replicas,
            joining: vec![],
            to: None,
        }
    };
    let arbitrators: Vec<Arbitrator> =
        (0..mgmts).map(|m| Arbitrator::Mgmt { id: MgmtId(m), addr: format!("m{m}") }).collect();
    View {
        cluster: ClusterId(7),
        number: ViewNumber(1),
        config: ClusterConfig { partitions: nodes, replicas, ..ClusterConfig::default() },
        roster: Roster::of(&(1..=nodes).map(member).collect::<Vec<_>>()),
        members: (1..=nodes).map(member).collect(),
        placements: (1..=nodes).map(placement).collect(),
        arbitrator: arbitrators.first().cloned(),
        arbitrators_possible: arbitrators,
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

impl Net {
    pub(crate) fn new(view: &View, canary: Option<Canary>) -> Self {
        let mut net = Self {
            now: Instant(1_000_000_000),
            events: BinaryHeap::new(),
            bodies: Vec::new(),
            nodes: BTreeMap::new(),
            registers: BTreeMap::new(),
            mgmt_down: BTreeSet::new(),
            registers_lost: BTreeSet::new(),
            apis: BTreeMap::new(),
            lives: 0,
            conns: BTreeMap::new(),
            kinds: BTreeMap::new(),
            cuts: BTreeSet::new(),
            mgmt_out: BTreeMap::new(),
            marks: BTreeSet::new(),
            hook: None,
            acted: Vec::new(),
        };
        for at in 0..view.arbitrators_possible.len() {
            let id = MGMT + u16::try_from(at).expect("few");
            net.registers.insert(id, Register::new(view.identity()));
            net.mgmt_out.insert(id, Outputs::new());
        }
        for member in &view.members {
            net.add_node(member.instance, view, canary);
        }
        net
    }

    /// `groups` × `replicas` with this many management servers, run until everybody acts.
    pub(crate) fn started(groups: u16, replicas: u16, mgmts: u16) -> Self {
        let mut net = Self::new(&first_view(groups, replicas, mgmts), None);
        net.run(Duration::from_millis(300));
        assert!(net.nodes.values().all(|n| n.core.acts()));
        net
    }

    fn add_node(&mut self, me: NodeInstance, view: &View, canary: Option<Canary>) {
        let options =
            ControlOptions { instance: me, view: view.clone(), mgmt: vec![], shards: 1, canary };
        let mut out = Outputs::with_marks();
        let shard_link = out.open_link();
        let node = Node {
            core: ControlCore::new(options),
            out,
            exit: None,
            dead: false,
            paused: None,
            shard_link,
            shard: FakeShard { log_end: 1, ..FakeShard::default() },
        };
        let id = me.node.0;
        self.nodes.insert(id, node);
        self.at(Duration::ZERO, Event::Up(id, shard_link, Peer::Shard(me, ShardId(0))));
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.bodies.push(Some(event));
        let at = self.now + after;
        let sequence = self.bodies.len();
        self.events.push(Reverse((at, sequence as u64, sequence - 1)));
    }

    /// Runs for this long.
    pub(crate) fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some(Reverse((at, _, _))) = self.events.peek().filter(|e| e.0.0 <= end) {
            self.now = self.now.max(*at);
            let Reverse((_, _, body)) = self.events.pop().expect("peeked");
            let event = self.bodies[body].take().expect("executed once");
            self.execute(event);
        }
        self.now = end;
    }

    /// Runs until `done`, at most this long; returns how long it took.
    pub(crate) fn run_until(&mut self, most: Duration, done: impl Fn(&Net) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now.since(start) < most, "not done within {most:?}");
            self.run(Duration::from_micros(200));
        }
        self.now.since(start)
    }

    fn execute(&mut self, event: Event) {
        let id = match &event {
            Event::Wake(id)
            | Event::Frame(id, ..)
            | Event::Up(id, ..)
            | Event::Down(id, ..)
            | Event::DialFailed(id, ..)
            | Event::Dial(id, ..)
            | Event::Stored(id, ..) => *id,
        };
        if let Event::Dial(from, to) = event {
            return self.dial(from, to);
        }
        if self.apis.contains_key(&id) {
            return self.api_event(id, event);
        }
        if id >= MGMT {
            if let Event::Frame(_, link, bytes) = event {
                self.mgmt_frame(id, link, &bytes);
            }
            return;
        }
        let node = self.nodes.get_mut(&id).expect("known");
        if node.dead {
            return;
        }
        if let Some(held) = &mut node.paused {
            held.push(event);
            return;
        }
        let (now, core, out) = (self.now, &mut node.core, &mut node.out);
        match event {
            Event::Wake(_) => {
                if core.next_timeout().is_none_or(|at| at > now) {
                    return;
                }
                core.handle(now, Input::Timeout, out);
            }
            Event::Frame(_, link, bytes) => {
                core.handle(now, Input::Frame { link, bytes: &bytes }, out);
            }
            Event::Up(_, link, peer) => core.handle(now, Input::LinkUp { link, peer }, out),
            Event::Down(_, link, end) => {
                core.handle(now, Input::LinkDown { link, end }, out);
                node.out.close_link(link);
            }
            Event::DialFailed(_, to, error) => {
                let addr = String::new();
                core.handle(now, Input::DialFailed { to, addr, error }, out);
            }
            Event::Stored(_, token) => core.handle(now, Input::Stored { token, ok: true }, out),
            Event::Dial(..) => unreachable!("handled above"),
        }
        self.drain(id);
    }

    pub(crate) fn terminate(&mut self, id: Id) {
        let node = self.nodes.get_mut(&id).expect("known");
        node.core.handle(self.now, Input::Terminate, &mut node.out);
        self.drain(id);
    }

    fn drain(&mut self, id: Id) {
        let node = self.nodes.get_mut(&id).expect("known");
        node.core.settle(self.now, &mut node.out);
        self.marks.extend(node.out.take_marks());
        let mut sent = Vec::new();
        while let Some(link) = node.out.pop_dirty() {
            let bytes = node.out.unsent(link).map(BytesMut::split).unwrap_or_default();
            sent.push((link, bytes));
        }
        let effects = node.out.take_effects();
        let shard_link = node.shard_link;
        if let Some(at) = node.core.next_timeout() {
            self.at(at.since(self.now), Event::Wake(id));
        }
        for (link, mut bytes) in sent {
            while bytes.len() >= 4 {
                let length = u32::from_le_bytes(bytes[..4].try_into().expect("four")) as usize;
                let frame = bytes.split_to(4 + length).split_off(4);
                if link == shard_link {
                    self.shard_frame(id, &frame);
                } else {
                    self.transmit(id, link, &frame);
                }
            }
        }
        for effect in effects {
            self.perform(id, effect);
        }
        let node = &self.nodes[&id];
        let fresh = || !self.acted.iter().any(|(_, n, v)| *n == id && v == node.core.view());
        if node.core.acts() && fresh() {
            self.acted.push((self.now, id, node.core.view().clone()));
        }
    }

    fn perform(&mut self, id: Id, effect: Effect) {
        match effect {
            Effect::Dial { to, addr: _ } => self.at(DELAY, Event::Dial(id, to)),
            Effect::Close { link, .. } => self.break_link(id, link),
            Effect::Store { token, .. } => self.at(STORE_DELAY, Event::Stored(id, token)),
            Effect::Exit(exit) => {
                self.nodes.get_mut(&id).expect("known").exit = Some(exit);
                self.kill(id);
            }
            Effect::Log { .. }
            | Effect::Measure { .. }
            | Effect::Disk { .. }
            | Effect::Recover(_) => {}
        }
    }

    fn dial(&mut self, from: Id, to: Target) {
        let (other, peer_there, peer_here) = match to {
            Target::Control(node) => {
                (node.node.0, Peer::Control(instance(from)), Peer::Control(node))
            }
            Target::Watch(node) => (node.node.0, Peer::Watch(instance(from)), Peer::Watch(node)),
            Target::Node(node) if from > MGMT => {
                (node.0, Peer::Mgmt(MgmtId(from - MGMT)), Peer::Control(instance(node.0)))
            }
            Target::Mgmt(id) => (MGMT + id.0, Peer::Control(instance(from)), Peer::Mgmt(id)),
            Target::Shard(..) | Target::Node(_) | Target::Any => {
                panic!("a control core never dials {to:?}")
            }
        };
        if self.is_cut(from, other) || self.is_cut(other, from) {
            let failed = Event::DialFailed(from, to, DialError::Failed);
            return self.at(Duration::from_millis(300), failed);
        }
        let dead = self.nodes.get(&other).is_some_and(|n| n.dead);
        if dead || self.mgmt_down.contains(&other) {
            return self.at(DELAY, Event::DialFailed(from, to, DialError::Refused));
        }
        let here = self.out(from).open_link();
        let there = self.out(other).open_link();
        self.conns.insert((from, here), (other, there));
        self.conns.insert((other, there), (from, here));
        self.kinds.insert((from, here), peer_here);
        self.kinds.insert((other, there), peer_there);
        self.at(DELAY, Event::Up(from, here, peer_here));
        if other < MGMT {
            self.at(DELAY, Event::Up(other, there, peer_there));
        }
    }

    fn out(&mut self, id: Id) -> &mut Outputs {
        match self.nodes.get_mut(&id) {
            Some(node) => &mut node.out,
            None => self.mgmt_out.get_mut(&id).expect("known"),
        }
    }

    fn is_cut(&self, from: Id, to: Id) -> bool {
        self.cuts.contains(&(from, to))
    }

    fn transmit(&mut self, from: Id, link: LinkId, frame: &[u8]) {
        let Some((to, there)) = self.conns.get(&(from, link)).copied() else { return };
        let message = ControlMessage::parse(&frame[1..]).expect("own bytes");
        let fate = self.hook.as_mut().map_or(Fate::Deliver, |hook| hook(from, to, &message));
        if fate == Fate::Deliver && !self.is_cut(from, to) {
            self.at(DELAY, Event::Frame(to, there, frame.to_vec()));
        }
    }

    fn break_link(&mut self, id: Id, link: LinkId) {
        let Some((other, there)) = self.conns.remove(&(id, link)) else { return };
        self.conns.remove(&(other, there));
        self.at(DELAY, Event::Down(id, link, LinkEnd::Reset));
        self.at(DELAY, Event::Down(other, there, LinkEnd::Reset));
    }

    /// Ends a node's process as SIGKILL does.
    pub(crate) fn kill(&mut self, id: Id) {
        self.nodes.get_mut(&id).expect("known").dead = true;
        self.drop_conns(id);
    }

    pub(crate) fn kill_mgmt(&mut self, id: Id) {
        self.mgmt_down.insert(id);
        self.drop_conns(id);
    }

    fn drop_conns(&mut self, id: Id) {
        let of = |(end, _): &(&(Id, LinkId), &(Id, LinkId))| end.0 == id;
        let ends: Vec<_> = self.conns.iter().filter(of).map(|(a, b)| (*a, *b)).collect();
        for (here, there) in ends {
            self.conns.remove(&here);
            self.conns.remove(&there);
            let watch = matches!(self.kinds[&here], Peer::Watch(_));
            let end = if watch { LinkEnd::Fin } else { LinkEnd::Reset };
            let hears = there.0 < MGMT || self.apis.contains_key(&there.0);
            if hears && !self.is_cut(id, there.0) {
                self.at(DELAY, Event::Down(there.0, there.1, end));
            }
        }
    }

    /// Nothing passes between the two sides any more, in both directions.
    pub(crate) fn split(&mut self, left: &[Id], right: &[Id]) {
        for a in left {
            for b in right {
                self.cuts.insert((*a, *b));
                self.cuts.insert((*b, *a));
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn revive_mgmt(&mut self, id: Id) {
        self.mgmt_down.remove(&id);
    }

    pub(crate) fn is_paused(&self, id: Id) -> bool {
        self.nodes[&id].paused.is_some()
    }

    pub(crate) fn is_dead(&self, id: Id) -> bool {
        self.nodes[&id].dead
    }

    /// Resets every link between two parties.
    pub(crate) fn reset(&mut self, a: Id, b: Id) {
        let between = |((x, _), (y, _)): &(&(Id, LinkId), &(Id, LinkId))| *x == a && *y == b;
        let links: Vec<_> = self.conns.iter().filter(between).map(|(here, _)| *here).collect();
        for (id, link) in links {
            self.break_link(id, link);
        }
    }

    /// Messages from one party to the other are lost, and only those.
    pub(crate) fn cut(&mut self, from: Id, to: Id) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn pause(&mut self, id: Id) {
        self.nodes.get_mut(&id).expect("known").paused = Some(Vec::new());
    }

    pub(crate) fn resume(&mut self, id: Id) {
        let held = self.nodes.get_mut(&id).expect("known").paused.take();
        for event in held.into_iter().flatten() {
            self.execute(event);
        }
        self.at(Duration::ZERO, Event::Wake(id));
    }

    fn shard_frame(&mut self, id: Id, frame: &[u8]) {
        let message: ShardControl = decode(&frame[1..]).expect("own bytes");
        let node = self.nodes.get_mut(&id).expect("known");
        let view = node.core.view();
        let parts = view.partitions().filter(|p| view.shard_of(*p, NodeId(id)).is_some());
        let partitions: Vec<PartitionId> = parts.collect();
        let shard_link = node.shard_link;
        for answer in node.shard.answer(message, &partitions) {
            let mut frame = BytesMut::new();
            frame_cold(&mut frame, kind::SHARD_CONTROL, &answer);
            self.at(Duration::from_micros(10), Event::Frame(id, shard_link, frame[4..].to_vec()));
        }
    }

    /// An operator tells a shard of a node what the roster should be.
    pub(crate) fn order(&mut self, id: Id, order: Order) {
        let shard_link = self.nodes[&id].shard_link;
        let mut frame = BytesMut::new();
        frame_cold(&mut frame, kind::SHARD_CONTROL, &ShardControl::Order(order));
        let event = Event::Frame(id, shard_link, frame[4..].to_vec());
        self.at(Duration::from_micros(10), event);
    }

    pub(crate) fn core(&self, id: Id) -> &ControlCore {
        &self.nodes[&id].core
    }

    pub(crate) fn shard(&mut self, id: Id) -> &mut FakeShard {
        &mut self.nodes.get_mut(&id).expect("known").shard
    }

    /// The exit code of a node that has ended itself.
    pub(crate) fn exit(&self, id: Id) -> Option<i32> {
        self.nodes[&id].exit.as_ref().map(|exit| exit.code)
    }

    /// The member ids of the view a node acts in; empty if it does not act.
    pub(crate) fn members(&self, id: Id) -> Vec<Id> {
        let node = &self.nodes[&id];
        if node.dead || !node.core.acts() {
            return Vec::new();
        }
        node.core.view().members.iter().map(|m| m.instance.node.0).collect()
    }

    /// Whether exactly these nodes act in one view of exactly these nodes.
    pub(crate) fn acts_alone(&self, ids: &[Id]) -> bool {
        ids.iter().all(|id| self.members(*id) == ids)
    }

    /// Asserts what must hold at every moment: of two rival views at most one can commit anything
    /// (a president may be alone in its view when the others have answered a higher proposal), and
    /// where somebody acts in a view without a node, that node cannot serve a read any more.
    pub(crate) fn check(&self) {
        for (_, a, view) in &self.acted {
            for (_, b, other) in self.acted.iter().filter(|(_, _, v)| v.number == view.number) {
                let rivals = view != other && self.can_commit(view) && self.can_commit(other);
                assert!(!rivals, "n{a} and n{b} acted in rival views: {view:?} and {other:?}");
            }
        }
        for (id, node) in self.nodes.iter().filter(|(_, node)| !node.dead && node.core.acts()) {
            let without = |(_, by, v): &&(Instant, Id, View)| {
                v.number > node.core.view().number && !v.contains(instance(*id)) && by != id
            };
            if let Some((_, by, other)) = self.acted.iter().find(without) {
                assert!(!node.can_read(*id, self.now), "n{id} reads, n{by} acts in {other:?}");
            }
        }
    }
}

impl Net {
    /// Whether all replicas of some partition have acted in this view.
    fn can_commit(&self, view: &View) -> bool {
        let acted = |node: &NodeId| self.acted.iter().any(|(_, id, v)| *id == node.0 && v == view);
        view.placements.iter().any(|placement| placement.replicas.iter().all(acted))
    }
}

impl Node {
    /// Whether the node could serve a read of some partition now, by what its shard knows.
    fn can_read(&self, id: Id, now: Instant) -> bool {
        let promised = |node: &NodeId| self.shard.leases.get(node).is_some_and(|at| *at > now.0);
        self.core.view().placements.iter().any(|placement| {
            let others = || placement.replicas.iter().filter(|node| node.0 != id);
            placement.replicas.contains(&NodeId(id)) && others().all(promised)
        })
    }
}
