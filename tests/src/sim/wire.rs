//! How bytes leave a process and how connections end: the part of the world that plays the kernel.

use lockstep_proto::process::LinkEnd;

use super::event::Event;
use super::host::{HostId, Item, ProcId};
use super::net::{Chunk, ConnKey, Cut, EndState, Payload, WINDOW_BYTES};
use super::world::World;

/// Delay of a link inside one process: at least, and added at random.
const LOCAL_NS: u64 = 300;
const LOCAL_JITTER_NS: u64 = 2_000;

impl World {
    /// Sends what the process has written, on at most `links` links.
    pub fn flush(&mut self, id: ProcId, links: usize) {
        let host = self.procs[id.index()].host;
        let holding = self.host(host).holding;
        let mut sent = 0;
        while sent < links {
            let Some(link) = self.procs[id.index()].out.pop_dirty() else { return };
            if holding {
                self.procs[id.index()].held.push(link);
                continue;
            }
            sent += 1;
            if let Some((key, end)) = self.procs[id.index()].conn_of(link) {
                self.send(key, usize::from(end));
                if self.condemned.is_some() && self.execute_condemned(host) {
                    return;
                }
            }
        }
    }

    /// Sends what the process has written to clients, and nothing else.
    pub fn flush_to_clients(&mut self, id: ProcId) {
        while let Some(link) = self.procs[id.index()].out.pop_dirty() {
            let Some((key, end)) = self.procs[id.index()].conn_of(link) else { continue };
            let Some(conn) = self.net.conn(key) else { continue };
            let peer = conn.ends[1 - usize::from(end)].host;
            if self.host(peer).role == super::host::Role::Client {
                self.send(key, usize::from(end));
            }
        }
    }

    /// Moves unsent bytes of one end onto the wire, as far as the window allows.
    pub fn send(&mut self, key: ConnKey, from: usize) {
        let Some(conn) = self.net.conn(key) else { return };
        let end = conn.ends[from];
        let EndState::Open(link) = end.state else { return };
        let room = WINDOW_BYTES.saturating_sub(conn.ways[from].bytes);
        let Some(unsent) = self.procs[end.proc.index()].out.unsent(link) else { return };
        if unsent.is_empty() {
            return;
        }
        let take = unsent.len().min(room);
        let backlog = WINDOW_BYTES - room + unsent.len();
        self.tally.backlog_max = self.tally.backlog_max.max(backlog);
        if take < unsent.len() {
            self.net.conn(key).expect("seen above").ways[from].throttled = true;
        }
        if take == 0 {
            return;
        }
        let mut buffer = self.net.buffer();
        let unsent = self.procs[end.proc.index()].out.unsent(link).expect("seen above");
        buffer.extend_from_slice(&unsent[..take]);
        if take == unsent.len() {
            unsent.clear();
        } else {
            bytes::Buf::advance(unsent, take);
        }
        if !self.watches.is_empty() && self.look_at_frames(key, from, &buffer) {
            self.net.give_back(buffer);
            return;
        }
        self.push(key, from, Payload::Bytes(buffer));
    }

    /// Puts something on one direction of a connection.
    pub fn push(&mut self, key: ConnKey, from: usize, payload: Payload) {
        let now = self.now;
        let Some(conn) = self.net.conn(key) else { return };
        let hosts = [conn.ends[from].host, conn.ends[1 - from].host];
        let arrival = if conn.local {
            now + LOCAL_NS + self.rng.below(LOCAL_JITTER_NS)
        } else {
            self.net.path(hosts[0], hosts[1]).arrival(now, &mut self.rng)
        };
        let conn = self.net.conn(key).expect("seen above");
        let way = &mut conn.ways[from];
        way.last = way.last.max(arrival);
        if let Payload::Bytes(bytes) = &payload {
            way.bytes += bytes.len();
        }
        way.queue.push_back(Chunk { ready: way.last, payload });
        if !way.scheduled {
            way.scheduled = true;
            let at = way.last;
            self.agenda.push(at, Event::Arrive(key, u8::from(from == 1)));
        }
    }

    /// Whether what has come due on a connection really arrives now: a cut or clog holds it up.
    pub(super) fn may_arrive(&mut self, key: ConnKey, from: usize) -> bool {
        let now = self.now;
        let Some(conn) = self.net.conn(key) else { return false };
        let way = &mut conn.ways[from];
        if !way.scheduled || way.queue.front().is_none_or(|chunk| chunk.ready > now) {
            return false; // Planned anew since.
        }
        way.scheduled = false;
        if conn.local {
            return true;
        }
        let (a, b) = (conn.ends[from].host, conn.ends[1 - from].host);
        if self.host(b).life == super::host::Life::Dark {
            return false;
        }
        let path = *self.net.path(a, b);
        let conn = self.net.conn(key).expect("seen above");
        match path.cut {
            Cut::Open if path.clogged_until <= now => true,
            Cut::Open => {
                conn.ways[from].scheduled = true;
                let key_from = u8::from(from == 1);
                self.agenda.push(path.clogged_until, Event::Arrive(key, key_from));
                self.hold(key, from, path.clogged_until);
                false
            }
            Cut::Silent => {
                // A reset is sent once and is lost; everything else is sent again later. But where
                // something between the two broke the connection, its ends go on sending until
                // they hear of it: then it waits, or the stream would go on with a gap.
                if conn.ends[from].state == EndState::Closed {
                    conn.ways[from].lose_reset();
                }
                false
            }
            Cut::Reject => {
                self.reject(key, from);
                false
            }
        }
    }

    fn hold(&mut self, key: ConnKey, from: usize, until: u64) {
        let Some(conn) = self.net.conn(key) else { return };
        let way = &mut conn.ways[from];
        for chunk in &mut way.queue {
            chunk.ready = chunk.ready.max(until);
        }
        way.last = way.last.max(until);
    }

    /// Nothing of what end `from` sends arrives before then.
    pub(super) fn hold_back(&mut self, key: ConnKey, from: usize, until: u64) {
        self.hold(key, from, until);
        let Some(conn) = self.net.conn(key) else { return };
        if !conn.ways[from].queue.is_empty() {
            conn.ways[from].scheduled = true;
            self.agenda.push(until, Event::Arrive(key, u8::from(from == 1)));
        }
    }

    /// A firewall answered with a reset: the sender's end is gone, the other knows nothing.
    fn reject(&mut self, key: ConnKey, from: usize) {
        let Some(conn) = self.net.conn(key) else { return };
        conn.ways[from].queue.clear();
        conn.ways[from].bytes = 0;
        let end = conn.ends[from];
        self.close_end(key, from);
        if let EndState::Open(link) = end.state {
            self.deliver(end.proc, Item::Down(link, LinkEnd::Reset));
        }
        self.net.reap(key);
    }

    /// After a path is whole again, what waited arrives when its sender tries again.
    pub fn resume_path(&mut self, a: HostId, b: HostId) {
        let outage = self.now.saturating_sub(self.net.path(a, b).cut_since);
        for key in self.net.keys_between(a, b) {
            let conn = self.net.conn(key).expect("listed");
            let from = usize::from(conn.ends[0].host != a);
            if conn.ways[from].scheduled || conn.ways[from].queue.is_empty() {
                continue;
            }
            let backoff = self.rng.below(outage.clamp(1, 2_000_000_000));
            let at = self.now + backoff;
            self.hold(key, from, at);
            let conn = self.net.conn(key).expect("listed");
            conn.ways[from].scheduled = true;
            self.agenda.push(at, Event::Arrive(key, u8::from(from == 1)));
        }
    }

    /// One end resets the connection: nothing more is read there, what it sent may be lost from
    /// any point on, and the other end hears of the reset.
    pub fn end_by_reset(&mut self, key: ConnKey, end: usize) {
        let Some(conn) = self.net.conn(key) else { return };
        if conn.ends[end].state == EndState::Closed {
            return;
        }
        conn.lose_tail(end, &mut self.rng);
        self.close_end(key, end);
        self.push(key, end, Payload::End(LinkEnd::Reset));
        self.net.reap(key);
    }

    /// A process is gone and its kernel ends the connection in order.
    pub fn end_by_fin(&mut self, key: ConnKey, end: usize) {
        let Some(conn) = self.net.conn(key) else { return };
        if conn.ends[end].state == EndState::Closed {
            return;
        }
        self.close_end(key, end);
        self.push(key, end, Payload::End(LinkEnd::Fin));
        self.net.reap(key);
    }

    /// Marks one end closed; bytes for it in flight are lost when they arrive.
    pub(super) fn close_end(&mut self, key: ConnKey, end: usize) {
        if let Some(conn) = self.net.conn(key) {
            conn.ends[end].state = EndState::Closed;
        }
    }

    /// Bytes came for an end that is closed: its kernel says so.
    pub(super) fn answer_with_reset(&mut self, key: ConnKey, from: usize) {
        let Some(conn) = self.net.conn(key) else { return };
        if conn.ends[from].state != EndState::Closed && !conn.has_ended(1 - from) {
            self.push(key, 1 - from, Payload::End(LinkEnd::Reset));
        }
    }

    /// The connection breaks in the middle: both ends hear of it, both lose what was in flight.
    pub fn break_conn(&mut self, key: ConnKey) {
        for end in 0..2 {
            let Some(conn) = self.net.conn(key) else { return };
            let there = conn.ends[end];
            conn.lose_tail(end, &mut self.rng);
            if let EndState::Open(_) | EndState::Opening = there.state {
                self.push(key, end, Payload::End(LinkEnd::Reset));
            }
        }
    }

    pub(super) fn unthrottle(&mut self, key: ConnKey, from: usize) {
        let Some(conn) = self.net.conn(key) else { return };
        if std::mem::take(&mut conn.ways[from].throttled) {
            self.send(key, from);
        }
    }
}
