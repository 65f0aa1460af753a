//! The simulator: the real cores over a simulated network, with simulated clocks, disks and
//! faults, thousands of times faster than life. One seed makes one run, always the same.

pub mod clock;
pub mod core;
pub mod dial;
pub mod event;
pub mod faults;
pub mod host;
pub mod life;
pub mod net;
pub mod rng;
pub mod trace;
pub mod trap;
pub mod wire;
pub mod world;

#[cfg(test)]
mod toy;
