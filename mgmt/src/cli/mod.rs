//! The command line: one file per command, and here what they share: global flags, the choice of
//! cluster, and how an end becomes an exit code.

pub mod connect;
pub mod error;
pub mod output;

mod arbitrate;
pub mod backup;
mod bench;
mod check;
mod config;
mod demo;
mod dev;
mod doctor;
mod duration;
mod events;
mod explain;
mod follow;
mod group;
mod health;
mod interrupt;
mod loglevel;
mod manual;
mod node;
mod parts;
mod restore;
mod roster;
mod show;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod top;
mod version;
mod wait;
mod watch;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub(crate) use parts::{disk_json, disk_word, drained_spares, join_json, listed};

use error::{CliError, CliResult, ExitKind};
use output::{Format, Voice};

const EXAMPLES: &str = "\
Examples:
  lockstep demo                                            a cluster loses a node and no data
  lockstep dev start --groups 2 --replicas 2 --zones a,b   a cluster to play with
  lockstep table import airports.csv --key airport_id
  lockstep dev kill 2
  lockstep table export airports --order key
  lockstep dev stop

Exit codes: 0 done, 1 failed, 2 usage, 3 cannot reach the cluster, 4 not healthy, 5 refused,
6 timed out, 7 partly done, 8 replicas differ.";

/// A transactional in-memory store that keeps every row on two or more machines in lockstep.
#[derive(Parser, Debug)]
#[command(name = "lockstep", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags every command takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Global {
    /// The cluster, `lockstep://HOST:PORT[,…][/DB][?zone=Z]`; without it the running `dev` cluster
    #[arg(long, global = true, env = "LOCKSTEP_URL", value_name = "URL", help_heading = "Global")]
    pub url: Option<String>,
    /// The form of data on stdout [default: table; csv for `table export`]
    #[arg(short, long, global = true, value_enum, value_name = "FORM", help_heading = "Global")]
    #[arg(
        hide_possible_values = true,
        long_help = "table, json or jsonl (table export: also csv)"
    )]
    pub output: Option<Format>,
    /// How long to wait for the cluster
    #[arg(
        long,
        global = true,
        default_value = "30s",
        value_name = "TIME",
        help_heading = "Global"
    )]
    #[arg(value_parser = duration::parse)]
    pub timeout: Duration,
    /// Answer every question with yes
    #[arg(short, long, global = true, help_heading = "Global")]
    pub yes: bool,
    /// Only data and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true, help_heading = "Global")]
    pub verbose: bool,
    /// No colours and no moving bars
    #[arg(long, global = true, help_heading = "Global")]
    pub no_color: bool,
}

impl Global {
    /// How to speak, with `default` as the form of data.
    #[must_use]
    pub fn voice_or(&self, default: Format) -> Voice {
        let wanted = !self.no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Voice {
            format: self.output.unwrap_or(default),
            quiet: self.quiet,
            verbose: self.verbose,
            color: wanted && std::io::stderr().is_terminal(),
        }
    }

    /// Asks before something that cannot be taken back; `--yes` answers.
    ///
    /// # Errors
    /// If the answer is no, or nobody can be asked.
    pub fn confirm(&self, question: &str) -> CliResult {
        if self.yes {
            return Ok(());
        }
        let refused = |why: &str| {
            CliError::new(error::Trouble::Refused, format!("not done: {question}"))
                .why(why)
                .then("add --yes")
        };
        if !std::io::stdin().is_terminal() {
            return Err(refused("this needs a yes, and there is no terminal to ask on"));
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(|e| refused(&e.to_string()))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(refused("the answer was no")),
        }
    }

    /// How to speak.
    #[must_use]
    pub fn voice(&self) -> Voice {
        self.voice_or(Format::Table)
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show in two minutes that a cluster survives: start, load, commit, kill, verify, clean up
    Demo(demo::DemoArgs),
    /// A cluster of child processes on this machine, to play with
    #[command(subcommand)]
    Dev(dev::DevCommand),
    /// One page: health, groups, nodes, memory, and how many nodes may be lost
    Status(status::StatusArgs),
    /// One word: healthy, degraded or down, and why; exit code 4 unless healthy
    Health,
    /// Check this machine and the cluster: what is wrong, why it matters, what to do
    Doctor(doctor::DoctorArgs),
    /// What every data node does, per second, again and again
    Top(top::TopArgs),
    /// Wait until the cluster or a node is as it should be
    Wait(wait::WaitArgs),
    /// Data nodes leave in good order and come back
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Node groups: who holds what; they come and go, and partitions move between them
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(node::ClusterCommand),
    /// The settings of the running cluster: show, compare, change, undo
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// What has happened to the cluster: nodes, arbitrators, configuration
    Events(events::EventsArgs),
    /// Make, list, show, import and export tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Backups of the running cluster: make, look at, verify and remove them
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// The rows of a backup into the running cluster
    #[command(subcommand)]
    Restore(restore::RestoreCommand),
    /// Measure a running cluster, beside the floor of the same journey
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// One process of a cluster: what service managers start
    #[command(subcommand)]
    Run(Box<crate::run::args::RunCommand>),
    /// Is what is kept what was written? Compares the replicas of the running cluster, or checks
    /// the directory of a stopped data node
    Check(check::CheckArgs),
    /// What an error code means, why it happens, and what to do
    Explain(explain::ExplainArgs),
    /// A script that completes commands in a shell
    Completions(manual::CompletionsArgs),
    /// Manual pages
    Man(manual::ManArgs),
    /// What this binary is
    Version,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

/// Runs a command line; the first word is the program's name.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    if let Some(code) = crate::bench::floor::link_main(args.iter().cloned()) {
        return code;
    }
    let format = format_wanted(&args);
    let exit = match Cli::try_parse_from(args) {
        Ok(cli) => {
            let format = cli.global.output.unwrap_or(Format::Table);
            dispatch(cli).unwrap_or_else(|error| tell(&error, format))
        }
        Err(error) => refuse_arguments(&error, format),
    };
    ExitCode::from(exit as u8)
}

fn dispatch(cli: Cli) -> CliResult<ExitKind> {
    let Cli { global, command } = cli;
    match command {
        Command::Demo(args) => demo::run(&global, &args),
        Command::Dev(command) => dev::run(&global, &command),
        Command::Status(args) => status::run(&global, &args),
        Command::Health => health::run(&global),
        Command::Doctor(args) => doctor::run(&global, &args),
        Command::Top(args) => top::run(&global, &args),
        Command::Wait(args) => wait::run(&global, &args),
        Command::Group(command) => group::run(&global, &command),
        Command::Explain(args) => explain::run(&global, &args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&global, &args),
        Command::Node(command) => node::run(&global, &command),
        Command::Cluster(command) => node::run_cluster(&global, &command),
        Command::Config(command) => config::run(&global, &command),
        Command::Events(args) => events::run(&global, &args),
        Command::Table(command) => table::run(&global, &command),
        Command::Backup(command) => backup::run(&global, &command),
        Command::Restore(command) => restore::run(&global, &command),
        Command::Bench(command) => bench::run(&global, &command),
        Command::Run(command) => match &*command {
            crate::run::args::RunCommand::Arbitrator(args) => arbitrate::run(&global, args),
            crate::run::args::RunCommand::Data(args) => crate::run::data::run_data(args),
            crate::run::args::RunCommand::Mgmt(args) => crate::run::mgmt::run_mgmt(args),
        },
        Command::Check(args) => check::run(&global, &args),
        Command::Version => version::run(&global),
    }
}

/// Says on stderr what went wrong and returns how to end.
fn tell(error: &CliError, format: Format) -> ExitKind {
    // Nobody to tell is no reason to end in another way.
    let _ = std::io::stderr().write_all(error.render(format).as_bytes());
    error.exit
}

/// Help and version are data; anything else is a usage error, in the form asked for.
fn refuse_arguments(error: &clap::Error, format: Format) -> ExitKind {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !format.is_json() {
        // clap chooses stdout or stderr and knows about colours.
        let _ = error.print();
        return if asked { ExitKind::Done } else { ExitKind::Usage };
    }
    let text = error.to_string();
    let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    tell(&CliError::usage(what).then("`lockstep --help`"), format)
}

/// The form of output named in arguments that could not be parsed.
fn format_wanted(args: &[OsString]) -> Format {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let pairs = words
        .windows(2)
        .any(|pair| matches!(pair[0], "-o" | "--output") && matches!(pair[1], "json" | "jsonl"));
    let joined = ["-ojson", "-ojsonl", "--output=json", "--output=jsonl", "-o=json", "-o=jsonl"];
    let json = pairs || words.iter().any(|word| joined.contains(word));
    if json { Format::Json } else { Format::Table }
}

/// The runtime of a command: one thread, so that its CPU time is one core's. Tasks may be local.
pub(crate) fn block_on<T>(work: impl Future<Output = CliResult<T>>) -> CliResult<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        CliError::new(error::Trouble::Process, "cannot start").why(error.to_string())
    })?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(work))
}

/// A node id as people write it, `3`, or as logs do, `n3`.
fn node_id(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix('n').unwrap_or(text);
    digits.parse().map_err(|_| "a node is a number, such as 3 or n3".to_owned())
}

/// What goes wrong with stdout.
fn stdout_error(error: std::io::Error) -> CliError {
    CliError::new(error::Trouble::File, "cannot write to stdout").why(error.to_string())
}

#[cfg(test)]
mod own_tests {
    use super::*;

    #[test]
    fn nodes_are_named_as_logs_name_them_or_by_number() {
        assert_eq!([node_id("3"), node_id("n12")], [Ok(3), Ok(12)]);
        for bad in ["", "n", "nn1", "x3", "-1", "70000"] {
            assert!(node_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_has_help_for_every_command() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        for words in [&["help"][..], &["help", "dev", "start"], &["table", "help", "import"]] {
            let args = ["lockstep"].iter().chain(words);
            let error = Cli::try_parse_from(args).expect_err("help ends the command");
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{words:?}");
        }
    }
}
