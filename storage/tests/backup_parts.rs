//! Parts of backups on a disk that fails or loses power at every step: a part under its final name
//! is whole, and one that was reported done is there. Then files that are not what was written.

mod support;

use lockstep_proto::ids::{
    BackupId, Epoch, Incarnation, PartitionId, RestartGeneration, SchemaVersion, ShardId, TableId,
};
use lockstep_proto::limits::{BACKUP_BLOCK_BYTES_MAX, KEY_BYTES_MAX, ROW_BYTES_MAX};
use lockstep_storage::backup::{PartFile, PartHeader, PartState, PartWriter, Unpacked};
use lockstep_storage::disk::{
    DiskError, Fate, FaultKind, FileFault, FileName, PartName, SimulatedDisk,
};
use support::{CLUSTER, Draws, NODE};

const FATES: [Fate; 4] = [Fate::Nothing, Fate::Everything, Fate::Prefix, Fate::Any];

type Row = (PartitionId, TableId, Vec<u8>, Vec<u8>);

fn name(piece: u32) -> PartName {
    PartName { backup: BackupId(1795), node: NODE, shard: ShardId(1), piece }
}

fn header(piece: u32) -> PartHeader {
    PartHeader {
        cluster: CLUSTER,
        incarnation: Incarnation(7),
        name: name(piece),
        epoch: Epoch(1009),
        generation: RestartGeneration(1),
        partitions: 64,
        base: None,
    }
}

/// Rows of some tables and partitions; some pack well, some not at all, one is long.
fn rows(draws: &mut Draws) -> Vec<Row> {
    let mut rows = Vec::new();
    for (p, table) in [(0, 0), (0, 1), (3, 1), (3, 2)] {
        for _ in 0..draws.below(40) {
            let key = (0..1 + draws.below(9)).map(|_| draws.below(256) as u8).collect();
            let value = match draws.below(3) {
                0 => vec![7; draws.below(90)],
                _ => (0..draws.below(60)).map(|_| draws.below(256) as u8).collect(),
            };
            rows.push((PartitionId(p), TableId(table), key, value));
        }
    }
    rows.push((PartitionId(3), TableId(2), vec![1; 30], vec![2; 5_000]));
    rows
}

fn writer(piece: u32, rows: &[Row]) -> PartWriter {
    let mut writer = PartWriter::new(header(piece), None).with_block_bytes(300);
    for (partition, table, key, value) in rows {
        writer.row(*partition, *table, SchemaVersion(1), key, value);
    }
    writer.finish();
    writer
}

/// Lets the disk do what the writer asks for, until it has taken `steps` steps.
fn pump(writer: &mut PartWriter, disk: &mut SimulatedDisk, steps: u64) {
    while let Some(request) = writer.next_request() {
        let (whole, done) = disk.execute_some(request, steps);
        if !whole {
            return;
        }
        writer.on_done(done);
    }
}

fn read(name: PartName, bytes: &[u8]) -> Result<Vec<Row>, FileFault> {
    let part = PartFile::open(name, bytes)?;
    let (mut rows, mut room) = (Vec::new(), Unpacked::default());
    for block in part.blocks() {
        let (partition, table) = (block.partition(), block.table());
        for row in block.rows(&mut room)? {
            rows.push((partition, table, row.key.to_vec(), row.value.to_vec()));
        }
    }
    Ok(rows)
}

fn part(disk: &SimulatedDisk, piece: u32) -> Option<Vec<u8>> {
    let file = FileName::Part(name(piece));
    disk.files().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.to_vec())
}

fn written() -> (Vec<u8>, Vec<Row>) {
    let rows = rows(&mut Draws(7));
    let mut disk = SimulatedDisk::default();
    pump(&mut writer(1, &rows), &mut disk, u64::MAX);
    (part(&disk, 1).expect("written"), rows)
}

#[test]
fn everything_comes_back_that_was_put_in() {
    for seed in 1..40 {
        let rows = rows(&mut Draws(seed));
        let mut disk = SimulatedDisk::default();
        let mut writer = writer(1, &rows);
        pump(&mut writer, &mut disk, u64::MAX);
        assert_eq!(writer.state(), PartState::Done);
        let bytes = part(&disk, 1).expect("it is done");
        let opened = PartFile::open(name(1), &bytes).expect("whole");
        assert_eq!((*opened.header(), opened.sum()), (header(1), writer.sum()));
        assert_eq!(opened.sum().file_bytes, bytes.len() as u64);
        assert_eq!(opened.sum().rows, rows.len() as u64);
        let lengths = rows.iter().map(|(_, _, key, value)| (key.len() + value.len()) as u64);
        assert_eq!(opened.sum().row_bytes, lengths.sum::<u64>());
        assert_eq!(read(name(1), &bytes).expect("whole"), rows);
    }
}

#[test]
fn the_longest_row_fits_a_block() {
    let (key, value) = (vec![1; KEY_BYTES_MAX], vec![2; ROW_BYTES_MAX]);
    let mut writer = PartWriter::new(header(1), None);
    // One that nearly fills a block, and the longest behind it.
    writer.row(PartitionId(0), TableId(1), SchemaVersion(1), b"a", &[3; 65_000]);
    writer.row(PartitionId(0), TableId(1), SchemaVersion(1), &key, &value);
    writer.finish();
    let mut disk = SimulatedDisk::default();
    pump(&mut writer, &mut disk, u64::MAX);
    let bytes = part(&disk, 1).expect("it is done");
    let opened = PartFile::open(name(1), &bytes).expect("whole");
    let longest = opened.blocks().map(|block| block.unpacked_bytes() as usize).max();
    assert!(longest.is_some_and(|longest| longest <= BACKUP_BLOCK_BYTES_MAX));
    assert_eq!(read(name(1), &bytes).expect("whole")[1].3, value);
}

#[test]
fn power_may_go_at_any_step() {
    let rows = rows(&mut Draws(21));
    let mut whole = SimulatedDisk::default();
    pump(&mut writer(1, &rows), &mut whole, u64::MAX);
    let mut draws = Draws(22);
    for k in 0..=whole.steps() {
        let mut disk = SimulatedDisk::default();
        let mut writer = writer(1, &rows);
        pump(&mut writer, &mut disk, k);
        let done = writer.state() == PartState::Done;
        for fate in FATES.iter().cycle().take(8) {
            let mut after = disk.clone();
            after.lose_power(*fate, &mut |bound| draws.below(bound));
            match part(&after, 1) {
                Some(bytes) => {
                    assert_eq!(read(name(1), &bytes).expect("whole"), rows, "step {k}, {fate:?}");
                }
                None => assert!(!done, "step {k}, {fate:?}: it was done, and is gone"),
            }
        }
    }
}

#[test]
fn a_part_that_fails_leaves_nothing() {
    let rows = rows(&mut Draws(21));
    let mut failures = 0;
    for error in [DiskError::Full, DiskError::Failed, DiskError::Missing, DiskError::Denied] {
        for k in 0.. {
            let mut disk = SimulatedDisk::default();
            disk.fail_at(k, error);
            let mut writer = writer(1, &rows);
            pump(&mut writer, &mut disk, u64::MAX);
            if writer.state() == PartState::Done {
                assert!(part(&disk, 1).is_some());
                break;
            }
            failures += 1;
            assert_eq!(writer.state(), PartState::Failed(Some(error)), "step {k}");
            assert_eq!(disk.files().count(), 0, "step {k}");
        }
    }
    assert!(failures > 20, "{failures}");
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let rows = rows(&mut Draws(21));
    let mut writer = PartWriter::new(header(1), None).with_block_bytes(300);
    let mut disk = SimulatedDisk::default();
    for (at, (partition, table, key, value)) in rows.iter().enumerate() {
        writer.row(*partition, *table, SchemaVersion(1), key, value);
        if at == rows.len() / 2 {
            pump(&mut writer, &mut disk, u64::MAX);
            assert_eq!(disk.files().count(), 1);
            writer.abandon();
        }
    }
    writer.finish();
    pump(&mut writer, &mut disk, u64::MAX);
    assert_eq!((writer.state(), writer.is_idle()), (PartState::Failed(None), true));
    assert_eq!(disk.files().count(), 0);
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (bytes, rows) = written();
    assert_eq!(read(name(1), &bytes).expect("undamaged"), rows);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        read(name(1), &bad).expect_err("a flipped bit");
    }
    for length in 0..bytes.len() {
        read(name(1), &bytes[..length]).expect_err("a cut");
    }
    let longer = [&bytes[..], &[0]].concat();
    read(name(1), &longer).expect_err("a byte too many");
}

#[test]
fn files_of_others_are_named() {
    let (bytes, _) = written();
    let kind = |name, bytes: &[u8]| read(name, bytes).expect_err("not what it should be").kind;
    assert_eq!(kind(name(2), &bytes), FaultKind::Misnamed(FileName::Part(name(1))));
    let mut later = bytes.clone();
    later[4] = 2;
    assert_eq!(kind(name(1), &later), FaultKind::Version { found: 2, read: 1 });
    assert_eq!(kind(name(1), b"hello"), FaultKind::NotOurs);
    assert_eq!(kind(name(1), b""), FaultKind::Damaged("the header is cut off"));
}

/// Signs block, index and trailer anew, as a faulty writer would that makes every checksum right.
fn sign(bytes: &mut [u8]) {
    let trailer = bytes.len() - 56;
    let word = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let (file, index) = ((word(bytes, 8) & 0xffff_ffff) as u32, word(bytes, trailer + 8) as usize);
    let offset = word(bytes, index);
    let length = (word(bytes, index + 8) & 0xffff_ffff) as usize;
    let block = offset as usize..offset as usize + length;
    let sum = crc32c::crc32c_append(file, &offset.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &bytes[block]);
    bytes[index + 12..index + 16].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32c::crc32c_append(file, &bytes[index..trailer]);
    bytes[trailer + 20..trailer + 24].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32c::crc32c_append(file, &bytes[trailer + 8..]);
    bytes[trailer + 4..trailer + 8].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_block_that_claims_too_much_is_not_unpacked() {
    let (bytes, _) = written();
    let trailer = bytes.len() - 56;
    let index =
        u64::from_le_bytes(bytes[trailer + 8..trailer + 16].try_into().expect("eight bytes"));
    let with = |unpacked: u32| {
        let mut bad = bytes.clone();
        // The block's own header, and its entry in the index.
        bad[96 + 16..96 + 20].copy_from_slice(&unpacked.to_le_bytes());
        let entry = index as usize + 24;
        bad[entry..entry + 4].copy_from_slice(&unpacked.to_le_bytes());
        sign(&mut bad);
        read(name(1), &bad).expect_err("a lie").kind
    };
    assert_eq!(with(u32::MAX), FaultKind::Damaged("a block that is too long"));
    assert_eq!(with(1), FaultKind::Damaged("a block that does not unpack to its length"));
    let mut same = bytes.clone();
    sign(&mut same);
    assert_eq!(same, bytes, "signing anew changes nothing where nothing was changed");
}

#[test]
fn arbitrary_files_never_panic() {
    let (bytes, _) = written();
    let mut draws = Draws(5);
    for _ in 0..3000 {
        let mut bad = bytes.clone();
        let length = bad.len();
        match draws.below(3) {
            0 => bad.drain(..draws.below(length)).for_each(drop),
            1 => (0..9).for_each(|_| bad[draws.below(length)] = draws.below(256) as u8),
            _ => bad = (0..draws.below(300)).map(|_| draws.below(256) as u8).collect(),
        }
        if bad != bytes {
            assert!(read(name(1), &bad).is_err());
        }
    }
}
