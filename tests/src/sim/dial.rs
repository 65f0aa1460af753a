//! Connection attempts: what the drivers' handshake does between `Effect::Dial` and `LinkUp` or
//! `DialFailed`. One port per host; whoever is wanted by name must be exactly who is there.

use lockstep_proto::ids::{NodeInstance, ShardId};
use lockstep_proto::process::{DialError, Peer, Target};

use super::event::Event;
use super::host::{HostId, Item, Life, ProcId, Role};
use super::net::{ConnKey, Cut, End, EndState};
use super::world::World;

/// How long a driver waits for a connection and its welcome.
const DIAL_TIMEOUT_NS: u64 = 1_000_000_000;

/// One connection attempt.
#[derive(Debug)]
pub struct Dial {
    from: ProcId,
    to: Target,
    addr: String,
    peer: Option<Peer>,
    conn: Option<ConnKey>,
    done: bool,
}

impl World {
    pub(super) fn on_dial(&mut self, from: ProcId, to: Target, addr: String) {
        let number = u32::try_from(self.dials.len()).expect("fewer than 2^32 dials");
        let now = self.now;
        let name = &self.procs[from.index()].name;
        self.trace.note(now, || format!("{name} dials {to:?} at {addr}"));
        let dial = Dial { from, to, addr, peer: None, conn: None, done: false };
        self.dials.push(dial);
        self.agenda.push(now + DIAL_TIMEOUT_NS, Event::DialTimeout(number));
        let Some(listener) = self.listener(number) else {
            self.fail_dial(number, DialError::Refused, 50_000);
            return;
        };
        self.approach(number, listener);
    }

    fn listener(&self, number: u32) -> Option<HostId> {
        let addr = &self.dials[number as usize].addr;
        let index = self.hosts.iter().rposition(|host| host.addr == *addr)?;
        Some(HostId(u16::try_from(index).expect("at most HOSTS_MAX hosts")))
    }

    /// The first packet's way to the listener, and the answer's way back.
    fn approach(&mut self, number: u32, listener: HostId) {
        let dialler = self.procs[self.dials[number as usize].from.index()].host;
        let there = *self.net.path(dialler, listener);
        let back = *self.net.path(listener, dialler);
        if there.cut == Cut::Reject {
            let delay = there.delay_ns + back.delay_ns;
            self.fail_dial(number, DialError::Refused, delay);
            return;
        }
        if there.cut == Cut::Silent || back.cut != Cut::Open {
            return; // The time-out tells.
        }
        // Connect, acknowledge, hello: one and a half round trips.
        let at = there.arrival(self.now, &mut self.rng) + back.delay_ns + there.delay_ns;
        self.agenda.push(at, Event::Knock(number));
    }

    pub(super) fn on_knock(&mut self, number: u32) {
        let dial = &self.dials[number as usize];
        let from = dial.from;
        let Some(listener) = self.listener(number) else { return };
        if dial.done || self.procs[from.index()].core.is_none() {
            return;
        }
        let dialler = self.procs[from.index()].host;
        let back = *self.net.path(listener, dialler);
        if self.net.path(dialler, listener).cut != Cut::Open || back.cut != Cut::Open {
            return;
        }
        match self.host(listener).life {
            Life::Dark => return,
            Life::Killed => {
                self.fail_dial(number, DialError::Refused, back.delay_ns);
                return;
            }
            Life::Paused { .. } => {
                self.host_mut(listener).knocks.push(number);
                return;
            }
            Life::Running => {}
        }
        match self.answerer(listener, &self.dials[number as usize].to) {
            Ok((proc, peer)) => self.accept(number, listener, proc, peer),
            Err(error) => self.fail_dial(number, error, back.delay_ns),
        }
    }

    /// Who on this host answers to this name, and how it will look to the dialler.
    fn answerer(&self, host: HostId, to: &Target) -> Result<(ProcId, Peer), DialError> {
        let host = self.host(host);
        // Between two processes of one host nobody answers.
        let first = *host.procs.first().ok_or(DialError::Failed)?;
        match (&host.role, to) {
            (Role::Data(me), Target::Control(wanted)) => {
                same_life(*me, *wanted)?;
                Ok((first, Peer::Control(*me)))
            }
            (Role::Data(me), Target::Node(node)) if me.node == *node => {
                Ok((first, Peer::Control(*me)))
            }
            (Role::Data(me), Target::Watch(wanted)) => {
                same_life(*me, *wanted)?;
                Ok((first, Peer::Watch(*me)))
            }
            (Role::Data(me), Target::Shard(wanted, shard)) => {
                same_life(*me, *wanted)?;
                let proc = host.procs.get(usize::from(shard.0) + 1).ok_or(DialError::Failed)?;
                Ok((*proc, Peer::Shard(*me, *shard)))
            }
            (Role::Data(me), Target::Any) => {
                let proc = host.procs.get(1).ok_or(DialError::Failed)?;
                Ok((*proc, Peer::Shard(*me, ShardId(0))))
            }
            (Role::Mgmt(id), Target::Mgmt(wanted)) if id == wanted => Ok((first, Peer::Mgmt(*id))),
            (Role::Mgmt(id), Target::Any) => Ok((first, Peer::Mgmt(*id))),
            (Role::Toy, _) => Ok((first, Peer::Client)),
            _ => Err(DialError::Failed),
        }
    }

    /// How the dialler looks to the listener.
    fn speaker(&self, from: ProcId, to: &Target) -> Peer {
        let host = self.host(self.procs[from.index()].host);
        match &host.role {
            Role::Data(me) => match host.procs.iter().position(|proc| *proc == from) {
                Some(0) | None if matches!(to, Target::Watch(_)) => Peer::Watch(*me),
                Some(0) | None => Peer::Control(*me),
                Some(index) => {
                    let shard = u16::try_from(index - 1).expect("few shards");
                    Peer::Shard(*me, ShardId(shard))
                }
            },
            Role::Mgmt(id) => Peer::Mgmt(*id),
            Role::Fresh => Peer::Newcomer,
            Role::Client | Role::Rogue | Role::Toy => Peer::Client,
        }
    }

    fn accept(&mut self, number: u32, listener: HostId, proc: ProcId, peer: Peer) {
        let dial = &self.dials[number as usize];
        let (from, watch) = (dial.from, matches!(dial.to, Target::Watch(_)));
        let speaker = self.speaker(from, &self.dials[number as usize].to);
        let dialler = self.procs[from.index()].host;
        let link = self.procs[proc.index()].out.open_link();
        let ends = [
            End { proc: from, host: dialler, state: EndState::Opening },
            End { proc, host: listener, state: EndState::Open(link) },
        ];
        let key = self.net.connect(ends, false, watch);
        self.procs[proc.index()].bind(link, key, 1);
        self.deliver(proc, Item::Up(link, speaker));
        let at = self.net.path(listener, dialler).arrival(self.now, &mut self.rng);
        let conn = self.net.conn(key).expect("just made");
        conn.ways[1].last = at;
        let dial = &mut self.dials[number as usize];
        dial.conn = Some(key);
        dial.peer = Some(peer);
        self.agenda.push(at, Event::Welcome(number));
    }

    pub(super) fn on_welcome(&mut self, number: u32) {
        let dial = &self.dials[number as usize];
        let (from, Some(key), Some(peer)) = (dial.from, dial.conn, dial.peer) else { return };
        if dial.done {
            return;
        }
        let Some(conn) = self.net.conn(key) else { return };
        let ends = conn.ends;
        if ends[0].state != EndState::Opening {
            return;
        }
        if self.net.path(ends[1].host, ends[0].host).cut != Cut::Open {
            return; // Lost; the time-out tells.
        }
        self.dials[number as usize].done = true;
        let link = self.procs[from.index()].out.open_link();
        self.procs[from.index()].bind(link, key, 0);
        self.net.conn(key).expect("seen above").ends[0].state = EndState::Open(link);
        self.deliver(from, Item::Up(link, peer));
    }

    pub(super) fn on_dial_timeout(&mut self, number: u32) {
        let dial = &mut self.dials[number as usize];
        if std::mem::replace(&mut dial.done, true) {
            return;
        }
        let (from, to, addr) = (dial.from, dial.to.clone(), dial.addr.clone());
        if let Some(key) = dial.conn {
            self.end_by_reset(key, 0);
        }
        self.deliver(from, Item::DialFailed(to, addr, DialError::Failed));
    }

    fn fail_dial(&mut self, number: u32, error: DialError, delay: u64) {
        let dial = &mut self.dials[number as usize];
        if std::mem::replace(&mut dial.done, true) {
            return;
        }
        let item = Item::DialFailed(dial.to.clone(), dial.addr.clone(), error);
        let from = dial.from;
        let proc = &mut self.procs[from.index()];
        if proc.core.is_some() {
            // The answer's way back is time in which nothing else of this attempt can happen.
            proc.inbox.push(item);
            let at = (self.now + delay).max(proc.busy_until);
            self.wake(from, at);
        }
    }
}

fn same_life(me: NodeInstance, wanted: NodeInstance) -> Result<(), DialError> {
    if me == wanted {
        Ok(())
    } else if me.node == wanted.node && me.incarnation > wanted.incarnation {
        Err(DialError::LaterIncarnation)
    } else {
        Err(DialError::Failed)
    }
}
