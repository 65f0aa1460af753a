//! `lockstep-sim --history`: what the file promises to whoever checks it with another tool, and one
//! seed, one run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use lockstep_tests::checkers::check_list_append;
use lockstep_tests::checkers::history::{EventKind, Micro, read_history};

/// Clients die in the middle of what they do.
const CLIENTS_DIE: &str = "clients 4\npause_us 1000\nlists 2\nat 700 kill c1\nat 1200 kill c2\n";

/// Runs one seed with these further arguments; its hash.
fn simulate(seed: u64, arguments: &[&str], history: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep-sim"));
    command.args(["--seed", &seed.to_string(), "--seconds", "4"]).args(arguments);
    let output = command.arg("--history").arg(history).output().expect("the simulator starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    report["hash"].as_str().expect("a text").to_owned()
}

#[test]
fn a_history_file_is_complete_and_strictly_serializable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let script = directory.path().join("clients_die.txt");
    std::fs::write(&script, CLIENTS_DIE).unwrap();
    let profiles = ["calm", "network", "crash", "mixed"].map(|profile| ["--profile", profile]);
    let scripted = ["--scenario", script.to_str().unwrap()];
    let mut doubtful = 0;
    for (seed, arguments) in (3..).zip(profiles.iter().chain([&scripted])) {
        simulate(seed, arguments, &path);
        let history = read_history(&path).unwrap();
        assert_eq!(check_list_append(&history), Ok(()), "seed {seed}");
        let mut appended = BTreeSet::new();
        let mut last_append = BTreeMap::new();
        let mut last_read = BTreeMap::new();
        let (mut gone, mut begun) = (BTreeSet::new(), BTreeMap::new());
        for (at, event) in history.iter().enumerate() {
            assert!(!gone.contains(&event.process), "seed {seed}: used again: {event:?}");
            match event.kind {
                EventKind::Invoke => _ = begun.insert(event.process, at),
                EventKind::Info => _ = gone.insert(event.process),
                EventKind::Ok | EventKind::Fail => {}
            }
            for step in &event.value {
                match (event.kind, step) {
                    (EventKind::Invoke, Micro::Append { key, element }) => {
                        assert!(appended.insert((*key, *element)), "seed {seed}: {event:?}");
                    }
                    (EventKind::Ok, Micro::Append { key, .. }) => _ = last_append.insert(*key, at),
                    (EventKind::Ok, Micro::Read { key, list: Some(_) }) => {
                        _ = last_read.insert(*key, begun[&event.process]);
                    }
                    _ => {}
                }
            }
        }
        doubtful += gone.len();
        assert!(last_append.len() >= 3, "seed {seed}: only {} lists", last_append.len());
        for (key, at) in last_append {
            let read = last_read.get(&key).copied();
            assert!(read > Some(at), "seed {seed}: list {key} was not read at the end");
        }
    }
    assert!(doubtful > 0, "no outcome was ever unknown");
}

#[test]
fn one_seed_is_one_run() {
    let directory = tempfile::tempdir().unwrap();
    let paths = [directory.path().join("one"), directory.path().join("two")];
    let hashes = [&paths[0], &paths[1]].map(|path| simulate(11, &["--profile", "mixed"], path));
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(std::fs::read(&paths[0]).unwrap(), std::fs::read(&paths[1]).unwrap());
    assert_ne!(
        hashes[0],
        simulate(12, &["--profile", "mixed"], &paths[0]),
        "the hash says nothing"
    );
}
