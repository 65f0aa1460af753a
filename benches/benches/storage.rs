//! What rows and locks cost inside one shard, without protocol or network; each group beside its
//! floor: the standard hash map with the same keys and bytes.

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_proto::change::{Action, Assignment, encode_update};
use lockstep_proto::ids::{
    Epoch, PartitionId, SchemaVersion, SessionId, StartOrder, TableId, TxId,
};
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::key_hash;
use lockstep_proto::row::{RowView, encode_row};
use lockstep_proto::schema::{ColumnDef, TableDef};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind};
use lockstep_storage::{Acquired, Fragment, LockTable, Mode, evaluate};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: u64 = 100_000;
const VERSION: SchemaVersion = SchemaVersion(1);

fn table() -> TableDef {
    let columns = vec![
        ColumnDef::new("id", ColumnType::U64),
        ColumnDef::new("balance", ColumnType::I64),
        ColumnDef::new("filler", ColumnType::Bytes),
    ];
    TableDef::with_key("bench", columns, &["id"]).expect("a valid definition")
}

fn row(def: &TableDef, id: u64) -> Vec<u8> {
    let values = [Value::UInt(id), Value::Int(0), Value::Bytes(vec![7; 92])];
    encode_row(def, &values).expect("values of the table")
}

fn key(def: &TableDef, id: u64) -> Vec<u8> {
    encode_key(def, &[Value::UInt(id)]).expect("a key of the table")
}

/// Visits keys in an order the caches cannot guess.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % ROWS
}

fn filled(def: &TableDef) -> Fragment {
    let mut fragment = Fragment::new(VERSION);
    for id in 0..ROWS {
        let key = key(def, id);
        fragment.put(key_hash(&key), &key, &row(def, id), Epoch(1));
    }
    fragment
}

fn fragments(c: &mut Criterion) {
    let def = table();
    let keys: Vec<Vec<u8>> = (0..ROWS).map(|id| key(&def, id)).collect();
    let value = row(&def, 1);
    let mut fragment = filled(&def);
    let mut map: HashMap<Vec<u8>, Box<[u8]>> =
        keys.iter().map(|key| (key.clone(), value.clone().into())).collect();
    let mut group = c.benchmark_group("fragment");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    let mut next = move || {
        n += 1;
        usize::try_from(scattered(n)).expect("below ROWS")
    };
    group.bench_function("get", |b| {
        b.iter(|| {
            let key = &keys[next()];
            black_box(fragment.get(key_hash(key), key).map(|row| row.value().len()))
        });
    });
    group.bench_function("get/floor", |b| {
        b.iter(|| black_box(map.get(&keys[next()]).map(|row| row.len())));
    });
    group.bench_function("put", |b| {
        b.iter(|| {
            let key = &keys[next()];
            black_box(fragment.put(key_hash(key), key, &value, Epoch(2)))
        });
    });
    group.bench_function("put/floor", |b| {
        b.iter(|| {
            if let Some(row) = map.get_mut(&keys[next()]) {
                *row = value.clone().into();
            }
        });
    });
    group.finish();
}

fn scans(c: &mut Criterion) {
    let def = table();
    let fragment = filled(&def);
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("page of 1000", |b| {
        b.iter(|| black_box(fragment.page(&[], 1000, 1 << 20).rows.len()));
    });
    group.bench_function("page of 1000/floor", |b| {
        b.iter(|| black_box(fragment.iter().map(|row| row.key().len()).sum::<usize>()));
    });
    group.finish();
}

fn changes(c: &mut Criterion) {
    let def = table();
    let (key, current) = (key(&def, 7), row(&def, 7));
    let add = [Assignment { column: 1, action: Action::Add(Value::Int(1)) }];
    let body = encode_update(&[], &add).expect("a short change");
    let op = Op {
        kind: OpKind::Update,
        flags: OpFlags::default(),
        table: TableId(1),
        schema: VERSION,
        partition: PartitionId(0),
        key: &key,
        body: &body,
    };
    let mut group = c.benchmark_group("change");
    group.throughput(Throughput::Elements(1));
    let mut scratch = Vec::new();
    group.bench_function("increment", |b| {
        b.iter(|| black_box(evaluate(&def, &op, Some(&current), &mut scratch).is_ok()));
    });
    let mut copy = Vec::new();
    group.bench_function("increment/floor", |b| {
        b.iter(|| {
            copy.clear();
            copy.extend_from_slice(black_box(&current));
            black_box(copy.len())
        });
    });
    group.bench_function("read a column", |b| {
        b.iter(|| {
            let view = RowView::of_checked(&def, black_box(&current));
            black_box(view.column(1).map(|value| value.is_null()))
        });
    });
    group.finish();
}

fn locks(c: &mut Criterion) {
    let def = table();
    let keys: Vec<Vec<u8>> = (0..64).map(|id| key(&def, id)).collect();
    let mut group = c.benchmark_group("locks");
    group.throughput(Throughput::Elements(1));
    let mut table = LockTable::new();
    let (mut wounds, mut granted) = (Vec::new(), Vec::new());
    let mut sequence = 0;
    group.bench_function("take and release", |b| {
        b.iter(|| {
            sequence += 1;
            let tx = TxId { session: SessionId::default(), sequence, expiry: Epoch(9) };
            let order = StartOrder { wall_ms: 1, session: tx.session, sequence };
            let key = &keys[usize::try_from(sequence % 64).expect("below 64")];
            let hash = key_hash(key);
            let mode = Mode::Exclusive;
            let acquired = table.acquire(tx, order, TableId(1), hash, key, mode, &mut wounds);
            assert_eq!(acquired, Acquired::Granted);
            table.release_all(tx, &mut granted);
        });
    });
    let mut map: HashMap<Vec<u8>, u64> = HashMap::new();
    group.bench_function("take and release/floor", |b| {
        b.iter_batched(
            || keys[0].clone(),
            |key| {
                map.insert(key, 1);
                map.remove(&keys[0])
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, fragments, scans, changes, locks);
criterion_main!(benches);
