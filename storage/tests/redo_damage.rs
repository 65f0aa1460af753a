//! Redo files that are not what was written: every flipped bit and every cut is noticed or lies
//! outside what is returned, and files of others, missing and swapped ones are named.

mod support;

use std::collections::BTreeMap;

use lockstep_proto::ids::{ClusterId, Epoch, Incarnation, NodeId, RestartGeneration, ShardId};
use lockstep_proto::record::Record;
use lockstep_storage::Generations;
use lockstep_storage::disk::{FaultKind, FileFault, FileName, SegmentName, SimulatedDisk};
use lockstep_storage::redo::{Expected, LogIdentity, RedoFiles, RedoWriter, Survey};
use support::{CLUSTER, NODE, expected, identity, pump, read_back, record, segments};

type Files = Vec<(SegmentName, Vec<u8>)>;

/// A log of shard 0, with a group for each epoch.
fn writer(incarnation: u32, shards: u16, base: u64) -> RedoWriter {
    support::writer(incarnation, 0, shards, base).with_sizes(1200, 1000)
}

/// Three segments; each epoch has one record of its own and one of the next.
fn write(writer: &mut RedoWriter, disk: &mut SimulatedDisk, epochs: std::ops::Range<u64>) {
    for epoch in epochs {
        writer.push(&record(0, 2 * epoch, epoch, &[epoch as u8; 70]));
        writer.push(&record(0, 2 * epoch + 1, epoch + 1, &[epoch as u8; 33]));
        writer.close(Epoch(epoch));
        writer.flush();
        pump(writer, disk);
    }
}

fn log() -> Files {
    let mut disk = SimulatedDisk::default();
    write(&mut writer(1, 1, 0), &mut disk, 1..9);
    let files = segments(&disk);
    assert_eq!(files.len(), 3);
    files
}

fn seqs(records: &[Box<[u8]>]) -> Vec<u64> {
    let seq = |r: &[u8]| Record::decode(r).expect("a record").header.seq.0;
    records.iter().map(|record| seq(record)).collect()
}

/// The records of whole epochs up to this one.
fn wanted(reached: u64) -> Vec<u64> {
    let all = (1..9).flat_map(|epoch| [(2 * epoch, epoch), (2 * epoch + 1, epoch + 1)]);
    all.filter(|(_, epoch)| *epoch <= reached).map(|(seq, _)| seq).collect()
}

fn survey(expected: &Expected, files: &Files) -> Survey {
    RedoFiles::open(expected.clone(), support::borrowed(files)).survey()
}

/// What is returned is right as far as it goes; returns how far and whether anything was noticed.
fn check_prefix(files: &Files, what: &str) -> (Option<u64>, bool) {
    let (survey, records) = read_back(&expected(0), files, Epoch(u64::MAX));
    let reached = survey.reached.map(|epoch| epoch.0);
    assert_eq!(seqs(&records[0]), wanted(reached.unwrap_or(0)), "{what}");
    (reached, !survey.faults.is_empty() || !survey.torn.is_empty())
}

#[test]
fn every_flipped_bit_is_noticed() {
    let files = log();
    assert_eq!(check_prefix(&files, "as written"), (Some(8), false));
    for at in 0..files.len() {
        for bit in 0..files[at].1.len() * 8 {
            let mut bad = files.clone();
            bad[at].1[bit / 8] ^= 1 << (bit % 8);
            let (_, noticed) = check_prefix(&bad, &format!("file {at}, bit {bit}"));
            assert!(noticed, "file {at}, bit {bit}");
            let is_last_group = at == 2 && survey(&expected(0), &bad).faults.is_empty();
            let torn = survey(&expected(0), &bad).torn;
            assert!(!is_last_group || torn[0].offset as usize <= bit / 8);
        }
    }
}

#[test]
fn every_cut_is_noticed_unless_a_group_ends_there() {
    let files = log();
    for at in 0..files.len() {
        let mut clean = 0;
        for length in 0..files[at].1.len() {
            let mut bad = files.clone();
            bad[at].1.truncate(length);
            let (reached, noticed) = check_prefix(&bad, &format!("file {at} cut at {length}"));
            let faults = survey(&expected(0), &bad).faults;
            if at < 2 {
                let file = FileName::Segment(files[at].0);
                assert_eq!(faults[0].file, file, "cut at {length}: {faults:?}");
                assert!(faults[0].offset as usize <= length);
            } else if !noticed && length > 0 {
                clean += 1;
                let mut promised = expected(0);
                promised.promised = Epoch(8);
                let faults = survey(&promised, &bad).faults;
                let short =
                    FaultKind::Short { reached: Epoch(reached.unwrap()), promised: Epoch(8) };
                assert_eq!(faults[0].kind, short, "what was told to others is missed");
            }
        }
        // The header alone, and every group but the last.
        let groups = files[at].1.windows(4).filter(|four| *four == b"LKSG").count();
        assert_eq!(clean, if at == 2 { groups } else { 0 });
    }
}

#[test]
fn groups_without_any_header_are_damage() {
    let mut files = log();
    files.truncate(1);
    files[0].1[20] ^= 1;
    let found = survey(&expected(0), &files);
    let kind = FaultKind::Damaged("the header is not what was written");
    assert_eq!(found.reached, None);
    assert_eq!(found.faults, [FileFault { file: FileName::Segment(files[0].0), offset: 0, kind }]);
    let redo = RedoFiles::open(expected(0), support::borrowed(&files));
    assert_eq!(redo.superfluous(), [], "nobody removes what is damaged");
    // Of a life that is not the only one: the last segment of a log whose others are whole.
    let mut files = log();
    files[2].1[20] ^= 1;
    assert_eq!(survey(&expected(0), &files).faults[0].kind, kind);
}

#[test]
fn damage_before_durable_data_is_named_by_file_and_offset() {
    let files = log();
    let mut bad = files.clone();
    let groups: Vec<usize> =
        (0..files[2].1.len() - 4).filter(|at| &files[2].1[*at..at + 4] == b"LKSG").collect();
    assert!(groups.len() >= 2);
    bad[2].1[groups[0] + 100] ^= 1;
    let found = survey(&expected(0), &bad);
    let what = FaultKind::Damaged("a record does not match its checksum");
    let file = FileName::Segment(files[2].0);
    let fault = FileFault { file, offset: groups[0] as u64, kind: what };
    assert_eq!(found.faults, [fault]);
    assert!(found.faults[0].to_string().starts_with("i1-s0-3.redo at byte 96: damaged"));
    // The same in the last group, of which nothing says that it was durable.
    let mut bad = files;
    let last = *groups.last().unwrap();
    bad[2].1[last + 100] ^= 1;
    let found = survey(&expected(0), &bad);
    assert_eq!(found.faults, []);
    assert_eq!(found.torn[0].offset, last as u64);
}

#[test]
fn zeros_at_the_end_are_room_that_was_reserved() {
    let mut files = log();
    files[2].1.extend([0; 5000]);
    assert_eq!(check_prefix(&files, "reserved"), (Some(8), false));
    *files[2].1.last_mut().unwrap() = 1;
    assert_eq!(check_prefix(&files, "something far behind"), (Some(8), true));
}

fn only_fault(expected: &Expected, files: &Files) -> FaultKind {
    let found = survey(expected, files);
    assert_eq!(found.reached, None);
    found.faults[0].kind
}

#[test]
fn files_of_others_are_named() {
    let files = log();
    let of = |change: fn(&mut Expected)| {
        let mut other = expected(0);
        change(&mut other);
        only_fault(&other, &files)
    };
    assert_eq!(of(|e| e.cluster = ClusterId(5)), FaultKind::OtherCluster(CLUSTER));
    assert_eq!(of(|e| e.node = NodeId(4)), FaultKind::OtherNode(NODE));
    let later = |e: &mut Expected| e.generations = Generations::new(RestartGeneration(0), vec![]);
    assert_eq!(of(later), FaultKind::OtherGeneration(RestartGeneration(1)));
    let patched = |at: usize, byte: u8| {
        let mut files = files.clone();
        files[0].1[at] = byte;
        only_fault(&expected(0), &files)
    };
    assert_eq!(patched(4, 2), FaultKind::Version { found: 2, read: 1 });
    assert_eq!(patched(0, b'?'), FaultKind::NotOurs);
    let text = vec![(files[0].0, b"hello".to_vec())];
    assert_eq!(only_fault(&expected(0), &text), FaultKind::NotOurs);
}

#[test]
fn swapped_and_missing_segments_are_named() {
    let files = log();
    let mut swapped = files.clone();
    let second = std::mem::take(&mut swapped[1].1);
    swapped[1].1 = std::mem::replace(&mut swapped[2].1, second);
    let found = survey(&expected(0), &swapped);
    assert_eq!(found.reached, None);
    let names: Vec<_> = found.faults[..2].iter().map(|fault| fault.kind).collect();
    let misnamed = |at: usize| FaultKind::Misnamed(FileName::Segment(files[at].0));
    assert_eq!(names, [misnamed(2), misnamed(1)]);
    for gone in 0..2 {
        let mut less = files.clone();
        less.remove(gone);
        let found = survey(&expected(0), &less);
        let missing = FileFault {
            file: FileName::Segment(files[gone].0),
            offset: 0,
            kind: FaultKind::Missing,
        };
        assert_eq!(found.faults, [missing]);
    }
}

#[test]
fn a_group_of_another_segment_is_never_taken() {
    // The bytes of segment 2 behind the header of segment 3, as a disk might that mixes up blocks.
    let mut files = log();
    let other = files[1].1[96..].to_vec();
    files[2].1.truncate(96);
    files[2].1.extend(other);
    let (survey, records) = read_back(&expected(0), &files, Epoch(u64::MAX));
    assert_eq!(survey.torn.len(), 1);
    assert_eq!(seqs(&records[0]), wanted(survey.reached.unwrap().0));
}

#[test]
fn what_a_restart_generation_dropped_does_not_come_back() {
    let mut disk = SimulatedDisk::default();
    write(&mut writer(1, 1, 0), &mut disk, 1..9);
    let cluster_restart = LogIdentity { generation: RestartGeneration(2), ..identity(1, 5) };
    let mut second = RedoWriter::new(cluster_restart, Incarnation(2), ShardId(0));
    write(&mut second, &mut disk, 6..8);
    let files = segments(&disk);
    let mut expected = expected(0);
    let cuts = vec![(RestartGeneration(1), Epoch(5))];
    expected.generations = Generations::new(RestartGeneration(2), cuts);
    let (survey, records) = read_back(&expected, &files, Epoch(u64::MAX));
    assert_eq!((survey.reached, survey.faults), (Some(Epoch(7)), vec![]));
    let mut seen = BTreeMap::new();
    for record in &records[0] {
        *seen.entry(lockstep_proto::record::epoch(record).unwrap().0).or_insert(0) += 1;
    }
    // Epoch 6 of the first life was dropped, and so was what it wrote ahead of its epoch 6.
    let counts: Vec<(u64, i32)> = seen.into_iter().collect();
    assert_eq!(counts, [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 1), (7, 2)]);
    // A node that was away during that restart has only the first life, and is cut as well.
    let alone: Files = files.into_iter().filter(|(name, _)| name.incarnation.0 == 1).collect();
    let (survey, records) = read_back(&expected, &alone, Epoch(u64::MAX));
    assert_eq!(survey.reached, Some(Epoch(5)));
    assert_eq!(seqs(&records[0]), wanted(5));
}

/// The two first groups of a segment; they are equally long.
fn two_groups(bytes: &[u8]) -> [std::ops::Range<usize>; 2] {
    let starts: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| &bytes[*at..at + 4] == b"LKSG").collect();
    assert_eq!(starts[1] - starts[0], starts[2] - starts[1]);
    [starts[0]..starts[1], starts[1]..starts[2]]
}

#[test]
fn a_group_or_record_in_the_place_of_another_is_noticed() {
    let files = log();
    let [first, second] = two_groups(&files[0].1);
    let fault = |files: &Files, offset: usize| {
        let found = survey(&expected(0), files);
        assert_eq!(found.faults.len(), 1);
        assert_eq!(found.faults[0].offset, offset as u64);
        check_prefix(files, "misplaced");
    };
    // A write that went to the wrong place: each group is whole, for itself.
    let mut twice = files.clone();
    twice[0].1.copy_within(first.clone(), second.start);
    fault(&twice, second.start);
    let mut early = files.clone();
    early[0].1.copy_within(second.clone(), first.start);
    fault(&early, first.start);
    // A record of the next group, as long as its own and no later than its latest.
    let record = |group: &std::ops::Range<usize>| group.start + 56 + 4;
    let length =
        u32::from_le_bytes(files[0].1[first.start + 56..][..4].try_into().expect("four bytes"));
    let mut mixed = files;
    let other = record(&second);
    mixed[0].1.copy_within(other..other + length as usize, record(&first));
    fault(&mixed, first.start);
}

#[test]
fn a_later_life_proves_what_an_earlier_one_must_have() {
    let mut disk = SimulatedDisk::default();
    write(&mut writer(1, 1, 0), &mut disk, 1..9);
    write(&mut writer(2, 1, 8), &mut disk, 9..11);
    let whole = segments(&disk);
    assert_eq!(survey(&expected(0), &whole).reached, Some(Epoch(10)));
    let mut cut = whole.clone();
    cut[2].1.truncate(96);
    let found = survey(&expected(0), &cut);
    let reached = found.reached.unwrap();
    assert!(reached < Epoch(8));
    assert_eq!(found.faults[0].kind, FaultKind::Short { reached, promised: Epoch(8) });
    // Once checkpoints hold everything up to the base, nobody asks for the earlier life.
    assert_eq!(survey(&expected(8), &cut).faults, []);
    let later = whole.into_iter().filter(|(name, _)| name.incarnation.0 == 2).collect();
    assert_eq!(survey(&expected(8), &later).reached, Some(Epoch(10)));
    assert_eq!(survey(&expected(7), &later).reached, None);
    assert_eq!(survey(&expected(7), &later).faults[0].kind, FaultKind::NothingBefore(Epoch(8)));
}

#[test]
fn a_shard_whose_log_is_gone_holds_the_node_back() {
    let mut disk = SimulatedDisk::default();
    write(&mut writer(1, 2, 0), &mut disk, 1..9);
    let found = survey(&expected(0), &segments(&disk));
    assert_eq!(found.reached, Some(Epoch(0)), "shard 1 of 2 has written nothing");
    let mut promised = expected(0);
    promised.promised = Epoch(3);
    assert!(!survey(&promised, &segments(&disk)).faults.is_empty());
}

#[test]
fn arbitrary_files_never_panic() {
    let mut draws = support::Draws(77);
    let names: Vec<SegmentName> = log().into_iter().map(|(name, _)| name).collect();
    for _ in 0..2000 {
        let mut files = log();
        for (_, bytes) in &mut files {
            let length = bytes.len();
            match draws.below(4) {
                0 => bytes.truncate(draws.below(length)),
                1 => (0..9).for_each(|_| bytes[draws.below(length)] = draws.below(256) as u8),
                2 => *bytes = (0..draws.below(300)).map(|_| draws.below(256) as u8).collect(),
                _ => {}
            }
        }
        let (survey, records) = read_back(&expected(0), &files, Epoch(u64::MAX));
        assert_eq!(seqs(&records[0]), wanted(survey.reached.map_or(0, |epoch| epoch.0)));
        assert_eq!(files.len(), names.len());
    }
}
