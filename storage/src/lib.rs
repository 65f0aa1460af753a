//! Lockstep's rows: in memory, as fragments of tables with the locks on their rows and what an
//! operation does to a row; on disk, as the bytes of redo log and checkpoints. Pure: no IO, no
//! clock, no thread, no randomness.
//!
//! * [`Fragment`]: one table's rows in one partition;
//! * [`LockTable`]: the row locks of one partition, at its primary;
//! * [`Tombstones`]: which rows were deleted lately;
//! * [`mod@evaluate`]: an operation and the row it meets in, what becomes of the row out;
//! * [`redo`], [`checkpoint`]: what a data node writes, and reads after a restart;
//! * [`backup`]: the parts of a backup, and how they are read;
//! * [`restore`]: which of a node's files make a whole, and as of when;
//! * [`disk`]: what they ask of a disk, and a disk for tests that fails when told to.
//!
//! Invariant: what comes out depends on what went in and on nothing else, not on addresses or on
//! the order of a hash map, so replicas that apply the same records hold the same bytes.

pub mod backup;
mod block;
pub mod checkpoint;
pub mod disk;
mod evaluate;
mod fragment;
mod framed;
mod history;
mod index;
mod locks;
pub mod redo;
pub mod restore;
mod tombstones;

pub use block::Row;
pub use evaluate::{Effect, evaluate};
pub use fragment::{Fragment, Page, Position, ROW_OVERHEAD_BYTES};
pub use locks::{Acquired, LockTable, Mode, Owner};
pub use lockstep_proto::generations::Generations;
pub use tombstones::{Tombstone, Tombstones};
