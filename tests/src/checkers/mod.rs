//! Checkers: pure functions that judge what clients saw. They know nothing of the protocol, so a
//! mistake in the protocol cannot hide in them.
//!
//! * [`history`]: what clients did and were told, in memory and as JSON lines;
//! * [`list_append`]: strict serializability of transactions that append to and read lists;
//! * [`register`], [`counter`]: linearizability of one key;
//! * [`bank`]: totals that transfers must keep.
//!
//! Invariant: an operation whose outcome is unknown may or may not have happened; no checker ever
//! counts it as one of the two without evidence.

pub mod bank;
pub mod counter;
pub mod history;
pub mod list_append;
pub mod register;

pub use history::{Event, EventKind, Micro, read_history};
pub use list_append::{Anomaly, Violation, check_list_append};
