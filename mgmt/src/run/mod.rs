//! `lockstep run`: what systemd, containers and `dev` start. One operating-system process per
//! management server or data node, put together from pure cores and the runtime.
//!
//! * [`args`]: the flags; each sets one key of the configuration;
//! * `home`: the directory, its lock, and what its files say;
//! * `door`: the listening port;
//! * `recovery`: the data files of a node that was started again;
//! * [`data`], [`mgmt`]: the two kinds of process.
//!
//! Invariant: a process has its directory's lock before it reads or writes anything there, and
//! listens before it tells anybody its address.

pub mod args;
pub mod data;
mod door;
mod home;
pub mod mgmt;
mod recovery;
pub(crate) mod restore;

use std::io::Read;
use std::path::Path;

use lockstep_proto::process::Exit;

use crate::cli::error::{CliError, CliResult, ExitKind, Trouble};
use crate::config::error::ConfigError;
use crate::config::layers::{FlagSetting, Key, Settings};
use crate::dev::process::die_with_parent;

use args::ProcessArgs;

/// The configuration of a process from all its layers.
fn settings(
    keys: &'static [Key],
    args: &ProcessArgs,
    flags: Vec<FlagSetting>,
) -> CliResult<Settings> {
    // A variable that is not Unicode is none of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Settings::read(keys, args.config.as_deref(), environment, flags).map_err(config_error)
}

pub(crate) fn config_error(error: ConfigError) -> CliError {
    CliError::new(Trouble::Config, error.what).at(error.origin).why(error.why).then(error.then)
}

/// What every process does first: end with its parent, if it is asked to, and log to stderr.
fn begin(args: &ProcessArgs, log: &str) -> CliResult {
    if args.die_with_parent {
        die_with_parent().map_err(|error| {
            CliError::new(Trouble::Process, "cannot tie this process to the one that started it")
                .why(error.to_string())
        })?;
    }
    crate::log::start(log).map_err(|why| {
        CliError::new(Trouble::Config, format!("`log.filter` cannot be {log:?}"))
            .why(why)
            .then("write a level (warn, info, debug), or directives like lockstep_runtime=debug")
    })?;
    if let Err(error) = lockstep_runtime::placement::raise_open_files() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    Ok(())
}

/// How a core's end becomes the process's.
fn ended(exit: Exit) -> CliResult<ExitKind> {
    match exit.code {
        0 => {
            tracing::info!("{}", exit.reason);
            Ok(ExitKind::Done)
        }
        _ => Err(CliError::new(Trouble::Process, exit.reason)),
    }
}

fn thread_error(error: &std::io::Error) -> CliError {
    CliError::new(Trouble::Process, "cannot start the process's threads").why(error.to_string())
}

/// A number nobody can guess.
fn random() -> CliResult<u128> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| CliError::file("read", path, &error))?;
    Ok(u128::from_le_bytes(bytes))
}
