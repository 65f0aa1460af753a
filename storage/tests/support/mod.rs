//! What the tests of redo and checkpoints share: records, draws, and a writer's way to the disk.

#![allow(dead_code, unreachable_pub, reason = "compiled into each test, which uses a part")]

use lockstep_proto::ids::{
    ClusterId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, Seq, ShardId, TableId,
    TxId, ViewNumber,
};
use lockstep_proto::record::{Header, RecordBuilder, RecordKind, RowWrite};
use lockstep_storage::Generations;
use lockstep_storage::disk::{FileName, Request, SegmentName, SimulatedDisk};
use lockstep_storage::redo::{Coverage, Expected, LogIdentity, RedoFiles, RedoWriter, Survey};

pub const CLUSTER: ClusterId = ClusterId(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00);
pub const NODE: NodeId = NodeId(3);

/// Numbers that look random and are the same in every run.
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % bound.max(1)
    }
}

/// A `Write` with one row.
pub fn record(shard: u16, seq: u64, epoch: u64, value: &[u8]) -> Box<[u8]> {
    let header = Header {
        kind: RecordKind::Write,
        partition: PartitionId(shard),
        view: ViewNumber(1),
        seq: Seq(seq),
        epoch: Epoch(epoch),
        tx: TxId { sequence: seq, expiry: Epoch(1000), ..TxId::default() },
        low: 0,
    };
    let mut builder = RecordBuilder::write(&header, value.len() + 20);
    builder.push(&RowWrite { table: TableId(1), key: &seq.to_be_bytes(), value: Some(value) });
    builder.finish()
}

pub fn identity(shards: u16, base: u64) -> LogIdentity {
    let generation = RestartGeneration(1);
    LogIdentity {
        cluster: CLUSTER,
        node: NODE,
        generation,
        shards,
        base: Epoch(base),
        joined: false,
    }
}

pub fn expected(covered: u64) -> Expected {
    Expected {
        cluster: CLUSTER,
        node: NODE,
        generations: Generations::new(RestartGeneration(1), Vec::new()),
        covered: Coverage::all(Epoch(covered)),
        promised: Epoch(0),
    }
}

/// Small segments and groups, so that a short script has several of both.
pub fn writer(incarnation: u32, shard: u16, shards: u16, base: u64) -> RedoWriter {
    RedoWriter::new(identity(shards, base), Incarnation(incarnation), ShardId(shard))
        .with_sizes(1200, 300)
}

/// Lets the disk do what the writer asks for, until it asks for nothing more.
pub fn pump(writer: &mut RedoWriter, disk: &mut SimulatedDisk) {
    while let Some(request) = writer.next_request() {
        writer.on_done(disk.execute(request));
    }
}

pub fn segments(disk: &SimulatedDisk) -> Vec<(SegmentName, Vec<u8>)> {
    let segments = disk.files().filter_map(|(name, bytes)| match name {
        FileName::Segment(name) => Some((name, bytes.to_vec())),
        _ => None,
    });
    segments.collect()
}

pub fn borrowed(files: &[(SegmentName, Vec<u8>)]) -> impl Iterator<Item = (SegmentName, &[u8])> {
    files.iter().map(|(name, bytes)| (*name, &**bytes))
}

/// What is found, and the records of each shard up to the epoch reached (or `to`, if that is less).
pub fn read_back(
    expected: &Expected,
    files: &[(SegmentName, Vec<u8>)],
    to: Epoch,
) -> (Survey, Vec<Vec<Box<[u8]>>>) {
    let redo = RedoFiles::open(expected.clone(), borrowed(files));
    let survey = redo.survey();
    let mut records: Vec<Vec<Box<[u8]>>> = vec![Vec::new(); 8];
    let Some(reached) = survey.reached else { return (survey, records) };
    for life in redo.lives(&survey) {
        for (log, extent) in life.logs {
            for redone in log.replay(extent, expected.covered.least(), reached.min(to)) {
                let redone = redone.expect("checked before");
                records[usize::from(log.shard().0)].push(redone.bytes.into());
            }
        }
    }
    (survey, records)
}

pub fn remove(disk: &mut SimulatedDisk, files: Vec<FileName>) {
    let ops = files.into_iter().map(lockstep_storage::disk::Op::Remove).collect();
    assert_eq!(disk.execute(Request { ops }).failed, None);
}
