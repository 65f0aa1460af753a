//! Lockstep's criterion benchmarks. Each group has its floor beside it: what the same journey costs
//! with nobody doing anything on the way.
//!
//! `cargo bench -p lockstep-benches` measures; `cargo test` runs every benchmark once, so that none
//! rots. Invariant: a floor shares no code with what it is the floor of.
