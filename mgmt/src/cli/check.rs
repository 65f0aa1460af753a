//! `lockstep check`: is what is kept what was written?

use std::path::{Path, PathBuf};

use super::error::{CliResult, ExitKind};
use super::{Global, block_on, connect, interrupt, stdout_error};
use crate::check::{offline, replicas};

const NOTES: &str = "\
Without DIR, every replica of every partition of the running cluster is read as of one epoch, and
all of them are compared. Nothing is changed, and nobody has to stop working.

Examples:
  lockstep check                                 the cluster `status` shows
  lockstep check -o json | jq .equal
  lockstep check /var/lib/lockstep/n1            the directory of a stopped data node

Exit codes: 0 all is well, 4 something in DIR is damaged or missing, 8 replicas differ.";

/// Arguments of `lockstep check`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = NOTES)]
pub(super) struct CheckArgs {
    /// The directory of a data node that is not running; without it, the running cluster
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &CheckArgs) -> CliResult<ExitKind> {
    match &args.dir {
        Some(dir) => check_directory(global, dir),
        None => check_cluster(global),
    }
}

fn check_directory(global: &Global, dir: &Path) -> CliResult<ExitKind> {
    let report = offline::check(dir)?;
    global.voice().data(&report.json(), || report.text()).map_err(stdout_error)?;
    Ok(if report.is_sound() { ExitKind::Done } else { ExitKind::NotHealthy })
}

fn check_cluster(global: &Global) -> CliResult<ExitKind> {
    let voice = global.voice();
    let comparison = block_on(interrupt::or_interrupted(async {
        let client = connect::client(global).await?;
        let mut progress = voice.progress("comparing", 0, "replicas");
        let comparison = replicas::compare(&client, |read, total| {
            progress.set_of(read as u64, total as u64);
        });
        let comparison = comparison.await?;
        progress.finish();
        Ok(comparison)
    }))?;
    voice.data(&comparison.json(), || comparison.text()).map_err(stdout_error)?;
    Ok(if comparison.is_equal() { ExitKind::Done } else { ExitKind::Different })
}
