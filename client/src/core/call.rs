//! What may be asked of the client core and what it answers.

use std::sync::Arc;

use lockstep_proto::configuration::ConfigChange;
use lockstep_proto::durability::Durability;
use lockstep_proto::error::{Code, ErrorClass};
use lockstep_proto::ids::{
    Epoch, NodeId, PartitionId, RestartGeneration, SchemaVersion, ShardId, StartOrder, TableId,
    TxId,
};
use lockstep_proto::orders::Order;
use lockstep_proto::view::View;
use lockstep_proto::wire::client::ShardStatus;
use lockstep_proto::wire::op::OpList;

use super::results::ResultList;
use super::slab::Key;

/// Names a call from its submission to its completion; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub(crate) u64);

impl CallId {
    /// A small number that no other pending call has: calls can be kept in a plain table. `None`
    /// for a call that was refused at once because too many are pending.
    #[must_use]
    pub fn slot(self) -> Option<usize> {
        const SLOT_MASK: u64 = (1 << 20) - 1;
        let slot = usize::try_from(self.0 & SLOT_MASK).expect("masked to 20 bits");
        (self.0 & Self::OVERFLOW == 0).then_some(slot)
    }

    /// Marks ids of calls that never had a slot.
    pub(crate) const OVERFLOW: u64 = 1 << 63;
}

/// Names an interactive transaction; dead once its `Finish` is completed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TxHandle(pub(crate) Key);

/// Which replica answers a committed read or a scan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ReadFrom {
    /// The nearest in-sync replica: same host, then same zone, then any; another one at once when
    /// it goes away.
    #[default]
    Nearest,
    /// The partition's primary.
    Primary,
    /// This node and no other: for comparing replicas.
    Node(NodeId),
}

/// A closed epoch. When the whole cluster restarts, epochs that were closed and not durable are
/// dropped, and their numbers come again: the number alone does not tell what is to be read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Moment {
    /// How often the cluster had been restarted when the epoch was closed.
    pub generation: RestartGeneration,
    /// The epoch.
    pub epoch: Epoch,
}

/// What a snapshot has to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtLeast {
    /// Nothing in particular.
    Any,
    /// All that this client has seen.
    Seen,
    /// Everything of this epoch. Older versions are kept for reads at it from then on.
    Pinned(Moment),
}

/// One request to the cluster.
#[derive(Clone, Debug)]
pub enum Call {
    /// A transaction of its own: all operations or none, on any partitions, applied at most once.
    /// Retried under new transaction ids until it is decided or the deadline passes.
    Batch {
        /// What to do; at least one operation.
        ops: OpList,
        /// When its commit is acknowledged.
        durability: Durability,
    },
    /// Committed reads without a transaction; each row is the newest or a newer one.
    Read {
        /// Read operations only; at least one.
        ops: OpList,
        /// Who answers.
        from: ReadFrom,
        /// As of this closed epoch, all rows at one moment.
        at: Option<Moment>,
    },
    /// A closed epoch to read at, from the shard that answers for a partition.
    OpenSnapshot {
        /// Whose shard.
        partition: PartitionId,
        /// Who answers.
        from: ReadFrom,
        /// Answered once this is closed.
        at_least: AtLeast,
    },
    /// Some rows of a partition as of a closed epoch, in no particular order.
    Sweep {
        /// The table.
        table: TableId,
        /// The schema version the caller decodes with.
        schema: SchemaVersion,
        /// The partition.
        partition: PartitionId,
        /// Who answers.
        from: ReadFrom,
        /// As of when.
        at: Moment,
        /// Where to go on; 0 for the beginning.
        place: u64,
        /// Rows after which the server is to stop, roughly.
        rows_max: u32,
    },
    /// Opens an interactive transaction; completes with its handle. Nothing travels yet.
    Begin {
        /// The age of an earlier attempt at the same work, or the default for new work.
        order: StartOrder,
    },
    /// Operations of an open transaction. One step at a time. A step that fails as a whole ends the
    /// transaction: the handle then answers everything with the same code.
    Step {
        /// The transaction.
        tx: TxHandle,
        /// What to do; reads take locks. At least one operation.
        ops: OpList,
    },
    /// The end of a transaction; the handle is free afterwards, whatever the answer.
    Finish {
        /// The transaction.
        tx: TxHandle,
        /// Whether to commit (or to abort).
        commit: bool,
        /// Last operations, committed together with the rest.
        ops: OpList,
        /// When the commit is acknowledged.
        durability: Durability,
    },
    /// One page of a partition's rows in key order.
    Scan {
        /// The table.
        table: TableId,
        /// The schema version the caller decodes with.
        schema: SchemaVersion,
        /// The partition.
        partition: PartitionId,
        /// Who answers.
        from: ReadFrom,
        /// Rows with keys above this one; empty for the beginning.
        after: Vec<u8>,
        /// Most rows wanted; the page may be shorter.
        rows_max: u32,
        /// As of this closed epoch.
        at: Option<Moment>,
    },
    /// Asks a node to leave; answered by `Status`.
    Leave {
        /// The node.
        node: NodeId,
        /// It is to come back at once, as a new life.
        again: bool,
    },
    /// Asks a node to have the configuration changed; answered by `Status`, before anything has
    /// changed.
    Configure {
        /// The node.
        node: NodeId,
        /// The change.
        change: Box<ConfigChange>,
    },
    /// Tells a node what the roster should be; answered by `Status`, before it is.
    Order {
        /// The node that is told: it tells the others.
        node: NodeId,
        /// What is wanted.
        order: Order,
    },
    /// What a shard knows about itself.
    Status {
        /// The node.
        node: NodeId,
        /// Its shard.
        shard: ShardId,
    },
    /// The newest view, as soon as there is one.
    View,
}

impl Call {
    /// Bytes of its operations.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Batch { ops, .. }
            | Self::Read { ops, .. }
            | Self::Step { ops, .. }
            | Self::Finish { ops, .. } => ops.as_ops().byte_len(),
            Self::Scan { after, .. } => after.len(),
            Self::OpenSnapshot { .. } | Self::Sweep { .. } => 0,
            Self::Begin { .. }
            | Self::Leave { .. }
            | Self::Configure { .. }
            | Self::Order { .. }
            | Self::Status { .. }
            | Self::View => 0,
        }
    }
}

/// What a call came to.
pub type Completion = Result<Reply, CallError>;

/// A call that did what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `Batch`, `Read`, `Step` and `Finish`.
    Done {
        /// One result for each operation; a step's and a read's may be failures of their own.
        results: ResultList,
        /// The server's epoch; for a commit, at least its epoch.
        epoch: Epoch,
        /// The transaction as it was committed; `None` for reads.
        tx: Option<TxId>,
    },
    /// `Begin`.
    Begun(TxHandle),
    /// `Scan`: rows as `key length u16, key, value length u32, value`.
    Page {
        /// Whether more rows follow.
        more: bool,
        /// The rows.
        rows: Box<[u8]>,
    },
    /// `OpenSnapshot`.
    Snapshot {
        /// The highest closed epoch.
        closed: Moment,
        /// The epoch of the shard: what it has acknowledged is of this or an earlier one.
        epoch: Epoch,
    },
    /// `Sweep`: rows as in `Page`.
    Swept {
        /// Where to go on; `None` at the end.
        next: Option<u64>,
        /// The rows.
        rows: Box<[u8]>,
    },
    /// `Status`.
    Status(Box<ShardStatus>),
    /// `View`.
    View(Arc<View>),
}

/// What is known about the effect of a failed call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing was applied and nothing will be.
    NotApplied,
    /// It is committed; only its results are missing.
    Applied,
    /// The cluster could not be asked in time.
    Unknown,
}

/// A call that failed as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallError {
    /// Why.
    pub code: Code,
    /// Whether it had an effect.
    pub outcome: Outcome,
    /// Which operation failed, if one did.
    pub op: Option<u16>,
    /// The transaction's age: for another attempt at the same work.
    pub order: StartOrder,
    /// The transaction, if it was ever sent.
    pub tx: Option<TxId>,
    /// For people: which table, key, other transaction; may be empty.
    pub detail: Box<str>,
}

impl CallError {
    /// A refusal; it has left nothing behind, unless its code says that something is committed.
    pub(crate) fn refused(code: Code, detail: impl Into<Box<str>>) -> Self {
        let outcome = match code {
            Code::DurabilityLost | Code::ResultsLost => Outcome::Applied,
            _ => Outcome::NotApplied,
        };
        Self {
            code,
            outcome,
            op: None,
            order: StartOrder::default(),
            tx: None,
            detail: detail.into(),
        }
    }

    /// Whether the same work may simply be tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.outcome == Outcome::NotApplied
            && (self.code.class() == ErrorClass::Retry || self.code == Code::Unreachable)
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

impl std::error::Error for CallError {}
