//! The command line of `lockstep-sim`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser;
use lockstep_proto::canary::Canary;

use super::plan::Profile;
use super::report::{Report, cpu_seconds, explain};
use super::run::{Options, run};
use super::scenario;
use super::script::Script;
use super::sweep::{Choice, Swept};
use crate::checkers::history::write_history;

/// Failures that are explained; the rest is only counted.
const EXPLAINED_MAX: u64 = 3;

/// Runs the real cores of a Lockstep cluster in a simulated world, under faults, and checks them.
#[derive(Parser, Debug)]
#[command(name = "lockstep-sim", version)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run from there.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Simulated seconds of work in each run.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Which faults: calm, network, crash, mixed, disk or hell.
    #[arg(long, default_value = "mixed")]
    profile: String,
    /// Print every event in words to stderr.
    #[arg(long)]
    trace: bool,
    /// Output format; only json exists.
    #[arg(short, long, default_value = "json")]
    output: String,
    /// Fail if a rare branch that the profile owes was never reached. What is owed is what 500
    /// seeds of 20 seconds reach; a shorter run reports `marks_missing` and fails only with this.
    #[arg(long)]
    require_marks: bool,
    /// Node groups and replicas of every run, as 2x2; drawn per seed without it.
    #[arg(long)]
    shape: Option<String>,
    /// Shards per node; drawn per seed without it.
    #[arg(long)]
    shards: Option<u16>,
    /// Run with each known bug and report which are caught.
    #[arg(long)]
    canaries: bool,
    /// Let each node fail at each of its steps in a short run of this protocol, once in every
    /// way: commit, view, silence, arbitration, redo, epoch, rejoin, admit, checkpoint, restart,
    /// config, handover, backup or move.
    #[arg(long)]
    sweep: Option<String>,
    /// Only one in this many crash points of a sweep.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Only this crash point of a sweep, as its report calls it; every event of it is printed.
    #[arg(long)]
    point: Option<String>,
    /// Run this scenario script instead of drawn faults; it says for how long.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Run with this known bug.
    #[arg(long)]
    canary: Option<String>,
    /// Write the client history as JSON lines (one seed).
    #[arg(long)]
    history: Option<PathBuf>,
    /// Threads over seeds; all processors without it.
    #[arg(long)]
    threads: Option<usize>,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match execute(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(text) => {
            eprintln!("lockstep-sim: {text}");
            ExitCode::from(2)
        }
    }
}

fn execute(arguments: &Arguments) -> Result<bool, String> {
    let profile = Profile::from_name(&arguments.profile)?;
    if arguments.output != "json" {
        return Err(format!("no output format {:?}: json", arguments.output));
    }
    if arguments.history.is_some() && arguments.seeds != 1 {
        return Err("--history takes one seed".into());
    }
    let script = arguments.scenario.as_deref().map(read_script).transpose()?;
    let canary = arguments.canary.as_deref().map(parse_canary).transpose()?;
    let drawn = Options {
        seed: arguments.seed,
        seconds: arguments.seconds,
        profile,
        shape: arguments.shape.as_deref().map(parse_shape).transpose()?,
        shards: arguments.shards,
        canary,
        script: None,
        trap: None,
        trace: arguments.trace,
        print: arguments.trace,
    };
    let options = match script {
        Some(script) => Options {
            trace: arguments.trace,
            print: arguments.trace,
            ..scenario::options(&script, arguments.seed, canary)
        },
        None => drawn,
    };
    let threads = arguments.threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
    });
    if let Some(name) = &arguments.sweep {
        let swept = Swept::from_name(name)?;
        let choice = match &arguments.point {
            Some(point) => Choice::Only(point),
            None => Choice::Every(arguments.every),
        };
        return Ok(super::sweep::command(swept, arguments.seed, choice, threads));
    }
    if arguments.canaries {
        return Ok(super::canaries::command(threads));
    }
    let report = run_seeds(&options, arguments.seeds, threads, arguments.history.as_ref())?;
    let missing = report.marks_missing(profile);
    let json = report.json(profile, cpu_seconds());
    println!("{json}");
    if arguments.require_marks && !missing.is_empty() {
        eprintln!("lockstep-sim: never reached: {}", missing.join(", "));
        return Ok(false);
    }
    Ok(report.is_clean())
}

fn run_seeds(
    options: &Options,
    seeds: u64,
    threads: usize,
    history: Option<&PathBuf>,
) -> Result<Report, String> {
    let next = AtomicU64::new(options.seed);
    let end = options.seed + seeds;
    let explained = AtomicU64::new(0);
    let total = Mutex::new(Report::default());
    let trouble = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1).min(usize::try_from(seeds).unwrap_or(1)) {
            scope.spawn(|| {
                let mut report = Report::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let options = Options { seed, ..options.clone() };
                    let verdict = run(&options);
                    report.add(&options, &verdict);
                    let failed = !verdict.tally.violations.is_empty();
                    if failed && explained.fetch_add(1, Ordering::Relaxed) < EXPLAINED_MAX {
                        explain(&options, &verdict);
                    }
                    if let Some(path) = history {
                        let written =
                            File::create(path).map(BufWriter::new).and_then(|mut file| {
                                write_history(&verdict.history, &mut file)?;
                                file.flush()
                            });
                        if let Err(error) = written {
                            let text = format!("cannot write {}: {error}", path.display());
                            *trouble.lock().expect("no holder panics") = Some(text);
                        }
                    }
                }
                total.lock().expect("no holder panics").merge(report);
            });
        }
    });
    match trouble.into_inner().expect("no holder panics") {
        Some(text) => Err(text),
        None => Ok(total.into_inner().expect("no holder panics")),
    }
}

fn parse_shape(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('x').and_then(|(groups, replicas)| {
        Some((groups.parse::<u16>().ok()?, replicas.parse::<u16>().ok()?))
    });
    match parsed {
        Some((groups, replicas)) if (1..=4).contains(&groups) && (1..=4).contains(&replicas) => {
            Ok((groups, replicas))
        }
        _ => Err(format!("no shape {text:?}: node groups x replicas, 1 to 4 each, as 2x2")),
    }
}

fn read_script(path: &Path) -> Result<Arc<Script>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    Script::parse(&name, &text)
        .map(Arc::new)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn parse_canary(name: &str) -> Result<Canary, String> {
    Canary::ALL
        .iter()
        .copied()
        .find(|canary| canary.name() == name)
        .ok_or_else(|| format!("no canary {name:?}"))
}
