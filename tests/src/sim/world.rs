//! The simulated world: the agenda, the hosts with their processes, the network, and the loop that
//! goes from one event to the next. Everything that happens is mixed into one hash, so that a
//! seed's run can be compared with itself.
//!
//! A process takes a *turn*: everything in its inbox, then its timer, then `settle`, as the real
//! driver does; it is busy for a while afterwards, and what arrives meanwhile makes the next turn.

use std::collections::BTreeMap;

use lockstep_proto::ids::NodeInstance;
use lockstep_proto::process::{Effect, Exit, Input, LinkEnd, LinkId, LogLevel, Outputs};
use lockstep_proto::time::Instant;
use lockstep_storage::disk::Fate;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::core::Core;
use super::dial::Dial;
use super::event::{Agenda, Event};
use super::host::{Host, HostId, Item, Life, Proc, ProcId, Store};
use super::net::{ConnKey, EndState, Net, Payload};
use super::rng::Rng;
use super::trace::Trace;
use super::trap::{Ambush, Trap, Watch};

/// Time a turn costs, and each input in it.
const TURN_NS: u64 = 1_000;
const INPUT_NS: u64 = 700;

/// Longest frame a driver accepts before it ends the connection.
const FRAME_MAX: usize = lockstep_proto::limits::FRAME_BYTES_MAX;

/// What became of the run so far, beside the state of the cores.
#[derive(Default)]
pub struct Tally {
    /// Executed events.
    pub events: u64,
    /// Inputs handled.
    pub inputs: u64,
    /// Coverage marks.
    pub marks: BTreeMap<&'static str, u64>,
    /// Faults executed, by class.
    pub faults: BTreeMap<&'static str, u64>,
    /// Broken promises, in words. The run stops at the first.
    pub violations: Vec<String>,
    /// Lines that the cores logged as errors.
    pub errors: Vec<String>,
    /// Most bytes any connection held in flight and unsent.
    pub backlog_max: usize,
}

/// See the module text.
pub struct World {
    /// True time.
    pub now: u64,
    /// What comes.
    pub agenda: Agenda,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The processes of all hosts.
    pub procs: Vec<Proc>,
    /// The network.
    pub net: Net,
    /// Connection attempts; ended ones keep their slot.
    pub dials: Vec<Dial>,
    /// Chance of the world itself.
    pub rng: Rng,
    /// Everything that happened.
    pub hash: u64,
    /// Counts.
    pub tally: Tally,
    /// What is remembered for people.
    pub trace: Trace,
    /// The crash point of a sweep.
    pub trap: Option<Trap>,
    /// What a scenario waits for on the wire.
    pub watches: Vec<Watch>,
    /// Faults that watched frames provoke.
    pub provoked: Vec<super::faults::Fault>,
    /// Whom a watched frame has just cost.
    pub condemned: Option<HostId>,
    /// The rare branch at which somebody is struck.
    pub ambush: Option<Ambush>,
    /// The disks are to be looked at as they are now.
    pub power_cut: bool,
    /// All power is to fail now; of what was not synced, this is left.
    pub blackout: Option<Fate>,
    /// What a loss of power leaves; drawn each time if not given.
    pub fate: Option<Fate>,
    /// The driver reads the clock before the socket (a canary).
    pub clock_before_socket: bool,
    /// Frames that drivers refused as longer than allowed.
    pub oversized: u64,
    /// Nodes that have found their cluster again: their cores are to be started.
    pub reborn: Vec<HostId>,
    pub(super) store_number: u32,
    pub(super) restores: Vec<super::faults::Restore>,
    inbox_spare: Vec<Item>,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: 0,
            agenda: Agenda::default(),
            hosts: Vec::new(),
            procs: Vec::new(),
            net: Net::default(),
            dials: Vec::new(),
            rng: Rng::new(seed),
            hash: seed,
            tally: Tally::default(),
            trace: Trace::default(),
            trap: None,
            watches: Vec::new(),
            provoked: Vec::new(),
            condemned: None,
            ambush: None,
            power_cut: false,
            blackout: None,
            fate: None,
            clock_before_socket: false,
            oversized: 0,
            reborn: Vec::new(),
            store_number: 0,
            restores: Vec::new(),
            inbox_spare: Vec::new(),
        }
    }

    /// Adds a host without processes.
    pub fn add_host(&mut self, host: Host) -> HostId {
        let id = HostId(u16::try_from(self.hosts.len()).expect("at most HOSTS_MAX hosts"));
        assert!(self.hosts.len() < super::net::HOSTS_MAX, "too many hosts in one run");
        self.hosts.push(host);
        id
    }

    /// Adds a process to a host.
    pub fn add_proc(&mut self, host: HostId, name: String, core: Core) -> ProcId {
        let id = ProcId(u32::try_from(self.procs.len()).expect("fewer than 2^32 processes"));
        let local = self.hosts[usize::from(host.0)].clock.read(self.now);
        self.procs.push(Proc {
            host,
            name,
            core: Some(core),
            out: Outputs::with_marks(),
            inbox: Vec::new(),
            wake_at: u64::MAX,
            busy_until: 0,
            last_now: local,
            links: Vec::new(),
            held: Vec::new(),
        });
        self.hosts[usize::from(host.0)].procs.push(id);
        id
    }

    /// The host with this id.
    #[must_use]
    pub fn host(&self, id: HostId) -> &Host {
        &self.hosts[usize::from(id.0)]
    }

    /// The host with this id, to be changed.
    pub fn host_mut(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[usize::from(id.0)]
    }

    /// The host of this node instance.
    #[must_use]
    pub fn host_of(&self, instance: NodeInstance) -> Option<HostId> {
        let role = super::host::Role::Data(instance);
        let index = self.hosts.iter().position(|host| host.role == role)?;
        Some(HostId(u16::try_from(index).expect("at most HOSTS_MAX hosts")))
    }

    /// Notes a broken promise.
    pub fn violation(&mut self, text: String) {
        let now = self.now;
        self.trace.note(now, || format!("VIOLATION {text}"));
        self.tally.violations.push(text);
    }

    /// Executes one event; false if nothing is left.
    pub fn step(&mut self) -> Option<Event> {
        let (time, event) = self.agenda.pop()?;
        assert!(time >= self.now, "time went back");
        self.now = time;
        self.tally.events += 1;
        match event {
            Event::Arrive(key, from) => self.on_arrive(key, usize::from(from)),
            Event::Wake(proc) => self.on_wake(proc),
            Event::Knock(dial) => self.on_knock(dial),
            Event::Welcome(dial) => self.on_welcome(dial),
            Event::DialTimeout(dial) => self.on_dial_timeout(dial),
            Event::Stored(host, number) => self.on_stored(host, number),
            Event::Disk(host, number) => self.on_disk_done(host, number),
            Event::Restore(index) => self.on_restore(index),
            Event::Provoked(index) => {
                let fault = self.provoked[index].clone();
                self.strike(&fault);
            }
            Event::Fault | Event::Check => {}
        }
        Some(event)
    }

    /// Mixes something that happened into the hash.
    #[inline]
    pub fn mix(&mut self, proc: ProcId, what: u8, bytes: &[u8]) {
        let salt = self.now ^ (u64::from(proc.0) << 40) ^ (u64::from(what) << 56);
        self.hash = xxh3_64_with_seed(bytes, self.hash.rotate_left(7) ^ salt);
    }

    /// Puts something into a process's inbox and sees that it gets a turn.
    pub fn deliver(&mut self, to: ProcId, item: Item) {
        let proc = &mut self.procs[to.index()];
        if proc.core.is_none() {
            return;
        }
        proc.inbox.push(item);
        let at = self.now.max(proc.busy_until);
        self.wake(to, at);
    }

    /// Sees that a process gets a turn at this time at the latest.
    #[inline]
    pub fn wake(&mut self, proc: ProcId, at: u64) {
        let entry = &mut self.procs[proc.index()];
        if at < entry.wake_at {
            entry.wake_at = at;
            self.agenda.push(at, Event::Wake(proc));
        }
    }

    fn on_wake(&mut self, id: ProcId) {
        let proc = &mut self.procs[id.index()];
        if proc.wake_at != self.now {
            return; // Superseded by an earlier one.
        }
        proc.wake_at = u64::MAX;
        if proc.core.is_none() || self.hosts[usize::from(proc.host.0)].life != Life::Running {
            return;
        }
        if proc.busy_until > self.now {
            let at = proc.busy_until;
            self.wake(id, at);
            return;
        }
        self.turn(id, None);
    }

    /// One turn of a process; `frozen` is a clock reading made before a pause.
    pub fn turn(&mut self, id: ProcId, frozen: Option<Instant>) {
        let host_id = self.procs[id.index()].host;
        let trap = self.trap_now(host_id);
        if trap.is_some_and(Trap::before) {
            self.kill(host_id);
            return;
        }
        let clock = self.hosts[usize::from(host_id.0)].clock;
        let local = frozen.unwrap_or_else(|| clock.read(self.now));
        let local = local.max(self.procs[id.index()].last_now);
        self.procs[id.index()].last_now = local;
        let mut items = std::mem::take(&mut self.inbox_spare);
        std::mem::swap(&mut items, &mut self.procs[id.index()].inbox);
        let mut inputs = 0;
        for item in items.drain(..) {
            inputs += self.take_item(id, local, item);
        }
        self.inbox_spare = items;
        let proc = &mut self.procs[id.index()];
        let core = proc.core.as_mut().expect("checked by the caller");
        if core.next_timeout().is_some_and(|at| at <= local) {
            core.handle(local, Input::Timeout, &mut proc.out);
            inputs += 1;
            self.mix(id, 1, &[]);
        }
        let proc = &mut self.procs[id.index()];
        let core = proc.core.as_mut().expect("checked by the caller");
        core.settle(local, &mut proc.out);
        self.tally.inputs += inputs;
        let slowness = self.hosts[usize::from(host_id.0)].slowness;
        let proc = &mut self.procs[id.index()];
        proc.busy_until = self.now + (TURN_NS + INPUT_NS * inputs) * slowness;
        self.after_turn(id, host_id, trap);
    }

    fn after_turn(&mut self, id: ProcId, host_id: HostId, trap: Option<Trap>) {
        let marks = self.procs[id.index()].out.take_marks();
        for mark in &marks {
            *self.tally.marks.entry(mark).or_default() += 1;
        }
        let ambush = match &self.ambush {
            Some(_) if !marks.is_empty() => self.ambushed(host_id, &marks),
            _ => None,
        };
        if let Some(trap) = trap.or(ambush) {
            self.spring(trap, id, host_id);
        } else {
            self.execute_effects(id);
            self.flush(id, usize::MAX);
        }
        self.plan_next_turn(id);
    }

    /// Puts the process's next turn on the agenda: its timer, or what waits in its inbox.
    pub fn plan_next_turn(&mut self, id: ProcId) {
        let proc = &self.procs[id.index()];
        let Some(core) = &proc.core else { return };
        let clock = self.hosts[usize::from(proc.host.0)].clock;
        let mut at = match core.next_timeout() {
            Some(timeout) => clock.when(timeout).max(proc.busy_until),
            None => u64::MAX,
        };
        if !proc.inbox.is_empty() {
            at = at.min(proc.busy_until);
        }
        if at != u64::MAX {
            let at = at.max(self.now);
            self.wake(id, at);
        }
    }

    /// Hands one item to a core; says how many inputs it was.
    fn take_item(&mut self, id: ProcId, local: Instant, item: Item) -> u64 {
        let now = self.now;
        if let Item::Bytes(link, bytes) = item {
            return self.take_bytes(id, local, link, bytes);
        }
        let proc = &mut self.procs[id.index()];
        self.trace.item(now, &proc.name, &item);
        if let Item::Up(link, _) | Item::Down(link, _) = &item
            && proc.conn_of(*link).is_none()
        {
            return 0;
        }
        let Some(core) = proc.core.as_mut() else { return 0 };
        let what = match item {
            Item::Bytes(..) => unreachable!("taken above"),
            Item::Up(link, peer) => {
                core.handle(local, Input::LinkUp { link, peer }, &mut proc.out);
                2
            }
            Item::Down(link, end) => {
                core.handle(local, Input::LinkDown { link, end }, &mut proc.out);
                proc.unbind(link);
                3
            }
            Item::DialFailed(to, addr, error) => {
                core.handle(local, Input::DialFailed { to, addr, error }, &mut proc.out);
                4
            }
            Item::Stored(token, ok) => {
                core.handle(local, Input::Stored { token, ok }, &mut proc.out);
                5
            }
            Item::Disk(lane, done) => {
                core.handle(local, Input::Disk { lane, done }, &mut proc.out);
                9
            }
            Item::Measured(token) => {
                let (cpu_us, rss_bytes) = (now / 1000, 1 << 20);
                core.handle(local, Input::Measured { token, cpu_us, rss_bytes }, &mut proc.out);
                6
            }
            Item::Recovered(token, result) => {
                core.handle(local, Input::Recovered { token, result }, &mut proc.out);
                8
            }
            Item::Terminate => {
                core.handle(local, Input::Terminate, &mut proc.out);
                7
            }
        };
        self.mix(id, what, &[]);
        1
    }

    fn take_bytes(&mut self, id: ProcId, local: Instant, link: LinkId, bytes: Vec<u8>) -> u64 {
        let mut rest = &bytes[..];
        let mut inputs = 0;
        while let Some((frame, after)) = split_frame(rest) {
            rest = after;
            let proc = &mut self.procs[id.index()];
            if proc.conn_of(link).is_none() {
                break; // Closed meanwhile: the driver drops what it has read.
            }
            self.trace.frame(self.now, &proc.name, link, frame);
            let Some(core) = proc.core.as_mut() else { break };
            core.handle(local, Input::Frame { link, bytes: frame }, &mut proc.out);
            inputs += 1;
        }
        self.mix(id, 0, &bytes);
        self.net.give_back(bytes);
        inputs
    }

    /// Executes what the process asked for besides sending bytes.
    pub fn execute_effects(&mut self, id: ProcId) {
        if !self.procs[id.index()].out.has_effects() {
            return;
        }
        for effect in self.procs[id.index()].out.take_effects() {
            match effect {
                Effect::Dial { to, addr } => self.on_dial(id, to, addr),
                Effect::Close { link, why } => self.on_close(id, link, why),
                Effect::Store { token, file, bytes } => {
                    let number = self.store_number;
                    self.store_number += 1;
                    let host_id = self.procs[id.index()].host;
                    let host = &mut self.hosts[usize::from(host_id.0)];
                    let (low, high) = host.store_ns;
                    host.stores.push_back(Store { number, proc: id, token, file, bytes });
                    let at = self.now + self.rng.range(low, high);
                    self.agenda.push(at, Event::Stored(host_id, number));
                }
                Effect::Disk { lane, request } => self.on_disk_request(id, lane, request),
                Effect::Recover(wish) => self.on_recover(id, &wish),
                Effect::Measure { token } => self.deliver(id, Item::Measured(token)),
                Effect::Exit(exit) => self.on_exit(id, exit),
                Effect::Log { level, text } => self.on_log(id, level, text),
            }
        }
    }

    fn on_close(&mut self, id: ProcId, link: LinkId, why: &'static str) {
        let now = self.now;
        let proc = &mut self.procs[id.index()];
        self.trace.note(now, || format!("{} closes {link:?}: {why}", proc.name));
        let Some((key, end)) = proc.conn_of(link) else { return };
        // What was read with this turn has been handled; what came since is never read.
        proc.inbox.retain(|item| !matches!(item, Item::Bytes(of, _) if *of == link));
        if self.rng.coin() {
            self.send(key, usize::from(end));
        }
        let closed = self
            .net
            .conn(key)
            .is_none_or(|conn| conn.ends[usize::from(end)].state == EndState::Closed);
        if !closed {
            self.end_by_reset(key, usize::from(end));
            self.deliver(id, Item::Down(link, LinkEnd::Reset));
        }
    }

    fn on_log(&mut self, id: ProcId, level: LogLevel, text: String) {
        let name = &self.procs[id.index()].name;
        self.trace.note(self.now, || format!("{name} {level:?}: {text}"));
        if level == LogLevel::Error {
            let text = format!("{name}: {text}");
            // Data nodes log an error for one reason only: an invariant is broken.
            let host = self.procs[id.index()].host;
            if matches!(self.host(host).role, super::host::Role::Data(_)) {
                self.violation(text.clone());
            }
            self.tally.errors.push(text);
        }
    }

    fn on_exit(&mut self, id: ProcId, exit: Exit) {
        let host = self.procs[id.index()].host;
        let name = &self.procs[id.index()].name;
        self.trace.note(self.now, || format!("{name} exits {}: {}", exit.code, exit.reason));
        self.mix(id, 8, &exit.code.to_le_bytes());
        let core = &self.procs[id.index()].core;
        let restarts = matches!(core, Some(Core::Restart(_) | Core::Newcomer(_)));
        if restarts && exit.code == 0 {
            self.reborn.push(host);
            return;
        }
        self.host_mut(host).exit.get_or_insert(exit);
        self.kill_by_exit(host);
    }

    /// Bytes or the end of a stream have arrived at the other end.
    fn on_arrive(&mut self, key: ConnKey, from: usize) {
        if !self.may_arrive(key, from) {
            return;
        }
        let now = self.now;
        loop {
            let Some(conn) = self.net.conn(key) else { return };
            let to = conn.ends[1 - from];
            let way = &mut conn.ways[from];
            match way.queue.front() {
                Some(chunk) if chunk.ready <= now => {}
                Some(chunk) => {
                    way.scheduled = true;
                    let at = chunk.ready;
                    self.agenda.push(at, Event::Arrive(key, u8::from(from == 1)));
                    break;
                }
                None => break,
            }
            let chunk = way.queue.pop_front().expect("seen above");
            match chunk.payload {
                Payload::Bytes(bytes) => {
                    way.bytes -= bytes.len();
                    self.on_bytes(key, from, to, bytes);
                }
                Payload::End(end) => {
                    self.close_end(key, 1 - from);
                    if let EndState::Open(link) = to.state {
                        self.deliver(to.proc, Item::Down(link, end));
                    }
                }
            }
        }
        self.unthrottle(key, from);
        self.net.reap(key);
    }

    fn on_bytes(&mut self, key: ConnKey, from: usize, to: super::net::End, bytes: Vec<u8>) {
        let EndState::Open(link) = to.state else {
            self.net.give_back(bytes);
            if to.state == EndState::Closed {
                self.answer_with_reset(key, from);
            }
            return;
        };
        let conn = self.net.conn(key).expect("the caller holds it");
        let way = &mut conn.ways[from];
        let Ok(whole) = reassemble(&mut way.partial, bytes) else {
            self.oversized += 1;
            let proc = &self.procs[to.proc.index()];
            self.trace.note(self.now, || format!("{} refuses an oversized frame", proc.name));
            self.end_by_reset(key, 1 - from);
            self.deliver(to.proc, Item::Down(link, LinkEnd::Reset));
            return;
        };
        if !whole.is_empty() {
            self.deliver(to.proc, Item::Bytes(link, whole));
        }
    }
}

/// Splits the first frame's kind and body off.
#[inline]
#[must_use]
pub fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length)
}

/// Returns the whole frames at the front of `partial` and `bytes`; the rest stays in `partial`.
/// An error is a frame that no driver would take.
fn reassemble(partial: &mut Vec<u8>, mut bytes: Vec<u8>) -> Result<Vec<u8>, ()> {
    if !partial.is_empty() {
        partial.extend_from_slice(&bytes);
        bytes = std::mem::take(partial);
    }
    let mut whole = 0;
    while let Some(head) = bytes[whole..].first_chunk::<4>() {
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > FRAME_MAX {
            return Err(());
        }
        if bytes.len() - whole - 4 < length {
            break;
        }
        whole += 4 + length;
    }
    partial.extend_from_slice(&bytes[whole..]);
    bytes.truncate(whole);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_from_any_pieces() {
        let stream: Vec<u8> = [&[2, 0, 0, 0, 7, 8][..], &[1, 0, 0, 0, 9]].concat();
        for cut in 0..=stream.len() {
            let mut partial = Vec::new();
            let mut got = reassemble(&mut partial, stream[..cut].to_vec()).expect("small");
            got.extend(reassemble(&mut partial, stream[cut..].to_vec()).expect("small"));
            assert_eq!(got, stream);
            assert!(partial.is_empty());
        }
        assert!(reassemble(&mut Vec::new(), vec![255, 255, 255, 255]).is_err());
    }
}
