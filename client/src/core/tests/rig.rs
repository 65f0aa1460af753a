//! A client core with a hand-played cluster around it: two nodes, one group, one shard each, four
//! partitions led by node 1 (even) and node 2 (odd).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use lockstep_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, NodeId, NodeInstance, PartitionId, RestartGeneration,
    SchemaVersion, SessionId, ShardId, StartOrder, TableId, ViewNumber,
};
use lockstep_proto::process::{Effect, LinkEnd, Peer, Target};
use lockstep_proto::roster::Roster;
use lockstep_proto::view::{ClusterConfig, Member, Placement, Standing, View};
use lockstep_proto::wire::data::{Execute, Results};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpResult, Ops};

use crate::core::*;

pub(super) struct Rig {
    pub(super) core: ClientCore,
    pub(super) out: Outputs,
    pub(super) now: Instant,
    pub(super) links: BTreeMap<u16, LinkId>,
}

/// A frame the core sent.
pub(super) struct Sent(Vec<u8>);

impl Sent {
    pub(super) fn message(&self) -> Message<'_> {
        Message::decode(&self.0).unwrap()
    }

    pub(super) fn execute(&self) -> Execute<'_> {
        match self.message() {
            Message::Execute(execute) => execute,
            other => panic!("not an execute: {other:?}"),
        }
    }

    /// Request and operations of a read.
    pub(super) fn read(&self) -> (u64, Ops<'_>) {
        match self.message() {
            Message::Read { request, ops, .. } | Message::ReadAt { request, ops, .. } => {
                (request, ops)
            }
            other => panic!("not a read: {other:?}"),
        }
    }
}

impl Rig {
    /// A client that knows view 1 and is linked with both nodes.
    pub(super) fn new() -> Self {
        let mut rig = Self::unlinked();
        rig.dialled();
        rig.link(1);
        rig.say(1, &ClientMessage::View { view: Box::new(view(1, &[1, 2])) });
        rig.link(2);
        rig.open_sessions(1);
        rig.sent(1);
        rig.sent(2);
        rig
    }

    pub(super) fn unlinked() -> Self {
        let options = ClientOptions {
            addresses: vec!["host1:1".into(), "host2:2".into()],
            zone: "b".into(),
            ..ClientOptions::default()
        };
        let mut out = Outputs::with_marks();
        let mut core = ClientCore::new(options);
        let now = Instant(1_000_000_000);
        core.handle(now, Input::Timeout, &mut out);
        Self { core, out, now, links: BTreeMap::new() }
    }

    pub(super) fn link(&mut self, node: u16) {
        let link = self.out.open_link();
        self.links.insert(node, link);
        let peer = Peer::Shard(instance(node), ShardId(0));
        self.core.handle(self.now, Input::LinkUp { link, peer }, &mut self.out);
    }

    pub(super) fn unlink(&mut self, node: u16) {
        let link = self.links.remove(&node).unwrap();
        self.out.close_link(link);
        let end = LinkEnd::Fin;
        self.core.handle(self.now, Input::LinkDown { link, end }, &mut self.out);
    }

    pub(super) fn open_sessions(&mut self, node: u16) {
        let first = SessionId { origin: instance(1), counter: 100 };
        let message =
            ClientMessage::SessionsOpened { request: 0, first, count: 64, epoch: Epoch(7) };
        self.say(node, &message);
    }

    pub(super) fn say(&mut self, node: u16, message: &ClientMessage) {
        let mut bytes = BytesMut::new();
        frame_cold(&mut bytes, kind::CLIENT, message);
        self.hear(node, &bytes[4..]);
    }

    pub(super) fn answer(&mut self, node: u16, message: &Message<'_>) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.hear(node, &bytes[4..]);
    }

    pub(super) fn hear(&mut self, node: u16, bytes: &[u8]) {
        let link = self.links[&node];
        self.core.handle(self.now, Input::Frame { link, bytes }, &mut self.out);
        self.core.settle(self.now, &mut self.out);
    }

    pub(super) fn answer_done(&mut self, node: u16, request: u64) {
        let (epoch, order) = (Epoch(9), order());
        self.answer(node, &Message::Answer { request, epoch, order, results: Results::EMPTY });
    }

    pub(super) fn answer_rows(&mut self, node: u16, request: u64, rows: &[&[u8]]) {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&u16::try_from(rows.len()).unwrap().to_le_bytes());
        rows.iter().for_each(|row| OpResult::Row(row).write(&mut bytes));
        let (epoch, order) = (Epoch(9), StartOrder::default());
        let results = Results(&bytes);
        self.answer(node, &Message::Answer { request, epoch, order, results });
    }

    pub(super) fn refuse(&mut self, node: u16, request: u64, code: Code) {
        let (op, epoch, order) = (u16::MAX, Epoch(9), order());
        let detail = b"because";
        self.answer(node, &Message::Refused { request, code, op, epoch, order, detail });
    }

    pub(super) fn next_view(&mut self, from: u16, number: u64, nodes: &[u16]) {
        self.say(from, &ClientMessage::View { view: Box::new(view(number, nodes)) });
    }

    pub(super) fn submit(&mut self, call: Call) -> CallId {
        self.core.submit(self.now, call, &mut self.out)
    }

    /// Lets time pass, with all timers that fall into it.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle(self.now, Input::Timeout, &mut self.out);
        }
        self.now = end;
    }

    /// The hot frames sent to a node since the last time.
    pub(super) fn sent(&mut self, node: u16) -> Vec<Sent> {
        let Some(bytes) = self.out.unsent(self.links[&node]) else { return Vec::new() };
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let length = bytes.get_u32_le() as usize;
            let frame = bytes.split_to(length).to_vec();
            if frame[0] != kind::CLIENT {
                frames.push(Sent(frame));
            }
        }
        frames
    }

    pub(super) fn sent_one(&mut self, node: u16) -> Sent {
        let mut frames = self.sent(node);
        assert_eq!(frames.len(), 1, "frames to node {node}");
        frames.remove(0)
    }

    pub(super) fn completed(&mut self) -> Vec<(CallId, Completion)> {
        self.core.completions().collect()
    }

    pub(super) fn completed_one(&mut self, id: CallId) -> Completion {
        let mut completed = self.completed();
        assert_eq!(completed.len(), 1, "completions");
        let (done, completion) = completed.remove(0);
        assert_eq!(done, id);
        completion
    }

    /// Who has been dialled since the last time.
    pub(super) fn dialled(&mut self) -> Vec<Target> {
        let effects = self.out.take_effects();
        effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Dial { to, .. } => Some(to),
                _ => None,
            })
            .collect()
    }

    pub(super) fn marks(&mut self) -> Vec<&'static str> {
        self.out.take_marks()
    }
}

pub(super) fn instance(node: u16) -> NodeInstance {
    NodeInstance { node: NodeId(node), incarnation: Incarnation(1) }
}

pub(super) fn order() -> StartOrder {
    StartOrder { wall_ms: 77, ..StartOrder::default() }
}

/// Partition p is led by node 1 if p is even, by node 2 if odd, as far as they live.
pub(super) fn view(number: u64, nodes: &[u16]) -> View {
    let member = |node: &u16| Member {
        instance: instance(*node),
        group: GroupId(0),
        zone: if *node == 1 { "a" } else { "b" }.into(),
        addr: format!("host{node}:1"),
        shards: 1,
        seniority: u64::from(*node),
        standing: Standing::InSync,
    };
    let placement = |p: u16| {
        let preferred = 1 + p % 2;
        Placement {
            group: GroupId(0),
            local_index: p,
            primary: NodeId(*nodes.iter().find(|n| **n == preferred).unwrap_or(&nodes[0])),
            replicas: nodes.iter().map(|n| NodeId(*n)).collect(),
            joining: Vec::new(),
            to: None,
        }
    };
    View {
        cluster: ClusterId(5),
        number: ViewNumber(number),
        config: ClusterConfig { partitions: 4, ..ClusterConfig::default() },
        roster: Roster::of(&nodes.iter().map(member).collect::<Vec<_>>()),
        members: nodes.iter().map(member).collect(),
        placements: (0..4).map(placement).collect(),
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

fn ops(kind: OpKind, flags: OpFlags, partitions: &[u16]) -> OpList {
    let mut list = OpList::default();
    for partition in partitions {
        list.push(&Op {
            kind,
            flags,
            table: TableId(1),
            schema: SchemaVersion(1),
            partition: PartitionId(*partition),
            key: b"k",
            body: if kind.writes() { b"v" } else { b"" },
        });
    }
    list
}

pub(super) fn writes(partitions: &[u16]) -> OpList {
    ops(OpKind::Upsert, OpFlags::default(), partitions)
}

pub(super) fn returning(partitions: &[u16]) -> OpList {
    ops(OpKind::Upsert, OpFlags::RETURNING, partitions)
}

pub(super) fn reads(partitions: &[u16]) -> OpList {
    ops(OpKind::Read, OpFlags::default(), partitions)
}
