//! The gate: everything that must hold before a change lands. `cargo ci` runs all of it and edits
//! nothing; `cargo ci clippy tidy` runs only the named steps; `cargo fix-all` edits what tools can
//! mend.
//!
//! Every step runs, also after one has failed, so that one run tells everything. Its output goes
//! to stderr as it comes; the summary at the end is the answer.
//!
//! Invariant: `check` never writes to the tree.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use lockstep_tests::tidy;
use serde_json::Value;

/// What the short simulation runs: enough to notice a broken build, not to prove the protocol.
const SIM_PROFILES: &[&str] = &["calm", "network", "crash", "mixed", "disk", "hell"];
const SIM_SEEDS: &str = "20";
const SIM_SECONDS: &str = "5";
/// Fewer for the unoptimised build: it only has to give the same hash.
const SIM_SEEDS_DEV: &str = "2";

type Outcome = Result<String, String>;

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Outcome,
}

const STEPS: &[Step] = &[
    Step { name: "tidy", what: "the tree keeps the house rules", run: run_tidy },
    Step { name: "fmt", what: "the code is formatted", run: run_fmt },
    Step { name: "clippy", what: "no warnings", run: run_clippy },
    Step { name: "test", what: "all tests pass", run: run_tests },
    Step { name: "doc", what: "the documentation builds, links lead somewhere", run: run_doc },
    Step { name: "sim", what: "short simulations, no violation", run: run_simulation },
    Step { name: "same-hash", what: "one seed, one hash: twice, dev and release", run: run_hashes },
];

const USAGE: &str = "usage: lockstep-gate check [STEP…] | fix";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, steps)) if verb == "check" => check(steps),
        Some((verb, [])) if verb == "fix" => fix(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn check(wanted: &[String]) -> ExitCode {
    if let Some(unknown) = wanted.iter().find(|name| STEPS.iter().all(|s| s.name != **name)) {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        eprintln!("no step `{unknown}`; there are: {}", names.join(" "));
        return ExitCode::from(2);
    }
    let started = Instant::now();
    let mut summary = Vec::new();
    let mut failed = false;
    for step in STEPS.iter().filter(|s| wanted.is_empty() || wanted.iter().any(|w| w == s.name)) {
        eprintln!("\n=== {}: {}", step.name, step.what);
        let begun = Instant::now();
        let outcome = (step.run)();
        failed |= outcome.is_err();
        summary.push(line(step.name, &outcome, begun.elapsed()));
    }
    eprintln!();
    for line in summary {
        println!("{line}");
    }
    let word = if failed { "FAILED" } else { "ok" };
    println!("gate {word} in {:.0} s", started.elapsed().as_secs_f64());
    ExitCode::from(u8::from(failed))
}

fn line(name: &str, outcome: &Outcome, took: Duration) -> String {
    let (word, detail) = match outcome {
        Ok(detail) => ("ok", detail),
        Err(detail) => ("FAILED", detail),
    };
    format!("{name:<10} {word:<6} {:>7.1} s  {detail}", took.as_secs_f64())
}

fn fix() -> ExitCode {
    let clippy = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"];
    for arguments in [&["fmt", "--all"][..], &clippy, &["fmt", "--all"]] {
        if let Err(what) = succeed(cargo().args(arguments)) {
            eprintln!("{what}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run_tidy() -> Outcome {
    let tree = tidy::Tree::load(&tidy::root()).map_err(|error| error.to_string())?;
    let complaints = tidy::check(&tree);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    match complaints.len() {
        0 => Ok(format!("{} files", tree.files().count())),
        count => Err(format!("{count} complaints")),
    }
}

fn run_fmt() -> Outcome {
    succeed(cargo().args(["fmt", "--all", "--check"]))
}

fn run_clippy() -> Outcome {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    succeed(cargo().args(arguments))
}

fn run_tests() -> Outcome {
    succeed(cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]))
}

fn run_doc() -> Outcome {
    let mut cargo = cargo();
    // Private items too: the pages are for those who work on the code.
    cargo.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    succeed(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

fn run_simulation() -> Outcome {
    let mut seconds = 0;
    for profile in SIM_PROFILES {
        let report = simulate(&["--release"], profile, SIM_SEEDS)?;
        seconds += report["simulated_seconds"].as_u64().unwrap_or(0);
        if report["violations"] != 0 {
            return Err(format!("profile {profile}: {} violations", report["violations"]));
        }
    }
    Ok(format!("{seconds} simulated seconds"))
}

fn run_hashes() -> Outcome {
    for profile in SIM_PROFILES {
        let release = simulate(&["--release"], profile, SIM_SEEDS_DEV)?;
        let again = simulate(&["--release"], profile, SIM_SEEDS_DEV)?;
        let dev = simulate(&[], profile, SIM_SEEDS_DEV)?;
        let hash = &release["hash"];
        if hash.is_null() || *hash != again["hash"] || *hash != dev["hash"] {
            let hashes = [hash, &again["hash"], &dev["hash"]];
            return Err(format!("profile {profile}: {hashes:?} should be one hash"));
        }
    }
    Ok(format!("{} profiles", SIM_PROFILES.len()))
}

/// Runs the simulator and returns its report.
fn simulate(build: &[&str], profile: &str, seeds: &str) -> Result<Value, String> {
    let mut cargo = cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", "lockstep-tests"]);
    cargo.args(["--bin", "lockstep-sim"]).args(build);
    cargo.args(["--", "--seeds", seeds, "--seconds", SIM_SECONDS]);
    cargo.args(["--profile", profile, "-o", "json"]);
    let output = cargo.stderr(Stdio::inherit()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text)
        .map_err(|error| format!("profile {profile}: {}: {error}: {text}", output.status))?;
    eprintln!("profile {profile}: {text}");
    Ok(report)
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(tidy::root());
    cargo
}

fn succeed(command: &mut Command) -> Outcome {
    let status = command.stdout(Stdio::inherit()).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(String::new()) } else { Err(status.to_string()) }
}
