//! Lockstep's data node: the control core that decides about views, leases and epochs, and the
//! shard cores that hold the rows. Both are deterministic
//! [`Process`](lockstep_proto::process::Process)es: no clock, socket, file or thread.

pub mod control;
pub mod newcomer;
pub mod restart;
pub mod shard;

pub use control::{ControlCore, ControlOptions};
pub use lockstep_storage::redo::LogIdentity;
pub use restart::{RestartCore, RestartOptions};
pub use shard::{
    PartitionInspection, Restored, RestoredPartition, RestoredShard, RowsAt, ShardCore,
    ShardInspection, ShardOptions, restore, restore_lane,
};
