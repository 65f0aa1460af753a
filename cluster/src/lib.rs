//! Placeholder.

pub mod newcomer;
