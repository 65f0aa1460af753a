//! Text files to rows and back.

pub mod csv;
pub mod infer;
pub mod shape;
