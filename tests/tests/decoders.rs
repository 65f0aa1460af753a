//! Hostile bytes: whatever comes over a socket or out of a file, a decoder gives a value or an
//! error. It does not panic, and it does not reserve memory because some bytes claim a length.
//!
//! Valid messages are bent in many ways (cut, stretched, bits flipped, lengths blown up), because
//! random bytes alone never get past the first field. An allocator that watches this thread tells
//! the largest request a decoder made.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use bytes::BytesMut;
use lockstep_proto::ids::{
    Epoch, PartitionId, RestartGeneration, SchemaVersion, Seq, ShardAddr, StartOrder, TableId,
    TxId, ViewNumber,
};
use lockstep_proto::key::decode_key;
use lockstep_proto::outcomes::{Outcome, Outcomes};
use lockstep_proto::record::{Header, Record, RecordBuilder, RecordKind, RowWrite};
use lockstep_proto::roster::Roster;
use lockstep_proto::row::{check_row, decode_row};
use lockstep_proto::schema::{ColumnDef, TableDef, check_catalog_row};
use lockstep_proto::stored::{Stored, StoredCluster, StoredRegister};
use lockstep_proto::value::ColumnType;
use lockstep_proto::view::{ClusterConfig, Member, Placement, Standing, View};
use lockstep_proto::wire::bytes::Reader;
use lockstep_proto::wire::client::{ClientMessage, DiskStatus, ShardStatus};
use lockstep_proto::wire::codec::{decode, encode};
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::data::{
    Execute, Finish, Forward, Message, Partitions, Vote, partitions_to_bytes, put_log_ends,
};
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::join::{CopiedRow, Holding, JoinMessage, LogPlace, Piece, copied_rows};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList, OpResult};
use lockstep_proto::wire::progress::{JoinProgress, Share};
use lockstep_proto::wire::shard_control::ShardControl;
use proptest::prelude::*;

/// What a decoder may reserve for an input of a few kilobytes. serde reserves up to a mebibyte for
/// a sequence before it has seen the elements; everything of our own stays far below.
const ALLOCATION_MAX: usize = 1 << 20;

struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Runs all decoders on the same bytes.
fn decode_all(bytes: &[u8]) {
    let message = Message::decode(bytes);
    if let Ok(Message::Execute(execute)) = &message {
        execute.ops.iter().for_each(|op| {
            black_box(op);
        });
    }
    if let Ok(record) = Record::decode(bytes) {
        let _ = black_box(record.writes().map(|writes| writes.iter().count()));
        let prepare = record.prepare();
        let _ =
            black_box(prepare.map(|body| body.writes.iter().count() + body.shared.iter().count()));
    }
    let _ = black_box(ControlMessage::parse(bytes));
    let _ = black_box(decode::<ClientMessage>(bytes));
    let _ = black_box(decode::<ShardControl>(bytes));
    let _ = black_box(decode::<Hello>(bytes));
    let _ = black_box(decode::<Welcome>(bytes));
    let _ = black_box(decode::<View>(bytes));
    let _ = black_box(StoredCluster::from_file(bytes));
    let _ = black_box(StoredRegister::from_file(bytes));
    let _ = black_box(TableDef::decode(bytes));
    let _ = black_box(check_catalog_row(bytes, bytes));
    let _ = black_box(JoinMessage::parse(bytes));
    let _ = black_box(copied_rows(bytes).count());
    let _ = black_box(Outcomes::default().load(bytes));
    let table = table();
    let _ = black_box(decode_key(&table, bytes));
    let _ = black_box(decode_row(&table, bytes));
    let _ = black_box(check_row(&table, bytes));
    let _ = black_box(OpResult::read(&mut Reader::new(bytes)));
}

fn table() -> TableDef {
    let columns = vec![
        ColumnDef::new("id", ColumnType::U64),
        ColumnDef::new("name", ColumnType::String),
        ColumnDef::new("blob", ColumnType::Bytes),
    ];
    TableDef::with_key("t", columns, &["id", "name"]).expect("a valid table")
}

fn ops() -> OpList {
    let mut list = OpList::default();
    for kind in [OpKind::Read, OpKind::Upsert] {
        list.push(&Op {
            kind,
            flags: OpFlags::default(),
            table: TableId(4),
            schema: SchemaVersion(1),
            partition: PartitionId(3),
            key: b"key",
            body: b"body",
        });
    }
    list
}

/// Frames of hot messages, without their length prefix.
fn hot_samples() -> Vec<Vec<u8>> {
    let list = ops();
    let (tx, view, partition) = (TxId::default(), ViewNumber(2), PartitionId(3));
    let participants = partitions_to_bytes(&[PartitionId(3), PartitionId(5)]);
    let participants = Partitions::from_bytes(&participants).expect("whole partitions");
    let execute = Execute {
        request: 1,
        tx,
        low: 1,
        order: StartOrder { wall_ms: 7, ..StartOrder::default() },
        epoch: Epoch(5),
        anchor: partition,
        step: 0,
        finish: Finish::Commit,
        ops: list.as_ops(),
    };
    let forward = Forward {
        view,
        tx,
        partition,
        low: 1,
        order: StartOrder::default(),
        epoch: Epoch(5),
        step: 0,
        participants,
        ops: list.as_ops(),
    };
    let record = record();
    let vote = Vote::Prepared(Epoch(5));
    let results = lockstep_proto::wire::data::Results(&[1, 0, 0]);
    let messages = [
        Message::Execute(execute),
        Message::Read { request: 1, epoch: Epoch(5), ops: list.as_ops() },
        Message::ReadAt { request: 1, at: Epoch(5), ops: list.as_ops() },
        Message::ScanAt {
            request: 1,
            table: TableId(3),
            schema: SchemaVersion(1),
            partition: PartitionId(2),
            at: Epoch(5),
            rows_max: 100,
            after: b"key",
        },
        Message::Sweep {
            request: 1,
            table: TableId(3),
            schema: SchemaVersion(1),
            partition: PartitionId(2),
            at: Epoch(5),
            place: 1 << 60,
            rows_max: 100,
        },
        Message::Swept { request: 1, next: Some(7), rows: b"rows" },
        Message::Forward(forward),
        Message::Voted { view, tx, partition, vote, results },
        Message::Append { view, stable: Seq(8), record: &record },
    ];
    let mut samples: Vec<Vec<u8>> = messages.iter().map(|message| framed(message)).collect();
    let mut ends = BytesMut::new();
    put_log_ends(&mut ends, view, &[(PartitionId(1), Seq(3)), (PartitionId(2), Seq(4))]);
    samples.push(ends[4..].to_vec());
    samples
}

fn framed(message: &Message<'_>) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    buffer[4..].to_vec()
}

fn record() -> Box<[u8]> {
    let header = Header {
        kind: RecordKind::Prepare,
        partition: PartitionId(3),
        view: ViewNumber(2),
        seq: Seq(9),
        epoch: Epoch(5),
        tx: TxId::default(),
        low: 1,
    };
    let participants = partitions_to_bytes(&[PartitionId(3), PartitionId(5)]);
    let participants = Partitions::from_bytes(&participants).expect("whole partitions");
    let shared = [(TableId(4), &b"read"[..])];
    let mut builder = RecordBuilder::prepare(
        &header,
        ShardAddr::default(),
        StartOrder::default(),
        participants,
        shared.into_iter(),
    );
    builder.push(&RowWrite { table: TableId(4), key: b"key", value: Some(b"value") });
    builder.push(&RowWrite { table: TableId(4), key: b"gone", value: None });
    builder.finish()
}

/// A record whose checksum is right however it was bent, so that the rest is looked at.
fn resealed(mut record: Vec<u8>) -> Vec<u8> {
    if let Some((sum, rest)) = record.split_first_chunk_mut::<4>() {
        *sum = crc32c::crc32c(rest).to_le_bytes();
    }
    record
}

/// What a joiner and its primary say, and what is in it.
fn join_samples() -> Vec<Vec<u8>> {
    let (partition, row) = (PartitionId(3), b"value".as_slice());
    let mut rows = Vec::new();
    for value in [Some(row), None] {
        CopiedRow { table: TableId(1), epoch: Epoch(7), key: b"key", value }.write(&mut rows);
    }
    let mut outcomes = Outcomes::default();
    for sequence in 1..4 {
        let tx = TxId { sequence, expiry: Epoch(100), ..TxId::default() };
        outcomes.record(tx, Outcome::Committed(Epoch(sequence)), 0, Epoch(0));
    }
    let mut saved = Vec::new();
    outcomes.save(Epoch(9), |piece| saved.push(piece.to_vec()));
    let log = LogPlace { applied: Seq(4), runs: vec![(ViewNumber(1), Seq(6))] };
    let holding = Holding::Copying { copy: 1, pieces: 2, log };
    let here = JoinMessage::Here { partition, recovered: Epoch(5), holding };
    let share = Share { done: 3, of: 7 };
    let piece = |piece| JoinMessage::Piece { partition, copy: 1, stable: Seq(5), share, piece };
    let queued = JoinMessage::Queued { partition, rows: 7 };
    let closed = JoinMessage::Closed { epoch: Epoch(8), ends: vec![(partition, Seq(6))] };
    let messages = [here, queued, piece(Piece::Rows(rows.clone())), closed];
    messages.iter().map(encode).chain(saved).chain([rows]).collect()
}

/// Bodies of cold messages and files.
fn cold_samples() -> Vec<Vec<u8>> {
    let view = view();
    let hello = Hello {
        magic: MAGIC,
        version: WIRE_VERSION,
        cluster: Some(view.cluster),
        from: Speaker::Client,
        to: Wanted::Any,
    };
    let (disk, join) = (Some(DiskStatus::default()), Some(JoinProgress::default()));
    let status = ShardStatus { disk, join: join.clone(), ..ShardStatus::default() };
    vec![
        encode(&ClientMessage::View { view: Box::new(view.clone()) }),
        encode(&ClientMessage::Status { request: 1, status: Box::new(status) }),
        encode(&ControlMessage::NewView { view: Box::new(view.clone()) }),
        encode(&ShardControl::Enter { view: Box::new(view.clone()) }),
        encode(&ShardControl::Progress(Box::new(join.unwrap_or_default()))),
        encode(&hello),
        encode(&Welcome::Accepted { cluster: None, by: Speaker::Newcomer }),
        encode(&view),
        table().encode(),
    ]
}

fn view() -> View {
    let member = Member {
        instance: lockstep_proto::ids::NodeInstance::default(),
        group: lockstep_proto::ids::GroupId(0),
        zone: "a".to_owned(),
        addr: "127.0.0.1:1".to_owned(),
        shards: 1,
        seniority: 1,
        standing: Standing::InSync,
    };
    let placement = Placement {
        group: lockstep_proto::ids::GroupId(0),
        local_index: 0,
        primary: member.instance.node,
        replicas: vec![member.instance.node],
        joining: Vec::new(),
        to: None,
    };
    View {
        cluster: lockstep_proto::ids::ClusterId::default(),
        number: ViewNumber(1),
        config: ClusterConfig::default(),
        roster: Roster::of(std::slice::from_ref(&member)),
        members: vec![member],
        placements: vec![placement; 8],
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

/// One way to bend bytes.
#[derive(Clone, Debug)]
enum Bend {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// Four bytes become a huge number: what a length looks like to a liar.
    Huge(prop::sample::Index),
    Stretch(Vec<u8>),
    Drop(prop::sample::Index),
}

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    let bend = prop_oneof![
        any::<prop::sample::Index>().prop_map(Bend::Cut),
        (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Bend::Flip(at, bit)),
        any::<prop::sample::Index>().prop_map(Bend::Huge),
        prop::collection::vec(any::<u8>(), 1..16).prop_map(Bend::Stretch),
        any::<prop::sample::Index>().prop_map(Bend::Drop),
    ];
    prop::collection::vec(bend, 1..4)
}

fn bent(mut bytes: Vec<u8>, bends: &[Bend]) -> Vec<u8> {
    for bend in bends {
        if bytes.is_empty() {
            return bytes;
        }
        let length = bytes.len();
        match bend {
            Bend::Cut(at) => bytes.truncate(at.index(length)),
            Bend::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Bend::Huge(at) => {
                let start = at.index(length);
                bytes[start..length.min(start + 4)].fill(0xfd);
            }
            Bend::Stretch(more) => bytes.extend_from_slice(more),
            Bend::Drop(at) => drop(bytes.remove(at.index(length))),
        }
    }
    bytes
}

fn is_harmless(bytes: &[u8]) -> Result<(), TestCaseError> {
    LARGEST.with(|largest| largest.set(0));
    decode_all(bytes);
    let largest = LARGEST.with(Cell::get);
    prop_assert!(largest <= ALLOCATION_MAX, "{largest} bytes reserved for {}", bytes.len());
    Ok(())
}

#[test]
fn the_samples_are_what_decoders_accept() {
    for sample in hot_samples() {
        assert!(Message::decode(&sample).is_ok(), "{sample:?}");
    }
    assert!(Record::decode(&record()).and_then(|record| record.prepare()).is_ok());
    let joins = join_samples();
    assert!(joins[..4].iter().all(|sample| JoinMessage::parse(sample).is_ok()));
    assert!(Outcomes::default().load(&joins[4]).is_ok());
    assert!(copied_rows(&joins[5]).all(|row| row.is_ok()));
    let cold = cold_samples();
    assert!(decode::<ClientMessage>(&cold[0]).is_ok());
    assert!(ControlMessage::parse(&cold[2]).is_ok());
    assert!(TableDef::decode(cold.last().expect("not empty")).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        is_harmless(&bytes)?;
    }

    #[test]
    fn bent_hot_messages_are_harmless(at in any::<prop::sample::Index>(), bends in bends()) {
        let samples = hot_samples();
        is_harmless(&bent(samples[at.index(samples.len())].clone(), &bends))?;
    }

    #[test]
    fn bent_records_are_harmless(bends in bends()) {
        let record = bent(record().into_vec(), &bends);
        is_harmless(&record)?;
        is_harmless(&resealed(record))?;
    }

    #[test]
    fn bent_joins_are_harmless(at in any::<prop::sample::Index>(), bends in bends()) {
        let samples = join_samples();
        is_harmless(&bent(samples[at.index(samples.len())].clone(), &bends))?;
    }

    #[test]
    fn bent_cold_messages_are_harmless(at in any::<prop::sample::Index>(), bends in bends()) {
        let samples = cold_samples();
        is_harmless(&bent(samples[at.index(samples.len())].clone(), &bends))?;
    }
}
