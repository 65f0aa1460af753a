//! What `dev start` remembers for the commands that follow: one small file in the user's state
//! directory.
//!
//! Invariant: at most one dev cluster per state directory; the lock is held while it is started or
//! stopped.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::process::{Condition, ProcessId};
use crate::cli::error::{CliError, Trouble};

/// One data node of a dev cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevNode {
    /// Its node id.
    pub node: u16,
    /// Its process.
    #[serde(flatten)]
    pub process: ProcessId,
    /// `host:port`.
    pub addr: String,
    /// `host:port` of its admin port.
    #[serde(default)]
    pub admin: Option<String>,
    /// Its zone, or empty.
    pub zone: String,
    /// Its node group.
    pub group: u16,
    /// The command line that starts it again, at the same address on the same directory.
    #[serde(default)]
    pub args: Vec<String>,
}

/// One management server of a dev cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevMgmt {
    /// Its number.
    pub id: u16,
    /// Its process.
    #[serde(flatten)]
    pub process: ProcessId,
    /// `host:port`.
    pub addr: String,
    /// `host:port` of its admin port.
    #[serde(default)]
    pub admin: Option<String>,
    /// The command line that starts it again, at the same address on the same directory.
    #[serde(default)]
    pub args: Vec<String>,
}

/// A process of a dev cluster, as people name it: a data node `3` or `n3`, a server `m1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// A data node.
    Node(u16),
    /// A management server.
    Mgmt(u16),
}

impl Which {
    /// The data node, if it is one.
    #[must_use]
    pub fn node(self) -> Option<u16> {
        match self {
            Self::Node(id) => Some(id),
            Self::Mgmt(_) => None,
        }
    }

    /// The management server, if it is one.
    #[must_use]
    pub fn mgmt(self) -> Option<u16> {
        match self {
            Self::Node(_) => None,
            Self::Mgmt(id) => Some(id),
        }
    }
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, which): (_, fn(u16) -> Self) = match text.strip_prefix('m') {
            Some(digits) => (digits, Self::Mgmt),
            None => (text.strip_prefix('n').unwrap_or(text), Self::Node),
        };
        let wrong = "a process is a data node, such as 3 or n3, or a management server, such as m1";
        digits.parse().map(which).map_err(|_| wrong.to_owned())
    }
}

impl Display for Which {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "data node {id}"),
            Self::Mgmt(id) => write!(f, "management server {id}"),
        }
    }
}

/// A dev cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevState {
    /// `lockstep.dev/v1`.
    pub schema: String,
    /// What clients connect to.
    pub url: String,
    /// Where directories and logs lie.
    pub dir: PathBuf,
    /// Whether `dev stop` leaves the directory.
    pub keep: bool,
    /// When it was started, seconds since 1970.
    pub started: u64,
    /// Management servers.
    pub mgmt: Vec<DevMgmt>,
    /// Data nodes, by node id.
    pub nodes: Vec<DevNode>,
}

impl DevState {
    /// The schema of this version.
    pub const SCHEMA: &'static str = "lockstep.dev/v1";

    /// What commands connect to now: the management servers, or the data nodes that run when none
    /// of those does.
    #[must_use]
    pub fn url_now(&self) -> String {
        let runs = |process: &ProcessId| process.condition() != Condition::Gone;
        let nodes = self.nodes.iter().filter(|node| runs(&node.process));
        let addrs: Vec<&str> = nodes.map(|node| node.addr.as_str()).collect();
        match addrs.is_empty() || self.mgmt.iter().any(|mgmt| runs(&mgmt.process)) {
            true => self.url.clone(),
            false => format!("lockstep://{}", addrs.join(",")),
        }
    }

    /// All processes, data nodes first.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> {
        let nodes = self.nodes.iter().map(|n| n.process);
        nodes.chain(self.mgmt.iter().map(|m| m.process))
    }

    /// Whether any of its processes is still there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.processes().any(|p| p.condition() != Condition::Gone)
    }

    /// The last process of this name.
    #[must_use]
    pub fn process(&self, which: Which) -> Option<ProcessId> {
        match which {
            Which::Node(id) => self.nodes.iter().find(|n| n.node == id).map(|n| n.process),
            Which::Mgmt(id) => self.mgmt.iter().find(|m| m.id == id).map(|m| m.process),
        }
    }

    /// Where the admin port of a process is, if it has one.
    #[must_use]
    pub fn admin(&self, which: Which) -> Option<String> {
        match which {
            Which::Node(id) => self.nodes.iter().find(|n| n.node == id)?.admin.clone(),
            Which::Mgmt(id) => self.mgmt.iter().find(|m| m.id == id)?.admin.clone(),
        }
    }

    /// That there is no such process, and which there are.
    #[must_use]
    pub fn no_such(&self, which: Which) -> CliError {
        let nodes = self.nodes.iter().map(|node| node.node.to_string());
        let mgmt = self.mgmt.iter().map(|mgmt| format!("m{}", mgmt.id));
        let all: Vec<String> = nodes.chain(mgmt).collect();
        CliError::new(Trouble::NoSuchNode, format!("the dev cluster has no {which}"))
            .why(format!("its processes are {}", all.join(", ")))
    }
}

/// The user's state directory for Lockstep.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// Exclusive use of the state directory; ends when dropped.
pub struct StateLock {
    _file: File,
}

impl StateDir {
    /// `$XDG_STATE_HOME/lockstep`, or `~/.local/state/lockstep`.
    ///
    /// # Errors
    /// If neither is known.
    pub fn of_user() -> io::Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let base = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .ok_or_else(|| io::Error::other("neither XDG_STATE_HOME nor HOME is set"))?;
        Ok(Self(base.join("lockstep")))
    }

    /// A state directory at a path of its own.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file with the dev cluster.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.0.join("dev.json")
    }

    /// Takes the lock without waiting; `None` if another process has it.
    ///
    /// # Errors
    /// If the directory cannot be made or the file cannot be opened.
    pub fn lock(&self) -> io::Result<Option<StateLock>> {
        fs::create_dir_all(&self.0)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.0.join("dev.lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StateLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The recorded dev cluster, whether or not it still lives.
    ///
    /// # Errors
    /// If the file is there but cannot be read or understood.
    pub fn load(&self) -> io::Result<Option<DevState>> {
        let text = match fs::read_to_string(self.file()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let state: DevState = serde_json::from_str(&text).map_err(io::Error::other)?;
        if state.schema != DevState::SCHEMA {
            return Err(io::Error::other(format!("unknown schema {:?}", state.schema)));
        }
        Ok(Some(state))
    }

    /// Records a dev cluster, replacing the file as a whole.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn store(&self, state: &DevState) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let partial = self.0.join("dev.json.new");
        let mut file = File::create(&partial)?;
        let text = serde_json::to_string_pretty(state).map_err(io::Error::other)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        fs::rename(&partial, self.file())
    }

    /// Forgets the dev cluster.
    ///
    /// # Errors
    /// Those of the file system; a missing file is fine.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> DevState {
        let process = ProcessId { pid: i32::MAX, start_ticks: 1 };
        let addr = "127.0.0.1:4000".to_owned();
        DevState {
            schema: DevState::SCHEMA.into(),
            url: "lockstep://127.0.0.1:1186".into(),
            dir: "/tmp/x".into(),
            keep: true,
            started: 7,
            mgmt: vec![DevMgmt {
                id: 1,
                process,
                addr: "127.0.0.1:1186".into(),
                admin: None,
                args: vec![],
            }],
            nodes: vec![DevNode {
                node: 3,
                process,
                addr,
                admin: Some("127.0.0.1:4001".into()),
                zone: "a".into(),
                group: 0,
                args: vec![],
            }],
        }
    }

    #[test]
    fn processes_are_named_as_people_and_logs_do() {
        let read = |text: &str| text.parse::<Which>().ok();
        assert_eq!(read("3"), Some(Which::Node(3)));
        assert_eq!([read("n3"), read("m1")], [Some(Which::Node(3)), Some(Which::Mgmt(1))]);
        for bad in ["", "m", "mm1", "mgmt1", "nm1", "-1", "m70000"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let state = example();
        assert!(state.process(Which::Mgmt(1)).is_some() && state.process(Which::Node(1)).is_none());
        assert_eq!(state.url_now(), state.url, "nothing runs");
        let mut state = state;
        state.nodes[0].process = ProcessId::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(state.url_now(), "lockstep://127.0.0.1:4000");
        state.mgmt[0].process = state.nodes[0].process;
        assert_eq!(state.url_now(), state.url);
        assert_eq!(state.no_such(Which::Node(1)).why, "its processes are 3, m1");
    }

    #[test]
    fn remembers_and_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(&dir.path().join("deep/lockstep"));
        assert_eq!(state_dir.load().unwrap(), None);
        state_dir.clear().unwrap();
        state_dir.store(&example()).unwrap();
        assert_eq!(state_dir.load().unwrap(), Some(example()));
        assert!(!example().is_alive(), "no process has that number");
        state_dir.clear().unwrap();
        assert_eq!(state_dir.load().unwrap(), None);
    }

    #[test]
    fn only_one_at_a_time_starts_or_stops() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path());
        let held = state_dir.lock().unwrap().expect("free");
        assert!(state_dir.lock().unwrap().is_none());
        drop(held);
        assert!(state_dir.lock().unwrap().is_some());
    }

    #[test]
    fn a_broken_file_is_an_error_not_an_empty_state() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::at(dir.path());
        fs::write(state_dir.file(), "{").unwrap();
        assert!(state_dir.load().is_err());
    }
}
