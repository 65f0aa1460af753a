//! `bench restart`: what a data node does at a start, on one core and without a disk: loading
//! checkpoints and replaying redo, each beside its floor of the same run.
//!
//! The files are those a node writes, made in memory; they are read by the code that a start runs,
//! checksums included.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use lockstep_cluster::{LogIdentity, restore};
use lockstep_proto::disk::{CheckpointName, Completion, FileName, Op, Request};
use lockstep_proto::hash::IdMap;
use lockstep_proto::ids::{
    ClusterId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, SchemaVersion, Seq,
    ShardId, TableId, TxId, ViewNumber,
};
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::key_hash;
use lockstep_proto::record::{Header, RecordBuilder, RecordKind, RowWrite};
use lockstep_proto::row::encode_row;
use lockstep_proto::schema::{CATALOG, ColumnDef, TableDef, catalog_def};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_storage::checkpoint::{CheckpointHeader, CheckpointWriter, Plan};
use lockstep_storage::redo::RedoWriter;
use lockstep_storage::restore::{Files, Owner, survey};
use lockstep_storage::{Fragment, Generations, Position};

use super::cpu;
use crate::cli::error::{CliError, CliResult, Trouble};

const NODE: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(1);
const TABLE: TableId = TableId(1);
const SCHEMA: SchemaVersion = SchemaVersion(1);
const VALUE: [u8; 100] = [7; 100];

/// As of when the checkpoint is; the records follow.
const CHECKPOINT: Epoch = Epoch(9);

/// What was measured, rows and records per second on one core.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Rows of the checkpoint, and records of the redo log.
    pub rows: u64,
    /// Writing a checkpoint, without the disk.
    pub checkpoint_write_per_s: f64,
    /// The floor of loading: the same bytes read, and put into a bare hash map.
    pub load_floor_per_s: f64,
    /// Loading the checkpoint.
    pub load_per_s: f64,
    /// Checking the redo log.
    pub redo_check_per_s: f64,
    /// Checking and replaying it.
    pub redo_replay_per_s: f64,
}

impl Figures {
    /// What loading reaches of its floor.
    #[must_use]
    pub fn load_ratio(&self) -> f64 {
        self.load_per_s / self.load_floor_per_s
    }
}

/// Files in memory.
#[derive(Default)]
struct Memory(BTreeMap<FileName, Vec<u8>>);

impl Memory {
    fn execute(&mut self, request: Request) -> Completion {
        for op in &request.ops {
            match op {
                Op::Create(name) => {
                    self.0.insert(*name, Vec::new());
                }
                Op::Write { file, bytes, .. } => {
                    self.0.entry(*file).or_default().extend_from_slice(bytes);
                }
                Op::Rename { from, to } => {
                    if let Some(bytes) = self.0.remove(from) {
                        self.0.insert(*to, bytes);
                    }
                }
                Op::Remove(name) => {
                    self.0.remove(name);
                }
                Op::Sync(_)
                | Op::SyncDirectory(_)
                | Op::Locate { .. }
                | Op::Clear { .. }
                | Op::RemoveEmpty(_) => {}
            }
        }
        Completion { ops: request.ops, failed: None }
    }

    fn files(&self) -> Files<'_> {
        self.0.iter().map(|(name, bytes)| (*name, &bytes[..])).collect()
    }
}

fn owner() -> Owner {
    Owner {
        cluster: CLUSTER,
        node: NODE,
        partitions: 1,
        held: vec![(PartitionId(0), 0)],
        generations: Generations::new(RestartGeneration(0), Vec::new()),
        promised: Epoch(0),
        canary: None,
    }
}

/// Files as a node leaves them behind, in memory, to be read as often as wanted.
pub struct Material {
    rows: u64,
    /// All rows in one checkpoint.
    checkpoint: Memory,
    /// All rows in the redo of as many transactions.
    redo: Memory,
    /// The keys, in the order in which the checkpoint has them.
    keys: Vec<Box<[u8]>>,
    written_in: Duration,
}

impl Material {
    /// Makes files of so many rows, and of so many records.
    ///
    /// # Errors
    /// If the bench's own rows are refused.
    pub fn make(rows: u64) -> CliResult<Self> {
        let def = table().map_err(|error| broken(error.to_string()))?;
        let mut fragment = filled(rows);
        let mut checkpoint = Memory::default();
        let started = cpu();
        let written = write_checkpoint(&mut checkpoint, &def, &mut fragment);
        let written_in = cpu().saturating_sub(started);
        written.map_err(|code| broken(code.to_string()))?;
        // A log that closes the checkpoint's epoch and has nothing else.
        write_redo(&mut checkpoint, 0);
        let mut keys = Vec::with_capacity(fragment.len());
        let mut at = Some(Position::default());
        while let Some(from) = at {
            at = fragment.scan(CHECKPOINT, from, |_, row| keys.push(Box::<[u8]>::from(row.key())));
        }
        let mut redo = Memory::default();
        let written = write_checkpoint(&mut redo, &def, &mut filled(0));
        written.map_err(|code| broken(code.to_string()))?;
        write_redo(&mut redo, rows);
        Ok(Self { rows, checkpoint, redo, keys, written_in })
    }

    /// The floor of loading: all bytes are read, and the same rows put, in the same order, into a
    /// bare map, each in an allocation of its own. CPU time.
    #[must_use]
    pub fn load_floor(&self) -> Duration {
        let started = cpu();
        for bytes in self.checkpoint.0.values() {
            let words = bytes.as_chunks::<8>().0;
            black_box(words.iter().fold(0, |sum: u64, word| sum ^ u64::from_le_bytes(*word)));
        }
        let mut map: IdMap<u64, Box<[u8]>> = IdMap::default();
        let mut row = [7; 8 + VALUE.len()];
        for key in &self.keys {
            row[..8].copy_from_slice(key);
            map.insert(key_hash(key), row[..].into());
        }
        black_box(&map);
        cpu().saturating_sub(started)
    }

    /// Loads the checkpoint as a start does. CPU time.
    ///
    /// # Errors
    /// If not all rows come back.
    pub fn load(&self) -> CliResult<Duration> {
        self.restore(&self.checkpoint)
    }

    /// Checks the redo log, and replays nothing. CPU time.
    ///
    /// # Errors
    /// If it is found damaged.
    pub fn check(&self) -> CliResult<Duration> {
        let files = self.redo.files();
        let started = cpu();
        let reach = survey(&owner(), &files);
        let time = cpu().saturating_sub(started);
        match reach.reached {
            Some(_) => Ok(time),
            None => Err(broken(format!("{:?}", reach.faults))),
        }
    }

    /// Checks and replays the redo log as a start does. CPU time.
    ///
    /// # Errors
    /// If not all rows come back.
    pub fn replay(&self) -> CliResult<Duration> {
        self.restore(&self.redo)
    }

    fn restore(&self, memory: &Memory) -> CliResult<Duration> {
        let files = memory.files();
        let started = cpu();
        let restored =
            restore(&owner(), &files, None, 1).map_err(|faults| broken(format!("{faults:?}")))?;
        let time = cpu().saturating_sub(started);
        if restored.rows() != self.rows {
            let (came, all) = (restored.rows(), self.rows);
            return Err(broken(format!("{came} rows came back of {all}")));
        }
        Ok(time)
    }
}

fn broken(what: String) -> CliError {
    CliError::new(Trouble::Process, "restoring failed").why(what)
}

/// The CPU time of this process: what one core has worked, whatever else the machine does.
fn cpu() -> Duration {
    cpu::own().unwrap_or_default()
}

/// Measures with so many rows.
///
/// # Errors
/// If what was written cannot be read again.
pub fn run(rows: u64) -> CliResult<Figures> {
    let material = Material::make(rows)?;
    let per_second = |time: Duration| rows as f64 / time.as_secs_f64().max(1e-9);
    Ok(Figures {
        rows,
        checkpoint_write_per_s: per_second(material.written_in),
        load_floor_per_s: per_second(material.load_floor()),
        load_per_s: per_second(material.load()?),
        redo_check_per_s: per_second(material.check()?),
        redo_replay_per_s: per_second(material.replay()?),
    })
}

fn table() -> Result<TableDef, lockstep_proto::schema::SchemaError> {
    let columns =
        vec![ColumnDef::new("id", ColumnType::U64), ColumnDef::new("data", ColumnType::Bytes)];
    TableDef::new(TABLE, SCHEMA, "rows", columns, vec![0], vec![0])
}

fn write_checkpoint(
    memory: &mut Memory,
    def: &TableDef,
    fragment: &mut Fragment,
) -> Result<(), lockstep_proto::error::Code> {
    let name = CheckpointName {
        partition: PartitionId(0),
        generation: RestartGeneration(0),
        epoch: CHECKPOINT,
    };
    let mut writer = CheckpointWriter::new(CheckpointHeader {
        cluster: CLUSTER,
        node: NODE,
        incarnation: Incarnation(1),
        name,
        partitions: 1,
        plan: Plan::full(8),
        seq: Seq(0),
    });
    let row = [
        Value::String(def.name().to_owned()),
        Value::UInt(u64::from(def.id.0)),
        Value::Bytes(def.encode()),
    ];
    let catalog = catalog_def();
    writer.table(CATALOG, catalog.version, &catalog.encode());
    writer.table(def.id, def.version, &def.encode());
    let (key, value) = (encode_key(catalog, &row[..1])?, encode_row(catalog, &row)?);
    writer.row(CATALOG, catalog.version, Epoch(1), &key, Some(&value));
    // In the order in which a partition hands out its rows.
    let mut at = Some(Position::default());
    while let Some(from) = at {
        at = fragment.scan(CHECKPOINT, from, |_, row| {
            writer.row(TABLE, SCHEMA, row.epoch(), row.key(), Some(row.value()));
        });
        if !writer.has_room()
            && let Some(request) = writer.next_request()
        {
            writer.on_done(memory.execute(request));
        }
    }
    writer.finish();
    while let Some(request) = writer.next_request() {
        writer.on_done(memory.execute(request));
    }
    Ok(())
}

/// A log of transactions of one row each, a thousand to an epoch.
fn write_redo(memory: &mut Memory, records: u64) {
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: NODE,
        generation: RestartGeneration(0),
        shards: 1,
        base: Epoch(0),
        joined: false,
    };
    let mut writer = RedoWriter::new(identity, Incarnation(1), ShardId(0));
    for seq in 1..=records {
        let header = Header {
            kind: RecordKind::Write,
            partition: PartitionId(0),
            view: ViewNumber(1),
            seq: Seq(seq),
            epoch: Epoch(CHECKPOINT.0 + 1 + seq / 1000),
            // Sessions acknowledge what they were told, so that outcomes are forgotten.
            tx: TxId { sequence: seq, ..TxId::default() },
            low: seq,
        };
        let mut builder = RecordBuilder::write(&header, 128);
        let key = seq.to_be_bytes();
        builder.push(&RowWrite { table: TABLE, key: &key, value: Some(&VALUE) });
        writer.push(&builder.finish());
        while let Some(request) = writer.next_request() {
            writer.on_done(memory.execute(request));
        }
    }
    writer.close(Epoch(CHECKPOINT.0 + 1 + records / 1000));
    writer.flush();
    while let Some(request) = writer.next_request() {
        writer.on_done(memory.execute(request));
    }
}

fn filled(rows: u64) -> Fragment {
    let mut fragment = Fragment::new(SCHEMA);
    for row in 0..rows {
        let key = row.to_be_bytes();
        fragment.load(key_hash(&key), &key, &VALUE, Epoch(5));
    }
    fragment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_whole() {
        let figures = run(5000).unwrap();
        assert_eq!(figures.rows, 5000);
        assert!(figures.load_ratio() > 0.0 && figures.redo_replay_per_s > 0.0);
    }
}
