//! The network between the simulated processes: connections that are FIFO byte streams with delay,
//! and paths between hosts that can be slow, clogged, lossy or cut, each direction on its own.
//!
//! What TCP promises is what holds here: bytes arrive in order or not at all; a silent cut only
//! delays them until it heals (with the sender's back-off on top) or the connection is reset; a
//! reset loses what is in flight from any point on; an orderly end comes after everything sent.

use std::collections::VecDeque;

use lockstep_proto::process::{LinkEnd, LinkId};

use super::host::{HostId, ProcId};
use super::rng::Rng;

/// Most hosts of one run: the path table is a square of this side.
pub const HOSTS_MAX: usize = 64;

/// Bytes one direction of a connection takes before the sender must wait, as a kernel does.
pub const WINDOW_BYTES: usize = 1 << 20;

/// A connection; the slot of an ended one is used again under a new generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnKey {
    /// Index into the table.
    pub index: u32,
    /// Which use of the slot.
    pub generation: u32,
}

/// What travels on one direction of a connection.
#[derive(Debug)]
pub enum Payload {
    /// Bytes of the stream.
    Bytes(Vec<u8>),
    /// The end of the stream.
    End(LinkEnd),
}

/// Something on its way.
#[derive(Debug)]
pub struct Chunk {
    /// When it arrives, if nothing holds it up.
    pub ready: u64,
    /// What it is.
    pub payload: Payload,
}

/// One direction of a connection.
#[derive(Default, Debug)]
pub struct Way {
    /// In flight, in order.
    pub queue: VecDeque<Chunk>,
    /// Bytes in flight.
    pub bytes: usize,
    /// Arrival time of the newest chunk: nothing overtakes it.
    pub last: u64,
    /// Whether an arrival is on the agenda.
    pub scheduled: bool,
    /// Whether the sender waits for room.
    pub throttled: bool,
    /// Bytes of a frame whose rest has not arrived.
    pub partial: Vec<u8>,
}

/// How far one end of a connection has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndState {
    /// The dialler has not heard the welcome yet.
    Opening,
    /// The process knows the link.
    Open(LinkId),
    /// Ended here.
    Closed,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Whose it is.
    pub proc: ProcId,
    /// On which host.
    pub host: HostId,
    /// How far it has got.
    pub state: EndState,
}

/// A connection; end 0 dialled, `ways[i]` carries what end `i` sends.
#[derive(Debug)]
pub struct Conn {
    /// Which use of the slot this is.
    pub generation: u32,
    /// Whether the slot is in use.
    pub used: bool,
    /// Whether it is memory inside one process: no path, no faults.
    pub local: bool,
    /// Whether it is a death-watch.
    pub watch: bool,
    /// The two ends.
    pub ends: [End; 2],
    /// The two directions.
    pub ways: [Way; 2],
}

/// How a path is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cut {
    /// It is not.
    #[default]
    Open,
    /// Packets vanish.
    Silent,
    /// Packets are answered with a reset, as by a rejecting firewall.
    Reject,
}

/// The way from one host to another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// One-way delay.
    pub delay_ns: u64,
    /// Added at random, up to this.
    pub jitter_ns: u64,
    /// One chunk in this many is lost and sent again later; 0 for none.
    pub loss_one_in: u64,
    /// Nothing arrives before this time.
    pub clogged_until: u64,
    /// Whether it is cut.
    pub cut: Cut,
    /// Since when.
    pub cut_since: u64,
    /// By how many faults: it is whole again when all have ended.
    pub cuts: u32,
}

impl Path {
    /// When something sent now arrives.
    #[inline]
    pub fn arrival(&self, now: u64, rng: &mut Rng) -> u64 {
        let mut at = now + self.delay_ns;
        if self.jitter_ns > 0 {
            at += rng.below(self.jitter_ns);
        }
        if rng.one_in(self.loss_one_in) {
            // Lost and sent again: mostly at once by fast retransmission, else by the timer.
            at += if rng.percent(70) { 2 * self.delay_ns } else { 200_000_000 };
        }
        at.max(self.clogged_until)
    }
}

/// All connections and paths.
pub struct Net {
    /// The connections; ended ones keep their slot.
    pub conns: Vec<Conn>,
    free: Vec<u32>,
    paths: Vec<Path>,
    spare: Vec<Vec<u8>>,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            conns: Vec::new(),
            free: Vec::new(),
            paths: vec![Path::default(); HOSTS_MAX * HOSTS_MAX],
            spare: Vec::new(),
        }
    }
}

impl Net {
    /// The path from one host to another.
    #[must_use]
    pub fn path(&self, from: HostId, to: HostId) -> &Path {
        &self.paths[usize::from(from.0) * HOSTS_MAX + usize::from(to.0)]
    }

    /// The path from one host to another, to be changed.
    pub fn path_mut(&mut self, from: HostId, to: HostId) -> &mut Path {
        &mut self.paths[usize::from(from.0) * HOSTS_MAX + usize::from(to.0)]
    }

    /// Makes a connection between two ends.
    pub fn connect(&mut self, ends: [End; 2], local: bool, watch: bool) -> ConnKey {
        let ways = [Way::default(), Way::default()];
        if let Some(index) = self.free.pop() {
            let slot = &mut self.conns[index as usize];
            let generation = slot.generation + 1;
            *slot = Conn { generation, used: true, local, watch, ends, ways };
            return ConnKey { index, generation };
        }
        let index = u32::try_from(self.conns.len()).expect("fewer than 2^32 connections");
        self.conns.push(Conn { generation: 0, used: true, local, watch, ends, ways });
        ConnKey { index, generation: 0 }
    }

    /// The connection, if it still exists.
    #[inline]
    pub fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(key.index as usize)?;
        (conn.used && conn.generation == key.generation).then_some(conn)
    }

    /// Frees the slot if both ends are closed and nothing is in flight.
    pub fn reap(&mut self, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        if conn.ends.iter().all(|end| end.state == EndState::Closed) {
            conn.used = false;
            let ways = std::mem::take(&mut conn.ways);
            for way in ways {
                for chunk in way.queue {
                    if let Payload::Bytes(bytes) = chunk.payload {
                        self.give_back(bytes);
                    }
                }
            }
            self.free.push(key.index);
        }
    }

    /// The keys of all connections with an end on this host, in order.
    #[must_use]
    pub fn keys_of(&self, host: HostId) -> Vec<ConnKey> {
        self.keys(|conn| conn.ends.iter().any(|end| end.host == host))
    }

    /// The keys of all connections between two hosts, in order.
    #[must_use]
    pub fn keys_between(&self, a: HostId, b: HostId) -> Vec<ConnKey> {
        self.keys(|conn| {
            let hosts = [conn.ends[0].host, conn.ends[1].host];
            !conn.local && (hosts == [a, b] || hosts == [b, a])
        })
    }

    fn keys(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<ConnKey> {
        let mut keys = Vec::new();
        for (index, conn) in self.conns.iter().enumerate() {
            if conn.used && wanted(conn) {
                let index = u32::try_from(index).expect("fewer than 2^32 connections");
                keys.push(ConnKey { index, generation: conn.generation });
            }
        }
        keys
    }

    /// An empty buffer, used before if there is one.
    #[inline]
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back for the next user.
    #[inline]
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < 256 && buffer.capacity() <= 1 << 16 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

impl Way {
    /// Loses a reset, and what was sent behind it, to which nobody would listen.
    pub fn lose_reset(&mut self) {
        let is_reset = |chunk: &Chunk| matches!(chunk.payload, Payload::End(LinkEnd::Reset));
        if let Some(at) = self.queue.iter().position(is_reset) {
            self.queue.truncate(at);
            let sizes = self.queue.iter().map(|chunk| match &chunk.payload {
                Payload::Bytes(bytes) => bytes.len(),
                Payload::End(_) => 0,
            });
            self.bytes = sizes.sum();
        }
    }
}

impl Conn {
    /// Loses what end `from` has in flight from a random point on (a reset does that).
    pub fn lose_tail(&mut self, from: usize, rng: &mut Rng) {
        let way = &mut self.ways[from];
        let keep = rng.below(way.bytes as u64 + 1);
        let mut kept = 0;
        let mut at = 0;
        while at < way.queue.len() {
            if let Payload::Bytes(bytes) = &mut way.queue[at].payload {
                let room = usize::try_from(keep - kept).expect("below the bytes in flight");
                bytes.truncate(room);
                kept += bytes.len() as u64;
            }
            if kept == keep {
                break;
            }
            at += 1;
        }
        way.queue.truncate(at + 1);
        way.bytes = usize::try_from(kept).expect("below the bytes in flight");
    }

    /// Whether end `from` has already said that it ended.
    #[must_use]
    pub fn has_ended(&self, from: usize) -> bool {
        self.ways[from].queue.iter().any(|chunk| matches!(chunk.payload, Payload::End(_)))
    }
}
