//! Counts of what went wrong at the edge: bad handshakes, bad frames, clients that do not read; and
//! of what the threads did that write data files.
//!
//! Whoever sends garbage gets a closed connection and a tick here; a line is logged at every power
//! of two, so that a flood of garbage does not become a flood of log lines.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_proto::disk::Lane;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Count {
    /// The first bytes of a connection were not a hello of this wire language.
    HelloMalformed,
    /// A connection did not finish its hello in time.
    HelloLate,
    /// A hello was refused: other cluster, other version, other node, not now.
    HelloRefused,
    /// A connection was reset because too many were there.
    ConnectionsFull,
    /// A frame claimed an impossible length, or bytes came on a death-watch.
    FrameMalformed,
    /// A client was cut off because it did not read its answers.
    ClientNotReading,
    /// A client was not read from for a while because it did not read its answers.
    ClientPaused,
    /// A link between nodes had an unusual amount of unsent bytes.
    NodeLinkFull,
    /// Accepting failed: out of file descriptors or memory.
    AcceptFailed,
}

impl Count {
    /// Every count, in order.
    pub const ALL: [Count; 9] = [
        Count::HelloMalformed,
        Count::HelloLate,
        Count::HelloRefused,
        Count::ConnectionsFull,
        Count::FrameMalformed,
        Count::ClientNotReading,
        Count::ClientPaused,
        Count::NodeLinkFull,
        Count::AcceptFailed,
    ];

    /// A stable name in `snake_case`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Count::HelloMalformed => "hello_malformed",
            Count::HelloLate => "hello_late",
            Count::HelloRefused => "hello_refused",
            Count::ConnectionsFull => "connections_full",
            Count::FrameMalformed => "frame_malformed",
            Count::ClientNotReading => "client_not_reading",
            Count::ClientPaused => "client_paused",
            Count::NodeLinkFull => "node_link_full",
            Count::AcceptFailed => "accept_failed",
        }
    }
}

/// What the threads of one lane have done with their disk.
#[derive(Default, Debug)]
pub struct DiskCounts {
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Syncs of files that came to an end.
    pub syncs: AtomicU64,
    /// Time spent in them, microseconds.
    pub sync_us: AtomicU64,
    /// Steps that failed.
    pub failed: AtomicU64,
}

/// One number per [`Count`], and those of the lanes, for one operating-system process.
#[derive(Default, Debug)]
pub struct Counters {
    edge: [AtomicU64; Count::ALL.len()],
    redo: DiskCounts,
    checkpoint: DiskCounts,
    backup: DiskCounts,
}

impl Counters {
    /// Adds one; `detail` is logged when the new number is a power of two.
    pub fn add(&self, count: Count, detail: impl FnOnce() -> String) {
        let number = self.edge[count as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if number.is_power_of_two() {
            tracing::info!(count = count.name(), number, "{}", detail());
        }
    }

    /// What was done in a lane.
    #[must_use]
    pub fn disk(&self, lane: Lane) -> &DiskCounts {
        match lane {
            Lane::Redo => &self.redo,
            Lane::Checkpoint => &self.checkpoint,
            Lane::Backup => &self.backup,
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn number(&self, count: Count) -> u64 {
        self.edge[count as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_has_its_own_number() {
        let counters = Counters::default();
        for (index, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, index);
            counters.add(count, String::new);
            assert_eq!(counters.number(count), 1);
        }
    }
}
