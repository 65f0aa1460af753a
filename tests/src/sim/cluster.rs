//! The cluster of a run: its shape, how it is built from view 1, and what an all-knowing observer
//! can see of it at any moment.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use lockstep_client::core::{ClientCore, ClientOptions};
use lockstep_cluster::LogIdentity;
use lockstep_cluster::control::{ControlCore, ControlOptions};
use lockstep_cluster::shard::{ShardCore, ShardOptions};
use lockstep_mgmt::core::plan::ClusterPlan;
use lockstep_mgmt::core::{MgmtCore, MgmtOptions, MgmtStored};
use lockstep_proto::arbitrator::{ApiArbitrator, ApiArbitratorOptions};
use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{
    ClusterId, Epoch, GroupId, Incarnation, MgmtId, NodeId, NodeInstance, RestartGeneration,
    ShardId, ViewNumber,
};
use lockstep_proto::process::Peer;
use lockstep_proto::register::Register;
use lockstep_proto::roster::Roster;
use lockstep_proto::stored::{Stored, StoredCluster, StoredRegister};
use lockstep_proto::view::{Arbitrator, ClusterConfig, Member, Placement, Standing, View};

use super::clock::HostClock;
use super::core::Core;
use super::disk::HostDisk;
use super::host::{Host, HostId, Life, Role};
use super::rng::Rng;
use super::workload::operator::Operator;
use super::workload::{ClientProcess, Notebook};
use super::world::World;

/// How long a simulated transaction may be idle: short, so that runs with vanished clients are.
pub const TRANSACTION_IDLE_MS: u32 = 2_000;

/// What a run's cluster looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Node groups.
    pub groups: u16,
    /// Replicas, that is nodes per group.
    pub replicas: u16,
    /// Shards per node.
    pub shards: u16,
    /// Partitions.
    pub partitions: u16,
    /// Zones; replicas of a group are spread over them.
    pub zones: u16,
    /// Management servers.
    pub mgmts: u16,
    /// API nodes that offer themselves as arbitrators.
    pub apis: u16,
    /// Machines on which data nodes may be started later.
    pub fresh: u16,
    /// Clients.
    pub clients: u16,
    /// Largest drift of a clock from true time, parts per million.
    pub drift_ppm: i64,
    /// How often a partition is checkpointed, in ms.
    pub checkpoint_ms: u32,
    /// Bytes of stable records kept of a partition for those who join.
    pub kept_max: usize,
}

/// The hosts of a run by what they are.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its shape.
    pub shape: Shape,
    /// The first view.
    pub view: View,
    /// Data nodes.
    pub nodes: Vec<HostId>,
    /// Which host has which node id.
    pub ids: BTreeMap<NodeId, HostId>,
    /// Machines on which data nodes may be started.
    pub fresh: Vec<HostId>,
    /// Management servers.
    pub mgmts: Vec<HostId>,
    /// API nodes that offer themselves as arbitrators.
    pub apis: Vec<HostId>,
    /// Clients.
    pub clients: Vec<HostId>,
    /// How long nodes that come back wait for the others before a part of them starts.
    pub patience: Duration,
    /// The bug to run with.
    pub canary: Option<Canary>,
}

fn node_instance(id: u16) -> NodeInstance {
    // A second life, so that there can be ghosts of the first.
    NodeInstance { node: NodeId(id), incarnation: Incarnation(2) }
}

fn node_addr(id: u16) -> String {
    format!("n{id}:1")
}

fn mgmt_addr(id: u16) -> String {
    format!("m{id}:1")
}

/// The first view of a cluster of this shape.
#[must_use]
pub fn first_view(shape: &Shape) -> View {
    let mut members = Vec::new();
    for group in 0..shape.groups {
        for replica in 0..shape.replicas {
            let id = group * shape.replicas + replica + 1;
            members.push(Member {
                instance: node_instance(id),
                group: GroupId(group),
                zone: format!("z{}", replica % shape.zones),
                addr: node_addr(id),
                shards: shape.shards,
                seniority: u64::from(id),
                standing: Standing::InSync,
            });
        }
    }
    let per_group = shape.partitions / shape.groups;
    let mut placements = Vec::new();
    for partition in 0..shape.partitions {
        let group = (partition / per_group.max(1)).min(shape.groups - 1);
        let local_index = partition - group * per_group;
        let first = group * shape.replicas + 1;
        let lead = (local_index / shape.shards) % shape.replicas;
        let replicas: Vec<NodeId> =
            (0..shape.replicas).map(|r| NodeId(first + (lead + r) % shape.replicas)).collect();
        placements.push(Placement {
            group: GroupId(group),
            local_index,
            primary: replicas[0],
            replicas,
            joining: Vec::new(),
            to: None,
        });
    }
    let arbitrators: Vec<Arbitrator> = (1..=shape.mgmts)
        .map(|id| Arbitrator::Mgmt { id: MgmtId(id), addr: mgmt_addr(id) })
        .collect();
    View {
        cluster: ClusterId(0x5eed),
        number: ViewNumber(1),
        config: ClusterConfig {
            partitions: shape.partitions,
            replicas: shape.replicas,
            data_memory: 64 << 20,
            transaction_idle_ms: TRANSACTION_IDLE_MS,
            checkpoint_interval_ms: shape.checkpoint_ms,
            ..ClusterConfig::default()
        },
        roster: Roster::of(&members),
        members,
        placements,
        arbitrator: arbitrators.first().cloned(),
        arbitrators_possible: arbitrators,
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

pub(super) fn host(name: String, role: Role, zone: u16, addr: String, clock: HostClock) -> Host {
    Host {
        name,
        role,
        zone,
        addr,
        clock,
        life: Life::Running,
        procs: Vec::new(),
        files: BTreeMap::new(),
        stores: VecDeque::new(),
        store_ns: (50_000, 3_000_000),
        disk: HostDisk::default(),
        shards: 0,
        owner: None,
        restored: None,
        slowness: 1,
        turns: 0,
        knocks: Vec::new(),
        holding: false,
        exit: None,
    }
}

fn clock(shape: &Shape, rng: &mut Rng) -> HostClock {
    let offset_ns = rng.range(1_000_000_000, 1_000_000_000_000);
    let width = u64::try_from(shape.drift_ppm).expect("a bound") * 2;
    let drift_ppm = i64::try_from(rng.range(0, width)).expect("small") - shape.drift_ppm;
    HostClock { offset_ns, drift_ppm }
}

impl Cluster {
    /// Builds the hosts of a cluster that acts in its first view from the start.
    pub fn build(
        world: &mut World,
        shape: Shape,
        canary: Option<Canary>,
        notes: &Rc<RefCell<Notebook>>,
        rng: &mut Rng,
    ) -> Self {
        let view = first_view(&shape);
        let mut cluster = Self {
            shape,
            view,
            nodes: vec![],
            ids: BTreeMap::new(),
            fresh: vec![],
            mgmts: vec![],
            apis: vec![],
            clients: vec![],
            patience: super::revive::PATIENCE,
            canary,
        };
        for id in 1..=cluster.shape.mgmts {
            let zone = (id - 1) % cluster.shape.zones;
            let name = format!("m{id}");
            let clock = clock(&cluster.shape, rng);
            let host = host(name, Role::Mgmt(MgmtId(id)), zone, mgmt_addr(id), clock);
            let host = world.add_host(host);
            cluster.mgmts.push(host);
            cluster.first_files(world, host, MgmtId(id));
            cluster.start_mgmt(world, host);
        }
        for index in 1..=cluster.shape.apis {
            let id = MgmtId(MgmtId::API_MIN + index);
            let zone = index % cluster.shape.zones;
            let clock = clock(&cluster.shape, rng);
            let host = host(format!("a{index}"), Role::Mgmt(id), zone, String::new(), clock);
            let host = world.add_host(host);
            cluster.apis.push(host);
            cluster.start_api(world, host);
        }
        for member in cluster.view.members.clone() {
            let node = cluster.add_node(world, &member, rng);
            cluster.nodes.push(node);
            cluster.ids.insert(member.instance.node, node);
        }
        for index in 0..cluster.shape.fresh {
            let zone = index % cluster.shape.zones;
            let id = cluster.shape.groups * cluster.shape.replicas + 1 + index;
            let clock = clock(&cluster.shape, rng);
            let name = format!("f{}", index + 1);
            let fresh = world.add_host(host(name, Role::Fresh, zone, node_addr(id), clock));
            world.host_mut(fresh).life = Life::Killed;
            cluster.fresh.push(fresh);
        }
        for index in 0..cluster.shape.clients {
            let zone = index % cluster.shape.zones;
            let clock = clock(&cluster.shape, rng);
            let name = format!("c{index}");
            let host = world.add_host(host(name, Role::Client, zone, String::new(), clock));
            cluster.clients.push(host);
            cluster.start_client(world, host, notes, rng);
        }
        cluster.lay_paths(world, rng);
        cluster
    }

    fn add_node(&self, world: &mut World, member: &Member, rng: &mut Rng) -> HostId {
        let zone = (member.instance.node.0 - 1) % self.shape.replicas % self.shape.zones;
        let name = member.instance.node.to_string();
        let clock = clock(&self.shape, rng);
        let role = Role::Data(member.instance);
        let host_id = world.add_host(host(name.clone(), role, zone, member.addr.clone(), clock));
        self.start_cores(world, host_id, member, &self.view);
        host_id
    }

    /// Starts the cores of a data node in a view that has it.
    pub(super) fn start_cores(
        &self,
        world: &mut World,
        host_id: HostId,
        member: &Member,
        view: &View,
    ) {
        let name = world.host(host_id).name.clone();
        let offset_ms = world.host(host_id).clock.offset_ns / 1_000_000;
        let control = ControlCore::new(ControlOptions {
            instance: member.instance,
            view: view.clone(),
            mgmt: self.mgmt_list(),
            shards: self.shape.shards,
            canary: self.canary,
        });
        let control =
            world.add_proc(host_id, format!("{name}/c"), Core::Control(Box::new(control)));
        let mut restored = world.host_mut(host_id).restored.take();
        let base = restored.as_ref().map_or(Epoch(0), |restored| restored.epoch);
        let mut shards = Vec::new();
        for shard in 0..self.shape.shards {
            let core = ShardCore::new(ShardOptions {
                instance: member.instance,
                shard: ShardId(shard),
                shards: self.shape.shards,
                wall_offset_ms: 1_700_000_000_000 - offset_ms,
                redo: Some(LogIdentity {
                    base,
                    generation: view.restart_generation,
                    joined: view.joins(member.instance.node),
                    ..self.log_identity(member)
                }),
                kept_max: self.shape.kept_max,
                canary: self.canary,
            });
            let core = match &mut restored {
                Some(all) => core.with_restored(all.take_shard(ShardId(shard), self.shape.shards)),
                None => core,
            };
            let core = Core::Shard(Box::new(core));
            shards.push(world.add_proc(host_id, format!("{name}/s{shard}"), core));
        }
        let me = member.instance;
        let shard_peer = |at: usize| Peer::Shard(me, ShardId(u16::try_from(at).expect("few")));
        for (at, shard) in shards.iter().enumerate() {
            world.connect_locally((control, Peer::Control(me)), (*shard, shard_peer(at)));
            for (other_at, other) in shards.iter().enumerate().skip(at + 1) {
                world.connect_locally((*shard, shard_peer(at)), (*other, shard_peer(other_at)));
            }
        }
        for proc in [control].iter().chain(&shards) {
            world.plan_next_turn(*proc);
        }
    }

    fn log_identity(&self, member: &Member) -> LogIdentity {
        LogIdentity {
            cluster: self.view.cluster,
            node: member.instance.node,
            generation: self.view.restart_generation,
            shards: self.shape.shards,
            base: Epoch(0),
            joined: false,
        }
    }

    /// What a new cluster's management servers have on disk: all know the view, the first holds
    /// the register.
    fn first_files(&self, world: &mut World, host: HostId, id: MgmtId) {
        let (cluster, view) = (self.view.cluster, self.view.clone());
        let stored = StoredCluster { view: view.clone(), admissions: Vec::new() };
        let files = &mut world.host_mut(host).files;
        files.insert(StoredCluster::FILE, stored.to_file());
        let is_arbitrator =
            matches!(&view.arbitrator, Some(Arbitrator::Mgmt { id: named, .. }) if *named == id);
        if is_arbitrator {
            let register = Register::new(view.identity());
            let stored = StoredRegister { cluster, register };
            files.insert(StoredRegister::FILE, stored.to_file());
        }
    }

    fn mgmt_options(&self, world: &World, host: HostId, id: MgmtId) -> MgmtOptions {
        let files = &world.host(host).files;
        let stored = MgmtStored::load(|file| files.get(&file).cloned());
        MgmtOptions {
            id,
            addr: world.host(host).addr.clone(),
            others: self.mgmt_list().into_iter().filter(|(other, _)| *other != id).collect(),
            plan: ClusterPlan {
                groups: self.shape.groups,
                zones: Vec::new(),
                config: self.view.config.clone(),
            },
            stored: stored.expect("files are replaced as a whole"),
            wall_offset_ms: 1_700_000_000_000,
            cluster_id_seed: 7,
            canary: self.canary,
        }
    }

    pub(super) fn mgmt_list(&self) -> Vec<(MgmtId, String)> {
        (1..=self.shape.mgmts).map(|id| (MgmtId(id), mgmt_addr(id))).collect()
    }

    /// Starts the process of a management server on what its host's files hold.
    pub fn start_mgmt(&self, world: &mut World, host: HostId) {
        let Role::Mgmt(id) = world.host(host).role else { return };
        let core = MgmtCore::new(self.mgmt_options(world, host, id));
        let name = world.host(host).name.clone();
        world.host_mut(host).procs.clear();
        world.host_mut(host).life = Life::Running;
        let proc = world.add_proc(host, name, Core::Mgmt(Box::new(core)));
        world.plan_next_turn(proc);
    }

    /// Starts the process of an API node's arbitrator: nothing is left of an earlier one.
    pub fn start_api(&self, world: &mut World, host: HostId) {
        let Role::Mgmt(id) = world.host(host).role else { return };
        let members = self.view.members.iter();
        let nodes = members.map(|member| (member.instance.node, member.addr.clone()));
        let core = ApiArbitrator::new(ApiArbitratorOptions {
            id,
            cluster: self.view.cluster,
            // No two processes of the world have one number.
            incarnation: Incarnation(u32::try_from(world.procs.len()).expect("few processes")),
            name: world.host(host).name.clone(),
            nodes: nodes.collect(),
            canary: self.canary,
        });
        let name = world.host(host).name.clone();
        world.host_mut(host).procs.clear();
        world.host_mut(host).life = Life::Running;
        let proc = world.add_proc(host, name, Core::Api(Box::new(core)));
        world.plan_next_turn(proc);
    }

    /// Starts a management server or an API node's arbitrator again; a server perhaps on an empty
    /// directory, because its own is lost.
    pub fn restart(&self, world: &mut World, host: HostId, empty: bool) {
        if self.apis.contains(&host) {
            return self.start_api(world, host);
        }
        if empty {
            let (now, entry) = (world.now, world.host_mut(host));
            entry.files.clear();
            entry.disk = HostDisk::default();
            entry.disk.replaced = true;
            let name = entry.name.clone();
            world.trace.note(now, || format!("{name} has lost its directory"));
            *world.tally.faults.entry("lost_directory").or_default() += 1;
        }
        self.start_mgmt(world, host);
    }

    /// Whether the host of a management server holds a register; an API node always does.
    #[must_use]
    pub fn has_register(&self, world: &World, host: HostId) -> bool {
        let cores = world.host(host).procs.iter();
        cores.filter_map(|proc| world.procs[proc.index()].core.as_ref()).all(|core| match core {
            Core::Mgmt(server) => server.register().is_some(),
            _ => true,
        })
    }

    /// The host of a view's arbitrator, if the process there is the one that is named.
    #[must_use]
    pub fn arbitrator(&self, world: &World, view: &View) -> Option<HostId> {
        match view.arbitrator.as_ref()? {
            Arbitrator::Mgmt { id, .. } => Some(self.mgmts[usize::from(id.0) - 1]),
            Arbitrator::Api { id, incarnation, .. } => {
                let host = self.apis[usize::from(id.0 - MgmtId::API_MIN) - 1];
                let proc = world.host(host).procs.first()?;
                match world.procs[proc.index()].core.as_ref()? {
                    Core::Api(core) if core.incarnation() == *incarnation => Some(host),
                    _ => None,
                }
            }
        }
    }

    /// Starts a client process without tasks.
    pub fn start_client(
        &self,
        world: &mut World,
        host: HostId,
        notes: &Rc<RefCell<Notebook>>,
        rng: &mut Rng,
    ) {
        let mut addresses: Vec<String> =
            self.mgmt_list().into_iter().map(|(_, addr)| addr).collect();
        addresses.extend(self.view.members.iter().map(|member| member.addr.clone()));
        if rng.coin() {
            addresses.reverse();
        }
        let core = ClientCore::new(ClientOptions {
            addresses,
            zone: format!("z{}", world.host(host).zone),
            host: String::new(),
            deadline: Duration::from_secs(8),
            seed: rng.next(),
            expiry_epochs: notes.borrow().expiry_epochs,
            canary: self.canary,
            ..ClientOptions::default()
        });
        let nodes = self.shape.groups * self.shape.replicas;
        let process = ClientProcess::new(core, rng.fork(), nodes, notes.clone());
        let name = world.host(host).name.clone();
        world.host_mut(host).procs.clear();
        world.host_mut(host).life = Life::Running;
        let proc = world.add_proc(host, name, Core::Client(Box::new(process)));
        world.plan_next_turn(proc);
    }

    /// Adds an operator, who has nothing to do with the chances of the rest.
    pub fn add_operator(&self, world: &mut World, notes: &Rc<RefCell<Notebook>>, own: bool) {
        const DELAY_NS: u64 = 100_000;
        let clock = HostClock { offset_ns: 1_000_000_000, drift_ppm: 0 };
        let operator = world.add_host(host("o0".into(), Role::Toy, 0, String::new(), clock));
        let count = u16::try_from(world.hosts.len()).expect("at most HOSTS_MAX hosts");
        for other in (0..count).map(HostId) {
            world.net.path_mut(operator, other).delay_ns = DELAY_NS;
            world.net.path_mut(other, operator).delay_ns = DELAY_NS;
        }
        let rng = Rng::new(world.hash ^ 0xbac0);
        let core = Operator::new(self.mgmt_list(), rng, notes.clone(), own);
        let proc = world.add_proc(operator, "o0".into(), Core::Toy(Box::new(core)));
        world.plan_next_turn(proc);
    }

    fn lay_paths(&self, world: &mut World, rng: &mut Rng) {
        let near = rng.range(10_000, 60_000);
        let far = near + rng.range(50_000, 900_000);
        let count = u16::try_from(world.hosts.len()).expect("at most HOSTS_MAX hosts");
        for a in (0..count).map(HostId) {
            for b in (0..count).map(HostId) {
                let same = world.host(a).zone == world.host(b).zone;
                let path = world.net.path_mut(a, b);
                path.delay_ns = if same { near } else { far };
                path.jitter_ns = path.delay_ns / 2;
            }
        }
    }

    /// The control core of a node, if it runs.
    #[must_use]
    pub fn control<'w>(&self, world: &'w World, node: HostId) -> Option<&'w ControlCore> {
        let proc = *world.host(node).procs.first()?;
        match world.procs[proc.index()].core.as_ref()? {
            Core::Control(control) => Some(control),
            _ => None,
        }
    }

    /// The newest view any running node acts in.
    #[must_use]
    pub fn newest_view<'w>(&self, world: &'w World) -> Option<&'w View> {
        let views = self.nodes.iter().filter_map(|node| Some(self.control(world, *node)?.view()));
        views.max_by_key(|view| view.number)
    }
}
