//! The one shape every party has: a deterministic state machine with links, timers and effects.
//!
//! A *process* (a node's control core, a shard core, a management server, a client) takes one
//! [`Input`] at a time together with the time, and writes what it wants done into [`Outputs`].
//! The tokio runtime drives it in production, the simulator in tests: the same code, the same
//! bytes. A process holds no clock, socket, file, thread or random source.
//!
//! Order of draining, for whoever drives one: call [`Process::handle`] for every input that is
//! there, then [`Process::settle`] once, then take the bytes of every dirty link and the effects.
//! Effects are executed in order; bytes written before an effect may leave after it, unless the
//! process waited for [`Input::Stored`].

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::disk::{Completion, Lane, Request};
use crate::ids::{Epoch, MgmtId, NodeId, NodeInstance, ShardId};
use crate::recovery::Recovery;
use crate::report::Report;
use crate::time::Instant;

/// A connection between two processes, as known to one of them. Never reused: the slot of a dead
/// link gets a new generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId {
    /// Index into the driver's tables.
    pub slot: u32,
    /// Distinguishes the lives of one slot.
    pub generation: u32,
}

/// Who is at the other end of a link; established by the handshake, before the process sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    /// The control core of a data node.
    Control(NodeInstance),
    /// The death-watch link beside the control link: it carries nothing; its end is the message.
    Watch(NodeInstance),
    /// A shard core of a data node (also a sibling in the same process).
    Shard(NodeInstance, ShardId),
    /// A management server.
    Mgmt(MgmtId),
    /// A data node that has no identity yet and asks a management server for one.
    Newcomer,
    /// A process that links the client library.
    Client,
}

/// Where to dial. The driver maps it to an address (the view's, or an override).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Target {
    /// The control core of a data node.
    Control(NodeInstance),
    /// The death-watch of a data node.
    Watch(NodeInstance),
    /// A shard of a data node.
    Shard(NodeInstance, ShardId),
    /// The control core of whatever life of a data node is there.
    Node(NodeId),
    /// A management server.
    Mgmt(MgmtId),
    /// Whatever answers at an address: a client's first contact.
    Any,
}

/// How a link ended, as the kernel told it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkEnd {
    /// Orderly end of stream: the peer's process is gone (live processes end links by reset only).
    Fin,
    /// Reset, timeout or local error: says nothing about the peer's process.
    Reset,
}

/// Why a dial failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DialError {
    /// Nobody listens there.
    Refused,
    /// Somebody listens there but is not who was dialled: a later incarnation of the node.
    LaterIncarnation,
    /// Somebody of another cluster listens there.
    WrongCluster,
    /// Another wire version is spoken there.
    WrongVersion,
    /// No answer, unreachable, or the handshake was refused for another reason.
    Failed,
}

/// One thing that happened to a process.
#[derive(Debug)]
pub enum Input<'a> {
    /// A link is up; the handshake has named the peer.
    LinkUp {
        /// The new link.
        link: LinkId,
        /// Who is there.
        peer: Peer,
    },
    /// A link is down. Nothing further arrives on it; bytes sent may be lost from any point on.
    /// Comes exactly once for every `LinkUp`, also for a link the process closed itself.
    LinkDown {
        /// The link that ended.
        link: LinkId,
        /// How.
        end: LinkEnd,
    },
    /// An [`Effect::Dial`] came to nothing.
    DialFailed {
        /// What was dialled.
        to: Target,
        /// Where.
        addr: String,
        /// Why it failed.
        error: DialError,
    },
    /// One whole frame, without its length prefix.
    Frame {
        /// The link it came on.
        link: LinkId,
        /// Kind byte and body.
        bytes: &'a [u8],
    },
    /// An [`Effect::Store`] is on stable storage, or failed.
    Stored {
        /// Which one.
        token: u64,
        /// Whether it is durable.
        ok: bool,
    },
    /// An [`Effect::Disk`] was executed, or a part of it.
    Disk {
        /// The lane it was in.
        lane: Lane,
        /// What became of it.
        done: Completion,
    },
    /// The answer to [`Effect::Recover`].
    Recovered {
        /// Which one.
        token: u64,
        /// What the files reach, or what they were restored to; or in words why they cannot be
        /// used.
        result: Result<Epoch, String>,
    },
    /// The answer to [`Effect::Measure`].
    Measured {
        /// Which one.
        token: u64,
        /// CPU time this operating-system process has used, in microseconds.
        cpu_us: u64,
        /// Its resident memory, in bytes.
        rss_bytes: u64,
    },
    /// The time asked for by [`Process::next_timeout`] has come.
    Timeout,
    /// The operator asks the process to leave in good order (SIGTERM).
    Terminate,
}

/// Something a process wants done that is not "send these bytes".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Try once to connect; answered by `LinkUp` or `DialFailed`.
    Dial {
        /// Who is expected there.
        to: Target,
        /// `host:port`, as the view or configuration names it.
        addr: String,
    },
    /// End a link by reset. Bytes written before may still leave; frames that were already read may
    /// still come in this batch; then `LinkDown` comes.
    Close {
        /// The link.
        link: LinkId,
        /// For the log: why. Empty for routine closes.
        why: &'static str,
    },
    /// Replace a small file atomically and durably; answered by `Stored`.
    Store {
        /// Comes back in the answer.
        token: u64,
        /// Which file.
        file: StoredFile,
        /// Its new content.
        bytes: Vec<u8>,
    },
    /// Execute steps on the node's data files; answered by [`Input::Disk`]. At most one is out in
    /// each lane of a core.
    Disk {
        /// The queue it waits in.
        lane: Lane,
        /// The steps.
        request: Request,
    },
    /// Look at the files of this node, or restore from them; answered by `Recovered`.
    Recover(Recovery),
    /// Read the operating-system process's own CPU time and memory; answered by `Measured`.
    Measure {
        /// Comes back in the answer.
        token: u64,
    },
    /// End the process.
    Exit(Exit),
    /// A line for the log.
    Log {
        /// How loud.
        level: LogLevel,
        /// What happened, in words.
        text: String,
    },
}

/// The small files of a directory that processes replace as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StoredFile {
    /// A data node's cluster id, node id and incarnation.
    Identity,
    /// The newest view a data node or management server has persisted.
    View,
    /// The arbitrator's register.
    Register,
    /// What a management server knows of backups it made.
    Backups,
    /// What has happened to the cluster, as a management server has heard it.
    Events,
}

/// Why a process ends itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exit {
    /// 0 for an orderly end.
    pub code: i32,
    /// What the operator reads: what, why, what to do now.
    pub reason: String,
}

/// How loud a log line is. `Error` means a person must look.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// Worth keeping.
    Info,
    /// Unusual but handled.
    Warn,
    /// A person must look.
    Error,
}

/// A deterministic party of the cluster. See the module text for the order of calls.
pub trait Process {
    /// Takes one input. `now` was read after the input's bytes were.
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs);

    /// Called once after a batch of inputs: the place for cumulative messages.
    fn settle(&mut self, now: Instant, out: &mut Outputs);

    /// When [`Input::Timeout`] is wanted next; `None` for never.
    fn next_timeout(&self) -> Option<Instant>;

    /// What it knows about itself, for a driver that was asked; `None` if it has nothing to tell.
    fn report(&self, _now: Instant) -> Option<Report> {
        None
    }
}

/// What a process wants to happen: bytes per link, effects in order, and coverage marks.
#[derive(Default)]
pub struct Outputs {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: VecDeque<LinkId>,
    effects: Vec<Effect>,
    marks: Option<Vec<&'static str>>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    open: bool,
    dirty: bool,
    buffer: BytesMut,
}

impl Outputs {
    /// Outputs that drop marks: production.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Outputs that keep marks: the simulator.
    #[must_use]
    pub fn with_marks() -> Self {
        Self { marks: Some(Vec::new()), ..Self::default() }
    }

    /// For the driver: makes a link id and its buffer.
    pub fn open_link(&mut self) -> LinkId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 links")
        });
        let entry = &mut self.slots[slot as usize];
        entry.open = true;
        LinkId { slot, generation: entry.generation }
    }

    /// For the driver: forgets a link and what was still to be sent on it.
    pub fn close_link(&mut self, link: LinkId) {
        let Some(entry) = self.slot_mut(link) else { return };
        entry.open = false;
        entry.dirty = false;
        entry.generation += 1;
        entry.buffer = BytesMut::new();
        self.free.push(link.slot);
    }

    /// The send buffer of a link, for appending whole frames; `None` if the link is gone.
    /// Marks the link dirty.
    pub fn buffer(&mut self, link: LinkId) -> Option<&mut BytesMut> {
        let entry = self.slots.get_mut(link.slot as usize)?;
        if !entry.open || entry.generation != link.generation {
            return None;
        }
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push_back(link);
        }
        Some(&mut entry.buffer)
    }

    /// Bytes waiting on a link.
    #[must_use]
    pub fn pending(&self, link: LinkId) -> usize {
        match self.slots.get(link.slot as usize) {
            Some(entry) if entry.open && entry.generation == link.generation => entry.buffer.len(),
            _ => 0,
        }
    }

    /// For the driver: the next link with new bytes since it was last asked about.
    pub fn pop_dirty(&mut self) -> Option<LinkId> {
        while let Some(link) = self.dirty.pop_front() {
            if let Some(entry) = self.slot_mut(link) {
                entry.dirty = false;
                return Some(link);
            }
        }
        None
    }

    /// For the driver: whether a link has new bytes since it was last asked about.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// For the driver: the unsent bytes of a link, to be consumed from the front.
    pub fn unsent(&mut self, link: LinkId) -> Option<&mut BytesMut> {
        self.slot_mut(link).map(|entry| &mut entry.buffer)
    }

    /// Asks for an effect.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Writes a line to the log.
    pub fn log(&mut self, level: LogLevel, text: impl Into<String>) {
        self.effects.push(Effect::Log { level, text: text.into() });
    }

    /// For the driver: the effects asked for since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether there are effects to take; spares the driver an allocation check per turn.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Reports that a rare branch was reached, for the simulator's coverage.
    pub fn mark(&mut self, name: &'static str) {
        if let Some(marks) = &mut self.marks {
            marks.push(name);
        }
    }

    /// For the simulator: the marks since the last call.
    pub fn take_marks(&mut self) -> Vec<&'static str> {
        self.marks.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn slot_mut(&mut self, link: LinkId) -> Option<&mut Slot> {
        let entry = self.slots.get_mut(link.slot as usize)?;
        (entry.open && entry.generation == link.generation).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_swallows_bytes_and_its_slot_gets_a_new_name() {
        let mut out = Outputs::new();
        let first = out.open_link();
        out.buffer(first).expect("open").extend_from_slice(b"x");
        out.close_link(first);
        assert!(out.buffer(first).is_none());
        let second = out.open_link();
        assert_eq!(second.slot, first.slot);
        assert_ne!(second, first);
        assert!(out.pop_dirty().is_none());
    }
}
