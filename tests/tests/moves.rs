//! Node groups come and go on real processes, and partitions move between them under load.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use lockstep_client::{Client, TableBuilder};
use lockstep_mgmt::bench::gap::Fault;
use lockstep_mgmt::demo::bank::{
    Account, BALANCE_AT_START, Finding, Ledger, Told, Transfer, audit,
};
use lockstep_mgmt::demo::replicas::read_all;
use lockstep_mgmt::demo::tellers::{Crew, Order};
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::View;
use lockstep_tests::checkers::check_list_append;
use lockstep_tests::harness::commands::User;
use lockstep_tests::harness::lists::{ListLoad, ListPlan};
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;
use serde_json::Value;
use tokio::sync::oneshot;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Accounts of the bank, and those who move money.
const ACCOUNTS: u64 = 400;
const TELLERS: u32 = 6;

/// Nobody waits for this long, however loaded the machine is. How long it is on one that is not,
/// `lockstep bench move` says.
const SERVED_WITHIN: Duration = Duration::from_secs(4);

fn url(cluster: &Cluster) -> String {
    format!("lockstep://{}", cluster.mgmt_addr)
}

/// The demo's bank on a thread of its own, until it is told to end.
struct Bank {
    end: oneshot::Sender<()>,
    thread: JoinHandle<Closed>,
}

/// What came of it.
struct Closed {
    finding: Finding,
    committed: u64,
    unknown: u64,
    /// The longest time without an acknowledgement that a teller has seen.
    longest: Duration,
}

impl Bank {
    fn open(url: String) -> Self {
        let (end, over) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime.expect("a runtime"), work(url, over))
        });
        Self { end, thread }
    }

    fn close(self) -> Closed {
        self.end.send(()).expect("it works until it is told");
        self.thread.join().expect("it ends well")
    }
}

async fn work(url: String, over: oneshot::Receiver<()>) -> Closed {
    let client = Client::at(&url).connect().await.expect("connected");
    client.create_table(TableBuilder::of::<Account>()).await.expect("created");
    client.create_table(TableBuilder::of::<Transfer>()).await.expect("created");
    let accounts = client.table::<Account>();
    for id in 0..ACCOUNTS {
        accounts.insert(&Account { id, balance: BALANCE_AT_START }).await.expect("inserted");
    }
    let fault = Fault::default();
    fault.happens();
    let crew = Crew::start(&client, 0..TELLERS, ACCOUNTS, &fault, |task| task == 0);
    over.await.expect("it is told to end");
    let reports = crew.end(Order::Finish).await.expect("they end");
    let longest = reports.iter().map(|report| report.gap.longest()).max().unwrap_or_default();
    let ledger = Ledger(reports.into_iter().map(|report| report.told).collect());
    let holdings = read_all(&client).await.expect("all replicas are read");
    assert_eq!(holdings.different, Vec::<String>::new(), "replicas differ");
    let (committed, unknown) = (ledger.count(Told::Committed), ledger.count(Told::Unknown));
    let finding = audit(&ledger, &holdings.books, ACCOUNTS);
    Closed { finding, committed, unknown, longest }
}

fn more(load: &ListLoad, count: u64) {
    let enough = load.committed() + count;
    until("the load to go on", || (load.committed() >= enough).then_some(()));
}

/// The node groups, each with the number of its partitions.
fn owned(list: &Value) -> Vec<(u64, u64)> {
    let groups = list["groups"].as_array().expect("a list");
    let number = |value: &Value| value.as_u64().expect("a number");
    groups.iter().map(|g| (number(&g["group"]), number(&g["partitions"]))).collect()
}

/// Each group's coming and going is told once and in order, and that each partition has moved.
fn assert_events(happened: &[Value]) {
    let name = |event: &Value| event["event"].as_str().expect("a name").to_owned();
    let groups = happened.iter().filter(|event| name(event).starts_with("group_"));
    let groups: Vec<(String, u64)> =
        groups.map(|event| (name(event), event["group"].as_u64().expect("a number"))).collect();
    let wanted = [
        ("group_created", 2),
        ("group_created", 3),
        ("group_drop_begun", 1),
        ("group_dropped", 1),
        ("group_drop_begun", 3),
        ("group_dropped", 3),
    ];
    assert_eq!(groups, wanted.map(|(name, group)| (name.to_owned(), group)));
    let moves = happened.iter().filter(|event| name(event).starts_with("rebalance_"));
    let (ended, begun): (Vec<&Value>, Vec<&Value>) =
        moves.partition(|event| name(event) == "rebalance_ended");
    let moved: u64 = ended.iter().filter_map(|event| event["partitions"].as_u64()).sum();
    assert_eq!(begun.len(), ended.len());
    assert!(begun.len() >= 3 && moved >= 64, "{begun:?} {ended:?}");
}

#[test]
fn one_group_becomes_three_and_one_again_under_load() {
    let cluster = Cluster::start(Path::new(BINARY), &Form::pair());
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let bank = Bank::open(url(&cluster));
    let plan = ListPlan { tasks: 4, lists: 8, read_from: vec![], seed: 11 };
    let load = ListLoad::start(Client::at(&url(&cluster)), plan);
    more(&load, 200);
    let mut added = Vec::new();
    for node in 3..=6 {
        added.push(cluster.start_node(node, &format!("n{node}"), &["--zone", "a"]));
        let there = |view: &View| view.member(NodeId(node)).is_some();
        watch.until(&format!("n{node}"), there);
    }
    let user = User::new(Path::new(BINARY));
    let told = |words: &str| user.asked(&format!("--url {} --timeout 3m {words}", url(&cluster)));
    for (group, nodes) in [(2, "3,4"), (3, "5,6")] {
        let made = told(&format!("group create --nodes {nodes}"));
        assert_eq!(made["group"], group, "{made}");
        more(&load, 100);
    }
    let even = told("group rebalance");
    assert_eq!(even["balanced"], true, "{even}");
    assert_eq!(owned(&told("group list")), [(1, 22), (2, 21), (3, 21)]);
    more(&load, 200);
    for group in [1, 3] {
        let gone = told(&format!("group drop {group} --yes"));
        assert_eq!(gone["group"], group, "{gone}");
        more(&load, 100);
    }
    assert_eq!(owned(&told("group list")), [(2, 64)]);
    more(&load, 200);
    let happened = until("what happened to be told", || {
        let happened = told("events")["events"].as_array().expect("a list").clone();
        let gone = |event: &Value| event["event"] == "group_dropped" && event["group"] == 3;
        happened.iter().any(gone).then_some(happened)
    });
    assert_events(&happened);
    let run = load.finish();
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    check_list_append(&run.history).expect("no commit is missing");
    let Closed { finding, committed, unknown, longest } = bank.close();
    assert!(finding.is_clean(ACCOUNTS), "{finding:?}");
    assert_eq!(unknown, 0, "of {committed} transfers");
    assert!(longest < SERVED_WITHIN, "somebody has waited for {longest:?}");
    drop(added);
}
