//! Real processes on this machine: clusters of the shipped binary, proxies that spoil their links,
//! signals, and logs that must be clean in the end.
//!
//! * [`processes`]: clusters of child processes;
//! * [`commands`]: the command line as a person uses it, and `dev` clusters;
//! * [`admin`]: the admin ports of processes;
//! * [`watch`]: the simplest client, for views;
//! * [`lists`]: a load whose history can be judged;
//! * [`raw`]: a client that speaks the wire language by hand;
//! * [`proxy`]: a TCP proxy with delay, stall, reset and loss per direction;
//! * [`logs`]: what may stand in a log;
//! * [`schema`]: JSON against the schemas in docs/schemas;
//! * [`wait`]: conditions with deadlines instead of sleeps.
//!
//! Invariant: whatever a test does or fails to do, no process of it outlives it.

pub mod admin;
pub mod commands;
pub mod lists;
pub mod logs;
pub mod processes;
pub mod proxy;
pub mod raw;
pub mod schema;
pub mod wait;
pub mod watch;
