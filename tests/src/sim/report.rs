//! What many runs came to: one JSON object for machines, and for each failure everything a person
//! needs to see it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Map, Value, json};

use super::marks;
use super::plan::Profile;
use super::run::{Options, Verdict, run};

/// Sums over runs. Order of the runs does not matter.
#[derive(Default)]
pub struct Report {
    seeds: u64,
    simulated_ns: u64,
    operations: u64,
    committed: u64,
    unknown: u64,
    events: u64,
    violations: u64,
    stopped: u64,
    nodes: BTreeSet<u64>,
    hash: u64,
    faults: BTreeMap<&'static str, u64>,
    marks: BTreeMap<&'static str, u64>,
    refused: BTreeMap<u16, u64>,
    failed_seeds: Vec<u64>,
    errors: u64,
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, options: &Options, verdict: &Verdict) {
        self.seeds += 1;
        self.simulated_ns += verdict.simulated_ns;
        self.operations += verdict.operations;
        self.committed += verdict.committed;
        self.unknown += verdict.unknown;
        self.events += verdict.tally.events;
        self.stopped += u64::from(verdict.stopped);
        self.nodes.insert(verdict.nodes);
        self.hash = self.hash.wrapping_add(verdict.hash.wrapping_mul(options.seed | 1));
        self.errors += verdict.tally.errors.len() as u64;
        for (class, count) in &verdict.tally.faults {
            *self.faults.entry(class).or_default() += count;
        }
        for (name, count) in &verdict.tally.marks {
            *self.marks.entry(name).or_default() += count;
        }
        for (code, count) in &verdict.refused {
            *self.refused.entry(*code).or_default() += count;
        }
        if !verdict.tally.violations.is_empty() {
            self.violations += verdict.tally.violations.len() as u64;
            self.failed_seeds.push(options.seed);
        }
    }

    /// Adds another report.
    pub fn merge(&mut self, other: Report) {
        self.seeds += other.seeds;
        self.simulated_ns += other.simulated_ns;
        self.operations += other.operations;
        self.committed += other.committed;
        self.unknown += other.unknown;
        self.events += other.events;
        self.violations += other.violations;
        self.stopped += other.stopped;
        self.nodes.extend(other.nodes);
        self.hash = self.hash.wrapping_add(other.hash);
        self.errors += other.errors;
        for (class, count) in other.faults {
            *self.faults.entry(class).or_default() += count;
        }
        for (name, count) in other.marks {
            *self.marks.entry(name).or_default() += count;
        }
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.failed_seeds.extend(other.failed_seeds);
        self.failed_seeds.sort_unstable();
    }

    /// Whether nothing was violated.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }

    /// Marks that this profile owes and that were not reached.
    #[must_use]
    pub fn marks_missing(&self, profile: Profile) -> Vec<&'static str> {
        marks::owed(profile).filter(|name| !self.marks.contains_key(name)).collect()
    }

    /// How many commits there were per simulated second.
    #[must_use]
    pub fn commits_per_second(&self) -> f64 {
        self.committed as f64 / (self.simulated_ns as f64 / 1e9).max(1e-9)
    }

    /// The report as JSON.
    #[must_use]
    pub fn json(&self, profile: Profile, cpu_seconds: f64) -> Value {
        let counts = |map: &BTreeMap<&'static str, u64>| {
            let entries = map.iter().map(|(name, count)| ((*name).to_owned(), json!(count)));
            Value::Object(entries.collect::<Map<String, Value>>())
        };
        let refused: Map<String, Value> =
            self.refused.iter().map(|(code, n)| (format!("LS-{code}"), json!(n))).collect();
        let simulated = self.simulated_ns as f64 / 1e9;
        let rounded = |number: f64| (number * 100.0).round() / 100.0;
        json!({
            "schema": "lockstep.sim/v1",
            "profile": profile.name(),
            "seeds": self.seeds,
            "simulated_seconds": self.simulated_ns / 1_000_000_000,
            "operations": self.operations,
            "committed": self.committed,
            "commits_per_simulated_second": rounded(self.commits_per_second()),
            "unknown": self.unknown,
            "refused": refused,
            "events": self.events,
            "violations": self.violations,
            "failed_seeds": self.failed_seeds,
            "stopped": self.stopped,
            "errors_logged": self.errors,
            "cpu_seconds": rounded(cpu_seconds),
            "simulated_seconds_per_cpu_second": rounded(simulated / cpu_seconds.max(0.001)),
            "nodes": self.nodes,
            "hash": format!("{:016x}", self.hash),
            "faults": counts(&self.faults),
            "marks": counts(&self.marks),
            "marks_missing": self.marks_missing(profile),
        })
    }
}

/// The command that runs a seed again.
#[must_use]
pub fn replay(options: &Options) -> String {
    let mut text = format!("cargo run --release --bin lockstep-sim -- --seed {}", options.seed);
    match &options.script {
        Some(script) => write!(text, " --scenario tests/scenarios/{}.txt", script.name),
        None => {
            let profile = options.profile.name();
            write!(text, " --seconds {} --profile {profile}", options.seconds)
        }
    }
    .expect("strings take everything");
    if let Some((groups, replicas)) = options.shape {
        write!(text, " --shape {groups}x{replicas}").expect("strings take everything");
    }
    if let Some(shards) = options.shards {
        write!(text, " --shards {shards}").expect("strings take everything");
    }
    if let Some(canary) = options.canary {
        write!(text, " --canary {}", canary.name()).expect("strings take everything");
    }
    text
}

/// Tells a person about a failed run: runs it again with its last events in words.
pub fn explain(options: &Options, verdict: &Verdict) {
    let again = run(&Options { trace: true, ..options.clone() });
    let mut text = String::new();
    for line in &again.lines {
        text.push_str(line);
        text.push('\n');
    }
    let commit = option_env!("LOCKSTEP_COMMIT").unwrap_or("of this checkout");
    text.push_str(&format!(
        "\nseed {} failed (profile {}, commit {commit})\nreplay: {}\n",
        options.seed,
        options.profile.name(),
        replay(options)
    ));
    if again.hash != verdict.hash {
        text.push_str("THE RUN IS NOT DETERMINISTIC: the replay has another hash\n");
    }
    for violation in &verdict.tally.violations {
        text.push_str(&format!("violation: {violation}\n"));
    }
    // Nobody reads a closed stderr.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// CPU time this process has used, in seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
