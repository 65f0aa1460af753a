//! Real processes lose nodes and clients in the middle of work. What clients saw is judged as a
//! whole: no acknowledged append may be missing, nobody may have seen an old state.

use std::path::Path;

use lockstep_client::{Client, TableBuilder};
use lockstep_mgmt::dev::process::Signal;
use lockstep_proto::ids::{Incarnation, NodeId, NodeInstance};
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::{key_hash, partition_of};
use lockstep_proto::value::Value;
use lockstep_proto::view::{Standing, View};
use lockstep_proto::wire::bytes::Reader;
use lockstep_proto::wire::data::Message;
use lockstep_proto::wire::hello::Wanted;
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList, OpResult};
use lockstep_tests::checkers::check_list_append;
use lockstep_tests::harness::lists::{List, ListLoad, ListPlan, ListRun};
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::raw::RawClient;
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

fn url(cluster: &Cluster) -> String {
    format!("lockstep://{}", cluster.mgmt_addr)
}

fn plan(seed: u64) -> ListPlan {
    let read_from = (1..=4).map(NodeId).collect();
    ListPlan { tasks: 6, lists: 8, read_from, seed }
}

fn more(load: &ListLoad, count: u64) {
    let enough = load.committed() + count;
    until("the load to go on", || (load.committed() >= enough).then_some(()));
}

#[track_caller]
fn is_flawless(run: &ListRun) {
    assert_eq!(run.errors, Vec::<String>::new(), "errors reached the application");
    if let Err(violation) = check_list_append(&run.history) {
        panic!("{violation}");
    }
}

/// Whether a later life of a node is in sync.
fn is_back(view: &View, node: u16) -> bool {
    let member = view.member(NodeId(node));
    member.is_some_and(|m| m.instance.incarnation.0 > 1 && m.standing == Standing::InSync)
}

fn is_without(view: &View, node: u16) -> bool {
    !view.contains(NodeInstance { node: NodeId(node), incarnation: Incarnation(1) })
}

#[test]
fn nodes_killed_under_load_cost_no_error_and_no_commit() {
    let mut cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let load = ListLoad::start(Client::at(&url(&cluster)), plan(1));
    more(&load, 300);
    cluster.node(1).signal(Signal::Kill);
    more(&load, 300);
    cluster.node(4).signal(Signal::Kill);
    more(&load, 300);
    is_flawless(&load.finish());
}

#[test]
fn a_node_that_leaves_under_load_is_hardly_noticed() {
    let mut cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let load = ListLoad::start(Client::at(&url(&cluster)), plan(2));
    more(&load, 300);
    cluster.node(2).signal(Signal::Terminate);
    assert_eq!(cluster.node(2).ended().code(), Some(0));
    more(&load, 300);
    is_flawless(&load.finish());
}

#[test]
fn a_node_that_is_stopped_and_continued_under_load_tells_no_old_state() {
    let mut cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let load = ListLoad::start(Client::at(&url(&cluster)), plan(3));
    more(&load, 300);
    cluster.node(3).signal(Signal::Stop);
    watch.until("a view without n3", |view| is_without(view, 3));
    more(&load, 300);
    cluster.node(3).signal(Signal::Continue);
    more(&load, 300);
    // It finds that it is excluded, and comes back.
    watch.until("n3 in sync again", |view| is_back(view, 3));
    more(&load, 300);
    is_flawless(&load.finish());
}

/// Runs something asynchronous to its end, on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// A committed read of one list, as the wire language says it.
fn read_of(def: &lockstep_client::TableDef, id: u64, partitions: u16) -> OpList {
    let key = encode_key(def, &[Value::from(id)]).expect("a key");
    let mut ops = OpList::default();
    ops.push(&Op {
        kind: OpKind::Read,
        flags: OpFlags::default(),
        table: def.id,
        schema: def.version,
        partition: partition_of(key_hash(&key), partitions),
        key: &key,
        body: &[],
    });
    ops
}

/// The row in an answer; `None` for a refusal.
fn seen(frame: &[u8]) -> Option<Vec<u8>> {
    match Message::decode(frame).expect("a message") {
        Message::Answer { results, .. } => {
            match OpResult::read(&mut Reader::new(&results.0[2..])).expect("a result") {
                OpResult::Row(row) => Some(row.to_vec()),
                other => panic!("a list was answered with {other:?}"),
            }
        }
        Message::Refused { .. } => None,
        other => panic!("a question was answered with {other:?}"),
    }
}

/// A question that waited in the socket of a stopped node while the others moved on: when the
/// node wakes, the question looks new to it. It must not answer with what it remembers.
#[test]
fn a_question_asked_while_a_node_was_stopped_is_not_answered_from_the_past() {
    let mut cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let (view, _) = watch.until("the first view", |_| true);
    let url = url(&cluster);
    let old = |id| List { id, elements: b"old".to_vec() };
    let new = |id| List { id, elements: b"new".to_vec() };
    let def = block_on(async {
        let client = Client::connect(&url).await.expect("connected");
        client.create_table(TableBuilder::of::<List>()).await.expect("made");
        for id in 0..32 {
            client.table::<List>().insert(&old(id)).await.expect("inserted");
        }
        client.table::<List>().def().await.expect("defined")
    });
    let addr = cluster.node(1).addr();
    let mut raw = RawClient::welcomed(addr, Wanted::Any).expect("welcomed");
    let partitions = u16::try_from(view.placements.len()).expect("few");
    let epoch = view.seal;
    let ask = |raw: &mut RawClient, id: u64| {
        let ops = read_of(&def, id, partitions);
        raw.ask(&Message::Read { request: id, epoch, ops: ops.as_ops() }).expect("sent");
    };
    // While it is a member it answers for the lists of its group.
    (0..32).for_each(|id| ask(&mut raw, id));
    let answers = (0..32).map(|_| raw.frame().expect("an answer"));
    let told = answers.filter(|frame| seen(frame).is_some_and(|row| row.ends_with(b"old"))).count();
    assert!(told > 4, "only {told} of 32 lists were told");
    cluster.node(1).signal(Signal::Stop);
    watch.until("a view without n1", |view| is_without(view, 1));
    block_on(async {
        let client = Client::connect(&url).await.expect("connected");
        for id in 0..32 {
            client.table::<List>().upsert(&new(id)).await.expect("replaced");
        }
    });
    (0..32).for_each(|id| ask(&mut raw, id));
    cluster.node(1).signal(Signal::Continue);
    while let Ok(frame) = raw.frame() {
        assert_eq!(seen(&frame), None, "n1 answered although it is excluded");
    }
    watch.until("n1 in sync again", |view| is_back(view, 1));
}

#[test]
fn a_client_that_dies_in_mid_transaction_costs_nobody_anything() {
    let cluster = Cluster::start(Path::new(BINARY), &Form::two_by_two());
    let url = url(&cluster);
    block_on(async {
        let client = Client::connect(&url).await.expect("connected");
        client.create_table(TableBuilder::of::<List>()).await.expect("made");
        for id in 0..8 {
            let row = List { id, elements: Vec::new() };
            client.table::<List>().insert(&row).await.expect("inserted");
        }
    });
    // The runtime ends with the locks held and nothing said: as sockets of a dead process do.
    block_on(async {
        let client = Client::connect(&url).await.expect("connected");
        let tx = client.begin().await.expect("begun");
        for id in 0..8 {
            let row = tx.table::<List>().get_for_update(id).await.expect("locked").expect("there");
            let row = List { elements: b"never".to_vec(), ..row };
            tx.table::<List>().update(&row).await.expect("staged");
        }
        std::mem::forget(tx);
        std::mem::forget(client);
    });
    block_on(async {
        let client = Client::connect(&url).await.expect("connected");
        for id in 0..8 {
            let row = client.table::<List>().get(id).await.expect("read").expect("there");
            assert_eq!(row.elements, b"", "nothing was committed");
            let row = List { id, elements: b"mine".to_vec() };
            client.table::<List>().update(&row).await.expect("the lock is free");
        }
    });
}
