//! Text files to rows and back.

pub mod csv;
pub mod export;
pub mod import;
pub mod infer;
pub mod loader;
pub mod page;
pub mod shape;
