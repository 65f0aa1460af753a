//! Every identity the cluster speaks about, each its own type, so that a partition can never be
//! passed where a shard is meant. `Display` gives the short form used in logs and traces
//! (`n3.7`, `p17`, `t51.42`).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(/// A data node, for the life of the cluster.
    NodeId(u16), "n");
id!(/// How often a data node has been (re)started; a restarted process is a new incarnation.
    Incarnation(u32), ".");
id!(/// A thread's core inside a data node.
    ShardId(u16), "s");
id!(/// A set of data nodes that hold the same fragments.
    GroupId(u16), "g");
id!(/// A slice of every table's rows; the same number for all tables of the cluster.
    PartitionId(u16), "p");
id!(/// A table, never reused.
    TableId(u32), "T");
id!(/// A position in a partition log; the first record has 1, 0 means "nothing".
    Seq(u64), "#");
id!(/// A tick of the cluster-wide logical clock.
    Epoch(u64), "e");
id!(/// The number of a view; views of one cluster form a chain.
    ViewNumber(u64), "v");
id!(/// A management server.
    MgmtId(u16), "m");
id!(/// The version of one table's schema.
    SchemaVersion(u32), "sv");
id!(/// A backup; drawn by whoever asks for one, from the time, so that later ones are greater.
    BackupId(u64), "b");
id!(/// How often the whole cluster has been restarted from its disks; each time some epochs may
    /// have been dropped, and the generation tells them from those that took their numbers.
    RestartGeneration(u32), "r");

id!(/// A version of the cluster's configuration; the cluster is created with 0.
    ConfigVersion(u64), "c");

impl MgmtId {
    /// From here on numbers are those of API nodes that offer themselves as arbitrators. They draw
    /// one when they start; management servers are numbered from 1 by their configuration.
    pub const API_MIN: u16 = 1 << 15;

    /// Whether it is an API node's.
    #[must_use]
    pub fn is_api(self) -> bool {
        self.0 >= Self::API_MIN
    }
}

impl ConfigVersion {
    /// The version that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Seq {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The epoch before this one; epoch 0 stays 0.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl ViewNumber {
    /// The number of the view that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The identity of a cluster, drawn once when it is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One life of a data node: what coordinators, leases and votes are tied to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NodeInstance {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl fmt::Display for NodeInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.node, self.incarnation)
    }
}

impl fmt::Debug for NodeInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A shard core of one node instance: the address of coordinators and participants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ShardAddr {
    /// The node's life.
    pub instance: NodeInstance,
    /// The thread's core in it.
    pub shard: ShardId,
}

impl fmt::Display for ShardAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.shard)
    }
}

impl fmt::Debug for ShardAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client's session: the node instance that handed it out and a counter unique in that instance
/// (the shard in the high 8 bits, so that shards need not agree).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SessionId {
    /// Who handed it out.
    pub origin: NodeInstance,
    /// Unique within the origin.
    pub counter: u32,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}", self.origin, self.counter)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A transaction, named by its client. Applied at most once, for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TxId {
    /// The client's session.
    pub session: SessionId,
    /// The client's counter within the session, from 1.
    pub sequence: u64,
    /// Once this epoch is closed, requests under this id are refused. Fixed at begin.
    pub expiry: Epoch,
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}.{}", self.session, self.sequence)
    }
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The age of a transaction for wound-wait: smaller is older. Stamped by the first coordinator and
/// kept by every retry. The all-zero value means "not stamped yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct StartOrder {
    /// The first coordinator's wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// The session, to break ties.
    pub session: SessionId,
    /// The sequence of the first attempt, to break ties.
    pub sequence: u64,
}

impl StartOrder {
    /// Whether a coordinator has stamped it.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        self.wall_ms != 0
    }
}

impl fmt::Display for StartOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms/{}.{}", self.wall_ms, self.session, self.sequence)
    }
}

impl fmt::Debug for StartOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl GroupId {
    /// The group of those who belong to none.
    pub const NONE: Self = Self(u16::MAX);

    /// Its number, if it is a group.
    #[must_use]
    pub fn number(self) -> Option<u16> {
        (self != Self::NONE).then_some(self.0)
    }

    /// Its number for people, or a dash.
    #[must_use]
    pub fn in_words(self) -> String {
        self.number().map_or_else(|| "-".to_owned(), |number| number.to_string())
    }
}
