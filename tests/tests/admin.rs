//! The admin ports of a running cluster: what monitors are told while nodes die and come back.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;

use lockstep_mgmt::admin::metrics::METRICS;
use lockstep_tests::harness::admin::{Page, get, sum, values};
use lockstep_tests::harness::commands::User;
use lockstep_tests::harness::wait::until;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// The admin address of a process, as `dev status` shows it now.
fn admin_of(user: &User, list: &str, at: usize) -> String {
    let ran = user.runs("dev status -o json");
    let told: Value = serde_json::from_str(&ran.stdout).expect("an object");
    told[list][at]["admin"].as_str().expect("an address").to_owned()
}

fn page(addr: &str, path: &str) -> Page {
    get(addr, path).expect("an answer")
}

#[test]
fn monitors_see_a_node_die_and_come_back() {
    let user = User::new(Path::new(BINARY));
    let _ = user.told("dev start --groups 1 --replicas 2");
    let _ = user.told("table create things --column id:u64,name:string --key id");
    let (one, two) = (admin_of(&user, "nodes", 0), admin_of(&user, "nodes", 1));
    let mgmt = admin_of(&user, "mgmt", 0);
    for addr in [&one, &two, &mgmt] {
        for probe in ["/livez", "/readyz", "/startupz"] {
            let found = until(probe, || Some(page(addr, probe)).filter(|found| found.code == 200));
            assert_eq!(found.body, "ok\n");
        }
    }
    let status: Value = serde_json::from_str(&page(&one, "/status.json").body).expect("JSON");
    assert_eq!(
        (&status["schema"], &status["phase"]),
        (&"lockstep.process/v1".into(), &"member".into())
    );
    assert_eq!(status["view"]["smallest_group"], 2);
    assert_eq!(status["shards"][0]["partitions_primary"], 32);

    let before = values(&page(&one, "/metrics").body);
    assert_eq!(sum(&before, "lockstep_partitions"), Some(64.0));
    assert_eq!(before["lockstep_members{standing=\"in_sync\"}"], 2.0);
    assert_eq!(before["lockstep_edge_events_total{event=\"hello_malformed\"}"], 0.0);
    let of_mgmt = values(&page(&mgmt, "/metrics").body);
    assert_eq!(of_mgmt["lockstep_mgmt_arbitrator"], 1.0);
    assert_eq!(of_mgmt["lockstep_mgmt_data_nodes_connected"], 2.0);

    let _ = user.told("dev kill 2");
    assert!(get(&two, "/livez").is_err(), "a dead process answers nobody");
    until("the other to go on alone", || {
        let now = values(&page(&one, "/metrics").body);
        (now["lockstep_smallest_group_members"] == 1.0).then_some(())
    });
    assert_eq!(page(&one, "/readyz").code, 200, "it serves");
    let _ = user.told("dev revive 2");
    let two = admin_of(&user, "nodes", 1);
    until("it to have started", || (page(&two, "/startupz").code == 200).then_some(()));
    let after = values(&page(&two, "/metrics").body);
    assert_eq!(after["lockstep_ready"], 1.0);
    assert_eq!(sum(&after, "lockstep_join_finished"), Some(1.0));
    assert!(sum(&after, "lockstep_disk_syncs_total") > Some(0.0), "{after:?}");

    let mut stand_in = user.starts(&format!("run arbitrator --url {}", user.url()));
    let said = BufReader::new(stand_in.stderr.take().expect("piped")).lines();
    let said = said.map_while(Result::ok);
    let addr = said.filter_map(|line| Some(line.split_once("admin port at http://")?.1.to_owned()));
    let addr = { addr }.next().expect("it says where");
    until("it to find its cluster", || (page(&addr, "/readyz").code == 200).then_some(()));
    let of_stand_in = values(&page(&addr, "/metrics").body);
    assert_eq!(of_stand_in["lockstep_stand_in_arbitrator"], 0.0);
    stand_in.kill().expect("it runs");
    stand_in.wait().expect("it ends");

    // Every metric of the table has been seen somewhere, and nothing else.
    let seen: BTreeSet<&str> = [&before, &of_mgmt, &after, &of_stand_in]
        .into_iter()
        .flat_map(|page| page.keys().filter_map(|name| name.split('{').next()))
        .collect();
    let rare = ["lockstep_redo_request_seconds", "lockstep_join_left_seconds"];
    for metric in METRICS {
        assert!(seen.contains(metric.name) || rare.contains(&metric.name), "{}", metric.name);
    }
}

#[test]
fn a_node_that_waits_for_others_says_so() {
    let user = User::new(Path::new(BINARY));
    let _ = user.told("dev start --groups 1 --replicas 2");
    let _ = user.told("dev kill --all");
    let _ = user.told("dev revive 1");
    let one = admin_of(&user, "nodes", 0);
    let page = until("it to tell what it waits for", || {
        Some(page(&one, "/startupz")).filter(|page| page.body.contains("n2 at "))
    });
    assert_eq!(page.code, 503);
    assert_eq!(get(&one, "/livez").expect("an answer").code, 200, "waiting is not being stuck");
}
