//! The view: membership, roles, placement and arbitrator as one versioned value.
//!
//! Every reconfiguration is a new view; a member persists a view before it acts in it. A view is
//! plain data: how one follows another is decided by the agreement (control core).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::configuration::ConfigState;
use crate::generations::Generations;
use crate::ids::{
    ClusterId, Epoch, GroupId, Incarnation, MgmtId, NodeId, NodeInstance, PartitionId,
    RestartGeneration, ShardAddr, ShardId, ViewNumber,
};
use crate::roster::Roster;

/// Cluster-wide settings; they change by a view change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Partitions per table; a power of two, fixed at creation.
    pub partitions: u16,
    /// Replicas per partition, 1–4.
    pub replicas: u16,
    /// Time between heartbeats.
    pub heartbeat_ms: u32,
    /// Silence after which a peer is suspected; also the length of a read lease.
    pub suspicion_ms: u32,
    /// Time between epoch ticks.
    pub tick_ms: u32,
    /// How long an interactive transaction may be idle before its coordinator aborts it: it holds
    /// locks, and its client may be gone without anybody having noticed.
    pub transaction_idle_ms: u32,
    /// Bound on clock drift between any two nodes, parts per million.
    pub drift_ppm: u32,
    /// Whether an orderly FIN and a refused reconnect prove that a peer's process is dead. Off
    /// where proxies stand between peers: they forge it.
    pub peer_death_by_fin: bool,
    /// Bytes of row data a node may hold.
    pub data_memory: u64,
    /// How often each partition that has changed is written to a checkpoint.
    pub checkpoint_interval_ms: u32,
    /// Replicas in this zone lead where they can; empty for none in particular.
    pub primary_zone: String,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            partitions: 64,
            replicas: 2,
            heartbeat_ms: 50,
            suspicion_ms: 400,
            tick_ms: 10,
            transaction_idle_ms: 10_000,
            drift_ppm: 1000,
            peer_death_by_fin: true,
            data_memory: 8 << 30,
            checkpoint_interval_ms: 30_000,
            primary_zone: String::new(),
        }
    }
}

impl ClusterConfig {
    /// Silence after which a peer is suspected.
    #[must_use]
    pub fn suspicion(&self) -> Duration {
        Duration::from_millis(u64::from(self.suspicion_ms))
    }

    /// Time between heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(u64::from(self.heartbeat_ms))
    }

    /// How long an interactive transaction may be idle.
    #[must_use]
    pub fn transaction_idle(&self) -> Duration {
        Duration::from_millis(u64::from(self.transaction_idle_ms))
    }

    /// How often each partition that has changed is written to a checkpoint.
    #[must_use]
    pub fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.checkpoint_interval_ms))
    }

    /// Time between epoch ticks.
    #[must_use]
    pub fn tick(&self) -> Duration {
        Duration::from_millis(u64::from(self.tick_ms))
    }
}

/// Why a member counts as gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reason {
    /// Nothing was heard for the suspicion time.
    Silent,
    /// Its process is known to be dead.
    Dead,
    /// It asked to go.
    Leaving,
    /// A proposal this node has answered drops it.
    Refused,
    /// Some hear it and some do not.
    Asymmetric,
    /// It lives but does not answer.
    Stuck,
}

impl Reason {
    /// In words, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Silent => "nothing was heard of it",
            Self::Dead => "its process has died",
            Self::Leaving => "it asked to leave",
            Self::Refused => "an earlier president had left it out",
            Self::Asymmetric => "some heard it and some did not",
            Self::Stuck => "it did not answer",
        }
    }
}

/// How far a member has come. Only members in sync serve, vote, count and hold leases.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum Standing {
    /// It has come back and copies what it missed, while it receives the logs.
    Copying,
    /// It has all rows: what is stable is stable with it, and leases need its promise.
    Attached,
    /// It has everything that was ever acknowledged.
    #[default]
    InSync,
}

/// A data node in a view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The node's life.
    pub instance: NodeInstance,
    /// The node group it belongs to; [`GroupId::NONE`] for a spare, which is copying for ever.
    pub group: GroupId,
    /// Its availability zone; empty if none.
    pub zone: String,
    /// `host:port` of its one listening port.
    pub addr: String,
    /// How many shard cores it runs.
    pub shards: u16,
    /// Seniority: the president is the unsuspected member in sync with the smallest value.
    pub seniority: u64,
    /// How far it has come.
    pub standing: Standing,
}

/// Where one partition lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// The owning node group.
    pub group: GroupId,
    /// Its position among the group's partitions: picks the shard on each node.
    pub local_index: u16,
    /// The replica that leads.
    pub primary: NodeId,
    /// All in-sync replicas, the primary among them, in order of preference.
    pub replicas: Vec<NodeId>,
    /// Replicas that are not in sync yet: they receive the log and serve nobody.
    pub joining: Vec<NodeId>,
    /// Whither it moves: the nodes there are among those joining.
    pub to: Option<Transfer>,
}

/// A partition on its way to another node group; see [`crate::transfer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// The group that gets it.
    pub group: GroupId,
    /// Its position among the partitions of that group.
    pub local_index: u16,
    /// All of that group's nodes have all rows: what is stable is stable with them, and leases of
    /// the partition need their promises.
    pub attached: bool,
}

/// Who decides an even split.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Arbitrator {
    /// A management server (rank 1); its register is on disk.
    Mgmt {
        /// Which one.
        id: MgmtId,
        /// Its address.
        addr: String,
    },
    /// An API node that opted in (rank 2), as this process incarnation only.
    Api {
        /// The number it has drawn.
        id: MgmtId,
        /// The life of the process; a restarted one answers nobody.
        incarnation: Incarnation,
        /// What its operator calls it.
        name: String,
    },
}

/// What tells one view from another: two presidents can make rival views of one number, but not
/// with the same members.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ViewIdentity {
    /// The view's number.
    pub number: ViewNumber,
    /// The view's members in order of node id.
    pub members: Vec<NodeInstance>,
}

/// One configuration of the cluster. See the module text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Position in the chain of views; the first is 1.
    pub number: ViewNumber,
    /// Cluster-wide settings.
    pub config: ClusterConfig,
    /// Which version of them this is, and what changed last.
    pub configured: ConfigState,
    /// Who was a member of the view before this one was made and is not in it, and why.
    pub left_out: Vec<(NodeInstance, Reason)>,
    /// The data nodes that are here, in order of node id.
    pub members: Vec<Member>,
    /// Everybody who belongs to the cluster, here or not.
    pub roster: Roster,
    /// By partition id.
    pub placements: Vec<Placement>,
    /// Who decides an even split; none configured means an even split shuts down.
    pub arbitrator: Option<Arbitrator>,
    /// The management servers, best first; API nodes offer themselves.
    pub arbitrators_possible: Vec<Arbitrator>,
    /// Highest seal any survivor knew when this view was made: orphans commit above it.
    pub seal: Epoch,
    /// How often the whole cluster was restarted from its disks: epochs that a restart dropped
    /// must not be taken for later ones of the same number.
    pub restart_generation: RestartGeneration,
    /// The past restart generations, in order, each with the last epoch of it that counts.
    pub cuts: Vec<(RestartGeneration, Epoch)>,
}

impl View {
    /// What tells this view from every other.
    #[must_use]
    pub fn identity(&self) -> ViewIdentity {
        let members = self.members.iter().map(|m| m.instance).collect();
        ViewIdentity { number: self.number, members }
    }

    /// The member with this node id, whatever its incarnation.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let index = self.members.binary_search_by_key(&node, |m| m.instance.node).ok()?;
        self.members.get(index)
    }

    /// Whether exactly this life of the node is in the view.
    #[must_use]
    pub fn contains(&self, instance: NodeInstance) -> bool {
        self.member(instance.node).is_some_and(|m| m.instance == instance)
    }

    /// The placement of a partition; `None` if the cluster has fewer.
    #[must_use]
    pub fn placement(&self, partition: PartitionId) -> Option<&Placement> {
        self.placements.get(usize::from(partition.0))
    }

    /// What counts of which restart generation.
    #[must_use]
    pub fn generations(&self) -> Generations {
        Generations::new(self.restart_generation, self.cuts.clone())
    }

    /// Whether a node that begins a life under this view is copied to before it is in sync.
    #[must_use]
    pub fn joins(&self, node: NodeId) -> bool {
        self.member(node).is_none_or(|member| member.standing != Standing::InSync)
    }

    /// The members in sync.
    pub fn in_sync(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.standing == Standing::InSync)
    }

    /// The shard core that handles `partition` on `node`, if the node is a member and a replica,
    /// in sync or joining.
    #[must_use]
    pub fn shard_of(&self, partition: PartitionId, node: NodeId) -> Option<ShardAddr> {
        let placement = self.placement(partition)?;
        if !placement.replicas.contains(&node) && !placement.joining.contains(&node) {
            return None;
        }
        let member = self.member(node)?;
        let local_index = match placement.to {
            Some(to) if to.group == member.group => to.local_index,
            _ => placement.local_index,
        };
        let shard = ShardId(local_index % member.shards.max(1));
        Some(ShardAddr { instance: member.instance, shard })
    }

    /// The shard core that leads `partition`.
    #[must_use]
    pub fn primary_of(&self, partition: PartitionId) -> Option<ShardAddr> {
        self.shard_of(partition, self.placement(partition)?.primary)
    }

    /// The partitions of a node group, each with its place there.
    #[must_use]
    pub fn held_by(&self, group: GroupId) -> Vec<(PartitionId, u16)> {
        let all = self.partitions().zip(&self.placements);
        let held = all.filter(|(_, placement)| placement.group == group);
        held.map(|(partition, placement)| (partition, placement.local_index)).collect()
    }

    /// Whether what is stable in a partition is stable with this replica, or one that joins.
    #[must_use]
    pub fn counts_for(&self, placement: &Placement, node: NodeId) -> bool {
        let Some(member) = self.member(node) else { return false };
        match placement.to {
            Some(to) if to.group == member.group => to.attached,
            _ => member.standing != Standing::Copying,
        }
    }

    /// The node groups that own partitions or have members, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let all = self.members.iter().map(|m| m.group);
        let mut groups: Vec<GroupId> = all.filter(|group| *group != GroupId::NONE).collect();
        groups.extend(self.placements.iter().map(|p| p.group));
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// All partition ids.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        let count = u16::try_from(self.placements.len()).expect("bounded by PARTITIONS_MAX");
        (0..count).map(PartitionId)
    }
}
