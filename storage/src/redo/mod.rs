//! The redo log of a shard: the records of its partition logs, byte for byte as they are in memory,
//! in the order in which the shard applied them.
//!
//! * [`RedoWriter`]: the shard's side; a machine that asks for disk operations and knows which
//!   epoch is durable;
//! * [`RedoFiles`]: what a node finds on its disk after a start: up to which epoch that is whole,
//!   what is torn, what is damaged, and the records to be replayed.
//!
//! ```text
//!   life 1 (n3.1)                 life 2 (n3.2), base e20
//!   shard 0  [segment 1][segm…    shard 0  [segment 1][segment 2]…
//!   shard 1  [segment 1]…         shard 1  [segment 1]…
//! ```
//! A *life* is what one incarnation of the node wrote. It never appends to files of an earlier one
//! but names its *base*: up to there the earlier lives count, and what they have beyond it was
//! thrown away. A segment is a header and *groups*; a group is written at once, and says which
//! epoch is complete with it (the *mark*).
//!
//! What is torn and what is damaged: groups are numbered through all segments of a life, and each
//! names how many of them were durable when it was made. A group that cannot be read is damage if
//! anything behind it says that it was durable, and otherwise the end of the log, however the disk
//! had reordered what was not synced.
//!
//! Invariant: what is replayed is a prefix of what was pushed, cut at a closed epoch, or there is
//! an error that names file and offset.

mod files;
mod format;
mod log;
mod replay;
mod segment;
mod writer;

pub use files::{Coverage, Expected, JoinedLife, LifeLogs, RedoFiles, Survey, Torn};
pub use format::LogIdentity;
pub use log::{Extent, Log};
pub use replay::{Redone, Replay};
pub use writer::{RedoWriter, WriterState};
