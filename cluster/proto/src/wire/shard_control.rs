//! What a node's control core and its shard cores tell each other. Only control decides.

use serde::{Deserialize, Serialize};

use crate::configuration::ConfigChange;
use crate::durability::{DiskReport, Pulse};
use crate::ids::{Epoch, NodeInstance, PartitionId, Seq, ViewNumber};
use crate::orders::Order;
use crate::view::View;
use crate::wire::control::JoinStage;
use crate::wire::progress::JoinProgress;

/// Names one attempt of one president to make one view; higher ones win.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ProposalId {
    /// The view it would make.
    pub number: ViewNumber,
    /// The president's attempt.
    pub attempt: u64,
    /// Who proposes.
    pub president: NodeInstance,
}

/// Messages between a node's control core and its shards, both directions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShardControl {
    // --- control to shard ---
    /// Refuse everything from `failed` from now on, and report the log ends.
    Fence {
        /// For the answer.
        proposal: ProposalId,
        /// Whom to refuse.
        failed: Vec<NodeInstance>,
        /// Partitions led here that get another primary: nothing is appended to them any more,
        /// and the report waits until all of their logs is stable.
        moving: Vec<PartitionId>,
        /// A partition that another node group gets: nothing is read of it here any more in this
        /// view, whatever other proposals follow.
        handed: Option<PartitionId>,
    },
    /// Act in this view from now on; it is on disk.
    Enter {
        /// The view.
        view: Box<View>,
    },
    /// Until when each peer has promised not to act without this node: boot-clock nanoseconds.
    Leases {
        /// By peer, in order of node.
        deadlines: Vec<(NodeInstance, u64)>,
    },
    /// The cluster's clock.
    Tick {
        /// The current epoch.
        epoch: Epoch,
        /// The highest closed epoch.
        closed: Epoch,
        /// What is durable, and who waits.
        pulse: Pulse,
    },
    /// Answer at once: a shard that does not is stuck.
    Ping {
        /// Comes back.
        number: u64,
    },
    /// Take no new work from clients; the node is leaving.
    Drain,

    // --- shard to control ---
    /// The answer to `Fence`: the ends of all logs of this shard, in order of partition.
    Fenced {
        /// Which proposal.
        proposal: ProposalId,
        /// Log ends of the partitions this shard holds.
        ends: Vec<(PartitionId, Seq)>,
    },
    /// The shard acts in this view.
    Entered {
        /// Which one.
        view: ViewNumber,
    },
    /// All of this shard's part of `epoch` and everything before it is stable.
    Finished {
        /// The report is void in any other view.
        view: ViewNumber,
        /// The highest finished epoch.
        epoch: Epoch,
    },
    /// What the shard's redo log has on disk, and what is waited for here.
    Disk(DiskReport),
    /// Answer to `Ping`.
    Pong {
        /// The ping's number.
        number: u64,
    },
    /// The peer's shard link is dead although its heartbeats may pass.
    Suspect {
        /// Whom.
        node: NodeInstance,
    },
    /// An operator asks the node to leave; to come back at once if `again`.
    Leave {
        /// As a new life.
        again: bool,
    },
    /// An operator wants another configuration.
    Configure {
        /// The change.
        change: Box<ConfigChange>,
    },
    /// An operator says what the roster should be.
    Order(Order),
    /// Nothing is open any more after `Drain`.
    Drained,
    /// The node is not in sync: the shard's partitions are this far.
    Joined {
        /// The report is void in any other view.
        view: ViewNumber,
        /// How far.
        stage: JoinStage,
    },
    /// The same in figures, for people.
    Progress(Box<JoinProgress>),
    /// A backup has an epoch pinned here, or has let go of it.
    BackupPinned {
        /// Which of the two.
        pinned: bool,
    },
}
