//! A whole cluster of child processes of this binary on free loopback ports.
//!
//! Invariant: a [`LocalCluster`] that is dropped leaves no process and no directory of its own
//! behind, unless it was released to live on.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use lockstep_proto::view::View;

use super::ports;
use super::process::{Condition, ProcessId, Signal, Tie, log_tail, spawn_self};
use super::ready;
use super::revive::args_like;
use super::state::{DevMgmt, DevNode, DevState};
use crate::cli::error::{CliError, CliResult, Trouble};

/// How long a process may take until it listens.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// What a local cluster looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Node groups.
    pub groups: u16,
    /// Data nodes per group.
    pub replicas: u16,
    /// Zones the replicas of a group are spread over; may be empty.
    pub zones: Vec<String>,
    /// Shards per data node.
    pub shards: u16,
    /// Partitions per table; the default if not given.
    pub partitions: Option<u16>,
    /// Management servers.
    pub mgmt: u16,
    /// How often changed partitions are written to checkpoints; the default if not given.
    pub checkpoint_interval: Option<Duration>,
    /// Nothing is written to disk: for measurements.
    pub volatile: bool,
}

impl Default for Shape {
    /// One group of one replica, as the product's defaults have the rest.
    fn default() -> Self {
        Self {
            groups: 1,
            replicas: 1,
            zones: Vec::new(),
            shards: 1,
            partitions: None,
            mgmt: 1,
            checkpoint_interval: None,
            volatile: false,
        }
    }
}

impl Shape {
    /// Two groups of two replicas in zones a and b.
    #[must_use]
    pub fn two_by_two() -> Self {
        let zones = vec!["a".to_owned(), "b".to_owned()];
        Self { groups: 2, replicas: 2, zones, ..Self::default() }
    }

    /// How many data nodes.
    #[must_use]
    pub fn nodes(&self) -> u16 {
        self.groups * self.replicas
    }

    /// The zone of a node: replicas of a group go round the zones.
    fn zone_of(&self, node: u16) -> &str {
        let replica = usize::from((node - 1) % self.replicas);
        self.zones.get(replica % self.zones.len().max(1)).map_or("", String::as_str)
    }
}

/// One process of a local cluster.
#[derive(Debug)]
struct Member {
    child: Child,
    process: ProcessId,
    addr: SocketAddr,
    admin: Option<SocketAddr>,
    /// What starts it again.
    again: Launch,
}

/// A running cluster of child processes.
#[derive(Debug)]
pub struct LocalCluster {
    dir: PathBuf,
    remove_dir: bool,
    mgmt: Vec<Member>,
    /// Data node `n` is at index `n - 1`.
    nodes: Vec<Member>,
    released: bool,
}

impl LocalCluster {
    /// Starts all processes under `dir`, which is made; returns when all of them listen.
    ///
    /// # Errors
    /// If the directory is in use or a process does not come up; nothing is left running then.
    pub fn start(shape: &Shape, dir: &Path, remove_dir: bool, tie: Tie) -> CliResult<Self> {
        fs::create_dir_all(dir).map_err(|e| CliError::file("make directory", dir, &e))?;
        let dir = dir.canonicalize().map_err(|e| CliError::file("find", dir, &e))?;
        let (mgmt, nodes) = (Vec::new(), Vec::new());
        let mut cluster = Self { dir, remove_dir, mgmt, nodes, released: false };
        cluster.start_mgmt(shape, tie)?;
        cluster.start_nodes(shape, tie)?;
        Ok(cluster)
    }

    /// Several servers have to know each other's addresses before the first one listens.
    fn start_mgmt(&mut self, shape: &Shape, tie: Tie) -> CliResult {
        let addrs = ports::draw(shape.mgmt).map_err(no_ports)?;
        for id in 1..=shape.mgmt {
            let name = format!("mgmt-{id}");
            let started = self.spawn(&name, mgmt_args(shape, id, &addrs), tie)?;
            let member = started.wait_ready(Instant::now() + READY_TIMEOUT)?;
            self.mgmt.push(member);
        }
        Ok(())
    }

    /// Starts all data nodes before waiting for any: the cluster is made when all have reported.
    fn start_nodes(&mut self, shape: &Shape, tie: Tie) -> CliResult {
        let mgmt = self.mgmt_addrs();
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut started = Vec::new();
        for node in 1..=shape.nodes() {
            let args = data_args(shape, node, &mgmt);
            started.push(self.spawn(&format!("node-{node}"), args, tie)?);
        }
        for process in started {
            let member = process.wait_ready(deadline)?;
            self.nodes.push(member);
        }
        Ok(())
    }

    fn spawn(&self, name: &str, args: Vec<String>, tie: Tie) -> CliResult<Starting> {
        let launch = Launch { dir: self.dir.clone(), name: name.to_owned(), args, tie };
        launch.with_ports()?.start(&[])
    }

    /// Starts a data node that is gone again, on its directory and at its address. Returns when it
    /// listens, not when it is in sync.
    ///
    /// # Errors
    /// If there is no such node, it is not gone, or it does not come up.
    pub async fn revive(&mut self, node: u16) -> CliResult {
        let member = usize::from(node).checked_sub(1).and_then(|at| self.nodes.get_mut(at));
        let member = member.ok_or_else(|| {
            CliError::new(Trouble::NoSuchNode, format!("there is no data node {node}"))
        })?;
        // Started on this thread, because a child dies with the thread that started it; waited for
        // on another, because this one has tasks that must go on.
        let started = member.start_again()?;
        let wait = move || started.wait_ready(Instant::now() + READY_TIMEOUT);
        let waited = tokio::task::spawn_blocking(wait).await;
        *member = waited.map_err(|error| {
            CliError::new(Trouble::Start, format!("data node {node} cannot be waited for"))
                .why(error.to_string())
        })??;
        Ok(())
    }

    /// Starts one more data node; returns its node id when it listens, not when it has its place.
    /// Every node that was ever started counts.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn add_node(&mut self, group: Option<u16>, zone: &str) -> CliResult<u16> {
        let node = u16::try_from(self.nodes.len() + 1).unwrap_or(u16::MAX);
        let model = self.nodes.first().ok_or_else(|| {
            CliError::new(Trouble::NoSuchNode, "a cluster of no data nodes cannot grow")
        })?;
        let (tie, args) = (model.again.tie, args_like(&model.again.args, node, group, zone));
        let started = self.spawn(&format!("node-{node}"), args, tie)?;
        let wait = move || started.wait_ready(Instant::now() + READY_TIMEOUT);
        let waited = tokio::task::spawn_blocking(wait).await;
        let member = waited.map_err(|error| {
            CliError::new(Trouble::Start, format!("data node {node} cannot be waited for"))
                .why(error.to_string())
        })??;
        self.nodes.push(member);
        Ok(node)
    }

    /// Starts everything again after all processes were killed; data nodes side by side, because
    /// they wait for each other.
    ///
    /// # Errors
    /// If a process does not come up.
    pub fn revive_all(&mut self) -> CliResult {
        for member in self.mgmt.iter_mut().chain(&mut self.nodes) {
            let started = member.start_again()?;
            *member = started.wait_ready(Instant::now() + READY_TIMEOUT)?;
        }
        Ok(())
    }

    /// SIGKILLs every process, one right after the other.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill_all(&mut self) -> CliResult {
        for member in self.nodes.iter_mut().chain(&mut self.mgmt) {
            member.process.signal(Signal::Kill).map_err(|error| {
                CliError::new(Trouble::Process, "cannot kill a process").why(error.to_string())
            })?;
        }
        for member in self.nodes.iter_mut().chain(&mut self.mgmt) {
            // Its zombie goes; that it was killed is what we want.
            let _ = member.child.wait();
        }
        Ok(())
    }

    fn mgmt_addrs(&self) -> String {
        let addrs: Vec<String> = self.mgmt.iter().map(|m| m.addr.to_string()).collect();
        addrs.join(",")
    }

    /// What clients connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("lockstep://{}", self.mgmt_addrs())
    }

    /// Where directories and logs lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process of a data node.
    #[must_use]
    pub fn process_of(&self, node: u16) -> Option<ProcessId> {
        self.nodes.get(usize::from(node).checked_sub(1)?).map(|member| member.process)
    }

    /// The processes of the management servers.
    pub fn mgmt_processes(&self) -> impl Iterator<Item = ProcessId> {
        self.mgmt.iter().map(|member| member.process)
    }

    /// Sends a data node a signal.
    ///
    /// # Errors
    /// If there is no such node, it is gone, or the kernel refuses.
    pub fn signal(&self, node: u16, signal: Signal) -> CliResult {
        let process = self.process_of(node).ok_or_else(|| {
            CliError::new(Trouble::NoSuchNode, format!("there is no data node {node}"))
        })?;
        match process.signal(signal) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(CliError::new(Trouble::NoSuchNode, format!("data node {node} is gone already")))
            }
            Err(error) => {
                Err(CliError::new(Trouble::Process, format!("cannot signal node {node}"))
                    .why(error.to_string()))
            }
        }
    }

    /// What `dev` remembers of it; `view` tells groups and zones.
    #[must_use]
    pub fn to_state(&self, view: &View, keep: bool, started: u64) -> DevState {
        let mgmt = (1..).zip(&self.mgmt).map(|(id, member)| DevMgmt {
            id,
            process: member.process,
            addr: member.addr.to_string(),
            admin: member.admin.map(|admin| admin.to_string()),
            args: member.again.args.clone(),
        });
        let nodes = (1..).zip(&self.nodes).map(|(node, process)| {
            let member = view.member(lockstep_proto::ids::NodeId(node));
            DevNode {
                node,
                process: process.process,
                addr: process.addr.to_string(),
                admin: process.admin.map(|admin| admin.to_string()),
                zone: member.map(|m| m.zone.clone()).unwrap_or_default(),
                group: member.map_or(0, |m| m.group.0),
                args: process.again.args.clone(),
            }
        });
        DevState {
            schema: DevState::SCHEMA.into(),
            url: self.url(),
            dir: self.dir.clone(),
            keep,
            started,
            mgmt: mgmt.collect(),
            nodes: nodes.collect(),
        }
    }

    /// Lets it live on without us.
    pub fn release(mut self) {
        self.released = true;
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        for member in self.nodes.iter_mut().chain(&mut self.mgmt) {
            // A process that is gone already is what we want; the wait takes its zombie away.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
        if self.remove_dir {
            // Nothing can be done about a directory that does not want to go.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Member {
    fn start_again(&mut self) -> CliResult<Starting> {
        if self.process.condition() != Condition::Gone {
            let what = format!("{} is running", self.again.name);
            return Err(CliError::new(Trouble::Process, what).then("kill or stop it first"));
        }
        let _zombie = self.child.wait();
        self.again.start(&[])
    }
}

/// How a process of a local cluster is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// The cluster's directory.
    pub(super) dir: PathBuf,
    /// Its name there.
    pub(super) name: String,
    /// Its command line, without what depends on the directory.
    pub(super) args: Vec<String>,
    /// Whether it ends with the process that started it.
    pub(super) tie: Tie,
}

impl Launch {
    /// Has it listen at an address from now on.
    fn at(&mut self, flag: &str, addr: SocketAddr) {
        match self.args.iter().position(|arg| arg == flag) {
            Some(at) => self.args[at + 1] = addr.to_string(),
            None => self.args.extend([flag.to_owned(), addr.to_string()]),
        }
    }

    /// Gives it ports that it can come back to, where it has none.
    fn with_ports(mut self) -> CliResult<Self> {
        for (flag, variable) in [("--listen", ""), ("--admin", "LOCKSTEP__ADMIN__LISTEN")] {
            let is_given = self.args.iter().any(|arg| arg == flag);
            // A flag would win over what the user has said for all.
            if is_given || std::env::var_os(variable).is_some() {
                continue;
            }
            for addr in ports::draw(1).map_err(no_ports)? {
                self.at(flag, addr);
            }
        }
        Ok(self)
    }

    /// Starts it, and leaves it to itself once it listens. `once` is added to its command line this
    /// time only.
    ///
    /// # Errors
    /// If it does not come up.
    pub(super) fn start_and_leave(&self, once: &[&str]) -> CliResult<Left> {
        let started = self.start(once)?;
        let Member { process, admin, .. } = started.wait_ready(Instant::now() + READY_TIMEOUT)?;
        Ok(Left { process, admin: admin.map(|admin| admin.to_string()) })
    }

    /// Starts it for the first time; its process, its address, and how it is started again.
    ///
    /// # Errors
    /// If it does not come up.
    pub(super) fn start_first(self) -> CliResult<(Left, String, Vec<String>)> {
        let member = self.with_ports()?.start(&[])?.wait_ready(Instant::now() + READY_TIMEOUT)?;
        let admin = member.admin.map(|admin| admin.to_string());
        let left = Left { process: member.process, admin };
        Ok((left, member.addr.to_string(), member.again.args))
    }

    /// Starts it; it does not listen yet.
    fn start(&self, once: &[&str]) -> CliResult<Starting> {
        let Self { dir, name, args, tie } = self;
        let own = dir.join(name);
        fs::create_dir_all(&own).map_err(|e| CliError::file("make directory", &own, &e))?;
        let ready = dir.join(format!("{name}.ready"));
        match fs::remove_file(&ready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CliError::file("remove", &ready, &error));
            }
            _ => {}
        }
        let log = dir.join(format!("{name}.log"));
        let mut all: Vec<OsString> = args.iter().map(Into::into).collect();
        all.extend(once.iter().map(Into::into));
        all.extend(["--dir".into(), own.into_os_string()]);
        all.extend(["--ready-file".into(), ready.clone().into_os_string()]);
        if *tie == Tie::Child {
            all.push("--die-with-parent".into());
        }
        let failed = |error: io::Error| {
            CliError::new(Trouble::Start, format!("{name} cannot be started"))
                .why(error.to_string())
        };
        let child = spawn_self(&all, dir, &log, *tie).map_err(failed)?;
        Ok(Starting { launch: self.clone(), child: Some(child), ready, log })
    }
}

/// A process that was started again and left to itself: what is new about it.
pub(super) struct Left {
    pub(super) process: ProcessId,
    pub(super) admin: Option<String>,
}

/// A process that does not listen yet; killed when dropped.
struct Starting {
    launch: Launch,
    child: Option<Child>,
    ready: PathBuf,
    log: PathBuf,
}

impl Starting {
    fn wait_ready(mut self, deadline: Instant) -> CliResult<Member> {
        let child = self.child.as_mut().expect("taken only below");
        let pid = child.id().cast_signed();
        let mut gone = || matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        let text = ready::wait(&self.ready, deadline, || !gone()).map_err(|error| {
            let name = &self.launch.name;
            CliError::new(Trouble::Start, format!("{name} did not come up: {error}"))
                .why(log_tail(&self.log, 5))
                .then(format!("its log is {}", self.log.display()))
        })?;
        let parsed = ready::addr(&text).and_then(|addr| Ok((addr, ProcessId::of(pid)?)));
        let (addr, process) = parsed.map_err(|error| {
            CliError::new(Trouble::Start, format!("{} did not come up", self.launch.name))
                .why(error.to_string())
        })?;
        let child = self.child.take().expect("not taken yet");
        let admin = ready::admin(&text);
        let mut again = self.launch.clone();
        // Others look for it where it was.
        again.at("--listen", addr);
        if let Some(admin) = admin {
            again.at("--admin", admin);
        }
        Ok(Member { child, process, addr, admin, again })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn no_ports(error: io::Error) -> CliError {
    CliError::new(Trouble::Start, "no ports for the cluster's processes").why(error.to_string())
}

/// The command line of a management server; several know each other by these addresses.
fn mgmt_args(shape: &Shape, id: u16, addrs: &[SocketAddr]) -> Vec<String> {
    let mut args: Vec<String> = ["run", "mgmt"].map(Into::into).into();
    let mut flag = |name: &str, value: String| args.extend([name.into(), value]);
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    if let Some(own) = usize::from(id).checked_sub(1).and_then(|at| addrs.get(at)) {
        flag("--listen", own.clone());
    }
    if addrs.len() > 1 {
        flag("--mgmt", addrs.join(","));
    }
    flag("--id", id.to_string());
    flag("--groups", shape.groups.to_string());
    flag("--replicas", shape.replicas.to_string());
    if let Some(partitions) = shape.partitions {
        flag("--partitions", partitions.to_string());
    }
    if let Some(interval) = shape.checkpoint_interval {
        flag("--checkpoint-interval", format!("{}ms", interval.as_millis()));
    }
    if !shape.zones.is_empty() {
        flag("--zones", shape.zones.join(","));
    }
    args
}

/// The command line of a data node.
fn data_args(shape: &Shape, node: u16, mgmt: &str) -> Vec<String> {
    let mut args: Vec<String> = ["run", "data"].map(Into::into).into();
    let mut flag = |name: &str, value: String| args.extend([name.into(), value]);
    flag("--node", node.to_string());
    flag("--mgmt", mgmt.to_owned());
    flag("--shards", shape.shards.to_string());
    if !shape.zones.is_empty() {
        flag("--zone", shape.zone_of(node).to_owned());
    }
    if shape.volatile {
        args.push("--volatile".to_owned());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_a_group_go_round_the_zones() {
        let shape = Shape { replicas: 3, ..Shape::two_by_two() };
        let zones: Vec<&str> = (1..=6).map(|node| shape.zone_of(node)).collect();
        assert_eq!(zones, ["a", "b", "a", "a", "b", "a"]);
        assert_eq!(Shape { zones: Vec::new(), ..shape }.zone_of(2), "");
    }
}
