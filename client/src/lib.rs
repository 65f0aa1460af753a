//! Lockstep's client library.
//!
//! [`core`] is the pure state machine that speaks with the cluster: it is what the simulator drives
//! under every fault, so what it promises about retries and outcomes is proven there.

pub mod core;
