//! The runtime over real loopback sockets, threads, files and child processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod children;
mod cores;
mod embedded;
mod frames;
mod handshakes;
mod nodes;
mod raw;
