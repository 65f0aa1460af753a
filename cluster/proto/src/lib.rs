//! Lockstep's words, wire language and protocol rules: everything two parties must agree on, and
//! the machines that decide, without any IO.
//!
//! Floors, imports point down only:
//! * *rules*: sans-IO machines that do not import each other; a node's core wires them together;
//! * *language*: [`wire`], [`view`], [`configuration`], [`events`], [`record`], [`process`],
//!   [`report`], [`disk`], and tables: [`schema`], [`key`], [`row`], [`change`];
//! * *words*: [`ids`], [`time`], [`limits`], [`error`], [`value`], [`canary`],
//!   [`figures`].
//!
//! Invariant: nothing here reads a clock, opens a socket or a file, starts a thread or draws a
//! random number; `clippy.toml` and the tidy test enforce it.

pub mod agreement;
pub mod arbitrator;
pub mod canary;
pub mod change;
pub mod configuration;
pub mod disk;
pub mod durability;
pub mod epochs;
pub mod error;
pub mod events;
pub mod figures;
pub mod generations;
pub mod hash;
pub mod ids;
pub mod key;
pub mod lease;
pub mod limits;
pub mod orders;
pub mod outcomes;
pub mod placement;
pub mod process;
pub mod record;
pub mod recovery;
pub mod register;
pub mod report;
pub mod roster;
pub mod row;
pub mod schema;
pub mod stored;
pub mod survival;
pub mod suspicion;
pub mod time;
mod timestamp;
pub mod transfer;
pub mod value;
pub mod view;
pub mod wire;
