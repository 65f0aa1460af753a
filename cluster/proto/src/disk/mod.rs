//! What the writers of redo and checkpoints ask of a disk, and what it answers: values, executed
//! by threads of the runtime or by the simulator's disk.
//!
//! A writer has at most one [`Request`] out. Its operations are executed in order up to the first
//! that fails, and come back with the buffers in them, to be used again or tried again. So a
//! failure never has to be told apart from what was already under way behind it, and what piles up
//! meanwhile goes out together next time.
//!
//! Invariant: nothing counts as durable before the `Sync` after it, and for a file that is new or
//! renamed the `SyncDirectory` after it, has been answered without an error.

mod names;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use names::{CheckpointName, Directory, FileName, PartName, SegmentName};

use crate::ids::{BackupId, NodeId, ShardId};

/// Which queue a request waits in. A core has at most one request out in each, and those of one
/// never wait for those of another: a commit must not wait for a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// The redo log.
    Redo,
    /// Checkpoints, and the removal of files that are not needed any more.
    Checkpoint,
    /// Backups: they may lie on another device, which may be slow, or gone.
    Backup,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Makes a new, empty file; one of that name must not be there.
    Create(FileName),
    /// Writes all bytes at an offset.
    Write {
        /// Where.
        file: FileName,
        /// From which byte on.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Makes what was written to the file durable (`fdatasync`).
    Sync(FileName),
    /// Gives a file the name of another, which it replaces.
    Rename {
        /// The name it has.
        from: FileName,
        /// The name it gets, in the same directory.
        to: FileName,
    },
    /// Removes a file; it is no error if there is none.
    Remove(FileName),
    /// Makes the names in a directory durable.
    SyncDirectory(Directory),
    /// From now on the files of a backup lie in a directory of its name below `at`, or below this
    /// process's own for backups if none is given. The directory is made if it is not there; `at`
    /// must be there, be absolute, and can be written: a share that is not mounted is no place.
    Locate {
        /// The backup.
        backup: BackupId,
        /// The operator's directory.
        at: Option<String>,
    },
    /// Removes all parts of a backup that a node, or one shard of it, has written or begun.
    Clear {
        /// The backup.
        backup: BackupId,
        /// Whose parts.
        node: NodeId,
        /// Which of its shards; `None` for all.
        shard: Option<ShardId>,
    },
    /// Removes the directory of a backup if nothing is in it.
    RemoveEmpty(BackupId),
}

/// Steps to be taken in order, up to the first that fails.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Request {
    /// The steps.
    pub ops: Vec<Op>,
}

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The steps, with their buffers.
    pub ops: Vec<Op>,
    /// The step that failed; those before it were taken, those behind it were not tried.
    pub failed: Option<(usize, DiskError)>,
}

/// Why a step failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DiskError {
    /// No space, or no quota (`ENOSPC`, `EDQUOT`): may go away.
    Full,
    /// Anything else: what is on the disk is not known.
    Failed,
    /// A file or directory is not there (`ENOENT`, `ENOTDIR`).
    Missing,
    /// It may not be written (`EACCES`, `EPERM`, `EROFS`).
    Denied,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "no space left on the device",
            Self::Failed => "the device reports an error",
            Self::Missing => "a file or directory is not there",
            Self::Denied => "it may not be written: read-only, or no permission",
        })
    }
}

impl Op {
    /// The file it is about.
    #[must_use]
    pub fn file(&self) -> Option<FileName> {
        match self {
            Self::Create(file) | Self::Sync(file) | Self::Remove(file) => Some(*file),
            Self::Write { file, .. } => Some(*file),
            Self::Rename { to, .. } => Some(*to),
            Self::SyncDirectory(_)
            | Self::Locate { .. }
            | Self::Clear { .. }
            | Self::RemoveEmpty(_) => None,
        }
    }
}
