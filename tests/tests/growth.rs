//! Real processes come to a cluster that serves, take places, and leave for good.

use std::path::Path;

use lockstep_client::Client;
use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::orders::Order;
use lockstep_proto::view::{Standing, View};
use lockstep_tests::checkers::check_list_append;
use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::lists::{ListLoad, ListPlan};
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

fn url(cluster: &Cluster) -> String {
    format!("lockstep://{}", cluster.mgmt_addr)
}

fn more(load: &ListLoad, count: u64) {
    let enough = load.committed() + count;
    until("the load to go on", || (load.committed() >= enough).then_some(()));
}

fn is_in_sync(view: &View, node: u16, group: u16) -> bool {
    view.member(NodeId(node))
        .is_some_and(|member| member.group == GroupId(group) && member.standing == Standing::InSync)
}

fn give(cluster: &Cluster, order: &Order) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = Client::at(&url(cluster)).connect().await.expect("connected");
        client.order(order.clone()).await.expect("told");
    });
}

#[test]
fn a_machine_is_replaced_under_load_and_the_old_one_never_comes_back() {
    let mut cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let plan = ListPlan { tasks: 6, lists: 8, read_from: (1..=4).map(NodeId).collect(), seed: 7 };
    let load = ListLoad::start(Client::at(&url(&cluster)), plan);
    more(&load, 300);
    // Beyond the replicas that are wanted: there is no moment with fewer.
    let mut fifth = cluster.start_node(5, "n5", &["--group", "1", "--zone", "a"]);
    watch.until("n5 in sync", |view| is_in_sync(view, 5, 1));
    more(&load, 300);
    give(&cluster, &Order::Remove { node: NodeId(1) });
    watch.until("a view without n1", |view| view.member(NodeId(1)).is_none());
    assert_eq!(cluster.node(1).ended().code(), Some(0));
    assert!(cluster.node(1).log().contains("removed for good"), "{}", cluster.node(1).log());
    more(&load, 300);
    let mut again = cluster.start_node(1, "n1", &["--zone", "a"]);
    assert_eq!(again.ended().code(), Some(1));
    assert!(again.log().contains("n1 was removed from cluster"), "{}", again.log());
    assert!(fifth.is_running());
    let run = load.finish();
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    check_list_append(&run.history).expect("no commit is missing");
}

#[test]
fn newcomers_that_cannot_come_are_told_why() {
    let mut cluster = Cluster::start(Path::new(BINARY), &Form::pair());
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    watch.until("a view", |view| view.in_sync().count() == 2);
    let addr = cluster.node(1).addr().to_string();
    let cases: [(u16, Vec<&str>, &str); 3] = [
        (2, vec![], "node id 2 is taken by"),
        (7, vec!["--group", "9"], "has no node group 9"),
        (8, vec!["--advertise", addr.as_str()], "`lockstep node remove 1` first"),
    ];
    for (node, flags, says) in cases {
        let mut refused = cluster.start_node(node, &format!("refused{node}"), &flags);
        assert_eq!(refused.ended().code(), Some(1));
        assert!(refused.log().contains(says), "{}", refused.log());
    }
    // Newcomers come in any order.
    let mut fifth = cluster.start_node(5, "n5", &[]);
    watch.until("n5 as a spare", |view| view.member(NodeId(5)).is_some());
    let third = cluster.start_node(3, "n3", &[]);
    watch.until("n3 as a spare", |view| view.member(NodeId(3)).is_some());
    assert!(fifth.is_running());
    drop(third);
    watch.until("n3 to be missed", |view| view.member(NodeId(3)).is_none());
    let mut third = cluster.start_node(3, "n3", &[]);
    watch.until("n3 as a spare again", |view| view.member(NodeId(3)).is_some());
    assert!(third.is_running());
}

fn refused(ran: &Ran, says: &[&str]) {
    assert_eq!(ran.code, Some(5), "{ran:?}");
    for words in says {
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
    }
}

/// What `node list` says of a node.
fn listed(user: &User, node: u64) -> Value {
    let list = user.asked("node list");
    let nodes = list["nodes"].as_array().expect("a list");
    nodes.iter().find(|n| n["node"] == node).cloned().unwrap_or(Value::Null)
}

#[test]
fn a_person_adds_drains_seats_and_removes_nodes() {
    let user = User::new(Path::new(BINARY));
    let started = user.asked("dev start --groups 1 --replicas 2 --zones a,b");
    assert_eq!(started["schema"], "lockstep.dev/v1");
    let _done = user.asked("table create things --column id:u64,name:string --key id");
    let added = user.asked("dev add-node --zone b");
    assert_eq!((&added["node"], &added["group"]), (&3.into(), &Value::Null));
    assert_eq!(listed(&user, 3)["state"], "spare");
    refused(&user.runs("group create --nodes 1,2"), &["node 1 belongs to group 1"]);
    for command in ["node drain 99", "node undrain 99", "node join 99 --group 1", "node remove 99"]
    {
        refused(&user.runs(command), &["LS-4008"]);
    }
    refused(&user.runs("group create --nodes 99"), &["LS-4008"]);
    for command in ["group drop 9 -y", "node join 3 --group 9"] {
        refused(&user.runs(command), &["LS-4017", "there is no such group"]);
    }
    let twice = user.runs("group create --nodes 3,3");
    assert_eq!(twice.code, Some(2), "{twice:?}");
    let drained = user.asked("node drain 1");
    assert_eq!(drained["partitions_led"], 0);
    assert_eq!(
        (&listed(&user, 1)["drained"], &listed(&user, 1)["partitions_led"]),
        (&true.into(), &0.into())
    );
    let _done = user.asked("node undrain 1");
    let ok = user.asked("node ok-to-stop 1");
    assert_eq!((&ok["ok"], &ok["groups"][0]["in_sync"]), (&true.into(), &1.into()));
    refused(
        &user.runs("node ok-to-stop 1 2"),
        &["LS-5002", "no in-sync replica of group 1 would be left"],
    );
    let _killed = user.told("dev kill 2");
    until("node 2 to be missed", || (listed(&user, 2)["state"] == "not there").then_some(()));
    for command in ["node stop 1", "node remove 1 --force -y", "node spare 1", "node ok-to-stop 1"]
    {
        let says = ["LS-5002", "it is the last in-sync replica of group 1", "node 2 is not there"];
        refused(&user.runs(command), &says);
    }
    refused(&user.runs("node join 2 --group 1"), &["belongs to node group 1 already"]);
    let _revived = user.told("dev revive 2");
    until("node 2 to be back", || (listed(&user, 2)["state"] == "in sync").then_some(()));
    refused(&user.runs("node remove 1 -y"), &["LS-5002", "would have 1 of 2 replicas", "--force"]);
    let joined = user.asked("node join 3 --group 1");
    assert_eq!((&joined["node"], &joined["group"]), (&3.into(), &1.into()));
    let list = user.asked("node list");
    assert_eq!(list["warnings"].as_array().map(Vec::len), Some(1), "two in zone b: {list}");
    let removed = user.asked("node remove 2 -y");
    assert_eq!(removed["node"], 2);
    assert_eq!(listed(&user, 2), Value::Null);
    let zone = user.asked("cluster primary-zone b");
    assert_eq!(zone["zone"], "b");
    until("node 3 to lead", || (listed(&user, 1)["partitions_led"] == 0).then_some(()));
    let fewer = user.asked("cluster replicas 1");
    assert_eq!(fewer["replicas"], 1);
    let spare = until("a spare", || {
        [1, 3].into_iter().find(|node| listed(&user, *node)["state"] == "spare")
    });
    let told = user.told("cluster replicas 2");
    assert!(told.contains(&format!("data nodes {spare} are drained spares")), "{told}");
    let _done = user.asked(&format!("node undrain {spare}"));
    until("both in sync", || (listed(&user, spare)["state"] == "in sync").then_some(()));
    let status = user.asked("status --check");
    assert_eq!(status["health"], "healthy", "{status}");
}

#[test]
fn a_rolling_restart_under_load_costs_no_error_and_no_commit() {
    let cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let plan = ListPlan { tasks: 6, lists: 8, read_from: (1..=4).map(NodeId).collect(), seed: 9 };
    let load = ListLoad::start(Client::at(&url(&cluster)), plan);
    more(&load, 300);
    let user = User::new(Path::new(BINARY));
    let told = user.asked(&format!("--url {} cluster restart --rolling", url(&cluster)));
    assert_eq!(told["restarted"].as_array().map(Vec::len), Some(4), "{told}");
    more(&load, 300);
    let run = load.finish();
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    check_list_append(&run.history).expect("no commit is missing");
}
