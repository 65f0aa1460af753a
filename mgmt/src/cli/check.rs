//! `lockstep check`: is what is kept what was written?

use std::path::PathBuf;

use super::error::{CliError, CliResult, ExitKind};
use super::{Global, stdout_error};
use crate::check::offline;

/// Arguments of `lockstep check`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 sound, 4 something is damaged or missing.")]
pub(super) struct CheckArgs {
    /// The directory of a data node that is not running
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &CheckArgs) -> CliResult<ExitKind> {
    let Some(dir) = &args.dir else {
        return Err(CliError::usage("name the directory of a data node that is not running"));
    };
    let report = offline::check(dir)?;
    global.voice().data(&report.json(), || report.text()).map_err(stdout_error)?;
    Ok(if report.is_sound() { ExitKind::Done } else { ExitKind::NotHealthy })
}
