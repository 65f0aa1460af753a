//! What can be wrong with a file: named by file and offset, so that an operator knows what to look
//! at and a node knows whether its group can give it the data anew.

use std::fmt;

use lockstep_proto::ids::{ClusterId, Epoch, NodeId, RestartGeneration};
use thiserror::Error;

use super::FileName;

/// Something is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub struct FileFault {
    /// Which one.
    pub file: FileName,
    /// Where in it; 0 if it is about the whole.
    pub offset: u64,
    /// What.
    pub kind: FaultKind,
}

/// What is wrong. Reads on from "the file … at byte …".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FaultKind {
    /// Somebody else put it there.
    #[error("it is not a Lockstep file")]
    NotOurs,
    /// Another version wrote it.
    #[error("it has format version {found}, this program reads version {read}")]
    Version {
        /// The version found.
        found: u16,
        /// The version this program reads.
        read: u16,
    },
    /// Written in another cluster.
    #[error("it belongs to cluster {0}")]
    OtherCluster(ClusterId),
    /// Written by another node.
    #[error("it belongs to node {0}")]
    OtherNode(NodeId),
    /// Written in a restart generation that the view does not know.
    #[error("it is of restart generation {0}, of which the view knows nothing")]
    OtherGeneration(RestartGeneration),
    /// Its header says that it is another file of this node.
    #[error("it is in truth {0}: files were swapped or renamed")]
    Misnamed(FileName),
    /// Bytes changed that had been written and synced.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// It should be there and is not.
    #[error("it is missing, though what it holds is still needed")]
    Missing,
    /// What precedes it is neither in checkpoints nor in earlier files.
    #[error("it goes on from {0}, but nothing on this disk holds what was before")]
    NothingBefore(Epoch),
    /// It ends before an epoch that is known to have been on this disk.
    #[error("it ends at {reached}, but {promised} was on this disk")]
    Short {
        /// Up to where it goes.
        reached: Epoch,
        /// Up to where it has gone.
        promised: Epoch,
    },
}

impl FileFault {
    /// A fault of a file as a whole.
    pub(crate) fn whole(file: FileName, kind: FaultKind) -> Self {
        Self { file, offset: 0, kind }
    }

    /// Bytes that are not what was written.
    pub(crate) fn damaged(file: FileName, offset: usize, what: &'static str) -> Self {
        Self { file, offset: offset as u64, kind: FaultKind::Damaged(what) }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.kind)
    }
}
