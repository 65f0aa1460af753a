//! The handshake: the first frame either way on every connection, exchanged by the drivers before
//! a process sees the link. It names both ends, so that a wrong cluster, version or incarnation is
//! refused with words before anything else is said.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, MgmtId, NodeId, NodeInstance, ShardId};

/// First bytes of every hello.
pub const MAGIC: [u8; 4] = *b"LKST";

/// Version of the wire language; both ends must have the same.
pub const WIRE_VERSION: u16 = 4;

/// Who is speaking.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Speaker {
    /// A control core.
    Control(NodeInstance),
    /// The death-watch of a node.
    Watch(NodeInstance),
    /// A shard core.
    Shard(NodeInstance, ShardId),
    /// A management server.
    Mgmt(MgmtId),
    /// A data node without an identity.
    Newcomer,
    /// A client.
    Client,
}

/// Whom the speaker wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wanted {
    /// The control core of exactly this life of a node.
    Control(NodeInstance),
    /// The death-watch of exactly this life of a node.
    Watch(NodeInstance),
    /// A shard of exactly this life of a node.
    Shard(NodeInstance, ShardId),
    /// The control core of this node, whatever its life.
    Node(NodeId),
    /// A management server.
    Mgmt(MgmtId),
    /// Whoever listens here.
    Any,
}

/// The dialler's first frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`WIRE_VERSION`].
    pub version: u16,
    /// The cluster the speaker belongs to; `None` for newcomers and first contacts.
    pub cluster: Option<ClusterId>,
    /// Who is speaking.
    pub from: Speaker,
    /// Whom it wants.
    pub to: Wanted,
}

/// The listener's first frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Accepted {
        /// The listener's cluster, if it has one.
        cluster: Option<ClusterId>,
        /// Who answers.
        by: Speaker,
    },
    /// No; the connection is closed after this frame.
    Refused {
        /// For the dialler's decision.
        reason: Refusal,
        /// For people: what, why, what to do now.
        text: String,
    },
}

/// Why a handshake was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// Another cluster listens here.
    WrongCluster,
    /// Another wire version is spoken here.
    WrongVersion,
    /// Another node, or an earlier incarnation of the wanted one, listens here.
    WrongNode,
    /// An earlier incarnation than one already seen is speaking.
    OldIncarnation,
    /// Not now: starting, leaving, or too many connections.
    Unavailable,
    /// A later incarnation of the wanted node listens here: the wanted life is over.
    LaterIncarnation,
}
