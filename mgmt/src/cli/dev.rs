//! `lockstep dev`: a cluster of child processes on this machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_proto::ids::{GroupId, NodeId};
use serde_json::json;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{Voice, table};
use super::{Global, block_on, connect, stdout_error};
use crate::dev::cluster::{LocalCluster, Shape};
use crate::dev::process::{Condition, ProcessId, Signal, Tie, log_tail};
use crate::dev::revive::{self, Revival};
use crate::dev::state::{DevState, StateDir, StateLock, Which};
use crate::dev::stop;

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

const START_EXAMPLES: &str = "\
Examples:
  lockstep dev start                                        two groups of two data nodes
  lockstep dev start --groups 2 --replicas 2 --zones a,b    the same in two zones
  lockstep dev start --groups 1 --replicas 3 --shards 2
  taskset -c 0 lockstep dev start --groups 1                all processes on one core";

const REVIVE_EXAMPLES: &str = "\
Examples:
  lockstep dev kill 2 && lockstep dev revive 2      a node dies and comes back
  lockstep dev kill m1 && lockstep dev revive m1    a management server does
  lockstep dev kill --all && lockstep dev revive --all
                                                    power loss of everything, and back
  lockstep dev revive 2 --initial                   without its own data: everything is copied";

/// Arguments of `lockstep dev`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum DevCommand {
    /// Start a cluster in the background; returns once it serves
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Show the processes of the running cluster
    Status,
    /// SIGKILL a data node (3) or a management server (m1), or with --all every process at once
    Kill(KillArgs),
    /// Start a process again that is gone, or with --all everything that is
    #[command(after_help = REVIVE_EXAMPLES)]
    Revive(ReviveArgs),
    /// Start one more data node; it joins the node group in need, or waits as a spare
    AddNode(AddNodeArgs),
    /// SIGSTOP a process: it stays silent until `dev continue`
    Pause(NodeArgs),
    /// SIGCONT a paused process
    Continue(NodeArgs),
    /// Stop the cluster; its data is removed unless it was started with --keep
    Stop,
}

/// Arguments of `lockstep dev start`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct StartArgs {
    /// Node groups; each holds a share of the rows
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=36))]
    pub(super) groups: u16,
    /// Data nodes per group; each holds all rows of the group
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4))]
    pub(super) replicas: u16,
    /// Zones the replicas of a group are spread over
    #[arg(long, value_delimiter = ',', value_name = "A,B,…")]
    pub(super) zones: Vec<String>,
    /// Shard threads per data node
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) shards: u16,
    /// Partitions per table, a power of two [default: 64]
    #[arg(long, value_name = "N", value_parser = partitions)]
    pub(super) partitions: Option<u16>,
    /// Management servers
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=2))]
    pub(super) mgmt: u16,
    /// Put directories and logs under DIR and leave them there
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}

/// Between two looks at whether a process is still there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Arguments of `lockstep dev add-node`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct AddNodeArgs {
    /// The node group to join, also if it is complete [default: the one in need]
    #[arg(long, value_name = "G")]
    group: Option<u16>,
    /// Its availability zone
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

/// Arguments of commands on one process.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct NodeArgs {
    /// A data node, 3 or n3, or a management server, m1
    #[arg(value_name = "NODE")]
    pub(super) node: Which,
}

/// Arguments of `lockstep dev kill`.
#[derive(clap::Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct KillArgs {
    /// A data node, 3 or n3, or a management server, m1
    #[arg(value_name = "NODE")]
    node: Option<Which>,
    /// All processes, management servers too
    #[arg(long)]
    all: bool,
}

/// Arguments of `lockstep dev revive`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ReviveArgs {
    /// A data node, 3 or n3, or a management server, m1
    #[arg(value_name = "NODE", required_unless_present = "all")]
    node: Option<Which>,
    /// Everything that is gone
    #[arg(long, conflicts_with = "node")]
    all: bool,
    /// Forget the node's own data: it copies everything from its node group
    #[arg(long, conflicts_with = "all")]
    initial: bool,
    /// Start a stopped cluster with the nodes that are there: the others are gone for good
    #[arg(long)]
    force_start: bool,
}

fn partitions(text: &str) -> Result<u16, String> {
    let number: u16 = text.parse().map_err(|_| "not a number".to_owned())?;
    let max = lockstep_proto::limits::PARTITIONS_MAX;
    if number.is_power_of_two() && usize::from(number) <= max {
        Ok(number)
    } else {
        Err(format!("must be a power of two, at most {max}"))
    }
}

pub(super) fn run(global: &Global, command: &DevCommand) -> CliResult<ExitKind> {
    let home = StateDir::of_user().map_err(|error| {
        CliError::new(Trouble::File, "no place to remember dev clusters").why(error.to_string())
    })?;
    let voice = global.voice();
    match command {
        DevCommand::Start(args) => start(global, &voice, &home, args),
        DevCommand::Status => status(&voice, &home),
        DevCommand::Kill(args) => match args.node {
            Some(node) => signal(&voice, &home, node, Signal::Kill),
            None => kill_all(&voice, &home),
        },
        DevCommand::AddNode(args) => add_node(global, &voice, &home, args),
        DevCommand::Revive(args) => revive(global, &voice, &home, args),
        DevCommand::Pause(args) => signal(&voice, &home, args.node, Signal::Stop),
        DevCommand::Continue(args) => signal(&voice, &home, args.node, Signal::Continue),
        DevCommand::Stop => stop_cluster(&voice, &home),
    }
}

fn start(global: &Global, voice: &Voice, home: &StateDir, args: &StartArgs) -> CliResult<ExitKind> {
    let _lock = lock(home)?;
    refuse_second(home)?;
    let (dir, keep) = directory(home, args.keep.as_deref())?;
    let shape = Shape {
        groups: args.groups,
        replicas: args.replicas,
        zones: args.zones.clone(),
        shards: args.shards,
        partitions: args.partitions,
        mgmt: args.mgmt,
        ..Shape::default()
    };
    let nodes = shape.nodes();
    voice.say(format!("starting {nodes} data nodes and {} management server(s) …", args.mgmt));
    let cluster = LocalCluster::start(&shape, &dir, !keep, Tie::Detached)?;
    let view = block_on(connect::wait_until_serving(&cluster.url(), global.timeout))?;
    let state = cluster.to_state(&view, keep, seconds_since_1970());
    home.store(&state).map_err(|e| CliError::file("write", &home.file(), &e))?;
    cluster.release();
    let text = || {
        format!(
            "{}stop it with `lockstep dev stop`; without --url all commands use it\n",
            describe(&state)
        )
    };
    voice.data(&to_json(&state), text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn status(voice: &Voice, home: &StateDir) -> CliResult<ExitKind> {
    let state = load(home)?;
    voice.data(&to_json(&state), || describe(&state)).map_err(stdout_error)?;
    let all_run = state.processes().all(|p| p.condition() == Condition::Running);
    Ok(if all_run { ExitKind::Done } else { ExitKind::NotHealthy })
}

/// Waits for the end of a process that was killed: it takes the kernel a while to free its memory.
fn until_gone(process: ProcessId) -> CliResult {
    let gone = process.wait_gone(GONE_WITHIN).map_err(|error| {
        CliError::new(Trouble::Process, "cannot wait for a process").why(error.to_string())
    })?;
    if gone {
        Ok(())
    } else {
        Err(CliError::new(Trouble::Process, "a killed process does not end"))
    }
}

fn signal(voice: &Voice, home: &StateDir, which: Which, signal: Signal) -> CliResult<ExitKind> {
    let state = load(home)?;
    let process = state.process(which).ok_or_else(|| state.no_such(which))?;
    let sent = process.signal(signal).map_err(|error| {
        CliError::new(Trouble::Process, format!("cannot signal {which}")).why(error.to_string())
    })?;
    if !sent {
        return Err(CliError::new(Trouble::NoSuchNode, format!("{which} is gone already"))
            .then("`lockstep dev status` shows who is left"));
    }
    if signal == Signal::Kill {
        until_gone(process)?;
    }
    let what = match signal {
        Signal::Kill => "killed",
        Signal::Stop => "paused",
        Signal::Continue => "continued",
        Signal::Terminate => "asked to leave",
    };
    let json = json!({
        "schema": "lockstep.dev-signal/v1", "node": which.node(),
        "management_server": which.mgmt(), "done": what,
    });
    let text = || format!("{which} (process {}) {what}\n", process.pid);
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn kill_all(voice: &Voice, home: &StateDir) -> CliResult<ExitKind> {
    let state = load(home)?;
    let mut killed = 0;
    for process in state.processes() {
        let sent = process.signal(Signal::Kill).map_err(|error| {
            CliError::new(Trouble::Process, "cannot kill a process").why(error.to_string())
        })?;
        killed += usize::from(sent);
    }
    // Whoever is still on its way out would be taken for one that runs.
    for process in state.processes() {
        until_gone(process)?;
    }
    let json = json!({ "schema": "lockstep.dev-kill-all/v1", "killed": killed });
    let text = || format!("{killed} processes killed; `lockstep dev revive --all` starts them\n");
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn revive(
    global: &Global,
    voice: &Voice,
    home: &StateDir,
    args: &ReviveArgs,
) -> CliResult<ExitKind> {
    let _lock = lock(home)?;
    let mut state = load(home)?;
    let how = Revival { initial: args.initial, force_start: args.force_start };
    let revived = match args.node {
        Some(which) => revive::revive_one(&mut state, which, how).map(|()| 1),
        None => revive::revive_all(&mut state, how),
    };
    // Also after a failure: what has been started must be known.
    home.store(&state).map_err(|e| CliError::file("write", &home.file(), &e))?;
    let revived = revived?;
    if args.all {
        block_on(connect::wait_until_serving(&state.url, global.timeout))?;
    }
    let json = json!({
        "schema": "lockstep.dev-revive/v1", "revived": revived,
        "node": args.node.and_then(Which::node),
        "management_server": args.node.and_then(Which::mgmt),
    });
    let text = || match args.node {
        Some(node @ Which::Node(_)) => format!("{node} started; `lockstep status` shows it join\n"),
        Some(server @ Which::Mgmt(_)) => format!("{server} started\n"),
        None => format!("{revived} processes started; the cluster serves\n"),
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// Waits for the end of a process.
async fn ended(process: ProcessId) {
    while process.condition() != Condition::Gone {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn no_place(node: u16, log: &Path) -> CliError {
    CliError::new(Trouble::Start, format!("data node {node} ended before it had a place"))
        .why(log_tail(log, 1))
        .then(format!("its log is {}", log.display()))
}

fn add_node(
    global: &Global,
    voice: &Voice,
    home: &StateDir,
    args: &AddNodeArgs,
) -> CliResult<ExitKind> {
    let _lock = lock(home)?;
    let mut state = load(home)?;
    let view =
        block_on(async { Ok(connect::connect(&state.url, global.timeout).await?.view().await?) })?;
    let node = view.roster.last.0.saturating_add(1);
    let zone = args.zone.clone().unwrap_or_default();
    let added = revive::add_node(&state, node, args.group, &zone)?;
    // One that was refused before may have been started under this number.
    state.nodes.retain(|e| e.node != node || e.process.condition() != Condition::Gone);
    let (process, log) = (added.process, state.dir.join(format!("node-{node}.log")));
    state.nodes.push(added);
    // Also if it is not admitted: what has been started must be known.
    home.store(&state).map_err(|e| CliError::file("write", &home.file(), &e))?;
    let joined = block_on(async {
        tokio::select! {
            joined = super::roster::joined(global, &state.url, node) => joined,
            () = ended(process) => Err(no_place(node, &log)),
        }
    });
    if joined.is_err() && process.condition() == Condition::Gone {
        state.nodes.pop();
        home.store(&state).map_err(|e| CliError::file("write", &home.file(), &e))?;
    }
    let view = joined?;
    let group = view.member(NodeId(node)).map(|m| m.group).filter(|g| *g != GroupId::NONE);
    if let Some(entry) = state.nodes.last_mut() {
        entry.group = group.map_or(0, |group| group.0);
    }
    home.store(&state).map_err(|e| CliError::file("write", &home.file(), &e))?;
    let json = json!({
        "schema": "lockstep.dev-add-node/v1", "node": node, "group": group.map(|g| g.0),
        "zone": zone,
    });
    let text = || match group {
        Some(group) => format!("data node {node} is in sync in node group {}\n", group.0),
        None => format!("data node {node} is a spare: `lockstep node join {node} --group G`\n"),
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn stop_cluster(voice: &Voice, home: &StateDir) -> CliResult<ExitKind> {
    let _lock = lock(home)?;
    let state = load(home)?;
    let stopped = stop::stop(&state)?;
    home.clear().map_err(|e| CliError::file("remove", &home.file(), &e))?;
    let json = json!({
        "schema": "lockstep.dev-stop/v1",
        "left": stopped.left,
        "killed": stopped.killed,
        "gone": stopped.gone,
        "kept": state.keep.then(|| state.dir.clone()),
    });
    let text = || {
        let mut text = format!("{} processes left", stopped.left);
        if stopped.killed > 0 {
            text += &format!(", {} had to be killed", stopped.killed);
        }
        if stopped.gone > 0 {
            text += &format!(", {} gone before", stopped.gone);
        }
        match state.keep {
            true => text + &format!("; data and logs are in {}\n", state.dir.display()),
            false => text + "\n",
        }
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// The recorded dev cluster.
fn load(home: &StateDir) -> CliResult<DevState> {
    let state = home.load().map_err(|e| CliError::file("read", &home.file(), &e))?;
    state.ok_or_else(|| {
        CliError::new(Trouble::NoCluster, "no dev cluster is running")
            .then("start one: `lockstep dev start`")
    })
}

fn lock(home: &StateDir) -> CliResult<StateLock> {
    let lock = home.lock().map_err(|e| CliError::file("lock", home.path(), &e))?;
    lock.ok_or_else(|| {
        CliError::new(Trouble::DevRuns, "another `lockstep dev` is starting or stopping a cluster")
            .then("wait for it")
    })
}

/// Refuses if a recorded cluster lives; forgets one whose processes are all gone.
fn refuse_second(home: &StateDir) -> CliResult {
    let Some(state) = home.load().map_err(|e| CliError::file("read", &home.file(), &e))? else {
        return Ok(());
    };
    if state.is_alive() {
        return Err(CliError::new(Trouble::DevRuns, "a dev cluster is running already")
            .why(format!("{} data nodes at {}", state.nodes.len(), state.url))
            .then("use it, or end it: `lockstep dev stop`"));
    }
    stop::stop(&state)?;
    home.clear().map_err(|e| CliError::file("remove", &home.file(), &e))
}

/// Where the cluster lives, and whether that is to be kept.
fn directory(home: &StateDir, keep: Option<&Path>) -> CliResult<(PathBuf, bool)> {
    let Some(dir) = keep else {
        return Ok((home.path().join("dev"), false));
    };
    let used = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        return Err(CliError::new(Trouble::DevRuns, format!("{} is not empty", dir.display()))
            .why("a new cluster must not mix with what is there")
            .then("choose an empty directory"));
    }
    Ok((dir.to_owned(), true))
}

fn describe(state: &DevState) -> String {
    let mut rows = Vec::new();
    for mgmt in &state.mgmt {
        let state = mgmt.process.condition().name();
        let (pid, blank) = (mgmt.process.pid.to_string(), String::new);
        let name = format!("mgmt {}", mgmt.id);
        let (addr, admin) = (mgmt.addr.clone(), admin_of(&mgmt.admin));
        rows.push(vec![name, state.into(), blank(), blank(), addr, admin, pid]);
    }
    for node in &state.nodes {
        let state = node.process.condition().name();
        rows.push(vec![
            format!("node {}", node.node),
            state.into(),
            node.group.to_string(),
            node.zone.clone(),
            node.addr.clone(),
            admin_of(&node.admin),
            node.process.pid.to_string(),
        ]);
    }
    let table = table(&["process", "state", "group", "zone", "address", "admin", "pid"], &rows);
    format!("{table}\nurl   {}\ndir   {}\n", state.url, state.dir.display())
}

fn admin_of(admin: &Option<String>) -> String {
    admin.clone().unwrap_or_else(|| "-".to_owned())
}

fn to_json(state: &DevState) -> serde_json::Value {
    let nodes = state.nodes.iter().map(|node| {
        json!({
            "node": node.node, "group": node.group, "zone": node.zone, "addr": node.addr,
            "admin": node.admin, "pid": node.process.pid, "state": node.process.condition().name(),
        })
    });
    let mgmt = state.mgmt.iter().map(|mgmt| {
        json!({
            "id": mgmt.id, "addr": mgmt.addr,
            "admin": mgmt.admin, "pid": mgmt.process.pid, "state": mgmt.process.condition().name(),
        })
    });
    json!({
        "schema": DevState::SCHEMA, "url": state.url, "dir": state.dir, "keep": state.keep,
        "started": state.started,
        "mgmt": mgmt.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
