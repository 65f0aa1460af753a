//! `lockstep config` on real processes: changes while the cluster serves, conflicts, mistakes, the
//! way back, and that none of it needs a management server.

use std::fs;
use std::path::Path;

use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

fn refused(ran: &Ran, code: i32, says: &str) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert!(ran.stderr.contains(says), "{ran:?}");
}

fn value(user: &User, name: &str) -> String {
    let told = user.asked("config show");
    let settings = told["settings"].as_array().expect("a list").clone();
    let found = settings.into_iter().find(|setting| setting["name"] == name);
    found.expect("the setting")["value"].as_str().expect("a text").to_owned()
}

#[test]
fn settings_change_while_the_cluster_serves_and_conflicts_are_told() {
    let user = User::new(Path::new(BINARY));
    let told = user.asked("dev start --groups 1 --replicas 2 --mgmt 2");
    assert_eq!(value(&user, "tick"), "10ms");
    let applied = user.asked("config apply --set tick=20ms --who ann --why slower");
    assert_eq!((&applied["version"], &applied["changes"][0]["to"]), (&1.into(), &"20ms".into()));
    assert_eq!(value(&user, "tick"), "20ms");

    // Bob has seen version 0 only.
    let bob = user.runs("config apply --set tick=30ms --if-version 0 --who bob");
    refused(&bob, 5, "version 1 by ann: tick 10ms → 20ms");
    assert_eq!(value(&user, "tick"), "20ms");
    refused(&user.runs("config apply --set tick=1h"), 2, "with its unit");
    refused(&user.runs("config apply --set heartbeat=1s"), 1, "at least twice that");
    refused(&user.runs("config apply --set partitions=8"), 2, "these can: heartbeat");
    refused(&user.runs("config rollback 7"), 5, "known are those of versions 0 to 1");

    let file = Path::new(told["dir"].as_str().expect("a path")).join("wanted.toml");
    fs::write(&file, "[cluster]\ntick = \"5ms\"\nsuspicion = \"900ms\"\n").expect("written");
    let file = file.display().to_string();
    let diff = user.runs(&format!("config diff {file} -o json"));
    assert_eq!(diff.code, Some(8), "{diff:?}");
    drop(user.asked(&format!("config check {file}")));
    assert_eq!(user.asked(&format!("config apply {file}"))["version"], 2);
    assert_eq!(user.runs(&format!("config diff {file}")).code, Some(0));
    assert_eq!(user.asked("config rollback 0")["version"], 3);
    assert_eq!((value(&user, "tick"), value(&user, "suspicion")), ("10ms".into(), "400ms".into()));
    let history = user.asked("config history");
    let whys: Vec<&str> = history["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|change| change["why"].as_str().expect("a text"))
        .collect();
    assert_eq!(whys, ["slower", "", "back to version 0"]);
    assert!(user.told("config show --origin").contains("version 3 by"));
}

#[test]
fn the_configuration_needs_no_management_server_and_survives_a_restart_of_everything() {
    let user = User::new(Path::new(BINARY));
    let told = user.asked("dev start --groups 1 --replicas 2 --mgmt 2");
    drop(user.asked("table create things --column id:u64,name:string --key id"));
    for server in told["mgmt"].as_array().expect("a list") {
        let pid = server["pid"].as_i64().expect("a number");
        let pid = i32::try_from(pid).expect("small");
        let process = lockstep_mgmt::dev::process::ProcessId::of(pid).expect("it runs");
        process.signal(lockstep_mgmt::dev::process::Signal::Kill).expect("killed");
    }
    let node: &Value = &told["nodes"][0]["addr"];
    let url = format!("lockstep://{}", node.as_str().expect("an address"));
    let applied = user.asked(&format!("config apply --set tick=15ms --url {url}"));
    assert_eq!(applied["version"], 1);
    // What is to come back must be on disk.
    until("an epoch to be durable", || {
        let status = user.asked(&format!("status --url {url}"));
        status["durable_epoch"].as_u64().filter(|epoch| *epoch > 0)
    });
    drop(user.asked("dev kill --all"));
    drop(user.asked("dev revive --all"));
    let show = user.asked("config show");
    assert_eq!((&show["version"], value(&user, "tick")), (&1.into(), "15ms".to_owned()));
}
