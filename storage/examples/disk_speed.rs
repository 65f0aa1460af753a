//! How fast the bytes of redo and checkpoints are made and read on one core, without a disk:
//! `cargo run --release -p lockstep-storage --example disk_speed [rows]`. Each figure stands beside
//! its floor, measured in the same run.

#![allow(clippy::disallowed_types, reason = "measures; nothing here is part of a core")]

use std::hint::black_box;
use std::time::Instant;

use lockstep_proto::ids::{
    ClusterId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, SchemaVersion, Seq,
    ShardId, TableId, TxId, ViewNumber,
};
use lockstep_proto::placement::key_hash;
use lockstep_proto::record::{Header, RecordBuilder, RecordKind, RowWrite};
use lockstep_storage::checkpoint::{
    CheckpointFile, CheckpointHeader, CheckpointWriter, Expected as CheckpointExpected, Items, Plan,
};
use lockstep_storage::disk::{CheckpointName, Completion, Op, Request, SegmentName};
use lockstep_storage::redo::{Coverage, Expected, LogIdentity, RedoFiles, RedoWriter};
use lockstep_storage::{Fragment, Generations};

const CLUSTER: ClusterId = ClusterId(1);
const NODE: NodeId = NodeId(1);
const GENERATION: RestartGeneration = RestartGeneration(1);
const VALUE: [u8; 100] = [7; 100];

fn generations() -> Generations {
    Generations::new(GENERATION, Vec::new())
}

/// A disk that only remembers: the bytes of each file it was given, or not even those.
#[derive(Default)]
struct Memory {
    files: Vec<Vec<u8>>,
    forgets: bool,
}

impl Memory {
    fn execute(&mut self, request: Request) -> Completion {
        for op in &request.ops {
            match op {
                Op::Create(_) if self.forgets => {}
                Op::Create(_) => self.files.push(Vec::with_capacity(72 << 20)),
                Op::Write { bytes, .. } if !self.forgets => {
                    self.files.last_mut().expect("created").extend_from_slice(bytes);
                }
                _ => {}
            }
        }
        Completion { ops: request.ops, failed: None }
    }
}

/// Runs it and prints what one item takes.
fn measure<T>(what: &str, items: u64, bytes: u64, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what:<44} {:>7.2} M/s {:>7.2} GB/s",
        items as f64 / seconds / 1e6,
        bytes as f64 / seconds / 1e9
    );
    result
}

/// Writes records; gives what would be in the files, and how many bytes the records have.
fn redo_write(count: u64) -> (Memory, u64) {
    let header = |seq: u64| Header {
        kind: RecordKind::Write,
        partition: PartitionId(1),
        view: ViewNumber(1),
        seq: Seq(seq),
        epoch: Epoch(seq / 1000 + 1),
        tx: TxId::default(),
        low: 0,
    };
    let record = |seq: u64| {
        let mut builder = RecordBuilder::write(&header(seq), 120);
        let key = seq.to_be_bytes();
        builder.push(&RowWrite { table: TableId(1), key: &key, value: Some(&VALUE) });
        builder.finish()
    };
    let records: Vec<Box<[u8]>> = (0..count).map(record).collect();
    let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: NODE,
        generation: GENERATION,
        shards: 1,
        base: Epoch(0),
        joined: false,
    };
    let mut memory = Memory::default();
    let mut floor = vec![1; bytes as usize];
    floor.clear();
    measure("redo write, floor: copying the records", count, bytes, || {
        records.iter().for_each(|record| floor.extend_from_slice(record));
        black_box(&floor);
    });
    for (forgets, what) in
        [(true, "redo write: push and seal"), (false, "redo write: and copy into new pages")]
    {
        memory = Memory { files: Vec::new(), forgets };
        let mut writer = RedoWriter::new(identity, Incarnation(1), ShardId(0));
        measure(what, count, bytes, || {
            for (at, record) in records.iter().enumerate() {
                writer.push(record);
                if at % 4096 == 0 {
                    writer.close(Epoch(at as u64 / 1000));
                    writer.flush();
                    while let Some(request) = writer.next_request() {
                        writer.on_done(memory.execute(request));
                    }
                }
            }
            writer.close(Epoch(count));
            writer.flush();
            while let Some(request) = writer.next_request() {
                writer.on_done(memory.execute(request));
            }
        });
    }
    (memory, bytes)
}

fn redo_read(count: u64, memory: &Memory, bytes: u64) {
    let name = |segment: usize| SegmentName {
        incarnation: Incarnation(1),
        shard: ShardId(0),
        segment: segment as u64 + 1,
    };
    let expected = Expected {
        cluster: CLUSTER,
        node: NODE,
        generations: generations(),
        covered: Coverage::default(),
        promised: Epoch(0),
    };
    let files = memory.files.iter().enumerate().map(|(at, file)| (name(at), &**file));
    let redo = RedoFiles::open(expected, files);
    let survey = measure("redo survey: every checksum", count, bytes, || redo.survey());
    let mut seen = 0;
    measure("redo replay: decode records and writes", count, bytes, || {
        for life in redo.lives(&survey) {
            for (log, extent) in life.logs {
                for redone in log.replay(extent, Epoch(0), Epoch(u64::MAX)) {
                    let record = redone.expect("undamaged").record;
                    for write in record.writes().expect("undamaged").iter() {
                        seen += write.value.map_or(0, <[u8]>::len) as u64;
                    }
                }
            }
        }
    });
    assert_eq!(seen, count * VALUE.len() as u64);
}

fn checkpoint(rows: u64) {
    let name =
        CheckpointName { partition: PartitionId(0), generation: GENERATION, epoch: Epoch(9) };
    let header = CheckpointHeader {
        cluster: CLUSTER,
        node: NODE,
        incarnation: Incarnation(1),
        name,
        partitions: 1,
        plan: Plan::full(1),
        seq: Seq(0),
    };
    let mut memory = Memory::default();
    let bytes = rows * (14 + 8 + VALUE.len() as u64);
    memory.files.push(Vec::with_capacity(bytes as usize + (1 << 20)));
    let spare = memory.files.remove(0);
    let mut writer = CheckpointWriter::new(header);
    measure("checkpoint write: rows to file", rows, bytes, || {
        for row in 0..rows {
            let key = row.to_be_bytes();
            writer.row(TableId(1), SchemaVersion(1), Epoch(5), &key, Some(&VALUE));
            if !writer.has_room() {
                let request = writer.next_request().expect("nothing is out");
                writer.on_done(memory.execute(request));
            }
        }
        writer.finish();
        while let Some(request) = writer.next_request() {
            writer.on_done(memory.execute(request));
        }
    });
    drop(spare);
    let file = &memory.files[0];
    let expected = CheckpointExpected {
        cluster: CLUSTER,
        node: NODE,
        partitions: 1,
        generations: generations(),
    };
    measure("checkpoint load, floor: reading the bytes", rows, bytes, || {
        let words = file.as_chunks::<8>().0;
        black_box(words.iter().fold(0, |sum: u64, word| sum ^ u64::from_le_bytes(*word)))
    });
    let walk = |take: &mut dyn FnMut(&[u8], &[u8])| {
        let opened = CheckpointFile::open(&expected, name, file).expect("undamaged");
        for block in opened.blocks() {
            if let Items::Rows(_, _, items) = block.items().expect("undamaged") {
                items.for_each(|row| take(row.key, row.value.unwrap_or_default()));
            }
        }
    };
    let mut length = 0;
    measure("checkpoint load: checksums and rows", rows, bytes, || {
        walk(&mut |key, value| length += key.len() + value.len());
    });
    assert_eq!(length as u64, rows * 108);
    let mut bare = Fragment::new(SchemaVersion(1));
    measure("rows into a fragment, floor: from memory", rows, bytes, || {
        for row in 0..rows {
            let key = row.to_be_bytes();
            bare.put(key_hash(&key), &key, &VALUE, Epoch(5));
        }
    });
    drop(bare);
    let mut loaded = Fragment::new(SchemaVersion(1));
    measure("rows into a fragment: from the checkpoint", rows, bytes, || {
        walk(&mut |key, value| {
            loaded.load(key_hash(key), key, value, Epoch(5));
        });
    });
    assert_eq!(loaded.len() as u64, rows);
}

fn main() {
    let rows = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let (memory, bytes) = redo_write(rows);
    redo_read(rows, &memory, bytes);
    drop(memory);
    checkpoint(rows);
}
