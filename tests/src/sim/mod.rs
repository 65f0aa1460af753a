//! The simulator: the real cores over a simulated network, with simulated clocks, disks and
//! faults, thousands of times faster than life. One seed makes one run, always the same.
//!
//! From the bottom up: [`rng`], [`clock`], [`event`]; [`net`], [`host`] and [`world`] with its
//! parts [`wire`], [`dial`], [`life`], [`faults`], [`trap`]; [`cluster`] and [`workload`] fill the
//! world; [`plan`] draws what goes wrong, [`script`] says it, [`ghost`] is part of it; [`check`]
//! says what must hold; [`run`] is one seed; [`scenario`], [`sweep`] and
//! [`canaries`] are many.

pub mod blackout;
pub mod canaries;
pub mod check;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod core;
pub mod dial;
pub mod disk;
pub mod event;
pub mod faults;
pub mod ghost;
mod grow;
pub mod host;
pub mod life;
pub mod marks;
pub mod net;
mod operate;
pub mod plan;
mod repair;
pub mod report;
pub mod revive;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod script;
pub mod sweep;
pub mod trace;
pub mod trap;
pub mod wire;
pub mod workload;
pub mod world;

#[cfg(test)]
mod toy;
