//! The two-minute proof: a real cluster of processes loses a data node in the middle of work, and
//! no acknowledged transfer with it.
//!
//! * [`bank`]: accounts, transfers, and the audit;
//! * [`tellers`]: the tasks that transfer and remember what they were told;
//! * [`replicas`]: reads every in-sync replica of every partition;
//! * [`story`]: the demo from start to end.

pub mod bank;
pub mod replicas;
pub mod story;
pub mod tellers;
