//! Real processes: a cluster forms, loses nodes in every way a process can go, and ends with
//! words an operator can use.

use std::path::Path;
use std::process::Command;

use lockstep_mgmt::dev::process::Signal;
use lockstep_proto::ids::{Incarnation, NodeId, NodeInstance, ViewNumber};
use lockstep_proto::view::View;
use lockstep_tests::harness::logs;
use lockstep_tests::harness::processes::{Cluster, Form, Running};
use lockstep_tests::harness::watch::ViewWatch;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

fn life(node: u16) -> NodeInstance {
    NodeInstance { node: NodeId(node), incarnation: Incarnation(1) }
}

/// A cluster that has formed, and a watch on its management server.
fn formed(form: &Form) -> (Cluster, ViewWatch, View) {
    let cluster = Cluster::start(Path::new(BINARY), form);
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let (view, _) = watch.until("the first view", |_| true);
    assert_eq!(view.number, ViewNumber(1));
    (cluster, watch, view)
}

/// Waits until every node serves views: its shards are up.
fn serving(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        let addr = node.addr();
        lockstep_tests::harness::wait::until("a node to serve", || ViewWatch::open(addr).ok())
            .until("a node's view", |_| true);
    }
}

fn assert_quiet(process: &Running, expected: &[&str]) {
    let log = process.log();
    let loud = logs::unexpected(&log, expected);
    assert!(loud.is_empty(), "{loud:#?}");
}

#[test]
fn a_cluster_forms_with_its_replicas_in_different_zones() {
    let (mut cluster, _watch, view) = formed(&Form::two_by_two());
    serving(&mut cluster);
    let seats: Vec<(u16, u16, &str)> =
        view.members.iter().map(|m| (m.instance.node.0, m.group.0, m.zone.as_str())).collect();
    assert_eq!(seats, [(1, 1, "a"), (2, 1, "b"), (3, 2, "a"), (4, 2, "b")]);
    for process in cluster.nodes.iter().chain([&cluster.mgmt]) {
        assert_quiet(process, &[]);
    }
}

#[test]
fn a_killed_node_is_gone_from_the_next_view_and_comes_back_in_its_directory() {
    let (mut cluster, mut watch, _) = formed(&Form::two_by_two());
    serving(&mut cluster);
    cluster.node(3).signal(Signal::Kill);
    let (view, gap) = watch.until("a view without n3", |view| !view.contains(life(3)));
    println!("view {} after {gap:?}", view.number);
    assert_eq!(view.members.len(), 3);
    assert!(view.placements.iter().all(|p| p.replicas.contains(&p.primary)));
    cluster.node(3).ended();
    let mut again = cluster.start_node(3, "n3", &["--zone", "a"]);
    let whole = |view: &View| {
        view.in_sync().count() == 4 && view.placements.iter().all(|p| p.replicas.len() == 2)
    };
    let (view, gap) = watch.until("full redundancy", whole);
    println!("whole in view {} after {gap:?}", view.number);
    let member = view.member(NodeId(3)).expect("it is back");
    assert_eq!(member.instance.incarnation, Incarnation(2));
    assert!(again.is_running());
    let mut emptied = cluster.start_node(3, "n3-emptied", &["--zone", "a"]);
    assert_eq!(emptied.ended().code(), Some(1));
    let log = emptied.log();
    assert!(log.contains("node id 3 is taken by the data node at"), "{log}");
}

#[test]
fn a_terminated_node_leaves_and_ends_well() {
    let (mut cluster, mut watch, _) = formed(&Form::two_by_two());
    serving(&mut cluster);
    cluster.node(2).signal(Signal::Terminate);
    watch.until("a view without n2", |view| !view.contains(life(2)));
    assert_eq!(cluster.node(2).ended().code(), Some(0));
    assert_quiet(cluster.node(2), &[]);
    cluster.mgmt.signal(Signal::Terminate);
    assert_eq!(cluster.mgmt.ended().code(), Some(0));
    assert!(cluster.node(1).is_running(), "the cluster lives without its management server");
}

#[test]
fn a_stopped_node_is_excluded_and_comes_back_when_it_wakes() {
    let (mut cluster, mut watch, _) = formed(&Form::two_by_two());
    serving(&mut cluster);
    cluster.node(4).signal(Signal::Stop);
    let (_, gap) = watch.until("a view without n4", |view| !view.contains(life(4)));
    println!("silent node: new view after {gap:?}");
    cluster.node(4).signal(Signal::Continue);
    let back = |view: &View| view.in_sync().any(|m| m.instance.node == NodeId(4));
    let (view, gap) = watch.until("n4 back in sync", back);
    println!("back in view {} after {gap:?}", view.number);
    assert!(!view.contains(life(4)), "as another life");
    let log = cluster.node(4).log();
    assert!(log.contains("excluded from view"), "{log}");
}

#[test]
fn a_node_that_is_told_to_end_while_it_is_left_out_does_not_come_back() {
    let (mut cluster, mut watch, _) = formed(&Form::two_by_two());
    cluster.node(4).signal(Signal::Stop);
    watch.until("a view without n4", |view| view.members.len() == 3);
    // It hears of both when it wakes, in any order.
    cluster.node(4).signal(Signal::Terminate);
    cluster.node(4).signal(Signal::Continue);
    let status = cluster.node(4).ended();
    assert!(status.success(), "{status}: {}", cluster.node(4).log());
}

#[test]
fn half_a_cluster_goes_on_when_the_arbitrator_grants_it() {
    let (mut cluster, mut watch, _) = formed(&Form::pair());
    serving(&mut cluster);
    cluster.node(1).signal(Signal::Kill);
    let (view, _) = watch.until("a view without n1", |view| !view.contains(life(1)));
    assert_eq!(view.members.len(), 1);
    assert!(cluster.mgmt.log().contains("arbitrator: Granted"), "asked and granted");
    assert!(cluster.node(2).is_running());
}

#[test]
fn half_a_cluster_without_its_arbitrator_stops() {
    let (mut cluster, _watch, _) = formed(&Form::pair());
    serving(&mut cluster);
    cluster.mgmt.signal(Signal::Kill);
    cluster.mgmt.ended();
    cluster.node(1).signal(Signal::Kill);
    assert_eq!(cluster.node(2).ended().code(), Some(1));
    let log = cluster.node(2).log();
    assert!(log.contains("error LS-"), "{log}");
}

#[test]
fn a_management_server_restarted_on_its_directory_knows_its_cluster() {
    let (mut cluster, _watch, view) = formed(&Form::two_by_two());
    serving(&mut cluster);
    let addr = cluster.mgmt_addr;
    cluster.mgmt.signal(Signal::Kill);
    cluster.mgmt.ended();
    cluster.restart_mgmt();
    let mut watch = ViewWatch::open(addr).expect("the management server listens");
    let (known, _) = watch.until("the view", |_| true);
    assert_eq!(known.cluster, view.cluster);
    cluster.node(1).signal(Signal::Kill);
    watch.until("a view without n1", |view| !view.contains(life(1)));
}

#[test]
fn mistakes_of_operators_end_with_words_and_exit_code_2() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("data.toml");
    std::fs::write(&file, "[node]\ndir = \"n1\"\nzonne = \"a\"\n").expect("written");
    let output = Command::new(BINARY).args(["run", "data", "-c"]).arg(&file).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("data.toml, line 3: `node.zonne` is not a setting"), "{text}");
    assert!(text.contains("did you mean `node.zone`?"), "{text}");
}

#[test]
fn two_processes_never_share_a_directory() {
    let (cluster, ..) = formed(&Form::pair());
    let mut second = cluster.start_node(3, "n1", &[]);
    assert_eq!(second.ended().code(), Some(1));
    let log = second.log();
    assert!(log.contains("is in use"), "{log}");
}
