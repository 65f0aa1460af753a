//! Bad input at the door of real processes: each gets a clear refusal or a closed connection and
//! is counted; nobody else notices, and nothing is reserved because somebody claims a length.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lockstep_client::{Client, ErrorKind, Outcome, Row, TableBuilder, Value, col};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{
    ClusterId, Epoch, Incarnation, NodeId, NodeInstance, PartitionId, SchemaVersion, Seq, ShardId,
    TableId, TxId, ViewNumber,
};
use lockstep_proto::limits::FRAME_BYTES_MAX;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::data::{Execute, Finish, Message};
use lockstep_proto::wire::hello::{Hello, Refusal, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList, Ops};
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_proto::wire::{codec, kind};
use lockstep_tests::harness::lists::List;
use lockstep_tests::harness::logs;
use lockstep_tests::harness::processes::{Cluster, Form, Running};
use lockstep_tests::harness::raw::{RawClient, hello};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// Runs something asynchronous to its end, on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// A cluster that serves, and its id.
fn serving() -> (Cluster, ClusterId) {
    let cluster = Cluster::start(Path::new(BINARY), &Form::pair());
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let (view, _) = watch.until("the first view", |_| true);
    block_on(async {
        let client = connect(&cluster).await;
        client.create_table(TableBuilder::of::<List>()).await.expect("made");
    });
    (cluster, view.cluster)
}

async fn connect(cluster: &Cluster) -> Client {
    let url = format!("lockstep://{}", cluster.mgmt_addr);
    Client::connect(&url).await.expect("connected")
}

/// The cluster works, and its logs are clean.
fn still_serves(cluster: &Cluster, id: u64) {
    block_on(async {
        let lists = connect(cluster).await.table::<List>();
        lists.upsert(&List { id, elements: vec![7] }).await.expect("written");
        assert_eq!(lists.get(id).await.expect("read").expect("there").elements, [7]);
    });
    for process in cluster.nodes.iter().chain([&cluster.mgmt]) {
        let log = process.log();
        let loud = logs::unexpected(&log, &[]);
        assert!(loud.is_empty(), "{loud:#?}");
    }
}

/// Frames of one shard that were no messages.
fn malformed(cluster: &Cluster, node: u16) -> u64 {
    let status = block_on(async { connect(cluster).await.status(NodeId(node), ShardId(0)).await });
    status.expect("a status").malformed
}

/// What went wrong at the edge of a process was counted; the log shows each count's first tick.
#[track_caller]
fn assert_counted(process: &Running, count: &str) {
    let log = process.log();
    assert!(log.contains(&format!("count=\"{count}\"")), "{count} is not in {log}");
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).expect("small");
    [&length.to_le_bytes()[..], &[kind], body].concat()
}

fn hot(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    bytes.to_vec()
}

#[test]
fn strangers_at_the_door_are_turned_away() {
    let (mut cluster, _) = serving();
    let claim = |length: u32| length.to_le_bytes().to_vec();
    let cases = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        claim(0),
        claim(u32::MAX),
        [claim(4000), vec![kind::HELLO; 4000]].concat(),
        frame(kind::CLIENT, &[0; 16]),
        frame(kind::HELLO, &[]),
    ];
    for addr in [cluster.mgmt_addr, cluster.node(1).addr()] {
        for bytes in &cases {
            let mut raw = RawClient::connect(addr).expect("connected");
            raw.send(bytes).expect("sent");
            raw.end();
        }
        // Half a hello, and gone; a hello that never comes is given up on.
        let mut raw = RawClient::connect(addr).expect("connected");
        raw.send(&[40, 0]).expect("sent");
        raw.vanish();
        RawClient::connect(addr).expect("connected").end();
    }
    for process in [&cluster.mgmt, &cluster.nodes[0]] {
        for count in ["hello_malformed", "hello_late"] {
            assert_counted(process, count);
        }
    }
    still_serves(&cluster, 1);
}

#[test]
fn a_wrong_hello_is_answered_with_the_reason() {
    let (mut cluster, id) = serving();
    let addr = cluster.node(1).addr();
    let life = |node, incarnation| NodeInstance {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
    };
    let (me, stranger) = (life(1, 1), ClusterId(id.0 ^ 1));
    let right = |from, to| hello(Some(id), from, to);
    let cases: [(Hello, Refusal); 5] = [
        (
            Hello { version: WIRE_VERSION + 1, ..right(Speaker::Client, Wanted::Any) },
            Refusal::WrongVersion,
        ),
        (hello(Some(stranger), Speaker::Client, Wanted::Any), Refusal::WrongCluster),
        (
            hello(Some(stranger), Speaker::Control(life(2, 1)), Wanted::Control(me)),
            Refusal::WrongCluster,
        ),
        (right(Speaker::Client, Wanted::Shard(life(2, 1), ShardId(0))), Refusal::WrongNode),
        (right(Speaker::Control(life(2, 1)), Wanted::Control(life(1, 9))), Refusal::WrongNode),
    ];
    for (hello, expected) in cases {
        let mut raw = RawClient::connect(addr).expect("connected");
        match raw.greet(&hello).expect("an answer") {
            Welcome::Refused { reason, text } => {
                assert_eq!(reason, expected, "{text}");
                assert!(text.len() > 20, "for people: {text:?}");
            }
            other @ Welcome::Accepted { .. } => panic!("{hello:?} was answered with {other:?}"),
        }
        raw.end();
    }
    assert_counted(&cluster.nodes[0], "hello_refused");
    still_serves(&cluster, 2);
}

#[test]
fn frames_that_are_no_messages_end_the_connection_and_are_counted() {
    let (mut cluster, _) = serving();
    let addr = cluster.node(1).addr();
    let before = malformed(&cluster, 1);
    let append = Message::Append { view: ViewNumber(1), stable: Seq(0), record: &[1, 2, 3] };
    let mut enter = BytesMut::new();
    codec::frame_cold(&mut enter, kind::SHARD_CONTROL, &ShardControl::Drain);
    let read = Message::Read { request: 1, epoch: Epoch(0), ops: Ops::EMPTY };
    let mut cut = hot(&read);
    cut.truncate(cut.len() - 1);
    cut[..4].copy_from_slice(&9_u32.to_le_bytes());
    let cases: [(&str, Vec<u8>); 7] = [
        ("an unknown kind", frame(99, &[0; 8])),
        ("a cold message of garbage", frame(kind::CLIENT, &[0xfd; 64])),
        ("a message cut short", cut),
        ("a message with bytes after it", frame(kind::CLIENT, &[0, 0, 0])),
        ("a record from a client", hot(&append)),
        ("an order of a control core from a client", enter.to_vec()),
        ("a control core's message from a client", frame(kind::CONTROL, &[0; 8])),
    ];
    for (what, bytes) in &cases {
        let mut raw = RawClient::welcomed(addr, Wanted::Any).expect("welcomed");
        raw.send(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
        raw.end();
    }
    let counted = malformed(&cluster, 1) - before;
    assert_eq!(counted, cases.len() as u64, "each is counted");
    still_serves(&cluster, 3);
}

#[test]
fn oversized_and_half_sent_frames_cost_nobody_anything() {
    let (mut cluster, _) = serving();
    let addr = cluster.node(1).addr();
    let over = u32::try_from(FRAME_BYTES_MAX + 1).expect("fits");
    let mut raw = RawClient::welcomed(addr, Wanted::Any).expect("welcomed");
    raw.send(&over.to_le_bytes()).expect("sent");
    raw.end();
    assert_counted(&cluster.nodes[0], "frame_malformed");
    // Hundreds of clients claim four mebibytes each, send a little, and wait.
    let most = u32::try_from(FRAME_BYTES_MAX).expect("fits");
    let claims: Vec<RawClient> = (0..300)
        .map(|_| {
            let mut raw = RawClient::welcomed(addr, Wanted::Any).expect("welcomed");
            raw.send(&most.to_le_bytes()).expect("sent");
            raw.send(&[1; 100]).expect("sent");
            raw
        })
        .collect();
    let status = block_on(async {
        connect(&cluster).await.status(NodeId(1), ShardId(0)).await.expect("a status")
    });
    assert!(status.rss_bytes < 200 << 20, "{} bytes for claims alone", status.rss_bytes);
    still_serves(&cluster, 4);
    drop(claims);
    still_serves(&cluster, 5);
}

#[test]
fn a_client_that_never_reads_its_answers_disturbs_nobody() {
    let (mut cluster, _) = serving();
    let addr = cluster.node(1).addr();
    let mut raw = RawClient::welcomed(addr, Wanted::Any).expect("welcomed");
    let mut question = BytesMut::new();
    codec::frame_cold(&mut question, kind::CLIENT, &ClientMessage::WatchView);
    // Each answer is a view; the questions stop fitting once nobody takes answers.
    let many = question.repeat(10_000);
    let started = Instant::now();
    let mut sent = 0;
    while sent < 200 && started.elapsed() < Duration::from_secs(5) && raw.offer(&many) {
        sent += 1;
    }
    let status = block_on(async {
        connect(&cluster).await.status(NodeId(1), ShardId(0)).await.expect("a status")
    });
    assert!(status.rss_bytes < 400 << 20, "{} bytes of answers", status.rss_bytes);
    assert_counted(&cluster.nodes[0], "client_paused");
    still_serves(&cluster, 6);
    raw.vanish();
    still_serves(&cluster, 7);
}

/// One batch that asks for one operation, as bytes of a client that checks nothing.
fn refused(raw: &mut RawClient, sequence: u64, op: &Op<'_>) -> Code {
    let mut ops = OpList::default();
    ops.push(op);
    let tx = TxId { sequence, expiry: Epoch(1_000), ..TxId::default() };
    let execute = Execute {
        request: sequence,
        tx,
        low: 1,
        order: lockstep_proto::ids::StartOrder::default(),
        epoch: Epoch(0),
        anchor: op.partition,
        step: 0,
        finish: Finish::Commit,
        ops: ops.as_ops(),
    };
    raw.ask(&Message::Execute(execute)).expect("sent");
    let answer = raw.frame().expect("an answer");
    match Message::decode(&answer).expect("a message") {
        Message::Refused { code, .. } => code,
        other => panic!("{op:?} was answered with {other:?}"),
    }
}

#[test]
fn servers_do_not_trust_the_library() {
    let (mut cluster, _) = serving();
    let addr = cluster.node(1).addr();
    let mut raw = RawClient::welcomed(addr, Wanted::Any).expect("welcomed");
    let (partition, table) = block_on(async {
        let lists = connect(&cluster).await.table::<List>();
        let view = ViewWatch::open(addr).expect("served").until("a view", |_| true).0;
        let led = view.partitions().find(|p| {
            view.primary_of(*p).is_some_and(|primary| primary.instance.node == NodeId(1))
        });
        (led.expect("n1 leads something"), lists.def().await.expect("defined"))
    });
    let right = Op {
        kind: OpKind::Insert,
        flags: OpFlags::default(),
        table: table.id,
        schema: table.version,
        partition,
        key: &[0; 8],
        body: &[],
    };
    let cases = [
        (Op { table: TableId(77_777), ..right }, Code::NoSuchTable),
        (Op { schema: SchemaVersion(9), ..right }, Code::WrongSchema),
        (Op { key: b"no u64", ..right }, Code::Malformed),
        (Op { body: b"no row", ..right }, Code::Malformed),
        (Op { kind: OpKind::Update, body: &[9; 40], ..right }, Code::Malformed),
        (Op { partition: PartitionId(9_999), ..right }, Code::NotPrimary),
    ];
    for (sequence, (op, expected)) in (1..).zip(&cases) {
        assert_eq!(refused(&mut raw, sequence, op), *expected, "{op:?}");
    }
    still_serves(&cluster, 8);
}

#[test]
fn mistakes_of_applications_have_a_kind_and_no_effect() {
    let (cluster, _) = serving();
    block_on(async {
        let client = connect(&cluster).await;
        let lists = client.table::<List>();
        let row = |id, bytes: usize| List { id, elements: vec![1; bytes] };
        lists.insert(&row(1, 1)).await.expect("inserted");
        let errors = [
            (lists.insert(&row(1, 2)).await, ErrorKind::DuplicateKey),
            (lists.update(&row(2, 2)).await, ErrorKind::NotFound),
            (lists.delete(2_u64).await, ErrorKind::NotFound),
            (lists.insert(&row(3, (1 << 20) + 1)).await, ErrorKind::InvalidData),
            (
                lists.patch(1_u64).set("elements", vec![9_u8]).when(col("id").eq(5_u64)).await,
                ErrorKind::ConditionFailed,
            ),
            (lists.patch(1_u64).set("nothing", 1_u64).await, ErrorKind::Schema),
            (lists.patch(1_u64).set("elements", "text").await, ErrorKind::InvalidData),
            (client.table_as::<List>("nowhere").insert(&row(1, 1)).await, ErrorKind::Schema),
        ];
        for (result, kind) in errors {
            let error = result.expect_err("a mistake");
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
            assert!(!error.is_retryable(), "{error}");
        }
        let named = TableBuilder::new("named")
            .column("name", lockstep_client::ColumnType::String)
            .key(["name"]);
        client.create_table(named).await.expect("made");
        let named = client.table_named("named").await.expect("there");
        let long = Row::new([Value::from("n".repeat(5_000))]);
        let error = named.insert(&long).await.expect_err("the key is too long");
        assert_eq!(error.error_code(), Code::KeyTooLong, "{error}");
        assert_eq!(lists.get(1_u64).await.expect("read").expect("there").elements, [1]);
    });
    still_serves(&cluster, 9);
}

#[test]
fn what_no_frame_can_hold_is_refused_and_costs_nobody_anything() {
    let (cluster, _) = serving();
    block_on(async {
        let client = connect(&cluster).await;
        let lists = client.table::<List>();
        // More in one transaction than the records of sixteen partitions hold.
        let wide = |id| List { id, elements: vec![1; 900_000] };
        let refused = client.transaction(|tx| async move {
            for id in 0..80_u64 {
                tx.table::<List>().upsert(&wide(id)).await?;
            }
            Ok::<_, lockstep_client::Error>(())
        });
        let error = refused.await.expect_err("too large");
        assert_eq!(error.error_code(), Code::TransactionTooLarge, "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
        // Many small writes are no harm, wherever they go.
        let many = client.transaction(|tx| async move {
            for id in 100..6_100_u64 {
                tx.table::<List>().upsert(&List { id, elements: vec![1] }).await?;
            }
            Ok::<_, lockstep_client::Error>(())
        });
        many.await.expect("committed");
        for id in 0..20_u64 {
            lists.upsert(&wide(id)).await.expect("one by one they fit");
        }
        let error = lists.get_many(0..20_u64).await.expect_err("18 megabytes");
        assert_eq!(error.error_code(), Code::AnswerTooLarge, "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(lists.get_many(0..2_u64).await.expect("read").len(), 2);
    });
    still_serves(&cluster, 11);
}

#[test]
fn memory_that_is_used_up_refuses_writes_and_nothing_else() {
    let form = Form { mgmt_args: vec!["--data-memory", "1MiB"], ..Form::pair() };
    let cluster = Cluster::start(Path::new(BINARY), &form);
    block_on(async {
        let client = connect(&cluster).await;
        client.create_table(TableBuilder::of::<List>()).await.expect("made");
        let lists = client.table::<List>();
        let row = |id| List { id, elements: vec![id.to_le_bytes()[0]; 4_000] };
        let mut held = 0;
        let error = loop {
            assert!(held < 1_000, "four megabytes fit into one");
            match lists.insert(&row(held)).await {
                Ok(()) => held += 1,
                Err(error) => break error,
            }
        };
        assert!(held > 100, "only {held} rows fit");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
        assert!(!error.is_retryable(), "{error}");
        assert!(lists.get(held).await.expect("read").is_none(), "refused without effect");
        for id in 0..held {
            assert_eq!(lists.get(id).await.expect("read").expect("there"), row(id));
        }
        // Deleting makes room again.
        for id in 0..20 {
            lists.delete(id).await.expect("deleted");
        }
        lists.insert(&row(held)).await.expect("there is room");
    });
    still_serves(&cluster, 10);
}

#[test]
fn a_second_node_of_one_id_is_refused_and_the_cluster_forms_without_it() {
    let mut cluster = Cluster::empty(Path::new(BINARY), &Form::pair());
    let mut first = cluster.start_node(1, "n1", &[]);
    until("the first report", || first.log().contains("1 of 2 data nodes").then_some(()));
    let mut second = cluster.start_node(1, "n1-too", &[]);
    assert!(!second.ended().success());
    let log = second.log();
    assert!(log.contains("node id 1 is taken"), "{log}");
    assert!(first.is_running(), "{}", first.log());
    let other = cluster.start_node(2, "n2", &[]);
    cluster.nodes = vec![first, other];
    let mut watch = ViewWatch::open(cluster.mgmt_addr).expect("the management server listens");
    let (view, _) = watch.until("the first view", |_| true);
    assert_eq!(view.members.len(), 2);
    block_on(async {
        let client = connect(&cluster).await;
        client.create_table(TableBuilder::of::<List>()).await.expect("made");
    });
}
