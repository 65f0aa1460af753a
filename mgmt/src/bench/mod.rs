//! Closed and open loops beside their floors.
//!
//! * [`floor`]: bare processes that pass bytes along;
//! * [`load`]: many tasks, their latencies and everybody's CPU; [`pace`] says when they start;
//! * [`point`], [`tpcb`]: what the tasks do;
//! * [`memory`]: what a row costs;
//! * [`restart`]: loading checkpoints and replaying redo; [`durable`] and [`rejoin`]: what
//!   it costs a cluster that works;
//! * [`backup`]: what a backup and a restore cost;
//! * [`moves`]: how long writes stop while a partition moves;
//! * [`failover`]: how long clients wait when a node is lost; [`gap`] around any fault.

pub mod backup;
pub mod cpu;
pub mod dice;
pub mod durable;
pub mod failover;
pub mod floor;
pub mod gap;
pub mod load;
pub mod measure;
pub mod memory;
pub mod moves;
pub mod pace;
pub mod point;
pub mod rejoin;
pub mod restart;
pub mod rolling;
pub mod rows;
pub mod sources;
pub mod tpcb;
