//! How Lockstep proves itself: checkers of histories, the simulator, golden scripts, the harness
//! for real processes, and the test that reads the tree.

pub mod checkers;
pub mod harness;
pub mod sim;
pub mod tidy;
