//! `lockstep completions` and `lockstep man`: made from the command line itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::error::{CliError, CliResult, ExitKind};
use super::{Cli, Global, output, stdout_error};

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  lockstep completions bash > ~/.local/share/bash-completion/completions/lockstep
  lockstep completions zsh > ~/.zfunc/_lockstep
  lockstep completions fish > ~/.config/fish/completions/lockstep.fish";

/// Arguments of `lockstep completions`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Arguments of `lockstep man`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory; without it, the first page to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> CliResult<ExitKind> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lockstep", &mut script);
    output::print(&String::from_utf8_lossy(&script)).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

pub(super) fn man(global: &Global, args: &ManArgs) -> CliResult<ExitKind> {
    let Some(dir) = &args.dir else {
        output::print(&page()?).map_err(stdout_error)?;
        return Ok(ExitKind::Done);
    };
    fs::create_dir_all(dir).map_err(|error| CliError::file("create", dir, &error))?;
    let failed = |error| CliError::file("write into", dir, &error);
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    let pages = pages_in(dir).map_err(failed)?;
    let json = json!({ "schema": "lockstep.man/v1", "dir": dir, "pages": pages });
    let text = || format!("{pages} pages in {}\n", dir.display());
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// How many pages of ours are in a directory.
fn pages_in(dir: &Path) -> io::Result<usize> {
    let mut pages = 0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        pages += usize::from(name.starts_with("lockstep") && name.ends_with(".1"));
    }
    Ok(pages)
}

fn page() -> CliResult<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(stdout_error)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
