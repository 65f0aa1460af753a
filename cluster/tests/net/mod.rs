//! A few shard cores connected by queues, their control cores played by the test: the smallest
//! world in which a transaction can commit. Faults are what the test does between two messages.

use std::collections::{BTreeMap, VecDeque};

use lockstep_cluster::{LogIdentity, RestoredShard, ShardCore, ShardOptions};
use lockstep_proto::disk::{Lane, Request};
use lockstep_proto::ids::*;
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::{key_hash, partition_of};
use lockstep_proto::process::{Effect, Input, LinkEnd, LinkId, Outputs, Peer, Process, Target};
use lockstep_proto::roster::Roster;
use lockstep_proto::row::encode_row;
use lockstep_proto::schema::{CATALOG, ColumnDef, TableDef, catalog_def};
use lockstep_proto::time::Instant;
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::view::{ClusterConfig, Member, Placement, Standing, View};
use lockstep_proto::wire::codec;
use lockstep_proto::wire::data::{Execute, Finish, Message};
use lockstep_proto::wire::kind;
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList};
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::disk::SimulatedDisk;

pub(crate) const PARTITIONS: u16 = 4;
pub(crate) const TABLE: TableId = TableId(7);

pub(crate) struct Net {
    pub(crate) nodes: BTreeMap<NodeId, (ShardCore, Outputs)>,
    /// Both ends of every link.
    peers: BTreeMap<(Option<NodeId>, LinkId), (Option<NodeId>, LinkId)>,
    control: BTreeMap<NodeId, LinkId>,
    clients: BTreeMap<NodeId, LinkId>,
    client_links: u32,
    queue: VecDeque<(NodeId, LinkId, Vec<u8>)>,
    pub(crate) answers: Vec<Vec<u8>>,
    pub(crate) reports: Vec<(NodeId, ShardControl)>,
    pub(crate) now: Instant,
    pub(crate) sequence: u64,
    /// Of nodes that have one.
    pub(crate) disks: BTreeMap<NodeId, Disk>,
}

/// What a node's disk has, and what it is asked to do.
#[derive(Default)]
#[allow(dead_code, reason = "not every test that includes this has disks")]
pub(crate) struct Disk {
    pub(crate) files: SimulatedDisk,
    pub(crate) waiting: VecDeque<(Lane, Request)>,
}

pub(crate) fn instance(node: u16) -> NodeInstance {
    NodeInstance { node: NodeId(node), incarnation: Incarnation(1) }
}

/// `groups` × `replicas` nodes, numbered from 1, one shard each.
pub(crate) fn view(groups: u16, replicas: u16) -> View {
    let members: Vec<Member> = (0..groups * replicas)
        .map(|i| Member {
            instance: instance(i + 1),
            group: GroupId(i / replicas),
            zone: String::new(),
            addr: format!("n{}", i + 1),
            shards: 1,
            seniority: u64::from(i),
            standing: Standing::InSync,
        })
        .collect();
    let placements = (0..PARTITIONS)
        .map(|p| {
            let group = p * groups / PARTITIONS;
            let first = group * replicas + 1;
            let replicas: Vec<NodeId> = (first..first + replicas).map(NodeId).collect();
            Placement {
                group: GroupId(group),
                local_index: p,
                primary: replicas[0],
                replicas,
                joining: vec![],
                to: None,
            }
        })
        .collect();
    View {
        cluster: ClusterId(1),
        number: ViewNumber(1),
        config: ClusterConfig { partitions: PARTITIONS, replicas, ..ClusterConfig::default() },
        roster: Roster::of(&members),
        members,
        placements,
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

/// The view that follows when a node is gone: the next replica leads.
pub(crate) fn view_without(old: &View, node: u16) -> View {
    let mut view = old.clone();
    view.number = old.number.next();
    view.members.retain(|m| m.instance.node != NodeId(node));
    for placement in &mut view.placements {
        placement.replicas.retain(|n| *n != NodeId(node));
        placement.primary = placement.replicas[0];
    }
    view
}

pub(crate) fn table() -> TableDef {
    let columns =
        vec![ColumnDef::new("id", ColumnType::U64), ColumnDef::new("value", ColumnType::I64)];
    TableDef::new(TABLE, SchemaVersion(1), "things", columns, vec![0], vec![0]).unwrap()
}

pub(crate) fn key(id: u64) -> Vec<u8> {
    encode_key(&table(), &[Value::UInt(id)]).unwrap()
}

/// The first id from `from` on whose row lives in the partition.
pub(crate) fn id_in(partition: u16, from: u64) -> u64 {
    (from..).find(|id| partition_of(key_hash(&key(*id)), PARTITIONS).0 == partition).unwrap()
}

pub(crate) fn op(kind: OpKind, id: u64, value: i64) -> (OpKind, Vec<u8>, Vec<u8>) {
    let body = match kind {
        OpKind::Read | OpKind::Delete => Vec::new(),
        _ => encode_row(&table(), &[Value::UInt(id), Value::Int(value)]).unwrap(),
    };
    (kind, key(id), body)
}

pub(crate) fn ops(list: &[(OpKind, Vec<u8>, Vec<u8>)]) -> OpList {
    ops_on(TABLE, list)
}

/// The same on another table of the same columns.
pub(crate) fn ops_on(table: TableId, list: &[(OpKind, Vec<u8>, Vec<u8>)]) -> OpList {
    let mut ops = OpList::default();
    for (kind, key, body) in list {
        ops.push(&Op {
            kind: *kind,
            flags: OpFlags::default(),
            table,
            schema: SchemaVersion(1),
            partition: partition_of(key_hash(key), PARTITIONS),
            key,
            body,
        });
    }
    ops
}

/// The batch that creates a table: its row of the catalog in every partition.
pub(crate) fn creation(def: &TableDef) -> OpList {
    let mut create = OpList::default();
    let row = [
        Value::String(def.name().to_owned()),
        Value::UInt(u64::from(def.id.0)),
        Value::Bytes(def.encode()),
    ];
    let name = encode_key(catalog_def(), &row[..1]).unwrap();
    let body = encode_row(catalog_def(), &row).unwrap();
    for p in 0..PARTITIONS {
        create.push(&Op {
            kind: OpKind::Insert,
            flags: OpFlags::default(),
            table: CATALOG,
            schema: SchemaVersion(1),
            partition: PartitionId(p),
            key: &name,
            body: &body,
        });
    }
    create
}

impl Net {
    pub(crate) fn new(view: &View) -> Self {
        let mut net = Self::start(view, BTreeMap::new());
        net.create_table();
        net
    }

    pub(crate) fn create_table(&mut self) {
        let create = creation(&table());
        self.execute(1, &create);
        self.run();
        assert!(self.committed(), "the table must be there");
    }

    /// Nodes that begin with what is given here, on disks; those that are not named have none.
    pub(crate) fn start(view: &View, mut begin: BTreeMap<NodeId, (Disk, RestoredShard)>) -> Self {
        let mut net = Self {
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            control: BTreeMap::new(),
            clients: BTreeMap::new(),
            client_links: 0,
            queue: VecDeque::new(),
            answers: Vec::new(),
            reports: Vec::new(),
            now: Instant(1_000_000_000),
            sequence: 0,
            disks: BTreeMap::new(),
        };
        for member in &view.members {
            let options = ShardOptions {
                instance: member.instance,
                shard: ShardId(0),
                shards: 1,
                wall_offset_ms: 1,
                redo: begin.get(&member.instance.node).map(|(_, restored)| LogIdentity {
                    cluster: view.cluster,
                    node: member.instance.node,
                    generation: view.restart_generation,
                    shards: 1,
                    base: restored.epoch(),
                    joined: false,
                }),
                kept_max: lockstep_proto::limits::KEPT_BYTES_MAX,
                canary: None,
            };
            let node = member.instance.node;
            let mut core = ShardCore::new(options);
            if let Some((disk, restored)) = begin.remove(&node) {
                net.disks.insert(node, disk);
                core = core.with_restored(restored);
            }
            net.nodes.insert(node, (core, Outputs::with_marks()));
            let link = net.nodes.get_mut(&node).unwrap().1.open_link();
            net.control.insert(node, link);
            net.input(node, Input::LinkUp { link, peer: Peer::Control(member.instance) });
            let link = net.nodes.get_mut(&node).unwrap().1.open_link();
            net.clients.insert(node, link);
            net.input(node, Input::LinkUp { link, peer: Peer::Client });
        }
        net.enter(view);
        net.lease(view);
        net
    }

    pub(crate) fn input(&mut self, node: NodeId, input: Input<'_>) {
        let Some((core, out)) = self.nodes.get_mut(&node) else { return };
        core.handle(self.now, input, out);
        core.settle(self.now, out);
        self.collect(node);
    }

    fn collect(&mut self, node: NodeId) {
        let (_, out) = self.nodes.get_mut(&node).unwrap();
        let effects = out.take_effects();
        while let Some(link) = self.nodes.get_mut(&node).unwrap().1.pop_dirty() {
            let bytes = self.nodes.get_mut(&node).unwrap().1.unsent(link).unwrap().split();
            for frame in frames(&bytes) {
                self.route(node, link, frame);
            }
        }
        for effect in effects {
            match effect {
                Effect::Dial { to: Target::Shard(peer, shard), .. } => {
                    self.connect(node, peer.node, shard);
                }
                Effect::Log { text, .. } => panic!("{node}: {text}"),
                Effect::Disk { lane, request } => {
                    let disk = self.disks.get_mut(&node).expect("only a node on a disk asks");
                    disk.waiting.push_back((lane, request));
                }
                Effect::Exit(exit) => panic!("{node}: {}", exit.reason),
                _ => {}
            }
        }
    }

    fn route(&mut self, node: NodeId, link: LinkId, frame: Vec<u8>) {
        if self.control.get(&node) == Some(&link) {
            self.reports.push((node, codec::decode(&frame[1..]).unwrap()));
        } else if self.clients.get(&node) == Some(&link) {
            self.answers.push(frame);
        } else if let Some((Some(to), link)) = self.peers.get(&(Some(node), link)) {
            self.queue.push_back((*to, *link, frame));
        }
    }

    fn connect(&mut self, from: NodeId, to: NodeId, shard: ShardId) {
        if !self.nodes.contains_key(&to) {
            return;
        }
        let here = self.nodes.get_mut(&from).unwrap().1.open_link();
        let there = self.nodes.get_mut(&to).unwrap().1.open_link();
        self.peers.insert((Some(from), here), (Some(to), there));
        self.peers.insert((Some(to), there), (Some(from), here));
        let at = |n: NodeId| self.nodes[&n].0.instance();
        let (from_at, to_at) = (at(from), at(to));
        self.input(from, Input::LinkUp { link: here, peer: Peer::Shard(to_at, shard) });
        self.input(to, Input::LinkUp { link: there, peer: Peer::Shard(from_at, ShardId(0)) });
    }

    pub(crate) fn tell(&mut self, node: NodeId, message: &ShardControl) {
        let mut frame = vec![kind::SHARD_CONTROL];
        frame.extend(codec::encode(message));
        let link = self.control[&node];
        self.input(node, Input::Frame { link, bytes: &frame });
    }

    pub(crate) fn enter(&mut self, view: &View) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.tell(node, &ShardControl::Enter { view: Box::new(view.clone()) });
        }
    }

    pub(crate) fn lease(&mut self, view: &View) {
        let until = self.now.0 + 1_000_000_000;
        let deadlines = view.members.iter().map(|m| (m.instance, until)).collect::<Vec<_>>();
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.tell(node, &ShardControl::Leases { deadlines: deadlines.clone() });
        }
    }

    /// Puts a message of one node's shard to another's in front of all that is under way.
    #[allow(dead_code, reason = "not every test that includes this forges messages")]
    pub(crate) fn slip_in(&mut self, from: u16, to: u16, message: &[u8]) {
        let (from, to) = (Some(NodeId(from)), Some(NodeId(to)));
        let mut links = self.peers.iter().filter(|((a, _), (b, _))| (*a, *b) == (from, to));
        let (_, (node, link)) = links.next().expect("they are connected");
        let (node, link) = (node.expect("a node"), *link);
        for frame in frames(message).into_iter().rev() {
            self.queue.push_front((node, link, frame));
        }
    }

    /// Delivers one message; false if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some((node, link, frame)) = self.queue.pop_front() else { return false };
        self.input(node, Input::Frame { link, bytes: &frame });
        true
    }

    pub(crate) fn run(&mut self) {
        while self.step() {}
    }

    /// The node is gone; its links end.
    pub(crate) fn kill(&mut self, node: u16) {
        let node = NodeId(node);
        self.nodes.remove(&node);
        self.queue.retain(|(to, ..)| *to != node);
        let ended: Vec<_> =
            self.peers.iter().filter(|(a, _)| a.0 == Some(node)).map(|(_, b)| *b).collect();
        for (peer, link) in ended {
            if let Some(peer) = peer {
                self.input(peer, Input::LinkDown { link, end: LinkEnd::Fin });
            }
        }
    }

    pub(crate) fn ask(&mut self, node: u16, message: &Message<'_>) {
        let mut bytes = bytes::BytesMut::new();
        message.encode(&mut bytes);
        self.ask_bytes(node, &bytes[4..]);
    }

    /// A client's frame as it is.
    pub(crate) fn ask_bytes(&mut self, node: u16, bytes: &[u8]) {
        let link = self.clients[&NodeId(node)];
        self.input(NodeId(node), Input::Frame { link, bytes });
    }

    pub(crate) fn next_tx(&mut self) -> TxId {
        self.sequence += 1;
        TxId { sequence: self.sequence, expiry: Epoch(1000), ..TxId::default() }
    }

    /// Sends a one-shot batch to a node; returns its transaction.
    pub(crate) fn execute(&mut self, node: u16, ops: &OpList) -> TxId {
        let tx = self.next_tx();
        self.answers.clear();
        self.ask(node, &Message::Execute(request(tx, 0, Finish::Commit, ops)));
        tx
    }

    pub(crate) fn committed(&self) -> bool {
        matches!(self.answer(), Some(Message::Answer { .. }))
    }

    pub(crate) fn answer(&self) -> Option<Message<'_>> {
        self.answers.last().map(|frame| Message::decode(frame).unwrap())
    }

    pub(crate) fn client_gone(&mut self, node: u16) {
        let node = NodeId(node);
        let link = self.clients[&node];
        self.input(node, Input::LinkDown { link, end: LinkEnd::Reset });
        self.client_links += 1;
        let link = self.nodes.get_mut(&node).unwrap().1.open_link();
        self.clients.insert(node, link);
        self.input(node, Input::LinkUp { link, peer: Peer::Client });
    }

    /// All replicas of every partition are equal, and nothing is left over.
    pub(crate) fn assert_at_rest(&self) {
        let mut seen: BTreeMap<PartitionId, (Seq, u64, u64)> = BTreeMap::new();
        for (core, _) in self.nodes.values() {
            let shard = core.inspect(true);
            assert_eq!(shard.coordinated, 0, "{}: transactions left over", shard.addr);
            for part in shard.partitions {
                assert!(part.prepared.is_empty(), "{}: {:?}", shard.addr, part.prepared);
                assert!(part.lock_owners.is_empty(), "{}: {:?}", shard.addr, part.lock_owners);
                assert_eq!(part.owed, 0);
                let state = (part.end, part.log_digest, part.rows_digest);
                assert_eq!(*seen.entry(part.partition).or_insert(state), state);
            }
        }
    }
}

pub(crate) fn request(tx: TxId, step: u32, finish: Finish, ops: &OpList) -> Execute<'_> {
    let anchor = ops.as_ops().iter().next().map_or(PartitionId(0), |op| op.partition);
    Execute {
        request: tx.sequence * 100 + u64::from(step),
        tx,
        low: tx.sequence,
        order: StartOrder::default(),
        epoch: Epoch(0),
        anchor,
        step,
        finish,
        ops: ops.as_ops(),
    }
}

fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        frames.push(tail[..length].to_vec());
        rest = &tail[length..];
    }
    frames
}
