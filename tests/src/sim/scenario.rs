//! Runs a scenario script under several seeds and compares how it ends with what it expects.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use lockstep_proto::canary::Canary;

use super::plan::Profile;
use super::report::explain;
use super::run::{Options, Verdict, run};
use super::script::{Expected, Script};

/// The options under which a script is run with one seed.
#[must_use]
pub fn options(script: &Arc<Script>, seed: u64, canary: Option<Canary>) -> Options {
    Options {
        seed,
        seconds: script.seconds,
        profile: Profile::Calm,
        shape: None,
        shards: None,
        canary,
        script: Some(script.clone()),
        trap: None,
        trace: false,
        print: false,
    }
}

/// Runs a script under all its seeds.
///
/// # Errors
/// What did not end as it must, in words.
pub fn check(name: &str, text: &str) -> Result<(), String> {
    let script = Arc::new(Script::parse(name, text)?);
    let mut marks: BTreeSet<&'static str> = BTreeSet::new();
    let mut wrong = String::new();
    for seed in 1..=script.seeds {
        let options = options(&script, seed, None);
        let verdict = run(&options);
        marks.extend(verdict.tally.marks.keys());
        for found in &verdict.tally.violations {
            writeln!(wrong, "seed {seed}: {found}").expect("strings take everything");
        }
        if !wrong.is_empty() {
            explain(&options, &verdict);
            return Err(wrong);
        }
    }
    for expected in &script.expected {
        if let Expected::Mark(name) = expected
            && !marks.contains(name.as_str())
        {
            writeln!(wrong, "never reached: {name}").expect("strings take everything");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// In what a run under a script has ended otherwise than it must.
pub(super) fn unexpected(script: &Script, verdict: &Verdict) -> Vec<String> {
    let mut found = Vec::new();
    for expected in &script.expected {
        match expected {
            Expected::Members(names) if *names != verdict.members => {
                found.push(format!("the members are {:?}, not {names:?}", verdict.members));
            }
            Expected::Stopped if !verdict.stopped => {
                found.push("the cluster has not stopped itself".into());
            }
            Expected::Never(name) if verdict.tally.marks.contains_key(name.as_str()) => {
                found.push(format!("reached, and must not be: {name}"));
            }
            Expected::Members(_) | Expected::Stopped | Expected::Mark(_) | Expected::Never(_) => {}
        }
    }
    if verdict.stopped && !script.may_stop {
        found.push("the cluster has stopped itself".into());
    }
    found
}
