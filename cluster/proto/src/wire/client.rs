//! The cold half of what clients and servers say: views, sessions, status. The hot half (execute,
//! read, scan, outcome) is in [`super::data`].

use serde::{Deserialize, Serialize};

use crate::configuration::ConfigChange;
use crate::durability::DiskState;
use crate::events::ClusterEvent;
use crate::ids::{Epoch, NodeInstance, SessionId, ShardId, ViewNumber};
use crate::orders::Order;
use crate::view::View;
use crate::wire::progress::JoinProgress;

/// Cold messages between clients and shards or management servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientMessage {
    /// Asks a data node or management server for its newest view, and for every later one.
    WatchView,
    /// The newest view known here: the answer to `WatchView`, and pushed at each change.
    View {
        /// The view.
        view: Box<View>,
    },
    /// Asks a shard for session ids.
    OpenSessions {
        /// Comes back.
        request: u64,
        /// How many, at most 256.
        count: u32,
    },
    /// Fresh session ids: `first` and the following counters.
    SessionsOpened {
        /// The question's number.
        request: u64,
        /// The first id.
        first: SessionId,
        /// How many.
        count: u32,
        /// The shard's epoch.
        epoch: Epoch,
    },
    /// Asks a shard for a closed epoch to read at.
    OpenSnapshot {
        /// Comes back.
        request: u64,
        /// An epoch that must be closed.
        at_least: Epoch,
        /// Older versions that are needed to read at `at_least` are to be kept until this link ends
        /// or nobody has read at that epoch for a while.
        pin: bool,
    },
    /// The answer, once `at_least` is closed.
    SnapshotOpened {
        /// The question's number.
        request: u64,
        /// The highest closed epoch the shard knows.
        closed: Epoch,
        /// The shard's epoch: everything it has acknowledged is of this one or earlier ones.
        epoch: Epoch,
    },
    /// Asks a shard for its state.
    GetStatus {
        /// Comes back.
        request: u64,
    },
    /// Asks a data node to leave in good order, as SIGTERM does. Answered by `Status`, before it
    /// has left.
    Leave {
        /// Comes back.
        request: u64,
        /// It is to come back at once, as a new life.
        again: bool,
    },
    /// Asks a data node to have the configuration changed. Answered by `Status`, before anything
    /// has changed: the view tells what came of it.
    Configure {
        /// Comes back.
        request: u64,
        /// The change.
        change: Box<ConfigChange>,
    },
    /// Tells a data node what the roster should be. Answered by `Status`; repeated until a view
    /// shows it.
    Order {
        /// Comes back.
        request: u64,
        /// What is wanted.
        order: Order,
    },
    /// Asks a management server what has happened.
    GetEvents {
        /// Those after this number in the server's log.
        after: u64,
    },
    /// The answer, oldest first; if it is full, more follow.
    Events {
        /// The events.
        events: Vec<ClusterEvent>,
    },
    /// A shard's state.
    Status {
        /// The question's number.
        request: u64,
        /// The state.
        status: Box<ShardStatus>,
    },
}

/// What one shard knows about itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The node's life.
    pub instance: NodeInstance,
    /// Which shard.
    pub shard: ShardId,
    /// The view it acts in.
    pub view: ViewNumber,
    /// Its current epoch.
    pub epoch: Epoch,
    /// The highest closed epoch it knows.
    pub epoch_closed: Epoch,
    /// Partitions it leads.
    pub partitions_primary: u32,
    /// Partitions it backs up.
    pub partitions_backup: u32,
    /// Rows held, all tables, all replicas.
    pub rows: u64,
    /// Bytes of row data held, as counted against `data_memory`.
    pub data_bytes: u64,
    /// Limit of `data_bytes`.
    pub data_bytes_max: u64,
    /// Transactions committed here as coordinator.
    pub committed: u64,
    /// Transactions aborted here as coordinator.
    pub aborted: u64,
    /// Committed reads answered.
    pub reads: u64,
    /// Transactions open here as coordinator.
    pub open: u64,
    /// Client connections.
    pub clients: u32,
    /// Frames refused as malformed since the start.
    pub malformed: u64,
    /// CPU time of the whole operating-system process, microseconds.
    pub cpu_us: u64,
    /// Resident memory of the whole operating-system process, bytes.
    pub rss_bytes: u64,
    /// How its disk is; `None` for a node that keeps its data in memory only.
    pub disk: Option<DiskStatus>,
    /// How far it is, or how it went, if the node has come back in this life.
    pub join: Option<JoinProgress>,
}

/// What one shard knows of its disk, and of everybody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DiskStatus {
    /// How it is.
    pub state: DiskState,
    /// Everything up to this epoch is on it.
    pub durable: Epoch,
    /// Everything up to this epoch is on the disks of all members.
    pub durable_everywhere: Epoch,
    /// The highest epoch with a record anywhere: there is nothing of later ones to be written.
    pub worked: Epoch,
    /// Bytes of redo that are not on it yet.
    pub redo_waiting_bytes: u64,
    /// How long what it was asked last has been under way, milliseconds; `None` if nothing is.
    pub redo_request_ms: Option<u64>,
    /// As of this epoch or later ones all partitions are in checkpoints; 0 if one is in none,
    /// `None` if there are no partitions.
    pub checkpointed: Option<Epoch>,
    /// Time since the last checkpoint was finished, milliseconds; `None` before the first in this
    /// life of the node.
    pub checkpoint_age_ms: Option<u64>,
}

impl DiskStatus {
    /// Both as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let age = self.checkpoint_age_ms.zip(other.checkpoint_age_ms);
        Self {
            state: self.state.max(other.state),
            durable: self.durable.min(other.durable),
            durable_everywhere: self.durable_everywhere.max(other.durable_everywhere),
            worked: self.worked.max(other.worked),
            redo_waiting_bytes: self.redo_waiting_bytes.saturating_add(other.redo_waiting_bytes),
            redo_request_ms: self.redo_request_ms.max(other.redo_request_ms),
            checkpointed: self.checkpointed.into_iter().chain(other.checkpointed).min(),
            checkpoint_age_ms: age.map(|(one, other)| one.max(other)),
        }
    }
}
