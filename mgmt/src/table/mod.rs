//! Text files to rows and back.

pub mod csv;
