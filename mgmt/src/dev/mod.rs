//! Clusters of child processes on this machine.

pub mod cluster;
pub mod ports;
pub mod process;
pub mod ready;
pub mod revive;
pub mod state;
pub mod stop;
