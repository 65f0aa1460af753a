//! Starting processes of a dev cluster again, as a supervisor would.

use super::cluster::{Launch, Left};
use super::process::{Condition, Tie};
use super::state::DevState;
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

/// Starts a data node again that is gone; `state` then has its new process.
///
/// # Errors
/// If there is no such node, it runs, or it does not come up.
pub fn revive_node(state: &mut DevState, node: u16, how: Revival) -> CliResult {
    let dir = state.dir.clone();
    let known: Vec<String> = state.nodes.iter().map(|n| n.node.to_string()).collect();
    let entry = state.nodes.iter_mut().find(|entry| entry.node == node).ok_or_else(|| {
        CliError::new(Trouble::NoSuchNode, format!("the dev cluster has no data node {node}"))
            .why(format!("its data nodes are {}", known.join(", ")))
    })?;
    if entry.process.condition() != Condition::Gone {
        let what = format!("data node {node} is running");
        return Err(CliError::new(Trouble::Process, what)
            .then(format!("stop it first: `lockstep node stop {node}` or `dev kill {node}`")));
    }
    let Left { process, admin } = start(&dir, format!("node-{node}"), &entry.args, &how.flags())?;
    (entry.process, entry.admin) = (process, admin);
    Ok(())
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
