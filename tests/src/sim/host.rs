//! Hosts (one operating-system process each: a data node, a management server, a client) and the
//! protocol processes inside them, with their inbox, their timer and their files.

use std::collections::{BTreeMap, VecDeque};

use lockstep_cluster::Restored;
use lockstep_proto::disk::{Completion, Lane};
use lockstep_proto::ids::{Epoch, NodeInstance};
use lockstep_proto::process::{DialError, LinkEnd, LinkId, Outputs, Peer, StoredFile, Target};

use lockstep_storage::restore::Owner;

use super::clock::HostClock;
use super::core::Core;
use super::disk::HostDisk;
use super::net::ConnKey;

/// A host of the simulated network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u16);

/// A process (one core on one host). Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcId(pub u32);

impl ProcId {
    /// As an index into the world's table.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// A data node: control first, then its shards.
    Data(NodeInstance),
    /// A machine on which a data node may be started: it has no identity yet.
    Fresh,
    /// A management server or API-node arbitrator.
    Mgmt(lockstep_proto::ids::MgmtId),
    /// A client with a workload.
    Client,
    /// Something that speaks rubbish.
    Rogue,
    /// Machinery of the simulator's own tests.
    Toy,
}

/// Whether a host runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It runs.
    Running,
    /// It is stopped (SIGSTOP); its clock and its kernel go on.
    Paused {
        /// When it stopped.
        since: u64,
    },
    /// Its process is gone; the kernel refuses connections.
    Killed,
    /// The machine is gone; nobody answers.
    Dark,
}

/// One operating-system process on one machine.
pub struct Host {
    /// For traces.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its zone.
    pub zone: u16,
    /// Where it listens; empty for clients.
    pub addr: String,
    /// Its clock.
    pub clock: HostClock,
    /// Whether it runs.
    pub life: Life,
    /// Its processes.
    pub procs: Vec<ProcId>,
    /// Durable files.
    pub files: BTreeMap<StoredFile, Vec<u8>>,
    /// Writes under way.
    pub stores: VecDeque<Store>,
    /// How long a durable write takes, at least and at most.
    pub store_ns: (u64, u64),
    /// Its data files.
    pub disk: HostDisk,
    /// How many shard cores the process has.
    pub shards: u16,
    /// Whose data files they must be, once it has been started again.
    pub owner: Option<Owner>,
    /// What was restored from them, for the cores that are started next.
    pub restored: Option<Restored>,
    /// How much slower than usual its processor is.
    pub slowness: u64,
    /// Turns its processes have taken: what the crash-point sweep counts.
    pub turns: u64,
    /// Connection attempts that wait for it to continue.
    pub knocks: Vec<u32>,
    /// Outputs are held back until the host continues.
    pub holding: bool,
    /// The exit it asked for.
    pub exit: Option<lockstep_proto::process::Exit>,
}

/// A durable write under way.
pub struct Store {
    /// For matching the completion.
    pub number: u32,
    /// Who asked.
    pub proc: ProcId,
    /// For the answer.
    pub token: u64,
    /// Which file.
    pub file: StoredFile,
    /// Its new content.
    pub bytes: Vec<u8>,
}

/// Something waiting in a process's inbox.
#[derive(Debug)]
pub enum Item {
    /// Whole frames, with their length prefixes.
    Bytes(LinkId, Vec<u8>),
    /// A link is up.
    Up(LinkId, Peer),
    /// A link is down.
    Down(LinkId, LinkEnd),
    /// A connection attempt came to nothing.
    DialFailed(Target, String, DialError),
    /// A file is on disk.
    Stored(u64, bool),
    /// Steps on data files were executed.
    Disk(Lane, Completion),
    /// The answer to a measurement.
    Measured(u64),
    /// The node's files were looked at, or restored from.
    Recovered(u64, Result<Epoch, String>),
    /// The operator asks it to leave.
    Terminate,
}

/// One core with its surroundings.
pub struct Proc {
    /// Where it runs.
    pub host: HostId,
    /// For traces.
    pub name: String,
    /// The core; `None` once its host has died.
    pub core: Option<Core>,
    /// What it wants.
    pub out: Outputs,
    /// What waits to be read.
    pub inbox: Vec<Item>,
    /// When its next wake-up is on the agenda; `u64::MAX` for none.
    pub wake_at: u64,
    /// Busy with the last turn until then.
    pub busy_until: u64,
    /// The local clock it saw last.
    pub last_now: lockstep_proto::time::Instant,
    /// By link slot: which connection and which end of it.
    pub links: Vec<Option<(LinkId, ConnKey, u8)>>,
    /// Links whose output is held back while the host is stopped.
    pub held: Vec<LinkId>,
}

impl Proc {
    /// The connection behind a link, if it is still there.
    #[inline]
    #[must_use]
    pub fn conn_of(&self, link: LinkId) -> Option<(ConnKey, u8)> {
        match self.links.get(link.slot as usize) {
            Some(Some((known, conn, end))) if *known == link => Some((*conn, *end)),
            _ => None,
        }
    }

    /// Remembers which connection a link is.
    pub fn bind(&mut self, link: LinkId, conn: ConnKey, end: u8) {
        let slot = link.slot as usize;
        if self.links.len() <= slot {
            self.links.resize(slot + 1, None);
        }
        self.links[slot] = Some((link, conn, end));
    }

    /// Forgets a link.
    pub fn unbind(&mut self, link: LinkId) {
        if self.conn_of(link).is_some() {
            self.links[link.slot as usize] = None;
        }
        self.out.close_link(link);
    }
}
