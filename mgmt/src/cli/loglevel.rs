//! `lockstep node log-level`: what the log of a running process shows.

use std::net::ToSocketAddrs;

use serde_json::json;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::{Global, stdout_error};
use crate::admin::ask::{self, Page};
use crate::dev::state::{StateDir, Which};

const NOTES: &str = "\
Examples:
  lockstep node log-level 2 debug                           data node 2 of the dev cluster
  lockstep node log-level m1 lockstep_runtime=debug,info    its first management server
  lockstep node log-level 127.0.0.1:9186 info               whoever has this admin port
  lockstep node log-level 2                                 what it shows now

It holds until the process ends. Only from the machine of that process: its admin port refuses
others.";

/// Arguments of `lockstep node log-level`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = NOTES)]
pub(super) struct LogLevelArgs {
    /// A data node (3, n3) or management server (m1) of the dev cluster, or the address of an
    /// admin port
    #[arg(value_name = "PROCESS")]
    process: String,
    /// error, warn, info, debug or trace, or directives; without it, what is in force is shown
    #[arg(value_name = "LEVEL")]
    filter: Option<String>,
}

pub(super) fn run(global: &Global, args: &LogLevelArgs) -> CliResult<ExitKind> {
    let addr = admin_of(&args.process)?;
    let asked = match &args.filter {
        None => ask::get(&addr, "/log"),
        Some(filter) => ask::put(&addr, "/log", filter),
    };
    let Page { code, body } = asked.map_err(|error| {
        CliError::new(Trouble::NoCluster, format!("nobody answers at {addr}, the admin port"))
            .why(error.to_string())
            .then("its log and its ready file name the address of a process's admin port")
    })?;
    let body = body.trim().to_owned();
    if code != 200 {
        let what = format!("the log level of {} was not changed", args.process);
        return Err(CliError::usage(what)
            .why(body)
            .then("write a level (warn, info, debug), or directives like lockstep_runtime=debug"));
    }
    let (filter, before) = match &args.filter {
        None => (body, None),
        Some(filter) => (filter.clone(), Some(body)),
    };
    let json = json!({
        "schema": "lockstep.log-level/v1",
        "process": args.process,
        "admin": addr,
        "filter": filter,
        "before": before,
    });
    let text = || match &before {
        None => format!("{filter}\n"),
        Some(before) => format!("the log of {} shows {filter}; before: {before}\n", args.process),
    };
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// The address of a process's admin port.
fn admin_of(process: &str) -> CliResult<String> {
    if process.contains(':') && process.to_socket_addrs().is_ok() {
        return Ok(process.to_owned());
    }
    let unknown = |why: &str| {
        CliError::new(Trouble::NoSuchNode, format!("the admin port of {process} is not known here"))
            .why(why)
            .then("name its address, HOST:PORT: its log and its ready file have it")
    };
    let home = StateDir::of_user().map_err(|error| unknown(&error.to_string()))?;
    let state = home.load().map_err(|error| unknown(&error.to_string()))?;
    let state = state.ok_or_else(|| unknown("no dev cluster is running"))?;
    let which: Which = process.parse().map_err(CliError::usage)?;
    state.process(which).ok_or_else(|| state.no_such(which))?;
    state.admin(which).ok_or_else(|| unknown("its admin port is off"))
}
