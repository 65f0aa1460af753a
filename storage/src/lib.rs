//! Lockstep's rows in memory: fragments of tables, the locks on their rows, and what an operation
//! does to a row. Pure: no IO, no clock, no thread, no randomness.
//!
//! * [`Fragment`]: one table's rows in one partition;
//! * [`LockTable`]: the row locks of one partition, at its primary;
//! * [`mod@evaluate`]: an operation and the row it meets in, what becomes of the row out.
//!
//! Invariant: what comes out depends on what went in and on nothing else, not on addresses or on
//! the order of a hash map, so replicas that apply the same records hold the same bytes.

mod block;
mod evaluate;
mod fragment;
mod index;
mod locks;

pub use block::Row;
pub use evaluate::{Effect, evaluate};
pub use fragment::{Fragment, Page, ROW_OVERHEAD_BYTES};
pub use locks::{Acquired, LockTable, Mode, Owner};
