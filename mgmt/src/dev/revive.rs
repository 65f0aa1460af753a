//! Starting processes of a dev cluster again, as a supervisor would.

use super::cluster::{Launch, Left};
use super::process::{Condition, Tie};
use super::state::{DevNode, DevState, Which};
use crate::cli::error::{CliError, CliResult, Trouble};

/// How a data node is to be started, this time.
#[derive(Clone, Copy, Default, Debug)]
pub struct Revival {
    /// It forgets its own data.
    pub initial: bool,
    /// It starts a stopped cluster with the nodes that are there.
    pub force_start: bool,
}

impl Revival {
    fn flags(self) -> Vec<&'static str> {
        let flags = [(self.initial, "--initial"), (self.force_start, "--force-start")];
        flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).collect()
    }
}

/// Starts a process again that is gone; `state` then has the new one.
///
/// # Errors
/// If there is no such process, it runs, or it does not come up.
pub fn revive_one(state: &mut DevState, which: Which, how: Revival) -> CliResult {
    let before = state.process(which).ok_or_else(|| state.no_such(which))?;
    if before.condition() != Condition::Gone {
        let then = match which {
            Which::Node(id) => {
                format!("stop it first: `lockstep node stop {id}` or `dev kill {id}`")
            }
            Which::Mgmt(id) => format!("kill it first: `lockstep dev kill m{id}`"),
        };
        return Err(CliError::new(Trouble::Refused, format!("{which} is running")).then(then));
    }
    let dir = state.dir.clone();
    for entry in state.nodes.iter_mut().filter(|entry| which.node() == Some(entry.node)) {
        let left = start(&dir, format!("node-{}", entry.node), &entry.args, &how.flags())?;
        (entry.process, entry.admin) = (left.process, left.admin);
    }
    for entry in state.mgmt.iter_mut().filter(|entry| which.mgmt() == Some(entry.id)) {
        let left = start(&dir, format!("mgmt-{}", entry.id), &entry.args, &[])?;
        (entry.process, entry.admin) = (left.process, left.admin);
    }
    Ok(())
}

/// Starts one more data node, with the settings that the cluster's nodes have.
///
/// # Errors
/// If it does not come up.
pub fn add_node(state: &DevState, node: u16, group: Option<u16>, zone: &str) -> CliResult<DevNode> {
    let Some(model) = state.nodes.first() else {
        return Err(CliError::new(Trouble::NoCluster, "the dev cluster has no data node"));
    };
    let args = args_like(&model.args, node, group, zone);
    let (dir, name) = (state.dir.clone(), format!("node-{node}"));
    let launch = Launch { dir, name, args, tie: Tie::Detached };
    let (Left { process, admin }, addr, args) = launch.start_first()?;
    let (group, zone) = (group.unwrap_or(0), zone.to_owned());
    Ok(DevNode { node, process, addr, admin, zone, group, args })
}

/// The command line of another node: another id, zone and group, and no ports yet.
pub(super) fn args_like(
    model: &[String],
    node: u16,
    group: Option<u16>,
    zone: &str,
) -> Vec<String> {
    let own = ["--node", "--zone", "--listen", "--group"];
    let mut args: Vec<String> = Vec::new();
    let mut rest = model.iter();
    while let Some(arg) = rest.next() {
        if own.contains(&arg.as_str()) {
            rest.next();
        } else if arg == "--admin" {
            // Wherever the model's is, this one's is elsewhere; that there is none is for all.
            let off = rest.next().filter(|at| *at == "off");
            args.extend(off.into_iter().flat_map(|off| [arg.clone(), off.clone()]));
        } else {
            args.push(arg.clone());
        }
    }
    let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
    flag("--node", node.to_string());
    if let Some(group) = group {
        flag("--group", group.to_string());
    }
    if !zone.is_empty() {
        flag("--zone", zone.to_owned());
    }
    args
}

/// Starts everything again that is gone, management servers first. Returns how many processes.
///
/// # Errors
/// If one does not come up.
pub fn revive_all(state: &mut DevState, how: Revival) -> CliResult<usize> {
    let dir = state.dir.clone();
    let mut count = 0;
    for entry in state.mgmt.iter_mut().filter(|m| m.process.condition() == Condition::Gone) {
        let left = start(&dir, format!("mgmt-{}", entry.id), &entry.args, &[])?;
        (entry.process, entry.admin) = (left.process, left.admin);
        count += 1;
    }
    for entry in state.nodes.iter_mut().filter(|n| n.process.condition() == Condition::Gone) {
        let name = format!("node-{}", entry.node);
        let left = start(&dir, name, &entry.args, &how.flags())?;
        (entry.process, entry.admin) = (left.process, left.admin);
        count += 1;
    }
    Ok(count)
}

fn start(dir: &std::path::Path, name: String, args: &[String], once: &[&str]) -> CliResult<Left> {
    let launch = Launch { dir: dir.to_owned(), name, args: args.to_vec(), tie: Tie::Detached };
    launch.start_and_leave(once)
}
