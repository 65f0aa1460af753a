//! A cluster of real cores on real sockets, inside the test process: no management server, and
//! nobody dies. What happens when somebody does is the simulator's and the process tests' part.

use std::net::TcpListener;

use lockstep_client::{Client, ClientBuilder};
use lockstep_cluster::{ControlCore, ControlOptions, ShardCore, ShardOptions};
use lockstep_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, NodeId, NodeInstance, RestartGeneration, ShardId,
    ViewNumber,
};
use lockstep_proto::roster::Roster;
use lockstep_proto::view::{ClusterConfig, Member, Placement, Standing, View};
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{HostOptions, clock, run_node};
use tempfile::TempDir;

const PARTITIONS: u16 = 8;

pub(crate) struct World {
    pub(crate) view: View,
    _dirs: Vec<TempDir>,
}

impl World {
    /// Starts one group of `nodes` nodes with `shards` shards each; zones a, b, ….
    pub(crate) fn start(nodes: u16, shards: u16) -> Self {
        let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners: Vec<TcpListener> = (0..nodes).map(bind).collect();
        let view = view(&listeners, shards);
        let mut dirs = Vec::new();
        for (member, listener) in view.members.iter().zip(listeners) {
            let dir = tempfile::tempdir().unwrap();
            start_node(&view, member.instance, listener, &dir);
            dirs.push(dir);
        }
        Self { view, _dirs: dirs }
    }

    /// A client in a zone that knows only the last node.
    pub(crate) fn client(&self, zone: &str) -> ClientBuilder {
        let addr = &self.view.members.last().unwrap().addr;
        Client::builder().address(addr).zone(zone)
    }
}

fn start_node(view: &View, instance: NodeInstance, listener: TcpListener, dir: &TempDir) {
    let count = view.members[0].shards;
    let wall_offset_ms = clock::wall_ms() - clock::now().0 / 1_000_000;
    let shards = (0..count).map(|shard| {
        ShardCore::new(ShardOptions {
            instance,
            shard: ShardId(shard),
            shards: count,
            wall_offset_ms,
            redo: None,
            kept_max: lockstep_proto::limits::KEPT_BYTES_MAX,
            canary: None,
        })
    });
    let control = ControlCore::new(ControlOptions {
        instance,
        view: view.clone(),
        mgmt: Vec::new(),
        shards: count,
        canary: None,
    });
    let shards = shards.collect();
    let mut options = HostOptions::new(listener, dir.path().to_owned(), Speaker::Control(instance));
    options.cluster = Some(view.cluster);
    std::thread::spawn(move || run_node(control, shards, options));
}

fn view(listeners: &[TcpListener], shards: u16) -> View {
    let ids: Vec<NodeId> = (1..).map(NodeId).take(listeners.len()).collect();
    let member = |(node, listener): (&NodeId, &TcpListener)| Member {
        instance: NodeInstance { node: *node, incarnation: Incarnation(1) },
        group: GroupId(0),
        zone: char::from(b'a' + u8::try_from(node.0 - 1).unwrap()).to_string(),
        addr: listener.local_addr().unwrap().to_string(),
        shards,
        seniority: u64::from(node.0),
        standing: Standing::InSync,
    };
    let placement = |p: u16| Placement {
        group: GroupId(0),
        local_index: p,
        primary: ids[usize::from(p / shards) % ids.len()],
        replicas: ids.clone(),
        joining: Vec::new(),
        to: None,
    };
    View {
        cluster: ClusterId(77),
        number: ViewNumber(1),
        config: ClusterConfig { partitions: PARTITIONS, ..ClusterConfig::default() },
        roster: Roster::of(&ids.iter().zip(listeners).map(member).collect::<Vec<_>>()),
        members: ids.iter().zip(listeners).map(member).collect(),
        placements: (0..PARTITIONS).map(placement).collect(),
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}
