//! Whether what is kept is what was written: a stopped node's directory, byte for byte.

pub mod offline;
