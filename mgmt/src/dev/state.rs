//! What `dev start` remembers for the commands that follow: one small file in the user's state
//! directory.
//!
//! Invariant: at most one dev cluster per state directory; the lock is held while it is started or
//! stopped.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::{Condition, ProcessId};

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

    /// The data node with this id.
    #[must_use]
    pub fn node(&self, node: u16) -> Option<&DevNode> {
        self.nodes.iter().find(|n| n.node == node)
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
