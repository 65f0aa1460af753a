//! A redo segment and a checkpoint of format version 1, kept for ever: later versions must read
//! them. docs/FORMAT.md shows each of their bytes, and the fields are where it says.

mod support;

use lockstep_proto::disk::PartName;
use lockstep_proto::ids::{
    BackupId, Epoch, GroupId, Incarnation, NodeId, NodeInstance, PartitionId, RestartGeneration,
    SchemaVersion, Seq, SessionId, ShardAddr, ShardId, TableId, TxId, ViewNumber,
};
use lockstep_proto::outcomes::{Outcome, Outcomes};
use lockstep_proto::record::{Header, RecordBuilder, RecordKind, RowWrite};
use lockstep_proto::schema::{ColumnDef, TableDef};
use lockstep_proto::stored::StoredError;
use lockstep_proto::value::ColumnType;
use lockstep_proto::wire::backup::{Manifest, ManifestPart};
use lockstep_proto::wire::data::{Partitions, partitions_to_bytes};
use lockstep_storage::Generations;
use lockstep_storage::backup::{PartFile, PartHeader, PartWriter, Unpacked};
use lockstep_storage::checkpoint::{
    CheckpointFile, CheckpointHeader, CheckpointState, CheckpointWriter, Expected, Items, Plan,
    StoredRow,
};
use lockstep_storage::disk::{CheckpointName, FileName, SimulatedDisk};
use lockstep_storage::redo::{Coverage, RedoWriter};
use support::{CLUSTER, NODE, expected, identity, pump, read_back};

const SEGMENT: &str = "i7-s1-1.redo";
const CHECKPOINT: &str = "p17-r1-e1009.checkpoint";
const PART: &str = "b1795-n3-s1-2.part";
const MANIFEST: &str = "b1795.manifest";
const PAGE: &str = include_str!("../../docs/FORMAT.md");

fn golden(name: &str) -> Vec<u8> {
    match name {
        SEGMENT => include_bytes!("golden/i7-s1-1.redo").to_vec(),
        CHECKPOINT => include_bytes!("golden/p17-r1-e1009.checkpoint").to_vec(),
        PART => include_bytes!("golden/b1795-n3-s1-2.part").to_vec(),
        MANIFEST => include_bytes!("golden/b1795.manifest").to_vec(),
        _ => panic!("there is no golden file {name}"),
    }
}

fn tx(sequence: u64) -> TxId {
    let origin = NodeInstance { node: NodeId(2), incarnation: Incarnation(4) };
    let session = SessionId { origin, counter: 5 };
    TxId { session, sequence, expiry: Epoch(61_000) }
}

fn header(kind: RecordKind, seq: u64, epoch: u64, tx: TxId) -> Header {
    let (partition, view) = (PartitionId(17), ViewNumber(12));
    Header { kind, partition, view, seq: Seq(seq), epoch: Epoch(epoch), tx, low: 6 }
}

fn prepare() -> Box<[u8]> {
    let participants = partitions_to_bytes(&[PartitionId(17), PartitionId(18)]);
    let participants = Partitions::from_bytes(&participants).expect("made right");
    let coordinator = ShardAddr { instance: tx(0).session.origin, shard: ShardId(1) };
    let order = lockstep_proto::ids::StartOrder::default();
    let head = header(RecordKind::Prepare, 42, 1008, tx(8));
    let mut builder =
        RecordBuilder::prepare(&head, coordinator, order, participants, std::iter::empty());
    builder.push(&RowWrite { table: TableId(3), key: b"gone", value: None });
    builder.finish()
}

fn records() -> Vec<Box<[u8]>> {
    let mut write = RecordBuilder::write(&header(RecordKind::Write, 41, 1008, tx(7)), 32);
    write.push(&RowWrite { table: TableId(3), key: b"key", value: Some(b"value") });
    let commit = RecordBuilder::decision(&header(RecordKind::Commit, 43, 1010, tx(8)));
    vec![write.finish(), prepare(), commit]
}

fn table() -> TableDef {
    let columns = vec![ColumnDef::new("id", ColumnType::U64)];
    let id = (TableId(3), SchemaVersion(1));
    TableDef::new(id.0, id.1, "t", columns, vec![0], vec![0]).expect("a definition")
}

fn checkpoint_header() -> CheckpointHeader {
    CheckpointHeader {
        cluster: CLUSTER,
        node: NODE,
        incarnation: Incarnation(7),
        name: CheckpointName {
            partition: PartitionId(17),
            generation: RestartGeneration(1),
            epoch: Epoch(1009),
        },
        partitions: 64,
        plan: Plan {
            previous: Some((RestartGeneration(1), Epoch(1000))),
            slices: 8,
            slice_first: 3,
            slice_count: 1,
        },
        seq: Seq(42),
    }
}

fn outcomes() -> Outcomes {
    let mut outcomes = Outcomes::default();
    outcomes.record(tx(6), Outcome::Aborted, 6, Epoch(0));
    outcomes.record(tx(7), Outcome::Committed(Epoch(1008)), 6, Epoch(0));
    outcomes
}

fn segment_now() -> Vec<u8> {
    let mut disk = SimulatedDisk::default();
    let mut writer = RedoWriter::new(identity(2, 900), Incarnation(7), ShardId(1));
    records().iter().for_each(|record| writer.push(record));
    writer.close(Epoch(1009));
    writer.flush();
    pump(&mut writer, &mut disk);
    writer.close(Epoch(1010));
    writer.flush();
    pump(&mut writer, &mut disk);
    assert_eq!(writer.durable(), Epoch(1010));
    content(&disk, SEGMENT)
}

fn checkpoint_now() -> Vec<u8> {
    let mut disk = SimulatedDisk::default();
    let mut writer = CheckpointWriter::new(checkpoint_header());
    writer.table(TableId(3), SchemaVersion(1), &table().encode());
    writer.row(TableId(3), SchemaVersion(1), Epoch(1008), b"key", Some(b"value"));
    writer.row(TableId(3), SchemaVersion(1), Epoch(1005), b"old", None);
    writer.prepared(&prepare());
    outcomes().save(Epoch(1009), |piece| writer.outcomes(piece));
    writer.finish();
    while let Some(request) = writer.next_request() {
        writer.on_done(disk.execute(request));
    }
    assert_eq!(writer.state(), CheckpointState::Done);
    content(&disk, CHECKPOINT)
}

fn part_header() -> PartHeader {
    PartHeader {
        cluster: CLUSTER,
        incarnation: Incarnation(7),
        name: PartName { backup: BackupId(1795), node: NODE, shard: ShardId(1), piece: 2 },
        epoch: Epoch(1009),
        generation: RestartGeneration(1),
        partitions: 64,
        base: None,
    }
}

fn part_now() -> Vec<u8> {
    let mut disk = SimulatedDisk::default();
    let mut writer = PartWriter::new(part_header(), None);
    let (partition, table) = (PartitionId(17), TableId(3));
    writer.row(partition, table, SchemaVersion(1), b"key", b"value");
    writer.row(partition, table, SchemaVersion(1), b"other", &[b'x'; 40]);
    writer.row(partition, TableId(4), SchemaVersion(2), b"k", b"v");
    writer.finish();
    while let Some(request) = writer.next_request() {
        writer.on_done(disk.execute(request));
    }
    content(&disk, PART)
}

fn manifest() -> Manifest {
    let part = PartFile::open(part_header().name, &golden(PART)).expect("undamaged").sum();
    Manifest {
        backup: BackupId(1795),
        cluster: CLUSTER,
        asked_ms: 1_763_769_600_000,
        epoch: Epoch(1009),
        generation: RestartGeneration(1),
        base: None,
        partitions: 2,
        replicas: 1,
        nodes: vec![(NODE, GroupId(0))],
        parts: vec![ManifestPart {
            node: NODE,
            shard: 1,
            piece: 2,
            partitions: vec![PartitionId(0), PartitionId(1)],
            sum: part,
        }],
    }
}

#[test]
fn the_golden_part_reads_as_it_was_written() {
    let bytes = golden(PART);
    assert_eq!(part_now(), bytes, "this version writes something else: raise the version");
    let file = PartFile::open(part_header().name, &bytes).expect("undamaged");
    assert_eq!(*file.header(), part_header());
    let (mut found, mut room) = (Vec::new(), Unpacked::default());
    for block in file.blocks() {
        let rows = block.rows(&mut room).expect("undamaged");
        let (p, table, schema) = (rows.partition.0, rows.table.0, rows.schema.0);
        found.extend(rows.map(|row| (p, table, schema, row.key.len(), row.value.len())));
    }
    assert_eq!(found, [(17, 3, 1, 3, 5), (17, 3, 1, 5, 40), (17, 4, 2, 1, 1)]);
}

#[test]
fn the_golden_manifest_reads_as_it_was_written() {
    let bytes = golden(MANIFEST);
    assert_eq!(manifest().to_file(), bytes, "another format: raise the version");
    assert_eq!(Manifest::from_file(&bytes).expect("undamaged"), manifest());
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        Manifest::from_file(&bad).expect_err("a flipped bit");
    }
    for length in 0..bytes.len() {
        Manifest::from_file(&bytes[..length]).expect_err("a cut");
    }
    let mut later = bytes.clone();
    later[5] = 2;
    assert_eq!(Manifest::from_file(&later), Err(StoredError::WrongVersion { found: 2, reads: 1 }));
    // Whole, and still no backup: a partition that nobody has, and one that two have.
    for partitions in [vec![PartitionId(0)], vec![PartitionId(0), PartitionId(0)]] {
        let mut short = manifest();
        short.parts[0].partitions = partitions;
        assert_eq!(Manifest::from_file(&short.to_file()), Err(StoredError::Unreadable));
    }
}

fn content(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    let name = FileName::parse(name);
    let file = disk.files().find(|(file, _)| Some(*file) == name);
    file.expect("it was written").1.to_vec()
}

#[test]
fn the_golden_segment_reads_as_it_was_written() {
    let bytes = golden(SEGMENT);
    assert_eq!(segment_now(), bytes, "this version writes something else: raise the version");
    let Some(FileName::Segment(name)) = FileName::parse(SEGMENT) else { panic!("a segment") };
    let mut expected = expected(900);
    // Shard 0 of that life has written nothing: the epoch reached is the base.
    let (survey, _) = read_back(&expected, &[(name, bytes.clone())], Epoch(u64::MAX));
    assert_eq!((survey.reached, survey.faults, survey.torn), (Some(Epoch(900)), vec![], vec![]));
    expected.covered = Coverage::all(Epoch(1009));
    let redo = lockstep_storage::redo::RedoFiles::open(expected, [(name, &*bytes)]);
    let log = redo.logs().next().expect("one log");
    let extent = log.check();
    let read = |after, to| -> Vec<Box<[u8]>> {
        let replay = log.replay(&extent, Epoch(after), Epoch(to));
        replay.map(|redone| redone.expect("undamaged").bytes.into()).collect()
    };
    assert_eq!(read(0, 2000), records());
    assert_eq!(read(0, 1009), records()[..2]);
    assert_eq!(read(1009, 1010), records()[2..]);
}

#[test]
fn the_golden_checkpoint_reads_as_it_was_written() {
    let bytes = golden(CHECKPOINT);
    assert_eq!(checkpoint_now(), bytes, "this version writes something else: raise the version");
    let expected = Expected {
        cluster: CLUSTER,
        node: NODE,
        partitions: 64,
        generations: Generations::new(RestartGeneration(1), vec![]),
    };
    let file = CheckpointFile::open(&expected, checkpoint_header().name, &bytes);
    let file = file.expect("undamaged");
    assert_eq!(*file.header(), checkpoint_header());
    let mut kinds = 0;
    for block in file.blocks() {
        kinds += 1;
        match block.items().expect("undamaged") {
            Items::Tables(mut tables) => {
                let stored = tables.next().expect("one");
                assert_eq!((stored.table, stored.schema), (TableId(3), SchemaVersion(1)));
                let definition = TableDef::decode(stored.definition).expect("a definition");
                assert_eq!(definition.encode(), table().encode());
            }
            Items::Rows(table, schema, rows) => {
                assert_eq!((table, schema), (TableId(3), SchemaVersion(1)));
                let row = |epoch, key, value| StoredRow { epoch: Epoch(epoch), key, value };
                let wanted = [row(1008, b"key", Some(b"value")), row(1005, b"old", None)];
                assert_eq!(rows.collect::<Vec<_>>(), wanted);
            }
            Items::Prepared(items) => assert_eq!(items.collect::<Vec<_>>(), [&*prepare()]),
            Items::Outcomes(pieces) => {
                let mut loaded = Outcomes::default();
                pieces.for_each(|piece| loaded.load(piece).expect("a piece"));
                assert_eq!(loaded.known(tx(6)), Some(Outcome::Aborted));
                assert_eq!(loaded.known(tx(7)), Some(Outcome::Committed(Epoch(1008))));
            }
        }
    }
    assert_eq!(kinds, 4);
}

/// A line of a dump: offset, bytes in hexadecimal, and after two blanks what they are.
fn dumped(name: &str) -> Vec<(usize, Vec<u8>, String)> {
    let start = PAGE.find(&format!("```text {name}\n")).expect("the page shows the file");
    let lines = PAGE[start..].lines().skip(1).take_while(|line| *line != "```");
    let line = |line: &str| {
        let (offset, rest) = line.trim_start().split_once("  ").expect("an offset");
        let (bytes, what) = rest.split_once("  ").unwrap_or((rest, ""));
        let byte = |text: &str| u8::from_str_radix(text, 16).expect("hexadecimal");
        let bytes = bytes.split(' ').map(byte).collect();
        (offset.parse().expect("a number"), bytes, what.trim().to_owned())
    };
    lines.map(line).collect()
}

#[test]
fn the_page_shows_every_byte() {
    for name in [SEGMENT, CHECKPOINT, PART, MANIFEST] {
        let mut shown = Vec::new();
        for (offset, bytes, _) in dumped(name) {
            assert_eq!(offset, shown.len(), "{name}");
            shown.extend(bytes);
        }
        assert_eq!(shown, golden(name), "{name}");
    }
}

/// The value of the first field that the page gives this name, read as a little-endian number.
fn field(name: &str, what: &str) -> u64 {
    let lines = dumped(name);
    let found = lines.iter().find(|(_, _, text)| text.split(':').next() == Some(what));
    let (_, bytes, _) = found.unwrap_or_else(|| panic!("{name} has no field `{what}`"));
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[test]
fn fields_are_where_the_page_says() {
    for (what, value) in [
        ("version", 1),
        ("header bytes", 96),
        ("shard", 1),
        ("shards", 2),
        ("node", 3),
        ("incarnation", 7),
        ("restart generation", 1),
        ("segment", 1),
        ("first group", 0),
        ("base", 900),
        ("closed before", 900),
        ("highest epoch before", 0),
        ("records in the group", 3),
        ("group number", 0),
        ("groups durable", 0),
        ("closed", 1009),
        ("highest epoch", 1010),
    ] {
        assert_eq!(field(SEGMENT, what), value, "{what}");
    }
    for (what, value) in [
        ("version", 1),
        ("node", 3),
        ("partition", 17),
        ("incarnation", 7),
        ("restart generation", 1),
        ("epoch", 1009),
        ("epoch of the previous", 1000),
        ("generation of the previous", 1),
        ("slices", 8),
        ("first slice", 3),
        ("slices in it", 1),
        ("partitions", 64),
        ("has a previous", 1),
        ("log position", 42),
        ("blocks", 4),
        ("rows", 1),
        ("deleted rows", 1),
        ("other items", 3),
        ("file bytes", golden(CHECKPOINT).len() as u64),
    ] {
        assert_eq!(field(CHECKPOINT, what), value, "{what}");
    }
    for (what, value) in [
        ("version", 1),
        ("header bytes", 96),
        ("node", 3),
        ("shard", 1),
        ("backup", 1795),
        ("piece", 2),
        ("incarnation", 7),
        ("epoch", 1009),
        ("restart generation", 1),
        ("partitions", 64),
        ("has a base", 0),
        ("rows in the block", 2),
        ("blocks", 2),
        ("rows of the part", 3),
        ("row bytes", 55),
        ("file bytes", golden(PART).len() as u64),
    ] {
        assert_eq!(field(PART, what), value, "{what}");
    }
}
