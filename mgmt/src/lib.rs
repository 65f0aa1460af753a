//! Operations: the management server, and the `lockstep` command line that starts, watches, loads
//! and measures clusters.
//!
//! * [`cli`]: one file per command; the only place that reads arguments and sets exit codes;
//! * [`dev`]: clusters of child processes on this machine;
//! * [`table`]: text files to rows and back;
//! * [`mod@bench`]: closed and open loops beside their floors;
//! * [`demo`]: the two-minute proof;
//! * [`core`]: the management server as a pure process;
//! * [`config`]: one small TOML file per process, environment and flags;
//! * [`admin`]: the HTTP port of each process, for monitors;
//! * [`doctor`]: checks of machines and clusters;
//! * [`log`]: its log;
//! * [`run`]: what a service manager starts: one management server or data node.
//!
//! Invariant: data goes to stdout, everything else to stderr, and nothing here takes part in the
//! protocol except through the client library or a core's own interface.

pub mod admin;
pub mod backup;
pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod core;
pub mod demo;
pub mod dev;
pub mod doctor;
pub mod log;
pub mod run;
pub mod table;
