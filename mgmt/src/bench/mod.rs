//! Closed and open loops beside their floors.
//!
//! * [`floor`]: bare processes that pass bytes along;
//! * [`load`]: many tasks, their latencies and everybody's CPU; [`pace`] says when they start;
//! * [`point`], [`tpcb`]: what the tasks do;
//! * [`gap`]: how long clients wait around a fault.

pub mod cpu;
pub mod dice;
pub mod floor;
pub mod gap;
pub mod load;
pub mod measure;
pub mod pace;
pub mod point;
pub mod rows;
pub mod sources;
pub mod tpcb;
