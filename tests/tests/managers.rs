//! Management servers that are lost and replaced: one begins anew from nothing but a surviving
//! peer's cluster and takes up its work, and two of them never make two configurations.

use std::fs;
use std::path::{Path, PathBuf};

use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

fn names(user: &User, words: &str) -> Vec<String> {
    let told = user.asked(words);
    let events = told["events"].as_array().expect("a list").iter();
    events.map(|event| event["event"].as_str().expect("a name").to_owned()).collect()
}

/// Waits until this management server is the arbitrator and answers.
fn arbitrates(user: &User, id: u16) {
    let wanted = format!("management server {id} ");
    until(&format!("{wanted}to arbitrate"), || {
        let status = user.asked("status");
        let named = status["arbitrator"].as_str().is_some_and(|name| name.starts_with(&wanted));
        (named && status["arbitrator_answers"] == true).then_some(())
    });
}

/// Waits until this management server knows the cluster.
fn met(user: &User, id: u16) {
    until("a management server to know the cluster", || {
        let ran = user.runs(&format!("events --server {id} -o json"));
        ran.stdout.contains("cluster_met").then_some(())
    });
}

#[test]
fn a_server_that_lost_its_directory_takes_up_its_work_from_what_the_others_know() {
    let user = User::new(Path::new(BINARY));
    let told = user.asked("dev start --groups 1 --replicas 2 --mgmt 2");
    let dir = PathBuf::from(told["dir"].as_str().expect("a path"));
    met(&user, 2);
    drop(user.asked("config apply --set tick=20ms --who ann --why slower"));
    arbitrates(&user, 1);
    drop(user.asked("dev kill m1"));
    arbitrates(&user, 2);
    fs::remove_dir_all(dir.join("mgmt-1")).expect("it was there");
    drop(user.asked("dev revive m1"));
    // Its log knows nothing of what was before; the other one's does, and is shown.
    met(&user, 1);
    assert!(!names(&user, "events --server m1").contains(&"configured".to_owned()));
    assert!(names(&user, "events").contains(&"configured".to_owned()));

    // From here on it is alone: it arbitrates, makes backups and passes on the configuration.
    drop(user.asked("dev kill m2"));
    arbitrates(&user, 1);
    let known = names(&user, "events");
    assert_eq!(known.first().map(String::as_str), Some("cluster_met"), "{known:?}");
    assert_eq!(known.last().map(String::as_str), Some("arbitrator_named"), "{known:?}");
    let history = user.asked("config history");
    assert_eq!(history["changes"][0]["who"], "ann", "{history}");
    assert_eq!(user.asked("config apply --set tick=10ms")["version"], 2);
    drop(user.asked("dev kill 2"));
    drop(user.asked("wait --for node=2:stopped"));
    drop(user.asked("dev revive 2"));
    drop(user.asked("wait --for node=2:started"));
    let made = user.asked("backup create --wait");
    assert_eq!((&made["state"], &made["management_server"]), (&"done".into(), &"m1".into()));
    // Primaries may move back to node 2 meanwhile.
    let known = names(&user, "events").into_iter();
    let of_backups: Vec<String> = known.filter(|name| name.starts_with("backup_")).collect();
    assert_eq!(of_backups, ["backup_begun", "backup_done"]);
    drop(user.asked("dev revive m2"));
    drop(user.asked("wait --for healthy"));
}

#[test]
fn of_two_changes_at_two_servers_one_is_made_and_the_other_is_told_so() {
    let user = User::new(Path::new(BINARY));
    let told = user.asked("dev start --groups 1 --replicas 2 --mgmt 2");
    let servers: Vec<&str> = told["mgmt"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|server| server["addr"].as_str().expect("an address"))
        .collect();
    for version in 0..4 {
        let wish = |server: &str, who: &str, tick: u32| {
            user.starts(&format!(
                "config apply --set tick={tick}ms --if-version {version} --who {who} \
                 --url lockstep://{server}"
            ))
        };
        let ticks = [20 + version, 40 + version];
        let both = [wish(servers[0], "ann", ticks[0]), wish(servers[1], "bob", ticks[1])];
        let ran = both.map(|child| Ran::from(child.wait_with_output().expect("it ends")));
        let winner = ran.iter().position(|ran| ran.code == Some(0));
        let winner = winner.unwrap_or_else(|| panic!("nobody was heard: {ran:?}"));
        let loser = &ran[1 - winner];
        assert_eq!(loser.code, Some(5), "{ran:?}");
        let who = ["ann", "bob"][winner];
        assert!(loser.stderr.contains(&format!("version {} by {who}", version + 1)), "{loser:?}");
        // Whoever is asked says the same.
        for server in &servers {
            let show = user.asked(&format!("config show --url lockstep://{server}"));
            assert_eq!(show["version"], version + 1);
            let tick = show["settings"].as_array().expect("a list").iter();
            let tick: Vec<&Value> = tick.filter(|s| s["name"] == "tick").collect();
            assert_eq!(tick[0]["value"], format!("{}ms", ticks[winner]));
        }
    }
    assert_eq!(user.asked("config history")["changes"].as_array().map(Vec::len), Some(4));
}
