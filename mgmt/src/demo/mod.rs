//! The two-minute proof: a real cluster of processes loses a data node in the middle of work, and
//! no acknowledged transfer with it; the node comes back; then everything is killed at once, and
//! what comes back is one moment of the past with everything in it that was on disk.
//!
//! * [`bank`]: accounts, transfers, and the audit;
//! * [`tellers`]: the tasks that transfer and remember what they were told;
//! * [`power`]: what must be there after everything was killed at once;
//! * [`replicas`]: reads every in-sync replica of every partition;
//! * [`soak`]: minutes of nodes that die and come back;
//! * [`backup`]: a backup under load, restored into a cluster of another shape;
//! * [`story`]: the demo from start to end.

pub mod backup;
pub mod bank;
pub mod power;
pub mod replicas;
pub mod soak;
pub mod story;
pub mod tellers;
