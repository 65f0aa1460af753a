//! Clusters of child processes on this machine.

pub mod process;
pub mod ready;
pub mod state;
