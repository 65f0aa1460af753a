//! `lockstep dev` and the commands beside it, as a person or a script uses them: what they leave
//! running, what they print, how they end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// A user with a small cluster, and what `dev start` told of it.
fn user_with_pair(more: &str) -> (User, Value) {
    let user = User::new(Path::new(BINARY));
    let told = user.asked(&format!("dev start --groups 1 --replicas 2 {more}"));
    (user, told)
}

fn pids(told: &Value) -> Vec<u64> {
    let lists = ["nodes", "mgmt"].map(|list| told[list].as_array().expect("a list"));
    lists.into_iter().flatten().map(|one| one["pid"].as_u64().expect("a number")).collect()
}

fn refused(ran: &Ran, code: i32, says: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.contains(says), "{ran:?}");
}

/// What `dev status` says of a data node's process.
fn state_of(user: &User, node: usize) -> String {
    let ran = user.runs("dev status -o json");
    let told: Value = serde_json::from_str(&ran.stdout).expect("an object");
    told["nodes"][node - 1]["state"].as_str().expect("a word").to_owned()
}

/// Every helper here reads a command's output to its end, which comes only when no process holds
/// the other end of the pipe: a child that kept it would hang the test.
#[test]
fn a_cluster_serves_when_start_returns_and_is_gone_when_stop_does() {
    let (user, told) = user_with_pair("");
    assert_eq!(told["schema"], "lockstep.dev/v1");
    let created = user.asked("table create things --column id:u64,name:string --key id");
    assert_eq!(created["name"], "things");
    let status = user.asked("status --check");
    assert_eq!(status["health"], "healthy");
    let nodes = status["nodes"].as_array().expect("a list");
    assert!(nodes.iter().all(|node| node["shards"] == 1), "one shard per node: {status}");
    assert!(user.told("status").contains("healthy, can lose 1 more node"));
    let dir = told["dir"].as_str().expect("a path").to_owned();
    refused(&user.runs("dev start"), 5, "a dev cluster is running already");
    refused(&user.runs("dev kill 9"), 5, "its processes are 1, 2, m1");
    let stopped = user.asked("dev stop");
    assert_eq!((&stopped["left"], &stopped["killed"]), (&3.into(), &0.into()), "{stopped}");
    assert!(!Path::new(&dir).exists(), "{dir} is left behind");
    refused(&user.runs("dev status"), 3, "no dev cluster is running");
    refused(&user.runs("table list"), 3, "no dev cluster is running");
    let json = user.runs("table list -o json");
    let error: Value = serde_json::from_str(&json.stderr).expect("an error as JSON");
    assert_eq!(
        (&error["schema"], &error["code"]),
        (&"lockstep.error/v1".into(), &"LS-4002".into())
    );
}

#[test]
fn a_paused_node_is_silent_and_a_killed_one_gone() {
    let (user, _) = user_with_pair("");
    assert_eq!(user.asked("dev pause n2")["done"], "paused");
    until("the kernel to pause it", || (state_of(&user, 2) == "paused").then_some(()));
    assert_eq!(user.runs("dev status").code, Some(4));
    until("the cluster to go on without it", || {
        let status = user.asked("status");
        (status["view"] == 2 && status["can_lose"] == 0).then_some(())
    });
    assert_eq!(user.runs("status --check").code, Some(4));
    assert_eq!(user.asked("dev continue 2")["done"], "continued");
    until("it to find that it is excluded, and to come back", || {
        (user.asked("status")["can_lose"] == 1).then_some(())
    });
    assert_eq!(state_of(&user, 2), "running");
    assert_eq!(user.asked("dev kill 2")["done"], "killed");
    until("the kernel to end it", || (state_of(&user, 2) == "gone").then_some(()));
    refused(&user.runs("dev kill 2"), 5, "gone already");
    assert_eq!(user.asked("dev kill 1")["done"], "killed");
    until("the kernel to end it", || (state_of(&user, 1) == "gone").then_some(()));
    let status = user.asked("status --timeout 5s");
    assert_eq!((&status["health"], &status["can_lose"]), (&"down".into(), &0.into()));
    let stopped = user.asked("dev stop");
    assert_eq!((&stopped["left"], &stopped["gone"]), (&1.into(), &2.into()), "{stopped}");
}

#[test]
fn what_is_to_be_kept_is_kept_and_not_used_twice() {
    let (user, told) = user_with_pair("--shards 2 --keep data");
    let dir = user.home().join("data");
    assert_eq!(told["keep"], true);
    let status = user.asked("status");
    assert_eq!(status["nodes"][0]["shards"], 2);
    let stopped = user.asked("dev stop");
    assert_eq!(stopped["kept"], dir.canonicalize().expect("there").to_str().expect("a name"));
    assert!(dir.join("node-1/identity").exists() && dir.join("mgmt-1/register").exists());
    assert!(fs::read_to_string(dir.join("node-1.log")).expect("a log").contains("n1.1"));
    refused(&user.runs("dev start --keep data"), 5, "is not empty");
}

#[test]
fn a_cluster_that_nobody_has_written_to_comes_back() {
    let (user, _) = user_with_pair("");
    // Whoever is told that it serves may pull the plug: its logs have begun.
    assert_eq!(user.asked("dev kill --all")["killed"], 3);
    assert_eq!(user.asked("dev revive --all")["revived"], 3);
    assert_eq!(user.asked("status --check")["health"], "healthy");
}

#[test]
fn processes_stay_on_the_cores_they_were_started_on() {
    let user = User::new(Path::new(BINARY));
    let start = user.command(["dev", "start", "--groups", "1", "-o", "json"]);
    let allowed = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:"));
        line.expect("a line").split_whitespace().nth(1).expect("a list").to_owned()
    };
    // The first core this process may use: `0-3` and `2,5` both begin with one.
    let own = allowed("self");
    let core = own.split(['-', ',']).next().expect("a core");
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", core]).arg(start.get_program()).args(start.get_args());
    for (name, value) in start.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    let ran = Ran::from(pinned.current_dir(user.home()).output().expect("taskset is there"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.stdout).expect("an object");
    let cores: BTreeSet<String> = pids(&told).iter().map(|pid| allowed(&pid.to_string())).collect();
    assert_eq!(cores, BTreeSet::from([core.to_owned()]));
}

#[test]
fn a_server_that_waits_for_its_nodes_says_so() {
    use lockstep_tests::harness::processes::{Cluster, Form};
    let cluster = Cluster::empty(Path::new(BINARY), &Form::pair());
    let user = User::new(Path::new(BINARY));
    let ran = user.runs(&format!("status --timeout 1s --url lockstep://{}", cluster.mgmt_addr));
    refused(&ran, 3, "m1 is there, but waits for the data nodes of its cluster");
}

#[test]
fn a_node_that_comes_back_tells_how_far_it_is() {
    let (user, _) = user_with_pair("--keep data");
    let imports = |name: &str, rows: u64| {
        let lines: String = (0..rows).map(|id| format!("{id},the name of {id}\n")).collect();
        fs::write(user.home().join(name), format!("id,name\n{lines}")).expect("a writable home");
        assert_eq!(user.asked(&format!("table import {name} --key id"))["rows"], rows);
    };
    imports("early.csv", 500);
    until("the disks to have it", || {
        let status = user.asked("status");
        let epoch = |key: &str| status[key].as_u64().expect("a number");
        (epoch("worked_epoch") > 0 && epoch("durable_epoch") >= epoch("worked_epoch")).then_some(())
    });
    assert_eq!(user.asked("dev kill 2")["done"], "killed");
    until("the cluster to go on without it", || (user.asked("status")["view"] == 2).then_some(()));
    imports("late.csv", 700);
    assert_eq!(user.asked("dev revive 2")["node"], 2);
    let mut before: Vec<u64> = Vec::new();
    let join = until("it to be in sync", || {
        let status = user.asked("status");
        let node = status["nodes"].get(1)?;
        let join = node["join"].clone();
        let counted = |key: &str| join[key].as_u64();
        let counts = ["rows", "bytes", "records", "partitions_copied", "partitions_kept"];
        let now: Vec<u64> = counts.into_iter().filter_map(counted).collect();
        assert!(before.iter().zip(&now).all(|(old, new)| old <= new), "{before:?}, then {status}");
        before = now;
        (node["state"] == "serving" && join["finished"] == true).then_some(join)
    });
    // Only what was written without it.
    assert_eq!((&join["kind"], &join["rows"]), (&"delta".into(), &700.into()), "{join}");
    for count in ["partitions", "partitions_copied", "partitions_kept"] {
        assert_eq!(join[count], 64, "{join}");
    }
    let number = |key: &str| join[key].as_u64().expect("a number");
    assert!(number("bytes") > 700 * "the name of 1".len() as u64, "{join}");
    assert_eq!((&join["rows_expected"], &join["left_ms"]), (&join["rows"], &0.into()), "{join}");
    let status = user.asked("status");
    assert_eq!((&status["nodes"][0]["join"], &status["can_lose"]), (&Value::Null, &1.into()));
    assert_eq!(status["nodes"][1]["disk"]["state"], "ok", "{status}");
    let log = fs::read_to_string(user.home().join("data/node-2.log")).expect("a log");
    let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(said("coming back with the rows of its own files, as of epoch "), 1, "{log}");
    assert_eq!(said("in sync again: took 64 partitions in "), 1, "{log}");
}
