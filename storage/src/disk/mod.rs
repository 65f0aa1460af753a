//! What the writers of redo and checkpoints ask of a disk ([`lockstep_proto::disk`]), what can be
//! wrong with its files, and a disk in memory for tests and the simulator.

mod fault;
mod simulated;

pub use fault::{FaultKind, FileFault};
pub use lockstep_proto::disk::{
    CheckpointName, Completion, Directory, DiskError, FileName, Op, PartName, Request, SegmentName,
};
pub use simulated::{Fate, SimulatedDisk};

/// A writer that will write no more, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The file of the failed step; `None` if it was a directory.
    pub file: Option<FileName>,
    /// How it failed.
    pub error: DiskError,
}
