//! The core against shards played by hand: every frame it sends is looked at, every answer is made.

mod batches;
mod lookups;
mod rig;
mod transactions;
