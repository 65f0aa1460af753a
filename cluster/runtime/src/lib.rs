//! Lockstep's outside: the sockets, files, clocks and threads that drive the pure cores.
//!
//! A core is a [`lockstep_proto::process::Process`]. Here it meets the world:
//! * [`host`] runs the cores of one operating-system process on threads of their own: a data node
//!   (one control core and its shards), a management server or a newcomer;
//! * [`embedded`] runs one core inside somebody else's tokio runtime: the client library.
//!
//! Both use the same reactor: *one* task drives all links of a core. A turn reads every socket that
//! has bytes, reads the clock, hands every whole frame to the core, lets it settle, and writes each
//! link's output with one system call. A turn costs what is ready, never what is connected.
//!
//! Invariants:
//! * the clock is read after the bytes that are handled with it, never before;
//! * nothing here understands a message: only frame lengths and the handshake are looked at;
//! * a live process ends its links by reset, so an orderly end tells that a process died;
//! * no task waits while it holds a core's lock.

pub mod clock;
pub mod counters;
pub mod embedded;
pub mod files;
pub mod host;
pub mod limits;
pub mod placement;

mod cores;
mod data_files;
mod dial;
mod disk;
mod frames;
mod handshake;
mod link;
mod links;
mod listen;
mod memory;
mod reactor;
mod ready;
mod signals;
mod timer;
mod turn;

pub use cores::{Cores, Said};
pub use counters::{Count, Counters, DiskCounts};
pub use data_files::DataFiles;
pub use embedded::{Embedded, EmbeddedOptions};
pub use host::{HostOptions, Recoverer, run_node, run_single};
pub use signals::EndSignals;
