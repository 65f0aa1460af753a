//! The runtime's own bounds, each with its reason. Bounds of messages are in `lockstep_proto`.

use std::time::Duration;

/// Most bytes read from one socket in one turn, so that a busy link cannot starve the others.
pub const READ_BYTES_MAX: usize = 64 << 10;

/// Bytes read in one turn over all sockets: what is kept in a core's cache while it works on them.
pub const TURN_BYTES_MAX: usize = 256 << 10;

/// Size up to which a link's buffer is kept when it is empty: enough for what is usually sent in
/// one turn, little enough for thousands of idle clients that were busy once.
pub const BUFFER_KEPT_BYTES_MAX: usize = 16 << 10;

/// A client with more unsent answers than this is not read from until it has taken them.
pub const CLIENT_UNSENT_PAUSE_BYTES: usize = 1 << 20;

/// Unsent bytes on a link between nodes that are worth a line in the log.
pub const NODE_UNSENT_REPORT_BYTES: usize = 64 << 20;

/// Longest handshake frame: a hello is tens of bytes, a refusal a few sentences.
pub const HELLO_BYTES_MAX: usize = 4096;

/// How long a newcomer on the listening port may take for its hello.
pub const HELLO_TIME_MAX: Duration = Duration::from_secs(2);

/// How long one dial may take, handshake included. Control cores dial again on their own timers.
pub const DIAL_TIME_MAX: Duration = Duration::from_secs(2);

/// Handshakes in progress on one listener; more are reset.
pub const HANDSHAKES_MAX: usize = 1024;

/// Established connections of one operating-system process unless its options say otherwise.
pub const CONNECTIONS_MAX: usize = 20_000;

/// How long the listener waits when the process has run out of file descriptors.
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Silence after which the kernel asks whether a client's machine is still there, and how often.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long bytes between two nodes may stay unacknowledged by the other kernel before the link
/// ends: one that is dead in the middle of the network, while heartbeats pass on another, is then
/// made anew, and what was lost on it is said again. Far above what a busy or stopped process
/// causes, because kernels acknowledge for it.
pub const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
/// The same for the links of clients, who may sleep without costing anybody else anything.
pub const CLIENT_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Writes of small files waiting for the disk thread: cores store views and registers one by one.
pub const STORES_WAITING_MAX: usize = 1024;

/// Room on the disk kept for the small files: the largest view and its copy beside it.
pub const RESERVE_BYTES: u64 = 1 << 20;

/// How long the threads of a node may take to end after one of them ended it.
pub const EXIT_TIME_MAX: Duration = Duration::from_secs(2);
