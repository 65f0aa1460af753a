//! `lockstep events` on real processes: what happened is told, by name and with its reason, also
//! after the servers that keep it were started again.

use std::io::{BufRead, BufReader};
use std::path::Path;

use lockstep_tests::harness::commands::User;
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

fn events(user: &User) -> Vec<Value> {
    user.asked("events")["events"].as_array().expect("a list").clone()
}

fn find(user: &User, name: &str) -> Value {
    until(&format!("an event {name}"), || {
        events(user).into_iter().rev().find(|event| event["event"] == name)
    })
}

#[test]
fn what_happened_is_told_and_kept() {
    let user = User::new(Path::new(BINARY));
    drop(user.asked("dev start --groups 1 --replicas 2"));
    drop(user.asked("table create things --column id:u64,name:string --key id"));
    assert_eq!(find(&user, "cluster_met")["nodes"], 2);
    drop(user.asked("config apply --set tick=20ms --who ann"));
    assert_eq!(find(&user, "configured")["who"], "ann");
    drop(user.asked("dev kill 2"));
    let lost = find(&user, "node_lost");
    assert_eq!((&lost["node"], &lost["why"]), (&2.into(), &"its process has died".into()));
    drop(user.asked("dev revive 2"));
    assert_eq!(find(&user, "node_in_sync")["incarnation"], 2);
    let before = events(&user);
    drop(user.asked("dev kill --all"));
    let gone = user.runs("events");
    assert_eq!(gone.code, Some(3), "{gone:?}");
    drop(user.asked("dev revive --all"));
    find(&user, "cluster_restarted");
    let after = events(&user);
    assert_eq!(after[..before.len()], before[..], "nothing is forgotten or told anew");
    let recent = user.asked("events --since 1ms");
    assert!(recent["events"].as_array().expect("a list").len() < after.len());
    assert!(user.told("events").contains("n2.1 of group g1 is gone: its process has died"));
    let of_two = user.asked("events --node 2 --event node_lost --event node_in_sync --last 2");
    let names: Vec<&str> = of_two["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["event"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["node_lost", "node_in_sync"]);
}

#[test]
fn whoever_follows_is_told_as_it_happens_also_by_a_server_that_was_started_again() {
    let user = User::new(Path::new(BINARY));
    drop(user.asked("dev start --groups 1 --replicas 2"));
    let mut following = user.starts("events --follow --event configured -o jsonl");
    let lines = BufReader::new(following.stdout.take().expect("piped")).lines();
    let mut versions = lines.map(|line| {
        let line = line.expect("a line");
        serde_json::from_str::<Value>(&line).expect("an object")["version"].clone()
    });
    drop(user.asked("config apply --set tick=20ms"));
    assert_eq!(versions.next(), Some(1.into()));
    drop(user.asked("dev kill m1"));
    drop(user.asked("dev revive m1"));
    drop(user.asked("config apply --set tick=30ms"));
    assert_eq!(versions.next(), Some(2.into()));
    drop(user.asked("dev kill 2"));
    drop(user.asked("config apply --set tick=20ms"));
    assert_eq!(versions.next(), Some(3.into()), "nothing else is told");
    following.kill().expect("it runs");
    following.wait().expect("a child");
}
