//! How hosts die, stop, go on and come back.

use lockstep_proto::process::Peer;

use super::event::Event;
use super::host::{HostId, Item, Life, ProcId};
use super::net::{ConnKey, End, EndState};
use super::world::World;

impl World {
    /// SIGKILL: the process is gone at once. Its kernel sends what was handed to it and ends the
    /// connections in order, or by reset where something was left unread.
    pub fn kill(&mut self, host: HostId) {
        if matches!(self.host(host).life, Life::Killed | Life::Dark) {
            return;
        }
        let now = self.now;
        let name = self.host(host).name.clone();
        self.trace.note(now, || format!("{name} is killed"));
        for key in self.net.keys_of(host) {
            let (end, unread) = self.unread(key, host);
            if unread {
                self.end_by_reset(key, end);
            } else {
                self.end_by_fin(key, end);
            }
        }
        self.bury(host, Life::Killed);
    }

    /// The process ended itself: links end by reset, as live processes end them.
    pub(super) fn kill_by_exit(&mut self, host: HostId) {
        if matches!(self.host(host).life, Life::Killed | Life::Dark) {
            return;
        }
        for key in self.net.keys_of(host) {
            let (end, unread) = self.unread(key, host);
            let watch = self.net.conn(key).is_some_and(|conn| conn.watch);
            if watch && !unread && self.rng.coin() {
                self.end_by_fin(key, end);
            } else {
                self.end_by_reset(key, end);
            }
        }
        self.bury(host, Life::Killed);
    }

    /// The machine is gone: nobody ends anything, nobody answers.
    pub fn power_off(&mut self, host: HostId) {
        if matches!(self.host(host).life, Life::Killed | Life::Dark) {
            return;
        }
        let now = self.now;
        let name = self.host(host).name.clone();
        self.trace.note(now, || format!("{name} loses power"));
        for key in self.net.keys_of(host) {
            let (end, _) = self.unread(key, host);
            let local = self.net.conn(key).is_some_and(|conn| conn.local);
            if local {
                self.end_by_reset(key, end);
            } else {
                let Some(conn) = self.net.conn(key) else { continue };
                conn.lose_tail(end, &mut self.rng);
                self.close_end(key, end);
            }
        }
        self.bury(host, Life::Dark);
        self.lose_unsynced(host);
    }

    /// A process of this host ended, and the operating-system process goes on with others.
    pub(super) fn end_procs(&mut self, host: HostId) {
        for key in self.net.keys_of(host) {
            let (end, _) = self.unread(key, host);
            self.end_by_reset(key, end);
        }
        self.bury(host, Life::Running);
        self.host_mut(host).procs.clear();
    }

    fn unread(&mut self, key: ConnKey, host: HostId) -> (usize, bool) {
        let conn = self.net.conn(key).expect("listed");
        let end = usize::from(conn.ends[0].host != host);
        let there = conn.ends[end];
        let EndState::Open(link) = there.state else { return (end, false) };
        let inbox = &self.procs[there.proc.index()].inbox;
        (end, inbox.iter().any(|item| matches!(item, Item::Bytes(of, _) if *of == link)))
    }

    fn bury(&mut self, host: HostId, life: Life) {
        self.hash = self.hash.rotate_left(3) ^ self.now ^ (u64::from(host.0) << 48);
        // A write under way may or may not have become durable; it is atomic either way.
        while let Some(store) = self.host_mut(host).stores.pop_front() {
            if self.rng.coin() {
                self.host_mut(host).files.insert(store.file, store.bytes);
            }
        }
        self.interrupt_disk(host);
        let entry = self.host_mut(host);
        entry.life = life;
        entry.holding = false;
        let procs = entry.procs.clone();
        for proc in procs {
            let proc = &mut self.procs[proc.index()];
            if let Some(super::core::Core::Client(client)) = &mut proc.core {
                client.lose_all();
            }
            proc.core = None;
            proc.inbox = Vec::new();
            proc.out = lockstep_proto::process::Outputs::new();
            proc.links = Vec::new();
            proc.held = Vec::new();
        }
    }

    /// SIGSTOP, or a machine that does not schedule the process. With `holding`, every process of
    /// the host is stopped between its next turn's work and the sending of its outputs.
    pub fn pause(&mut self, host: HostId, holding: bool) {
        if self.host(host).life != Life::Running {
            return;
        }
        let now = self.now;
        let name = self.host(host).name.clone();
        self.trace.note(now, || format!("{name} is stopped"));
        self.hash = self.hash.rotate_left(3) ^ now;
        if holding {
            self.host_mut(host).holding = true;
            for proc in self.host(host).procs.clone() {
                if self.procs[proc.index()].core.is_some() {
                    self.turn(proc, None);
                }
            }
        }
        if self.host(host).life == Life::Running {
            self.host_mut(host).life = Life::Paused { since: now };
        }
    }

    /// SIGCONT: what waited is handled in a burst.
    pub fn resume(&mut self, host: HostId) {
        let Life::Paused { since } = self.host(host).life else { return };
        let now = self.now;
        let name = self.host(host).name.clone();
        self.trace.note(now, || format!("{name} goes on"));
        self.host_mut(host).life = Life::Running;
        self.host_mut(host).holding = false;
        for number in std::mem::take(&mut self.host_mut(host).knocks) {
            self.agenda.push(now, Event::Knock(number));
        }
        let mut procs = self.host(host).procs.clone();
        if self.clock_before_socket {
            // Threads, each with an old reading in its hand: any may be the first to go on.
            let first = usize::try_from(self.rng.below(procs.len() as u64)).expect("few");
            procs.rotate_left(first);
        }
        for proc in procs {
            self.resume_proc(proc, since);
        }
    }

    fn resume_proc(&mut self, id: ProcId, since: u64) {
        if self.procs[id.index()].core.is_none() {
            return;
        }
        for link in std::mem::take(&mut self.procs[id.index()].held) {
            if let Some((key, end)) = self.procs[id.index()].conn_of(link) {
                self.send(key, usize::from(end));
            }
        }
        self.procs[id.index()].wake_at = u64::MAX;
        if self.clock_before_socket {
            let host = self.procs[id.index()].host;
            let frozen = self.host(host).clock.read(since);
            self.turn(id, Some(frozen));
            return;
        }
        let at = self.now + self.rng.below(50_000);
        self.wake(id, at);
    }

    /// Connects two processes of one host by memory.
    /// Each end is given with how it looks to the other.
    pub fn connect_locally(&mut self, a: (ProcId, Peer), b: (ProcId, Peer)) {
        let host = self.procs[a.0.index()].host;
        let links = [a.0, b.0].map(|proc| self.procs[proc.index()].out.open_link());
        let end = |at: usize, proc: ProcId| End { proc, host, state: EndState::Open(links[at]) };
        let key = self.net.connect([end(0, a.0), end(1, b.0)], true, false);
        self.procs[a.0.index()].bind(links[0], key, 0);
        self.procs[b.0.index()].bind(links[1], key, 1);
        self.deliver(a.0, Item::Up(links[0], b.1));
        self.deliver(b.0, Item::Up(links[1], a.1));
    }

    /// Every connection between two hosts breaks.
    pub fn break_between(&mut self, a: HostId, b: HostId) {
        for key in self.net.keys_between(a, b) {
            self.break_conn(key);
        }
    }

    /// Whether the host takes turns.
    #[must_use]
    pub fn runs(&self, host: HostId) -> bool {
        self.host(host).life == Life::Running
    }
}
