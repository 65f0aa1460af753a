//! The heap of things to come, in order of (true time, sequence): the simulator jumps from one to
//! the next. Two events of one time happen in the order they were planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::host::{HostId, ProcId};
use super::net::ConnKey;

/// Something that will happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Bytes (or the end) of one direction of a connection have arrived.
    Arrive(ConnKey, u8),
    /// A process may run: its timer is due or its inbox has waited for it.
    Wake(ProcId),
    /// A connection attempt reaches the listener.
    Knock(u32),
    /// The listener's answer reaches the dialler.
    Welcome(u32),
    /// A connection attempt gives up.
    DialTimeout(u32),
    /// A small file is on disk.
    Stored(HostId, u32),
    /// A host's disk has executed a request.
    Disk(HostId, u32),
    /// The next step of the fault plan.
    Fault,
    /// A fault that a watched frame has provoked.
    Provoked(usize),
    /// A fault ends.
    Restore(u32),
    /// Time for the sampled checks.
    Check,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    time: u64,
    sequence: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.sequence).cmp(&(other.time, other.sequence))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The heap.
#[derive(Default, Debug)]
pub struct Agenda {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Agenda {
    /// Plans an event.
    pub fn push(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { time, sequence: self.sequence, event }));
    }

    /// Takes the next event with its time.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse(entry)| (entry.time, entry.event))
    }

    /// The time of the next event.
    #[must_use]
    pub fn next_time(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.time)
    }
}
