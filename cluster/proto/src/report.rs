//! What a core tells its driver about itself when it is asked: the ground of a process's admin
//! port. Asking changes nothing, and costs a core nothing while nobody asks.

use crate::ids::{ClusterId, Epoch, GroupId, NodeInstance, ViewNumber};
use crate::view::{Standing, View};
use crate::wire::client::ShardStatus;

/// What one core knows about itself and about the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// A data node that has no identity yet.
    Newcomer {
        /// What it was told to wait for; empty before it was told anything.
        waits_for: String,
    },
    /// A data node that was started again and serves nobody yet.
    Returning {
        /// Its new life.
        instance: NodeInstance,
        /// What it waits for; empty if there is nothing to tell.
        waits_for: String,
    },
    /// The control core of a data node.
    Control(Box<ControlReport>),
    /// A shard core of a data node. Use of the machine is not measured: it is the whole process's.
    Shard(Box<ShardStatus>),
    /// A management server.
    Mgmt(MgmtReport),
}

/// What the newest view that a process knows says about the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewReport {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The view's number.
    pub view: ViewNumber,
    /// Node groups.
    pub groups: u32,
    /// Replicas wanted of each partition.
    pub replicas: u32,
    /// Members in sync.
    pub in_sync: u32,
    /// Members that get every commit and do not serve yet.
    pub attached: u32,
    /// Members that are being copied to.
    pub copying: u32,
    /// Members in sync of the node group that has the fewest.
    pub smallest_group: u32,
}

impl ViewReport {
    /// What `view` says.
    #[must_use]
    pub fn of(view: &View) -> Self {
        let count = |standing| counted(view.members.iter().filter(|m| m.standing == standing));
        let groups = view.groups();
        let full = |group: &GroupId| counted(view.in_sync().filter(|m| m.group == *group));
        Self {
            cluster: view.cluster,
            view: view.number,
            groups: counted(groups.iter()),
            replicas: u32::from(view.config.replicas),
            in_sync: count(Standing::InSync),
            attached: count(Standing::Attached),
            copying: count(Standing::Copying),
            smallest_group: groups.iter().map(full).min().unwrap_or(0),
        }
    }
}

fn counted(things: impl Iterator) -> u32 {
    u32::try_from(things.count()).unwrap_or(u32::MAX)
}

/// What a control core knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlReport {
    /// The node's life.
    pub instance: NodeInstance,
    /// Its node group.
    pub group: GroupId,
    /// Its availability zone; empty if none.
    pub zone: String,
    /// How far it is, by the newest view on its disk.
    pub standing: Standing,
    /// Whether all its shards act in that view, and it does not leave.
    pub acts: bool,
    /// Whether it leads changes of the view while nothing fails.
    pub president: bool,
    /// Members it has not heard from for the suspicion time.
    pub silent: u32,
    /// The highest closed epoch it knows.
    pub closed: Epoch,
    /// The newest view on its disk.
    pub view: ViewReport,
}

/// What a management server knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MgmtReport {
    /// The newest view it knows; `None` before the cluster exists.
    pub view: Option<ViewReport>,
    /// What the creation of the cluster waits for; empty once it exists.
    pub waits_for: String,
    /// Whether that view names it as the arbitrator.
    pub arbitrates: bool,
    /// Data nodes that are connected.
    pub data_nodes: u32,
    /// Clients that are connected.
    pub clients: u32,
}
