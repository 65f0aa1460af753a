//! Whether what is kept is what was written: a stopped node's directory, byte for byte, and the
//! replicas of a running cluster, row by row.

pub mod comparison;
pub mod digest;
pub mod offline;
pub mod replicas;
