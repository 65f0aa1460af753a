//! A host's disk: requests take a while and are then executed on a disk in memory.
//!
//! A process that is killed has had any number of a request's steps taken; a machine that loses
//! power keeps of what was not synced what the disk happens to keep.

use std::collections::VecDeque;

use lockstep_proto::disk::{FileName, Lane, Op, Request};
use lockstep_storage::disk::{Fate, FileFault, SimulatedDisk};

use super::event::Event;
use super::host::{HostId, Item, ProcId, Store};
use super::world::World;

/// Which files rot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rotting {
    /// Checkpoints.
    Checkpoints,
    /// The redo log.
    Redo,
}

/// A request that is being executed.
struct Waiting {
    number: u32,
    proc: ProcId,
    lane: Lane,
    request: Request,
}

/// See the module text.
pub struct HostDisk {
    /// What is on it.
    pub files: SimulatedDisk,
    /// How long a sync takes, at least and at most; other steps take next to nothing.
    pub sync_ns: (u64, u64),
    /// How much slower than usual it is.
    pub slowness: u64,
    /// It does not answer shards before this time, and stores nothing small before that one.
    pub stalled_until: u64,
    /// See there.
    pub stores_stalled_until: u64,
    /// Where bits have flipped.
    pub rot: Vec<(FileName, u64)>,
    /// It says that it has synced, and has not.
    pub lies: bool,
    /// It is not the disk it was: the machine was replaced.
    pub replaced: bool,
    waiting: VecDeque<Waiting>,
    next: u32,
}

/// What a request takes beside its syncs.
const REQUEST_NS: u64 = 20_000;

impl Default for HostDisk {
    fn default() -> Self {
        Self {
            files: SimulatedDisk::default(),
            sync_ns: (100_000, 2_000_000),
            slowness: 1,
            stalled_until: 0,
            stores_stalled_until: 0,
            rot: Vec::new(),
            lies: false,
            replaced: false,
            waiting: VecDeque::new(),
            next: 0,
        }
    }
}

impl HostDisk {
    /// Its data files are set aside; it is as good as new.
    pub fn set_data_aside(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        files.set_data_aside();
        // Parts of backups whose disk has lied stay what they are.
        let replaced = self.replaced || self.lies;
        *self = Self { files, replaced, ..Self::default() };
    }

    /// Whether a fault is the disk's: it names a file that has rotted, and a place not behind the
    /// flipped bit, or the disk has lied.
    #[must_use]
    pub fn explains(&self, fault: &FileFault) -> bool {
        let rotten = self.rot.iter().any(|(file, at)| *file == fault.file && fault.offset <= *at);
        rotten || self.lies
    }
}

impl World {
    /// One bit flips in each file of a kind on a host's disk, behind its header.
    pub(super) fn rot(&mut self, host: HostId, kind: Rotting) {
        let files = self.host(host).disk.files.files();
        let rots = |name: &FileName| match kind {
            Rotting::Checkpoints => matches!(name, FileName::Checkpoint(_)),
            Rotting::Redo => matches!(name, FileName::Segment(_)),
        };
        let chosen = files.filter(|(name, bytes)| rots(name) && bytes.len() > 8);
        let all: Vec<_> = chosen.map(|(name, bytes)| (name, bytes.to_vec())).collect();
        for (name, mut bytes) in all {
            let at = bytes.len() / 8 + self.rng.index(bytes.len() / 2);
            bytes[at] ^= 1 << self.rng.below(8);
            let disk = &mut self.host_mut(host).disk;
            disk.files.overwrite(name, bytes);
            disk.rot.push((name, at as u64));
        }
        *self.tally.faults.entry("rot").or_default() += 1;
    }

    /// From now on what a disk says to have synced is not durable.
    pub(super) fn let_disk_lie(&mut self, host: HostId) {
        let disk = &mut self.host_mut(host).disk;
        disk.files.lie();
        disk.lies = true;
        *self.tally.faults.entry("lying_disk").or_default() += 1;
    }

    /// A process wants something done on its host's disk.
    pub(super) fn on_disk_request(&mut self, id: ProcId, lane: Lane, request: Request) {
        let host = self.procs[id.index()].host;
        let syncs =
            request.ops.iter().filter(|op| matches!(op, Op::Sync(_) | Op::SyncDirectory(_)));
        let syncs = syncs.count() as u64;
        let HostDisk { sync_ns: (low, high), slowness, .. } = self.host(host).disk;
        let took = (REQUEST_NS + syncs * self.rng.range(low, high)) * slowness;
        let disk = &mut self.host_mut(host).disk;
        let number = disk.next;
        disk.next += 1;
        let busy = disk.waiting.iter().any(|other| other.proc == id && other.lane == lane);
        disk.waiting.push_back(Waiting { number, proc: id, lane, request });
        if busy {
            let name = &self.procs[id.index()].name;
            let text = format!("{name} has two requests out in its lane {lane:?}");
            self.violation(text);
        }
        self.agenda.push(self.now + took, Event::Disk(host, number));
    }

    pub(super) fn on_disk_done(&mut self, host: HostId, number: u32) {
        let now = self.now;
        let disk = &mut self.host_mut(host).disk;
        if disk.stalled_until > now {
            let at = disk.stalled_until;
            return self.agenda.push(at, Event::Disk(host, number));
        }
        let Some(at) = disk.waiting.iter().position(|waiting| waiting.number == number) else {
            return;
        };
        let Some(Waiting { proc, lane, request, .. }) = disk.waiting.remove(at) else { return };
        let (next, count) = (disk.files.steps(), request.ops.len() as u64);
        if let Some(step) = self.trap_at_disk(host, next, count) {
            self.host_mut(host).disk.files.execute_some(request, step);
            return self.spring_at_disk(host);
        }
        let disk = &mut self.host_mut(host).disk;
        let done = disk.files.execute(request);
        self.deliver(proc, Item::Disk(lane, done));
    }

    /// A file of a process is stored, unless the disk is stalled.
    pub(super) fn on_stored(&mut self, host_id: HostId, number: u32) {
        let now = self.now;
        let host = self.host_mut(host_id);
        let Some(at) = host.stores.iter().position(|store| store.number == number) else { return };
        if host.disk.stores_stalled_until > now {
            let at = host.disk.stores_stalled_until;
            return self.agenda.push(at, Event::Stored(host_id, number));
        }
        // One thread stores what a process wants, in order: those before this one are done, too.
        let done: Vec<Store> = host.stores.drain(..=at).collect();
        for Store { proc, token, file, bytes, .. } in done {
            self.host_mut(host_id).files.insert(file, bytes);
            self.deliver(proc, Item::Stored(token, true));
        }
    }

    /// A disk has no more space than this.
    pub(super) fn fill_disk(&mut self, host: HostId, left: usize) {
        let files = &mut self.host_mut(host).disk.files;
        let used = files.used();
        files.set_capacity(Some(used + left));
    }

    /// A disk answers again, as fast as ever, and has space; what has failed on it has failed.
    pub(super) fn heal_disk(&mut self, host: HostId) {
        let now = self.now;
        let stores: Vec<u32> = self.host(host).stores.iter().map(|store| store.number).collect();
        for number in stores {
            self.agenda.push(now, Event::Stored(host, number));
        }
        let disk = &mut self.host_mut(host).disk;
        disk.slowness = 1;
        disk.stalled_until = disk.stalled_until.min(now);
        disk.stores_stalled_until = disk.stores_stalled_until.min(now);
        disk.files.set_capacity(None);
        disk.files.keep_checkpoints(false);
        let numbers: Vec<u32> = disk.waiting.iter().map(|waiting| waiting.number).collect();
        for number in numbers {
            self.agenda.push(now, Event::Disk(host, number));
        }
    }

    /// The processes of a host are gone: of each request some steps have been taken.
    pub(super) fn interrupt_disk(&mut self, host: HostId) {
        while let Some(waiting) = self.host_mut(host).disk.waiting.pop_front() {
            let taken = self.rng.below(waiting.request.ops.len() as u64 + 1);
            let files = &mut self.host_mut(host).disk.files;
            let steps = files.steps() + taken;
            files.execute_some(waiting.request, steps);
        }
    }

    /// The machine has lost power: of what was not synced, no more is left than the disk kept.
    pub(super) fn lose_unsynced(&mut self, host: HostId) {
        const FATES: [Fate; 4] = [Fate::Nothing, Fate::Everything, Fate::Prefix, Fate::Any];
        let drawn = *self.rng.pick(&FATES);
        let fate = self.fate.unwrap_or(drawn);
        let mut files = std::mem::take(&mut self.host_mut(host).disk.files);
        files.lose_power(fate, &mut |bound| self.rng.index(bound));
        self.host_mut(host).disk.files = files;
    }
}
