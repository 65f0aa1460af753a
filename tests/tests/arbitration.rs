//! Both management servers are gone: load, the death of a data node and a split between zones go
//! on, decided by an API node; then the servers come back, one of them on nothing, and work again:
//! the nodes that had to stop join, and a backup is made, under the same load throughout.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use lockstep_client::Client;
use lockstep_mgmt::dev::process::Signal;
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::{Arbitrator, Standing, View};
use lockstep_tests::checkers::check_list_append;
use lockstep_tests::harness::lists::{ListLoad, ListPlan};
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::proxy::{Flow, Proxy};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Nodes 1 and 3 are in zone a, 2 and 4 in zone b.
const ZONES: [[u16; 2]; 2] = [[1, 3], [2, 4]];
const ZONE_NAMES: [&str; 2] = ["a", "b"];

fn more(load: &ListLoad, count: u64) {
    let enough = load.committed() + count;
    until("the load to go on", || (load.committed() >= enough).then_some(()));
}

fn members(view: &View) -> Vec<u16> {
    view.members.iter().map(|member| member.instance.node.0).collect()
}

fn told(args: &str) -> Value {
    let words = args.split_whitespace().chain(["-o", "json"]);
    let out = Command::new(BINARY).args(words).output().expect("the command runs");
    assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("one object")
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn without_management_servers_an_api_node_decides_and_they_come_back() {
    let mut proxies: BTreeMap<(u16, u16), Proxy> = BTreeMap::new();
    for (from, to) in [(0, 1), (1, 0)] {
        for pair in ZONES[from].iter().flat_map(|a| ZONES[to].iter().map(move |b| (*a, *b))) {
            proxies.insert(pair, Proxy::unaimed().expect("a proxy"));
        }
    }
    let peers = |node: u16| -> Vec<String> {
        let own = proxies.iter().filter(|((from, _), _)| *from == node);
        own.flat_map(|((_, to), proxy)| ["--peer".to_owned(), format!("{to}={}", proxy.addr())])
            .collect()
    };
    let form = Form { mgmts: 2, mgmt_args: vec!["--peer-death", "never"], ..Form::two_by_two() };
    let mut cluster = Cluster::start_with(Path::new(BINARY), &form, peers);
    for ((_, to), proxy) in &proxies {
        proxy.aim(cluster.node(*to).addr());
    }
    let nodes: Vec<String> = (1..=4).map(|node| cluster.node(node).addr().to_string()).collect();
    let url = format!("lockstep://{},{}", cluster.mgmt_list(), nodes.join(","));
    let by_node = format!("lockstep://{}", nodes.join(","));
    let plan = ListPlan { tasks: 4, lists: 6, read_from: Vec::new(), seed: 4 };
    let load = ListLoad::start(Client::at(&url), plan);
    more(&load, 50);
    let stand_in =
        cluster.start_other("stand-in", &["run", "arbitrator", "--name", "one", "--url", &url]);

    cluster.mgmt.signal(Signal::Kill);
    cluster.others[0].0.signal(Signal::Kill);
    let watch = |cluster: &mut Cluster, node: u16| {
        ViewWatch::open(cluster.node(node).addr()).expect("the node listens")
    };
    let by_api = |view: &View| matches!(&view.arbitrator, Some(Arbitrator::Api { .. }));
    let (_, gap) = watch(&mut cluster, 1).until("an API node to be named", by_api);
    println!("the API node is arbitrator {gap:?} after the death of both servers");
    let status = told(&format!("status --url {by_node}"));
    assert_eq!((&status["arbitrator"], &status["can_lose"]), (&"API node one".into(), &1.into()));
    assert_eq!(told(&format!("config apply --set tick=15ms --url {by_node}"))["version"], 1);

    cluster.node(4).signal(Signal::Kill);
    watch(&mut cluster, 1).until("a view without n4", |view| view.members.len() == 3);
    more(&load, 50);
    let gone = cluster.node(4).ended();
    assert!(!gone.success());
    let start_again = |cluster: &Cluster, node: u16| {
        let (flags, zone) = (peers(node), ZONE_NAMES[usize::from(node + 1) % 2]);
        let mut extra = vec!["--zone", zone, "--listen", &nodes[usize::from(node) - 1]];
        extra.extend(flags.iter().map(String::as_str));
        cluster.start_node(node, &format!("n{node}"), &extra)
    };
    let back = start_again(&cluster, 4);
    *cluster.node(4) = back;
    let whole = |view: &View| {
        view.in_sync().count() == 4 && view.members.iter().all(|m| m.standing == Standing::InSync)
    };
    watch(&mut cluster, 1).until("n4 to be back", |view| whole(view) && by_api(view));
    more(&load, 50);

    proxies.values().for_each(|proxy| proxy.both(Flow::Held));
    let side = until("one zone to go on", || {
        let ended = |zone: &[u16; 2], cluster: &mut Cluster| {
            zone.iter().all(|node| !cluster.node(*node).is_running())
        };
        (0..2).find(|side| ended(&ZONES[1 - side], &mut cluster))
    });
    let (view, _) = watch(&mut cluster, ZONES[side][0])
        .until("the view of one zone", |view| members(view) == ZONES[side]);
    assert!(by_api(&view), "{view:?}");
    more(&load, 50);

    // One server has its directory, the other has nothing but what the data nodes tell.
    cluster.restart_mgmt();
    cluster.restart_others(|name| format!("{name}-emptied"));
    let by_server = |view: &View| matches!(&view.arbitrator, Some(Arbitrator::Mgmt { .. }));
    let mut heard = Vec::new();
    for addr in [cluster.mgmt_addr, cluster.others[0].1] {
        let mut watch = ViewWatch::open(addr).expect("the server listens");
        let wanted = |view: &View| by_server(view) && members(view) == ZONES[side];
        heard.push(watch.until("the servers to know the view", wanted).0);
    }
    assert_eq!(heard[0].configured, heard[1].configured);
    let servers = format!("lockstep://{}", cluster.mgmt_list());
    assert_eq!(told(&format!("config apply --set tick=10ms --url {servers}"))["version"], 2);
    assert_eq!(view.member(NodeId(ZONES[1 - side][0])), None);
    drop(stand_in);
    more(&load, 50);

    // The links are whole, and those who had to stop are started again.
    proxies.values().for_each(Proxy::mend);
    for node in ZONES[1 - side] {
        cluster.node(node).ended();
        let back = start_again(&cluster, node);
        *cluster.node(node) = back;
    }
    let heard = watch(&mut cluster, ZONES[side][0]).until("all to be back", whole).0;
    assert!(by_server(&heard), "{heard:?}");
    more(&load, 50);
    let dir = cluster.dir().join("backups");
    std::fs::create_dir(&dir).expect("a fresh directory");
    let dir = dir.display();
    let made = told(&format!("backup create --to {dir} --wait --url {servers}"));
    assert_eq!(made["state"], "done", "{made}");
    let whole = told(&format!("backup verify {dir}"));
    assert_eq!((&whole["backup"], &whole["rows"]), (&made["backup"], &made["rows"]));
    more(&load, 50);
    let run = load.finish();
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    assert_eq!(check_list_append(&run.history), Ok(()));
}
