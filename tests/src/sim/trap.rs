//! Crash points and wire watches: the two ways in which sweeps and scenarios take hold of a run at
//! one exact event.

use lockstep_storage::disk::Fate;

use super::event::Event;
use super::faults::Fault;
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
    /// Its machine loses power after the turn.
    PowerOff,
    /// Nothing, but the disks of all nodes are looked at as a power cut of everything would leave
    /// them.
    PowerCut,
    /// All power fails, and this is left everywhere of what was not synced.
    Blackout(Fate),
    /// It dies after its answers to clients have left, and nothing else.
    OnlyClients,
    /// A step of what it asks of its disk fails, so many after the turn.
    DiskFails(u64),
}

impl Blow {
    /// Whether it goes on until it is healed.
    #[must_use]
    pub fn lasts(self) -> bool {
        matches!(self, Self::CutOff | Self::Pause(_) | Self::PowerOff)
    }
}

/// When a crash point is met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// At this one of the host's turns.
    Turn(u64),
    /// Before this step on its data files, counted from 0.
    Step(u64),
}

/// One crash point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// At which host.
    pub host: HostId,
    /// When.
    pub at: Moment,
    /// What happens.
    pub blow: Blow,
}

impl Trap {
    pub(super) fn before(self) -> bool {
        self.blow == Blow::Before
    }
}

/// What a watched frame costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Price {
    /// A host dies; the sender if none is named. `true`: the frame itself does not leave.
    Death(Option<HostId>, bool),
    /// The connection breaks, and the frame is lost with it.
    Connection,
    /// The connection carries nothing more that way for so long, from this frame on.
    Time(u64),
    /// This happens when it has left: the fault of that number in [`World::provoked`].
    Fault(usize),
}

/// A frame on the wire at which something happens.
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
    /// What it costs.
    pub price: Price,
}

/// A rare branch at which a host is struck.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ambush {
    /// Where; at any host if not given.
    pub host: Option<HostId>,
    /// The mark that the branch leaves; any mark if not given.
    pub mark: Option<String>,
    /// How many times it may be reached before.
    pub left: u32,
    /// What happens then.
    pub blow: Blow,
}

impl World {
    /// Counts a turn and says whether it is the crash point.
    pub(super) fn trap_now(&mut self, host: HostId) -> Option<Trap> {
        let entry = self.host_mut(host);
        entry.turns += 1;
        let turn = entry.turns;
        let now = Moment::Turn(turn);
        let met = self.trap.take_if(|trap| trap.host == host && trap.at == now)?;
        *self.tally.faults.entry("crash_point").or_default() += 1;
        Some(met)
    }

    /// Whether the crash point lies in one of the next steps on a host's data files, and before
    /// which.
    pub(super) fn trap_at_disk(&mut self, host: HostId, next: u64, count: u64) -> Option<u64> {
        let trap = self.trap.filter(|trap| trap.host == host)?;
        match trap.at {
            Moment::Step(step) if (next..next + count).contains(&step) => Some(step),
            Moment::Step(_) | Moment::Turn(_) => None,
        }
    }

    /// The crash point between two steps on a host's data files has come.
    pub(super) fn spring_at_disk(&mut self, host: HostId) {
        let Some(trap) = self.trap.take() else { return };
        *self.tally.faults.entry("crash_point").or_default() += 1;
        match trap.blow {
            Blow::Blackout(fate) => self.blackout = Some(fate),
            Blow::PowerOff => self.power_off(host),
            _ => self.kill(host),
        }
    }

    /// Whether one of these marks, left by a turn at `host`, is one that an ambush waits for.
    pub(super) fn ambushed(&mut self, host: HostId, marks: &[&'static str]) -> Option<Trap> {
        let met = |ambush: &Ambush| {
            ambush.host.is_none_or(|wanted| wanted == host)
                && ambush.mark.as_ref().is_none_or(|wanted| marks.iter().any(|mark| mark == wanted))
        };
        let ambush = self.ambush.as_mut().filter(|ambush| met(ambush))?;
        if ambush.left > 0 {
            ambush.left -= 1;
            return None;
        }
        let blow = ambush.blow;
        self.ambush = None;
        let (now, name) = (self.now, self.host(host).name.clone());
        self.trace.note(now, || format!("AMBUSH at {name}: {marks:?} {blow:?}"));
        *self.tally.faults.entry("ambush").or_default() += 1;
        Some(Trap { host, at: Moment::Turn(0), blow })
    }

    /// The crash point has come; the turn has been taken but nothing has left.
    pub(super) fn spring(&mut self, trap: Trap, id: ProcId, host: HostId) {
        match trap.blow {
            Blow::Before | Blow::OutputsLost => self.kill(host),
            Blow::Prefix(links) => {
                self.flush(id, links);
                self.kill(host);
            }
            Blow::OnlyClients => {
                self.flush_to_clients(id);
                self.kill(host);
            }
            Blow::CutOff => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.isolate(host);
            }
            Blow::PowerOff => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.power_off(host);
            }
            Blow::Blackout(fate) => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.blackout = Some(fate);
            }
            Blow::PowerCut => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.power_cut = true;
            }
            Blow::DiskFails(later) => {
                self.execute_effects(id);
                self.flush(id, usize::MAX);
                self.strike(&Fault::DiskFails(host, later));
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

    /// Looks for watched messages in bytes that are leaving; says whether they stay behind.
    pub(super) fn look_at_frames(&mut self, key: ConnKey, from: usize, bytes: &[u8]) -> bool {
        let Some(conn) = self.net.conn(key) else { return false };
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
                watch.left -= u32::from(fits);
                if !fits || watch.left > 0 {
                    continue;
                }
                match watch.price {
                    Price::Death(victim, before) => {
                        self.condemned = Some(victim.unwrap_or(sender));
                        return before;
                    }
                    Price::Connection => {
                        *self.tally.faults.entry("broken_at_message").or_default() += 1;
                        self.break_conn(key);
                        return true;
                    }
                    Price::Time(length) => {
                        *self.tally.faults.entry("stalled_at_message").or_default() += 1;
                        self.hold_back(key, from, self.now + length);
                        return false;
                    }
                    Price::Fault(index) => {
                        self.agenda.push(self.now, Event::Provoked(index));
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Executes whoever a watched frame has cost; true if it was `host`.
    pub(super) fn execute_condemned(&mut self, host: HostId) -> bool {
        let Some(victim) = self.condemned.take() else { return false };
        *self.tally.faults.entry("killed_at_message").or_default() += 1;
        self.kill(victim);
        victim == host
    }

    /// Whether a host is dead for good.
    #[must_use]
    pub fn is_dead(&self, host: HostId) -> bool {
        matches!(self.host(host).life, Life::Killed | Life::Dark)
    }
}
