//! The two-minute proof.

pub mod bank;
