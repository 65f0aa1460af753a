//! Checkpoints: the rows of a partition as of a closed epoch, in a file.
//!
//! * [`CheckpointWriter`]: a machine that is given rows and asks for disk operations;
//! * [`CheckpointFile`]: a finished file, read in place, block by block and in parallel;
//! * [`Plan`], [`Chain`]: which rows belong into a checkpoint, which files make a whole, which may
//!   go.
//!
//! Besides rows a checkpoint holds what else a replica's state consists of at that epoch: the
//! definitions of its tables, its outcome table, and the `Prepare` records of the epoch or earlier
//! ones whose decision is of a later one; their `Commit` may follow in the redo log, which refers
//! to them.
//!
//! Invariant: a file under its final name is complete. It is written under another one, synced, and
//! renamed; and without its trailer, which names its length, it is not read.

mod format;
mod plan;
mod reader;
mod writer;

pub use format::CheckpointHeader;
pub use plan::{Chain, Plan, slice_of};
pub use reader::{
    Block, CheckpointFile, Expected, Items, StoredItem, StoredRow, StoredTable, Walk,
};
pub use writer::{CheckpointState, CheckpointWriter};
