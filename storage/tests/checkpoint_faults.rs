//! Checkpoints of a partition whose rows keep changing, on a disk that fails or loses power at
//! every step: what is restored is the state as of the newest checkpoint that was reported done,
//! or of a later one. Then files that are not what was written.

mod support;

use std::collections::BTreeMap;

use lockstep_proto::ids::{
    ClusterId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, SchemaVersion, Seq,
    TableId,
};
use lockstep_proto::placement::key_hash;
use lockstep_storage::Generations;
use lockstep_storage::checkpoint::{
    Chain, CheckpointFile, CheckpointHeader, CheckpointState, CheckpointWriter, Expected, Items,
    Plan,
};
use lockstep_storage::disk::{
    CheckpointName, DiskError, Fate, FaultKind, FileFault, FileName, SimulatedDisk,
};
use support::{CLUSTER, Draws, NODE, remove};

const SLICES: u16 = 4;
const FATES: [Fate; 4] = [Fate::Nothing, Fate::Everything, Fate::Prefix, Fate::Any];

type Rows = BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>;
type Files = Vec<(CheckpointName, Vec<u8>)>;

fn expected() -> Expected {
    Expected {
        cluster: CLUSTER,
        node: NODE,
        partitions: 64,
        generations: Generations::new(RestartGeneration(1), vec![]),
    }
}

fn header(epoch: u64, plan: Plan) -> CheckpointHeader {
    let name = CheckpointName {
        partition: PartitionId(17),
        generation: RestartGeneration(1),
        epoch: Epoch(epoch),
    };
    let incarnation = Incarnation(2);
    CheckpointHeader {
        cluster: CLUSTER,
        node: NODE,
        incarnation,
        name,
        partitions: 64,
        plan,
        seq: Seq(9),
    }
}

/// A partition: rows, deleted ones among them, and the state as of each checkpoint.
struct Model {
    rows: Rows,
    epoch: u64,
    last: Option<CheckpointHeader>,
    states: BTreeMap<u64, Rows>,
}

impl Model {
    fn new() -> Self {
        Self { rows: Rows::new(), epoch: 0, last: None, states: BTreeMap::new() }
    }

    fn change(&mut self, draws: &mut Draws) {
        for _ in 0..3 {
            self.epoch += 1;
            for _ in 0..draws.below(6) {
                let key = vec![b'k', draws.below(60) as u8];
                let value = vec![draws.below(256) as u8; draws.below(40)];
                let value = (draws.below(3) > 0).then_some(value);
                self.rows.insert(key, (self.epoch, value));
            }
        }
    }

    /// A writer that has been given all it needs.
    fn writer(&mut self) -> CheckpointWriter {
        let plan = self.last.as_ref().map_or(Plan::full(SLICES), |last| Plan::after(last, 1));
        let mut writer = CheckpointWriter::new(header(self.epoch, plan)).with_block_bytes(300);
        writer.table(TableId(1), SchemaVersion(3), b"definition");
        for (key, (epoch, value)) in &self.rows {
            let changed = plan.previous.is_some_and(|(_, previous)| *epoch > previous.0);
            let wanted = plan.wants(key_hash(key), Epoch(*epoch));
            if if value.is_some() { wanted } else { changed } {
                writer.row(TableId(1), SchemaVersion(3), Epoch(*epoch), key, value.as_deref());
            }
        }
        writer.prepared(b"a record");
        writer.outcomes(b"a piece");
        writer.finish();
        self.states.insert(self.epoch, live(&self.rows));
        writer
    }
}

fn live(rows: &Rows) -> Rows {
    let there = |(_, (_, value)): &(&Vec<u8>, &(u64, Option<Vec<u8>>))| value.is_some();
    rows.iter().filter(there).map(|(key, row)| (key.clone(), row.clone())).collect()
}

fn checkpoints(disk: &SimulatedDisk) -> Files {
    let files = disk.files().filter_map(|(name, bytes)| match name {
        FileName::Checkpoint(name) => Some((name, bytes.to_vec())),
        _ => None,
    });
    files.collect()
}

fn open(files: &Files) -> Result<Vec<CheckpointFile<'_>>, FileFault> {
    files.iter().map(|(name, bytes)| CheckpointFile::open(&expected(), *name, bytes)).collect()
}

/// Loads the newest chain as of `to`.
fn restore(files: &Files, to: u64) -> Result<Option<(u64, Rows)>, FileFault> {
    let opened = open(files)?;
    let headers: Vec<CheckpointHeader> = opened.iter().map(|file| *file.header()).collect();
    let Some(chain) = Chain::select(&headers, &expected().generations, Epoch(to)) else {
        return Ok(None);
    };
    let mut rows = Rows::new();
    for (at, link) in chain.files().iter().enumerate() {
        let Some(file) = opened.iter().find(|file| file.header() == link) else { continue };
        for block in file.blocks() {
            let Items::Rows(table, schema, items) = block.items()? else { continue };
            assert_eq!((table, schema), (TableId(1), SchemaVersion(3)));
            for row in items.filter(|row| chain.takes(at, key_hash(row.key))) {
                let value = row.value.map(<[u8]>::to_vec);
                rows.insert(row.key.to_vec(), (row.epoch.0, value));
            }
        }
    }
    Ok(Some((chain.epoch().0, live(&rows))))
}

/// Writes checkpoints, removing what is not needed, until the disk has taken `steps` steps.
fn write(model: &mut Model, disk: &mut SimulatedDisk, draws: &mut Draws, steps: u64) -> u64 {
    let mut done = 0;
    for _ in 0..8 {
        model.change(draws);
        let mut writer = model.writer();
        while let Some(request) = writer.next_request() {
            let (whole, completion) = disk.execute_some(request, steps);
            if !whole {
                return done;
            }
            writer.on_done(completion);
        }
        if writer.state() == CheckpointState::Done {
            model.last = Some(*writer.header());
            done = writer.header().name.epoch.0;
        }
        let files = checkpoints(disk);
        let opened = open(&files).expect("nothing is damaged");
        let headers: Vec<CheckpointHeader> = opened.iter().map(|file| *file.header()).collect();
        let gone = Chain::superfluous(&headers, &expected().generations, Epoch(done));
        remove(disk, gone.into_iter().map(FileName::Checkpoint).collect());
    }
    done
}

fn check(disk: &SimulatedDisk, model: &Model, done: u64, what: &str) {
    let files = checkpoints(disk);
    let restored = restore(&files, u64::MAX).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    match restored {
        None => assert_eq!(done, 0, "{what}"),
        Some((epoch, rows)) => {
            assert!(epoch >= done, "{what}: {done} was done, {epoch} is there");
            assert_eq!(rows, model.states[&epoch], "{what}");
        }
    }
}

#[test]
fn power_may_go_at_any_step() {
    let mut whole = SimulatedDisk::default();
    let mut model = Model::new();
    let done = write(&mut model, &mut whole, &mut Draws(21), u64::MAX);
    assert_eq!(done, 24);
    check(&whole, &model, done, "no fault");
    assert!(checkpoints(&whole).len() <= usize::from(SLICES), "old files go");
    let mut draws = Draws(22);
    for k in 0..whole.steps() {
        let (mut disk, mut model) = (SimulatedDisk::default(), Model::new());
        let done = write(&mut model, &mut disk, &mut Draws(21), k);
        for fate in FATES.iter().cycle().take(8) {
            let mut after = disk.clone();
            after.lose_power(*fate, &mut |bound| draws.below(bound));
            check(&after, &model, done, &format!("step {k}, {fate:?}"));
        }
    }
}

#[test]
fn a_checkpoint_that_fails_leaves_the_older_ones_and_the_next_succeeds() {
    let mut failures = 0;
    for error in [DiskError::Full, DiskError::Failed] {
        for k in 0.. {
            let (mut disk, mut model) = (SimulatedDisk::default(), Model::new());
            disk.fail_at(k, error);
            let mut draws = Draws(21);
            for _ in 0..8 {
                model.change(&mut draws);
                let mut writer = model.writer();
                while let Some(request) = writer.next_request() {
                    writer.on_done(disk.execute(request));
                }
                match writer.state() {
                    CheckpointState::Done => model.last = Some(*writer.header()),
                    CheckpointState::Failed(broken) => {
                        assert_eq!(broken.error, error);
                        failures += 1;
                        let partial = FileName::Partial(writer.header().name);
                        assert!(disk.files().all(|(name, _)| name != partial));
                    }
                    CheckpointState::Writing | CheckpointState::Abandoned => {
                        panic!("step {k}: nothing more to do, and not done")
                    }
                }
            }
            let done = model.last.expect("all but one succeed").name.epoch.0;
            assert!(done >= 21, "step {k}: only one may fail, and {done} was the last");
            disk.lose_power(Fate::Nothing, &mut |_| 0);
            check(&disk, &model, done, &format!("{error:?} at step {k}"));
            if disk.steps() <= k {
                break;
            }
        }
    }
    assert!(failures > 100);
}

/// Four files of a chain and what they restore to.
fn chain() -> (Files, Rows) {
    let mut disk = SimulatedDisk::default();
    let mut model = Model::new();
    write(&mut model, &mut disk, &mut Draws(21), u64::MAX);
    (checkpoints(&disk), model.states[&24].clone())
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (files, rows) = chain();
    assert_eq!(restore(&files, 24).expect("undamaged"), Some((24, rows)));
    for at in 0..files.len() {
        let name = FileName::Checkpoint(files[at].0);
        for bit in 0..files[at].1.len() * 8 {
            let mut bad = files.clone();
            bad[at].1[bit / 8] ^= 1 << (bit % 8);
            let fault = verify(&bad).expect_err("a flipped bit");
            assert_eq!(fault.file, name, "bit {bit}");
        }
        for length in 0..files[at].1.len() {
            let mut bad = files.clone();
            bad[at].1.truncate(length);
            assert_eq!(open(&bad).expect_err("a cut").file, name, "cut at {length}");
        }
        let mut bad = files.clone();
        bad[at].1.push(0);
        assert_eq!(open(&bad).expect_err("a byte too many").file, name);
    }
}

/// Reads everything, as `check` of a directory does.
fn verify(files: &Files) -> Result<(), FileFault> {
    for file in open(files)? {
        for block in file.blocks() {
            block.items()?;
        }
    }
    Ok(())
}

#[test]
fn files_of_others_are_named() {
    let (files, _) = chain();
    let (name, bytes) = &files[0];
    let kind = |expected: &Expected, name: CheckpointName, bytes: &[u8]| {
        CheckpointFile::open(expected, name, bytes).expect_err("not ours").kind
    };
    let with = |change: fn(&mut Expected)| {
        let mut other = expected();
        change(&mut other);
        kind(&other, *name, bytes)
    };
    assert_eq!(with(|e| e.cluster = ClusterId(1)), FaultKind::OtherCluster(CLUSTER));
    assert_eq!(with(|e| e.node = NodeId(1)), FaultKind::OtherNode(NODE));
    assert!(matches!(with(|e| e.partitions = 8), FaultKind::Damaged(_)));
    let unknown = with(|e| e.generations = Generations::new(RestartGeneration(9), vec![]));
    assert_eq!(unknown, FaultKind::OtherGeneration(RestartGeneration(1)));
    let swapped = kind(&expected(), files[1].0, bytes);
    assert_eq!(swapped, FaultKind::Misnamed(FileName::Checkpoint(*name)));
    let mut later = bytes.clone();
    later[4] = 2;
    assert_eq!(kind(&expected(), *name, &later), FaultKind::Version { found: 2, read: 1 });
    assert_eq!(kind(&expected(), *name, b"hello"), FaultKind::NotOurs);
}

#[test]
fn a_block_of_another_file_or_place_is_never_taken() {
    let block = |value: u8, keys: [&[u8]; 2]| {
        let mut disk = SimulatedDisk::default();
        let mut writer = CheckpointWriter::new(header(7, Plan::full(1))).with_block_bytes(1);
        for key in keys {
            writer.row(TableId(1), SchemaVersion(1), Epoch(5), key, Some(&[value; 9]));
        }
        writer.finish();
        while let Some(request) = writer.next_request() {
            writer.on_done(disk.execute(request));
        }
        checkpoints(&disk).remove(0).1
    };
    let (mut first, second) = (block(1, [b"a", b"b"]), block(2, [b"a", b"b"]));
    // Two blocks of 16 + 14 + 1 + 9 bytes behind the header of 96.
    let (one, two) = (96..136, 136..176);
    let files = |bytes: &[u8]| vec![(header(7, Plan::full(1)).name, bytes.to_vec())];
    verify(&files(&first)).expect("as written");
    let mut mixed = first.clone();
    mixed[one.clone()].copy_from_slice(&second[one.clone()]);
    assert_eq!(verify(&files(&mixed)).expect_err("of another file").offset, 96);
    let swapped = [&first[two.clone()], &first[one.clone()]].concat();
    first[one.start..two.end].copy_from_slice(&swapped);
    assert_eq!(verify(&files(&first)).expect_err("of another place").offset, 96);
}

/// Signs index and trailer anew, as a faulty writer would that makes every checksum right.
fn sign(bytes: &mut [u8]) {
    let trailer = bytes.len() - 56;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (file, index) = ((word(8) & 0xffff_ffff) as u32, word(trailer + 8) as usize);
    let sum = crc32c::crc32c_append(file, &bytes[index..trailer]);
    bytes[trailer + 20..trailer + 24].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32c::crc32c_append(file, &bytes[trailer + 8..]);
    bytes[trailer + 4..trailer + 8].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn an_index_of_other_places_than_the_blocks_is_noticed() {
    let (files, _) = chain();
    let trailer = files[0].1.len() - 56;
    let at = trailer + 8;
    let index = u64::from_le_bytes(files[0].1[at..at + 8].try_into().expect("eight bytes"));
    let fault = |change: &dyn Fn(&mut [u8])| {
        let mut bad = files.clone();
        change(&mut bad[0].1);
        sign(&mut bad[0].1);
        verify(&bad).expect_err("an index that is wrong").kind
    };
    let wrong = FaultKind::Damaged("the index is not what was written");
    let leaves_out_one = |bytes: &mut [u8]| {
        bytes[at..at + 8].copy_from_slice(&(index + 24).to_le_bytes());
        bytes[at + 8] -= 1;
    };
    assert_eq!(fault(&leaves_out_one), wrong);
    let leads_nowhere = |bytes: &mut [u8]| {
        let entry = index as usize;
        bytes[entry..entry + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    };
    assert_eq!(fault(&leads_nowhere), wrong);
    verify(&files).expect("as written");
}

#[test]
fn everything_comes_back_that_was_put_in() {
    let mut model = Model::new();
    model.change(&mut Draws(3));
    let mut disk = SimulatedDisk::default();
    let mut writer = model.writer();
    while let Some(request) = writer.next_request() {
        writer.on_done(disk.execute(request));
    }
    let files = checkpoints(&disk);
    let opened = open(&files).expect("undamaged");
    let mut others = Vec::new();
    for block in opened[0].blocks() {
        match block.items().expect("undamaged") {
            Items::Tables(tables) => others.extend(tables.map(|t| t.definition.to_vec())),
            Items::Prepared(items) | Items::Outcomes(items) => {
                others.extend(items.map(<[u8]>::to_vec));
            }
            Items::Rows(..) => {}
        }
    }
    assert_eq!(others, [b"definition".to_vec(), b"a record".to_vec(), b"a piece".to_vec()]);
    assert_eq!(opened[0].rows().0, live(&model.rows).len() as u64);
    assert_eq!(opened[0].header().seq, Seq(9));
}

#[test]
fn arbitrary_files_never_panic() {
    let (files, _) = chain();
    let mut draws = Draws(5);
    for _ in 0..3000 {
        let mut bad = files.clone();
        let bytes = &mut bad[0].1;
        let length = bytes.len();
        match draws.below(3) {
            0 => bytes.drain(..draws.below(length)).for_each(drop),
            1 => (0..9).for_each(|_| bytes[draws.below(length)] = draws.below(256) as u8),
            _ => *bytes = (0..draws.below(300)).map(|_| draws.below(256) as u8).collect(),
        }
        if *bytes != files[0].1 {
            assert!(verify(&bad).is_err());
        }
    }
}
