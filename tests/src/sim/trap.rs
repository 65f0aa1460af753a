//! Crash points and wire watches: the two ways in which sweeps and scenarios take hold of a run at
//! one exact event.

use super::host::{HostId, Life, ProcId};
use super::net::{ConnKey, Cut};
use super::trace::message_name;
use super::world::{World, split_frame};

/// What happens to a host at a crash point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// It dies before the turn.
    Before,
    /// It dies after the turn, before any output has left.
    OutputsLost,
    /// It dies after this many links' outputs have left.
    Prefix(usize),
    /// It is cut off from everybody after the turn.
    CutOff,
    /// It stops after the turn, for this long.
    Pause(u64),
}

/// One crash point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// At which host.
    pub host: HostId,
    /// At which of its turns.
    pub turn: u64,
    /// What happens.
    pub blow: Blow,
}

impl Trap {
    pub(super) fn before(self) -> bool {
        self.blow == Blow::Before
    }
}

/// A frame that a scenario waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Who sends it; anyone if not given.
    pub from: Option<HostId>,
    /// Who gets it; anyone if not given.
    pub to: Option<HostId>,
    /// The message's name.
    pub name: String,
    /// Met when this many more have been sent.
    pub left: u32,
    /// The scenario's number of it.
    pub number: usize,
    /// The sender dies before these bytes leave.
    pub kill_sender_first: bool,
}

impl World {
    /// Counts a turn and says whether it is the crash point.
    pub(super) fn trap_now(&mut self, host: HostId) -> Option<Trap> {
        let entry = self.host_mut(host);
        entry.turns += 1;
        let turn = entry.turns;
        self.trap.filter(|trap| trap.host == host && trap.turn == turn)
    }

    /// The crash point has come; the turn has been taken but nothing has left.
    pub(super) fn spring(&mut self, trap: Trap, id: ProcId, host: HostId) {
        self.trap = None;
        match trap.blow {
            Blow::Before | Blow::OutputsLost => self.kill(host),
            Blow::Prefix(links) => {
                self.flush(id, links);
                self.kill(host);
            }
            Blow::CutOff => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.isolate(host);
            }
            Blow::Pause(length) => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.pause(host, false);
                self.restore_later(length, super::faults::Ending::Resume(host));
            }
        }
    }

    /// Cuts a host off from every other, silently.
    pub fn isolate(&mut self, host: HostId) {
        let count = u16::try_from(self.hosts.len()).expect("at most HOSTS_MAX hosts");
        for other in (0..count).map(HostId).filter(|other| *other != host) {
            self.cut(host, other, Cut::Silent);
            self.cut(other, host, Cut::Silent);
        }
    }

    /// Looks for watched messages in bytes that are leaving.
    pub(super) fn look_at_frames(&mut self, key: ConnKey, from: usize, bytes: &[u8]) {
        let Some(conn) = self.net.conn(key) else { return };
        if conn.local {
            return;
        }
        let (sender, receiver) = (conn.ends[from].host, conn.ends[1 - from].host);
        let mut rest = bytes;
        while let Some((frame, after)) = split_frame(rest) {
            rest = after;
            let name = message_name(frame);
            for watch in &mut self.watches {
                let fits = watch.left > 0
                    && watch.name == name
                    && watch.from.is_none_or(|host| host == sender)
                    && watch.to.is_none_or(|host| host == receiver);
                if fits {
                    watch.left -= 1;
                    if watch.left == 0 {
                        self.met.push(watch.number);
                    }
                }
            }
        }
    }

    /// Whether a host is dead for good.
    #[must_use]
    pub fn is_dead(&self, host: HostId) -> bool {
        matches!(self.host(host).life, Life::Killed | Life::Dark)
    }
}
