//! Faults as data, and how each is done to the world. A fault names its targets, so that a list of
//! them can be printed, replayed and shortened; many end by themselves after a while.

use lockstep_proto::disk::DiskError;
use lockstep_proto::process::LinkEnd;

use super::core::Core;
use super::event::Event;
use super::host::{HostId, Item};
use super::net::{Cut, End, EndState, Payload};
use super::trap::{Ambush, Blow};
use super::world::World;

/// How long an ambush is kept up.
pub const AMBUSH_NS: u64 = 3_000_000_000;

/// Something bad that happens to hosts or to paths between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL.
    Kill(HostId),
    /// The machine loses power: silence.
    PowerOff(HostId),
    /// SIGSTOP for so many ns; `true`: between a turn's work and the sending of its outputs.
    Pause(HostId, u64, bool),
    /// SIGTERM.
    Terminate(HostId),
    /// A set of hosts is cut off from the rest for so long: both ways, or only what they send.
    Split {
        /// One side.
        side: Vec<HostId>,
        /// The other.
        rest: Vec<HostId>,
        /// How.
        cut: Cut,
        /// Whether only what `side` sends is lost.
        one_way: bool,
        /// For how long; `u64::MAX` until the end.
        length: u64,
    },
    /// Every connection between two hosts breaks.
    Break(HostId, HostId),
    /// One connection between two hosts breaks; the number picks which.
    BreakOne(HostId, HostId, u64),
    /// Nothing arrives from one host at the other for so long; then all of it.
    Clog(HostId, HostId, u64),
    /// Everything between two hosts takes longer for a while: extra delay, for so long.
    Slow(HostId, HostId, u64, u64),
    /// The path between two hosts is cut and whole again, so many times, each for so long.
    Flap(HostId, HostId, u32, u64),
    /// A host's processor is slower by this factor for so long.
    Burden(HostId, u64, u64),
    /// A host's disk is slower to its shards by this factor for so long.
    DiskSlow(HostId, u64, u64),
    /// A host's disk does not answer for so long: not to its shards, and no view or register or
    /// record of a backup is stored.
    DiskStall(HostId, u64),
    /// A host's disk does not answer its shards for so long. Whoever cannot store a view for about
    /// as long as others wait for a silent member is left out; this is for those who are to stay.
    DataStall(HostId, u64),
    /// A host's disk takes so many bytes more, for so long.
    DiskFull(HostId, usize, u64),
    /// No checkpoint can be removed from a host's disk, for so long.
    DiskKeeps(HostId, u64),
    /// A step of what a host asks of its disk fails, so many from now.
    DiskFails(HostId, u64),
    /// What the shards of one host send those of another arrives only after so long, while
    /// everything else between them passes.
    Stall(HostId, HostId, u64),
    /// What the control core of one host sends that of another arrives only after so long, while
    /// everything else between them passes.
    Mute(HostId, HostId, u64),
    /// The first host loses its connections to the second; what it has sent on them arrives all
    /// the same, so much later.
    Linger(HostId, HostId, u64),
    /// A host is struck when it reaches a branch that leaves this mark, if it does so soon.
    Ambush(HostId, &'static str, Blow),
}

/// What ends a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// A stopped host goes on.
    Resume(HostId),
    /// A path is whole again.
    Whole(HostId, HostId),
    /// A path is as fast as before.
    Fast(HostId, HostId, u64),
    /// A path is cut again: how often it will be, for how long each.
    FlapOn(HostId, HostId, u32, u64),
    /// A disk is as fast, and as empty, as before.
    DiskWell(HostId),
    /// A processor is as fast as before.
    Relieve(HostId),
    /// Nobody is waited for any more.
    Disarm,
}

/// A planned ending; taken once.
pub type Restore = Option<Ending>;

impl Fault {
    /// The class under which reports count it.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::PowerOff(_) => "power_off",
            Self::Pause(..) => "pause",
            Self::Terminate(_) => "terminate",
            Self::Split { one_way: true, .. } => "one_way_cut",
            Self::Split { cut: Cut::Reject, .. } => "cut_reject",
            Self::Split { .. } => "cut",
            Self::Break(..) | Self::BreakOne(..) => "reset",
            Self::Clog(..) => "clog",
            Self::Slow(..) => "slow_link",
            Self::Flap(..) => "flap",
            Self::Burden(..) => "slow_processor",
            Self::DiskSlow(..) => "slow_disk",
            Self::DiskStall(..) => "stalled_disk",
            Self::DataStall(..) => "stalled_data",
            Self::DiskFull(..) => "full_disk",
            Self::DiskKeeps(..) => "undeletable_files",
            Self::DiskFails(..) => "failed_disk",
            Self::Stall(..) => "stalled_link",
            Self::Mute(..) => "muted_control",
            Self::Linger(..) => "lingering_bytes",
            Self::Ambush(..) => "ambush_laid",
        }
    }
}

impl World {
    /// Does a fault to the world.
    pub fn strike(&mut self, fault: &Fault) {
        let now = self.now;
        self.trace.note(now, || format!("FAULT {fault:?}"));
        *self.tally.faults.entry(fault.class()).or_default() += 1;
        self.hash = self.hash.rotate_left(11) ^ now;
        match *fault {
            Fault::Kill(host) => self.kill(host),
            Fault::PowerOff(host) => self.power_off(host),
            Fault::Pause(host, length, holding) => {
                self.pause(host, holding);
                self.restore_later(length, Ending::Resume(host));
            }
            Fault::Terminate(host) => {
                for proc in self.host(host).procs.clone() {
                    self.deliver(proc, Item::Terminate);
                }
            }
            Fault::Split { ref side, ref rest, cut, one_way, length } => {
                self.split(side, rest, cut, one_way, length);
            }
            Fault::Break(a, b) => self.break_between(a, b),
            Fault::BreakOne(a, b, which) => {
                let keys = self.net.keys_between(a, b);
                if !keys.is_empty() {
                    self.break_conn(keys[usize::try_from(which).unwrap_or(0) % keys.len()]);
                }
            }
            Fault::Clog(a, b, length) => {
                self.net.path_mut(a, b).clogged_until = now + length;
            }
            Fault::Slow(a, b, extra, length) => {
                for (from, to) in [(a, b), (b, a)] {
                    self.net.path_mut(from, to).delay_ns += extra;
                    self.restore_later(length, Ending::Fast(from, to, extra));
                }
            }
            Fault::Flap(a, b, times, length) => self.flap(a, b, times, length),
            Fault::Stall(a, b, length) => {
                self.stall(a, b, now + length, |core| matches!(core, Core::Shard(_)));
            }
            Fault::Mute(a, b, length) => {
                self.stall(a, b, now + length, |core| matches!(core, Core::Control(_)));
            }
            Fault::Linger(a, b, late) => self.linger(a, b, now + late),
            Fault::Ambush(host, mark, blow) => {
                let (host, mark) = (Some(host), Some(mark.to_owned()));
                self.ambush = Some(Ambush { host, mark, left: 0, blow });
                self.restore_later(AMBUSH_NS, Ending::Disarm);
            }
            Fault::DiskSlow(host, factor, length) => {
                self.host_mut(host).disk.slowness = factor;
                self.restore_later(length, Ending::DiskWell(host));
            }
            Fault::DataStall(host, length) => self.stall_disk(host, length, false),
            Fault::DiskStall(host, length) => self.stall_disk(host, length, true),
            Fault::DiskFull(host, left, length) => {
                self.fill_disk(host, left);
                self.restore_later(length, Ending::DiskWell(host));
            }
            Fault::DiskKeeps(host, length) => self.keep_checkpoints(host, length),
            Fault::DiskFails(host, later) => {
                let files = &mut self.host_mut(host).disk.files;
                files.fail_at(files.steps() + later, DiskError::Failed);
            }
            Fault::Burden(host, factor, length) => {
                self.host_mut(host).slowness = factor;
                self.restore_later(length, Ending::Relieve(host));
            }
        }
    }

    fn keep_checkpoints(&mut self, host: HostId, length: u64) {
        self.host_mut(host).disk.files.keep_checkpoints(true);
        self.restore_later(length, Ending::DiskWell(host));
    }

    fn stall_disk(&mut self, host: HostId, length: u64, stores: bool) {
        let until = self.now + length;
        let disk = &mut self.host_mut(host).disk;
        disk.stalled_until = until;
        if stores {
            disk.stores_stalled_until = until;
        }
        self.restore_later(length, Ending::DiskWell(host));
    }

    fn split(&mut self, side: &[HostId], rest: &[HostId], cut: Cut, one_way: bool, length: u64) {
        for &a in side {
            for &b in rest {
                self.cut(a, b, cut);
                if !one_way {
                    self.cut(b, a, cut);
                }
                if length != u64::MAX {
                    self.restore_later(length, Ending::Whole(a, b));
                    if !one_way {
                        self.restore_later(length, Ending::Whole(b, a));
                    }
                }
            }
        }
    }

    fn flap(&mut self, a: HostId, b: HostId, times: u32, length: u64) {
        if times == 0 {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            self.cut(from, to, Cut::Silent);
            self.restore_later(length, Ending::Whole(from, to));
        }
        self.restore_later(2 * length, Ending::FlapOn(a, b, times - 1, length));
    }

    fn stall(&mut self, a: HostId, b: HostId, until: u64, between: impl Fn(&Core) -> bool) {
        for key in self.net.keys_between(a, b) {
            let ends = self.net.conn(key).expect("listed").ends;
            let meant =
                |end: &End| self.procs[end.proc.index()].core.as_ref().is_some_and(&between);
            if ends.iter().all(meant) {
                self.hold_back(key, usize::from(ends[0].host != a), until);
            }
        }
    }

    fn linger(&mut self, a: HostId, b: HostId, until: u64) {
        for key in self.net.keys_between(a, b) {
            let ends = self.net.conn(key).expect("listed").ends;
            let from = usize::from(ends[0].host != a);
            let EndState::Open(link) = ends[from].state else { continue };
            self.hold_back(key, from, until);
            self.close_end(key, from);
            self.push(key, from, Payload::End(LinkEnd::Reset));
            self.deliver(ends[from].proc, Item::Down(link, LinkEnd::Reset));
        }
    }

    /// Cuts what one host sends another.
    pub fn cut(&mut self, from: HostId, to: HostId, cut: Cut) {
        let now = self.now;
        let path = self.net.path_mut(from, to);
        if path.cut == Cut::Open {
            path.cut_since = now;
        }
        path.cut = cut;
        path.cuts += 1;
    }

    /// Ends one cut of a path; the last one makes it whole.
    pub fn mend(&mut self, from: HostId, to: HostId) {
        let path = self.net.path_mut(from, to);
        path.cuts = path.cuts.saturating_sub(1);
        if path.cuts == 0 && path.cut != Cut::Open {
            path.cut = Cut::Open;
            self.resume_path(from, to);
        }
    }

    /// Plans the end of a fault.
    pub fn restore_later(&mut self, after: u64, ending: Ending) {
        let index = u32::try_from(self.restores.len()).expect("few faults");
        self.restores.push(Some(ending));
        self.agenda.push(self.now + after, Event::Restore(index));
    }

    pub(super) fn on_restore(&mut self, index: u32) {
        let Some(ending) = self.restores[index as usize].take() else { return };
        self.end_fault(ending);
    }

    fn end_fault(&mut self, ending: Ending) {
        let now = self.now;
        self.trace.note(now, || format!("RESTORE {ending:?}"));
        match ending {
            Ending::Resume(host) => self.resume(host),
            Ending::Whole(a, b) => self.mend(a, b),
            Ending::Fast(a, b, extra) => self.net.path_mut(a, b).delay_ns -= extra,
            Ending::FlapOn(a, b, times, length) => self.flap(a, b, times, length),
            Ending::DiskWell(host) => self.heal_disk(host),
            Ending::Relieve(host) => self.host_mut(host).slowness = 1,
            Ending::Disarm => self.ambush = None,
        }
    }

    /// Ends every fault that can end: the second phase of a run begins.
    pub fn heal(&mut self) {
        for index in 0..self.restores.len() {
            match self.restores[index].take() {
                Some(Ending::FlapOn(..)) | None => {}
                Some(ending) => self.end_fault(ending),
            }
        }
        let count = u16::try_from(self.hosts.len()).expect("at most HOSTS_MAX hosts");
        for a in (0..count).map(HostId) {
            self.resume(a);
            for b in (0..count).map(HostId) {
                let path = self.net.path_mut(a, b);
                path.loss_one_in = 0;
                path.clogged_until = path.clogged_until.min(self.now);
                path.cuts = 0;
                self.mend(a, b);
            }
        }
    }
}
