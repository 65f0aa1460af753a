//! Clusters of child processes of the binary under test, on free loopback ports, each with a
//! directory and a log in one temporary directory.
//!
//! A process dies with its handle, however the test ends; if the test fails, the end of every log
//! is printed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use lockstep_mgmt::dev::ports;
use lockstep_mgmt::dev::process::{ProcessId, Signal};
use lockstep_mgmt::dev::ready;
use tempfile::TempDir;

use super::wait::until;

/// How much of a log is printed when a test fails.
const LOG_LINES_SHOWN: usize = 30;

/// A child process. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    ready: PathBuf,
}

impl Running {
    /// Starts `binary` with `args`, in and below `dir`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(binary: &Path, name: &str, dir: &Path, args: &[OsString]) -> Self {
        let ready = dir.join(format!("{name}.ready"));
        let mut args = args.to_vec();
        args.extend(["--ready-file".into(), ready.into()]);
        Self::start_plain(binary, name, dir, &args)
    }

    /// Starts `binary` with `args` for something that does not listen.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_plain(binary: &Path, name: &str, dir: &Path, args: &[OsString]) -> Self {
        let (log, ready) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.ready")));
        let output = File::options().create(true).append(true).open(&log).expect("log file");
        let child = Command::new(binary)
            .args(args)
            .arg("--die-with-parent")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("second handle of the log"))
            .stderr(output)
            .spawn()
            .expect("the binary under test starts");
        Self { name: name.to_owned(), child, log, ready }
    }

    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens, and returns where.
    pub fn addr(&mut self) -> SocketAddr {
        let what = format!("{} to listen", self.name);
        until(&what, || {
            let text = fs::read_to_string(&self.ready).ok()?;
            Some(ready::addr(&text).expect("an address in the ready file"))
        })
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process numbers are small");
        let sent = ProcessId::of(pid).and_then(|process| process.signal(signal));
        assert!(sent.expect("the process is there"), "{} is gone", self.name);
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let what = format!("{} to end", self.name);
        until(&what, || self.child.try_wait().expect("our own child"))
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Everything it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            eprintln!("--- the end of the log of {} ---\n{end}", self.name);
        }
    }
}

/// How long a node may be silent in tests. Longer than in production: a loaded machine that runs
/// many tests at once must not look like a dead one.
const SUSPICION: &str = "1500ms";

/// The form of a cluster.
#[derive(Clone, Debug)]
pub struct Form {
    /// Node groups.
    pub groups: u16,
    /// Replicas.
    pub replicas: u16,
    /// Zones, dealt to the nodes in turn.
    pub zones: Vec<&'static str>,
    /// Management servers.
    pub mgmts: u16,
    /// Further flags of the management servers.
    pub mgmt_args: Vec<&'static str>,
}

impl Form {
    /// One group of two nodes without zones.
    #[must_use]
    pub fn pair() -> Self {
        Self { groups: 1, replicas: 2, zones: Vec::new(), mgmts: 1, mgmt_args: Vec::new() }
    }

    /// Two groups of two nodes in zones a and b.
    #[must_use]
    pub fn two_by_two() -> Self {
        Self { groups: 2, replicas: 2, zones: vec!["a", "b"], mgmts: 1, mgmt_args: Vec::new() }
    }
}

/// A cluster of child processes. Node n is `nodes[n - 1]`.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    /// The management server.
    pub mgmt: Running,
    /// Where it listens.
    pub mgmt_addr: SocketAddr,
    /// The other management servers, from number 2 on, with their addresses.
    pub others: Vec<(Running, SocketAddr)>,
    /// The data nodes in order of node id.
    pub nodes: Vec<Running>,
    /// Everything the processes write. Declared last: it outlives the processes.
    dir: TempDir,
}

impl Cluster {
    /// Starts all processes; returns when they listen, not when they serve.
    ///
    /// # Panics
    /// If one cannot be started.
    #[must_use]
    pub fn start(binary: &Path, form: &Form) -> Self {
        Self::start_with(binary, form, |_| Vec::new())
    }

    /// Like [`Cluster::start`], with further flags for each data node.
    ///
    /// # Panics
    /// If one cannot be started.
    #[must_use]
    pub fn start_with(binary: &Path, form: &Form, flags: impl Fn(u16) -> Vec<String>) -> Self {
        let mut cluster = Self::empty(binary, form);
        for node in 1..=form.groups * form.replicas {
            let zone = form.zones.get(usize::from(node - 1) % form.zones.len().max(1));
            let flags = flags(node);
            let mut extra: Vec<&str> = zone.iter().flat_map(|zone| ["--zone", zone]).collect();
            extra.extend(flags.iter().map(String::as_str));
            let running = cluster.start_node(node, &format!("n{node}"), &extra);
            cluster.nodes.push(running);
        }
        for node in &mut cluster.nodes {
            node.addr();
        }
        cluster
    }

    /// Starts the management server only: it waits for data nodes.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn empty(binary: &Path, form: &Form) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let words = |word: &str| OsString::from(word);
        let mut args: Vec<OsString> = ["run", "mgmt"].map(words).into();
        args.extend(["--groups".into(), form.groups.to_string().into()]);
        args.extend(["--replicas".into(), form.replicas.to_string().into()]);
        if !form.zones.is_empty() {
            args.extend(["--zones".into(), form.zones.join(",").into()]);
        }
        args.extend(["--suspicion".into(), SUSPICION.into()]);
        args.extend(form.mgmt_args.iter().map(OsString::from));
        args.extend(["--dir".into(), dir.path().join("mgmt").into()]);
        let own = args.len() - 1;
        let addrs = ports::draw(form.mgmts.max(1)).expect("free ports");
        let all: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        if let [_, _, ..] = all[..] {
            args.extend(["--mgmt".into(), all.join(",").into()]);
        }
        let start = |id: u16| {
            let name = if id == 1 { "mgmt".to_owned() } else { format!("mgmt-{id}") };
            let mut args = args.clone();
            args[own] = dir.path().join(&name).into();
            let listen = &all[usize::from(id) - 1];
            args.extend(["--id".into(), id.to_string().into(), "--listen".into(), listen.into()]);
            let mut server = Running::start(binary, &name, dir.path(), &args);
            let addr = server.addr();
            (server, addr)
        };
        let (mgmt, mgmt_addr) = start(1);
        let others = (2..=form.mgmts).map(start).collect();
        Self { binary: binary.to_owned(), mgmt, mgmt_addr, others, nodes: Vec::new(), dir }
    }

    /// The addresses of all management servers, as flags and URLs have them.
    #[must_use]
    pub fn mgmt_list(&self) -> String {
        let others = self.others.iter().map(|(_, addr)| addr.to_string());
        let all: Vec<String> = std::iter::once(self.mgmt_addr.to_string()).chain(others).collect();
        all.join(",")
    }

    /// Where the processes have their directories, by name.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a data node that wishes to be `node`, in the directory `dir` of the cluster's.
    #[must_use]
    pub fn start_node(&self, node: u16, dir: &str, extra: &[&str]) -> Running {
        let mut args: Vec<OsString> = ["run", "data", "--shards", "1"].map(OsString::from).into();
        args.extend(["--node".into(), node.to_string().into()]);
        args.extend(["--mgmt".into(), self.mgmt_list().into()]);
        args.extend(["--dir".into(), self.dir.path().join(dir).into()]);
        if !extra.contains(&"--listen") {
            let addr = ports::draw(1).expect("a free port")[0];
            args.extend(["--listen".into(), addr.to_string().into()]);
        }
        args.extend(extra.iter().map(OsString::from));
        Running::start(&self.binary, &format!("{dir}-process"), self.dir.path(), &args)
    }

    /// Starts the management server again on its directory and address.
    pub fn restart_mgmt(&mut self) {
        self.mgmt = self.start_mgmt_again(1, self.mgmt_addr, "mgmt");
        self.mgmt.addr();
    }

    /// Starts the other management servers again on their addresses, each on the directory that
    /// `dir` makes of its name.
    pub fn restart_others(&mut self, dir: impl Fn(&str) -> String) {
        let mut others = std::mem::take(&mut self.others);
        for (id, (server, addr)) in (2..).zip(&mut others) {
            *server = self.start_mgmt_again(id, *addr, &dir(&format!("mgmt-{id}")));
            server.addr();
        }
        self.others = others;
    }

    fn start_mgmt_again(&self, id: u16, addr: SocketAddr, dir: &str) -> Running {
        let mut args: Vec<OsString> = ["run", "mgmt"].map(OsString::from).into();
        args.extend(["--listen".into(), addr.to_string().into()]);
        args.extend(["--id".into(), id.to_string().into()]);
        args.extend(["--dir".into(), self.dir.path().join(dir).into()]);
        Running::start(&self.binary, &format!("{dir}-again"), self.dir.path(), &args)
    }

    /// Starts any other process of the binary under test, under a name of its own.
    #[must_use]
    pub fn start_other(&self, name: &str, args: &[&str]) -> Running {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Running::start_plain(&self.binary, name, self.dir.path(), &args)
    }

    /// Node `node`.
    pub fn node(&mut self, node: u16) -> &mut Running {
        &mut self.nodes[usize::from(node) - 1]
    }
}
