//! The zones of a cluster are cut from each other by proxies between the nodes: exactly one side
//! goes on, the one the arbitrator chose, and clients of that side lose nothing.

use std::collections::BTreeMap;
use std::path::Path;

use lockstep_client::Client;
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::View;
use lockstep_tests::checkers::check_list_append;
use lockstep_tests::harness::lists::{ListLoad, ListPlan};
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::proxy::{Flow, Proxy};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Nodes 1 and 3 are in zone a, 2 and 4 in zone b.
const ZONES: [[u16; 2]; 2] = [[1, 3], [2, 4]];

/// A 2×2 cluster whose links between zones go through proxies: by (dialler, dialled).
struct Cuttable {
    cluster: Cluster,
    proxies: BTreeMap<(u16, u16), Proxy>,
}

impl Cuttable {
    fn start() -> Self {
        let mut proxies = BTreeMap::new();
        for (here, there) in [(ZONES[0], ZONES[1]), (ZONES[1], ZONES[0])] {
            for from in here {
                for to in there {
                    proxies.insert((from, to), Proxy::unaimed().expect("a proxy"));
                }
            }
        }
        let peers = |node: u16| -> Vec<String> {
            let own = proxies.iter().filter(|((from, _), _)| *from == node);
            own.flat_map(|((_, to), proxy)| ["--peer".to_owned(), format!("{to}={}", proxy.addr())])
                .collect()
        };
        // A proxy answers for a dead process too: the end of a connection proves nothing.
        let form = Form { mgmt_args: vec!["--peer-death", "never"], ..Form::two_by_two() };
        let mut cluster = Cluster::start_with(Path::new(BINARY), &form, peers);
        for ((_, to), proxy) in &proxies {
            proxy.aim(cluster.node(*to).addr());
        }
        Self { cluster, proxies }
    }

    fn between_zones(&self, spoil: impl Fn(&Proxy)) {
        self.proxies.values().for_each(spoil);
    }

    fn load(&self, seed: u64) -> ListLoad {
        let url = format!("lockstep://{}", self.cluster.mgmt_addr);
        let plan = ListPlan { tasks: 4, lists: 6, read_from: Vec::new(), seed };
        ListLoad::start(Client::at(&url), plan)
    }
}

fn more(load: &ListLoad, count: u64) {
    let enough = load.committed() + count;
    until("the load to go on", || (load.committed() >= enough).then_some(()));
}

fn members(view: &View) -> Vec<u16> {
    view.members.iter().map(|member| member.instance.node.0).collect()
}

fn exactly_one_side_goes_on(cut: impl Fn(&Proxy), seed: u64) {
    let mut cuttable = Cuttable::start();
    let mut watch = ViewWatch::open(cuttable.cluster.mgmt_addr).expect("the server listens");
    let load = cuttable.load(seed);
    more(&load, 200);
    cuttable.between_zones(cut);
    let (view, _) = watch.until("a smaller view", |view| view.members.len() < 4);
    let winners = members(&view);
    let side = ZONES.iter().position(|zone| winners == *zone);
    let side = side.unwrap_or_else(|| panic!("{winners:?} are not one zone"));
    for node in ZONES[1 - side] {
        assert_eq!(cuttable.cluster.node(node).ended().code(), Some(1), "n{node} must stop");
        let log = cuttable.cluster.node(node).log();
        assert!(log.contains("error LS-"), "n{node} says why: {log}");
    }
    more(&load, 200);
    for node in ZONES[side] {
        assert!(cuttable.cluster.node(node).is_running(), "n{node} goes on");
    }
    let run = load.finish();
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    if let Err(violation) = check_list_append(&run.history) {
        panic!("{violation}");
    }
    // Healing changes nothing: who was excluded stays out.
    cuttable.between_zones(Proxy::mend);
    assert!(winners.iter().all(|node| cuttable.cluster.node(*node).is_running()));
    assert_eq!(view.member(NodeId(ZONES[1 - side][0])), None);
}

#[test]
fn zones_that_hear_nothing_from_each_other() {
    exactly_one_side_goes_on(|proxy| proxy.both(Flow::Held), 1);
}

#[test]
fn zones_whose_connections_are_reset_and_refused() {
    exactly_one_side_goes_on(Proxy::refuse, 2);
}

#[test]
fn slow_links_between_zones_stop_nobody() {
    let mut cuttable = Cuttable::start();
    let load = cuttable.load(3);
    more(&load, 50);
    let slow = std::time::Duration::from_millis(20);
    cuttable.between_zones(|proxy| proxy.both(Flow::Late(slow)));
    more(&load, 50);
    cuttable.between_zones(Proxy::reset);
    more(&load, 50);
    cuttable.between_zones(Proxy::mend);
    more(&load, 50);
    let run = load.finish();
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    assert_eq!(check_list_append(&run.history), Ok(()));
    for node in 1..=4 {
        assert!(cuttable.cluster.node(node).is_running(), "n{node} goes on");
    }
}
