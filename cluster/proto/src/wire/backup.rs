//! What is said about backups: between a management server, which runs one, and the shards that
//! write its parts; and between operators and management servers.
//!
//! ```text
//!  management server          every shard of the members in sync
//!    Ask  ───────────────────►  Epoch           what has been acknowledged is not after these
//!    Pin(highest of them) ───►  Pinned          once it is closed there; what is as of it is kept
//!    Write(some partitions) ─►  Wrote           each partition to one of those that have pinned
//!    Alive, now and then ────►  Going
//!    Keep ───────────────────►  Kept            from now on the files are not the shard's
//!    (manifest written)  End
//! ```

use serde::{Deserialize, Serialize};

use crate::disk::{DiskError, PartName};
use crate::error::Code;
use crate::ids::{
    BackupId, ClusterId, Epoch, GroupId, MgmtId, NodeId, PartitionId, RestartGeneration,
};
use crate::wire::WireError;
use crate::wire::codec;

/// Longest directory an operator may name.
pub const BACKUP_DIR_BYTES_MAX: usize = 4096;

/// A message about backups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BackupMessage {
    /// Asks a shard for its epoch.
    Ask {
        /// The backup.
        backup: BackupId,
    },
    /// Everything the shard has acknowledged is of this epoch or an earlier one.
    Epoch {
        /// The backup.
        backup: BackupId,
        /// The shard's epoch.
        epoch: Epoch,
    },
    /// What is as of `epoch` is to be kept, from when it is closed until this link ends, nothing
    /// is heard on it for a while, or `End`.
    Pin {
        /// The backup.
        backup: BackupId,
        /// As of when it is.
        epoch: Epoch,
        /// Where the node is to write; its own directory for backups if not given.
        dir: Option<String>,
    },
    /// The epoch is closed and pinned, or why not.
    Pinned {
        /// The backup.
        backup: BackupId,
        /// Which epoch.
        epoch: Epoch,
        /// Why it could not be.
        refused: Option<PartError>,
    },
    /// Some partitions are to be written to a new file.
    Write {
        /// The backup.
        backup: BackupId,
        /// A number no other file of this backup has.
        piece: u32,
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// The file is on the disk, or will not be.
    Wrote {
        /// The backup.
        backup: BackupId,
        /// Which file.
        piece: u32,
        /// What is in it, or why there is none.
        result: Result<PartSum, PartError>,
    },
    /// Asks how far the shard is, and says that the backup goes on.
    Alive {
        /// The backup.
        backup: BackupId,
    },
    /// The answer.
    Going {
        /// The backup.
        backup: BackupId,
        /// Rows given to files so far.
        rows: u64,
        /// Their bytes.
        row_bytes: u64,
    },
    /// The files are to stay, whatever becomes of this link.
    Keep {
        /// The backup.
        backup: BackupId,
        /// The newest of them: the shard has been told to write no other since.
        newest: u32,
    },
    /// They will. A file that the shard is told to write later makes all of them loose again, so
    /// the promise says which it is.
    Kept {
        /// The backup.
        backup: BackupId,
        /// See there.
        newest: u32,
    },
    /// Nothing more is wanted as of the epoch.
    End {
        /// The backup.
        backup: BackupId,
    },
    /// All of the node's files of a backup are to go.
    Clear {
        /// The backup.
        backup: BackupId,
        /// Where they are.
        dir: Option<String>,
    },
    /// They are gone, or why not.
    Cleared {
        /// The backup.
        backup: BackupId,
        /// What went wrong.
        failed: Option<PartError>,
    },
    /// An operator wants a backup.
    Create {
        /// Its name.
        backup: BackupId,
        /// Where to; every process's own directory for backups if not given.
        dir: Option<String>,
        /// When, in milliseconds since 1970, by the operator's clock.
        asked_ms: u64,
    },
    /// An operator wants no backup after all.
    Abort {
        /// Which.
        backup: BackupId,
    },
    /// An operator wants the files of a backup removed.
    Delete {
        /// Which.
        backup: BackupId,
    },
    /// The answer to one of these three: why not, in words.
    Done {
        /// Which backup.
        backup: BackupId,
        /// Why it will not be done.
        refused: Option<String>,
    },
    /// An operator asks what backups there are.
    List,
    /// The answer, oldest first.
    Backups {
        /// What this management server knows.
        list: Vec<BackupRecord>,
    },
}

/// What a part has in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartSum {
    /// Rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub row_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Vouches for the whole file: the checksum in its trailer.
    pub checksum: u32,
}

/// Why a shard will not write a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PartError {
    /// It does not have the rows as of that epoch.
    Refused(Code),
    /// Another backup is under way there.
    Other(BackupId),
    /// A table that was there as of the epoch has been dropped since.
    Dropped,
    /// The disk says no.
    Disk(DiskError),
}

/// How far a backup is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BackupState {
    /// Shards are asked for the epoch.
    Starting,
    /// Parts are being written.
    Writing,
    /// All parts are written; the manifest is next.
    Finishing,
    /// It is whole.
    Done,
    /// It will never be, for this reason.
    Failed(String),
    /// Its files are being removed, the manifest first.
    Removing,
    /// Its files have been removed, as far as they could be reached.
    Deleted,
}

/// A backup as a management server knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupRecord {
    /// Its name.
    pub backup: BackupId,
    /// The management server that makes it, or has taken it over to remove it.
    pub by: MgmtId,
    /// Grows with each change that is worth remembering: the later record is the true one.
    pub turn: u64,
    /// Where it was to be written.
    pub dir: Option<String>,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_ms: u64,
    /// How far it is.
    pub state: BackupState,
    /// As of when it is; 0 while that is open.
    pub epoch: Epoch,
    /// Rows written.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub row_bytes: u64,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// Partitions that are written, of how many.
    pub partitions: (u16, u16),
    /// The data nodes that have the parts the manifest names.
    pub parts_at: Vec<NodeId>,
    /// The data nodes at which there may be files that nobody wants, or will not want unless it is
    /// done.
    pub unwanted: Vec<NodeId>,
}

/// What makes the parts of a backup one: written last, and never changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The backup.
    pub backup: BackupId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_ms: u64,
    /// As of when it is.
    pub epoch: Epoch,
    /// To which restart generation that epoch belongs.
    pub generation: RestartGeneration,
    /// The backup whose rows it supplements; none yet: every backup stands alone.
    pub base: Option<(BackupId, Epoch)>,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Replicas the cluster wanted.
    pub replicas: u16,
    /// Its data nodes at the time, and their groups.
    pub nodes: Vec<(NodeId, GroupId)>,
    /// The parts: each partition is in exactly one.
    pub parts: Vec<ManifestPart>,
}

/// One part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestPart {
    /// Who wrote it, and the name of its file.
    pub node: NodeId,
    /// The shard of that node.
    pub shard: u16,
    /// The number of the file.
    pub piece: u32,
    /// What is in it.
    pub partitions: Vec<PartitionId>,
    /// How much.
    pub sum: PartSum,
}

impl BackupMessage {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// If it is none of these messages, or names a directory that is too long.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let message = codec::decode::<Self>(body)?;
        let dir = match &message {
            Self::Pin { dir, .. } | Self::Clear { dir, .. } | Self::Create { dir, .. } => dir,
            _ => &None,
        };
        match dir {
            Some(dir) if dir.len() > BACKUP_DIR_BYTES_MAX => Err(WireError::TooLong),
            _ => Ok(message),
        }
    }
}

impl ManifestPart {
    /// Its file.
    #[must_use]
    pub fn name(&self, backup: BackupId) -> PartName {
        let shard = crate::ids::ShardId(self.shard);
        PartName { backup, node: self.node, shard, piece: self.piece }
    }
}

impl Manifest {
    /// Whether every partition is in exactly one part.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut all: Vec<PartitionId> =
            self.parts.iter().flat_map(|part| part.partitions.iter().copied()).collect();
        all.sort_unstable();
        all.iter().copied().eq((0..self.partitions).map(PartitionId))
    }

    /// Rows in all parts, the catalog's among them, and their bytes.
    #[must_use]
    pub fn rows(&self) -> (u64, u64) {
        let of = |part: &ManifestPart| (part.sum.rows, part.sum.row_bytes);
        let add = |(a, b): (u64, u64), (c, d)| (a.saturating_add(c), b.saturating_add(d));
        self.parts.iter().map(of).fold((0, 0), add)
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.sum.file_bytes).sum()
    }
}

impl std::fmt::Display for PartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "{}", code.text()),
            Self::Other(other) => write!(f, "backup {other} is under way there"),
            Self::Dropped => f.write_str("a table was dropped while it was being written"),
            Self::Disk(error) => write!(f, "{error}"),
        }
    }
}
