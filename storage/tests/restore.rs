//! What a node is restored from when it was copied to in one of its lives.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must fail")]

mod support;

use lockstep_proto::disk::{CheckpointName, FileName};
use lockstep_proto::generations::Generations;
use lockstep_proto::ids::{Epoch, Incarnation, PartitionId, RestartGeneration, Seq, ShardId};
use lockstep_storage::checkpoint::{CheckpointHeader, CheckpointWriter, Plan};
use lockstep_storage::disk::SimulatedDisk;
use lockstep_storage::redo::{LogIdentity, RedoWriter};
use lockstep_storage::restore::{Files, Owner, Restoration, survey};
use support::*;

const P: PartitionId = PartitionId(17);

fn owner(cut: Option<u64>) -> Owner {
    let generations = match cut {
        None => Generations::new(RestartGeneration(1), Vec::new()),
        Some(cut) => {
            Generations::new(RestartGeneration(2), vec![(RestartGeneration(1), Epoch(cut))])
        }
    };
    let (held, promised) = (vec![(P, 0)], Epoch(0));
    Owner {
        cluster: CLUSTER,
        node: NODE,
        partitions: 64,
        held,
        generations,
        promised,
        canary: None,
    }
}

fn log(disk: &mut SimulatedDisk, life: u32, identity: LogIdentity, epochs: &[u64]) {
    let mut writer = RedoWriter::new(identity, Incarnation(life), ShardId(0));
    for epoch in epochs {
        writer.push(&record(17, *epoch, *epoch, b"value"));
        writer.close(Epoch(*epoch));
        writer.flush();
        while let Some(request) = writer.next_request() {
            writer.on_done(disk.execute(request));
        }
    }
}

fn checkpoint(disk: &mut SimulatedDisk, life: u32, epoch: u64) {
    let generation = RestartGeneration(1);
    let name = CheckpointName { partition: P, generation, epoch: Epoch(epoch) };
    let mut writer = CheckpointWriter::new(CheckpointHeader {
        cluster: CLUSTER,
        node: NODE,
        incarnation: Incarnation(life),
        name,
        partitions: 64,
        plan: Plan::full(8),
        seq: Seq(epoch),
    });
    writer.finish();
    while let Some(request) = writer.next_request() {
        writer.on_done(disk.execute(request));
    }
}

/// How far these files lead, without the checkpoint as of `without`.
fn reached(disk: &SimulatedDisk, cut: Option<u64>, to: Option<u64>, without: u64) -> Option<u64> {
    let is_there = |name: &FileName| match name {
        FileName::Checkpoint(name) => name.epoch != Epoch(without),
        _ => true,
    };
    let files: Files<'_> = disk.files().filter(|(name, _)| is_there(name)).collect();
    let opened = Restoration::open(&owner(cut), &files, to.map(Epoch));
    opened.ok().map(|restoration| restoration.epoch().0)
}

/// It came back with everything up to e10, and was copied to up to e20.
fn came_back() -> SimulatedDisk {
    let mut disk = SimulatedDisk::default();
    log(&mut disk, 1, identity(1, 0), &[2, 4, 6, 8, 10]);
    checkpoint(&mut disk, 1, 6);
    log(&mut disk, 2, LogIdentity { joined: true, ..identity(1, 10) }, &[22, 24, 26]);
    checkpoint(&mut disk, 2, 20);
    disk
}

#[test]
fn between_its_own_files_and_the_copy_there_is_nothing() {
    let disk = came_back();
    assert_eq!(reached(&disk, None, None, 0), Some(26));
    assert_eq!(reached(&disk, None, Some(20), 0), Some(20));
    assert_eq!(reached(&disk, None, Some(23), 0), Some(23));
    assert_eq!(reached(&disk, None, Some(9), 0), Some(9));
    for between in 11..20 {
        assert_eq!(reached(&disk, None, Some(between), 0), None, "e{between}");
        assert_eq!(reached(&disk, Some(between), None, 0), Some(10), "cut at e{between}");
    }
}

#[test]
fn a_log_does_not_go_on_from_checkpoints_before_the_copy() {
    let mut disk = came_back();
    assert_eq!(reached(&disk, None, None, 20), Some(10));
    let lost = |without: u64| {
        let is_there = |name: &FileName| match name {
            FileName::Checkpoint(name) => name.epoch != Epoch(without),
            _ => true,
        };
        survey(&owner(None), &disk.files().filter(|(name, _)| is_there(name)).collect()).lost
    };
    assert!(lost(20), "the log had closed e26");
    assert!(!lost(6), "it is not needed");
    // Nor does that of a later life help.
    log(&mut disk, 3, identity(1, 26), &[28, 30]);
    assert_eq!(reached(&disk, None, None, 0), Some(30));
    assert_eq!(reached(&disk, None, None, 20), Some(10));
    // A later checkpoint holds everything.
    checkpoint(&mut disk, 3, 30);
    assert_eq!(reached(&disk, None, None, 20), Some(30));
}

/// Redo up to e40, with one byte of its middle changed, and with an end that was cut off.
#[test]
fn damaged_redo_is_told_from_a_torn_end() {
    let mut disk = SimulatedDisk::default();
    log(&mut disk, 1, identity(1, 0), &[10, 20, 30, 40]);
    let (name, whole) = disk.files().next().map(|(name, bytes)| (name, bytes.to_vec())).unwrap();
    let survey = |bytes: &[u8], cut| survey(&owner(cut), &[(name, bytes)].into_iter().collect());
    assert!(!survey(&whole, None).lost);
    let torn = survey(&whole[..whole.len() - 8], None);
    assert_eq!((torn.reached, torn.lost), (Some(Epoch(30)), false));
    let mut flips = 0;
    for at in 0..whole.len() {
        let mut bent = whole.clone();
        bent[at] ^= 1;
        let found = survey(&bent, None);
        let short = found.reached.is_some_and(|reached| reached < Epoch(30));
        assert!(!short || found.lost, "byte {at}: {found:?}");
        flips += u32::from(found.reached == Some(Epoch(20)));
        // A cluster that was restarted before the damage does not need what is behind it.
        if found.reached >= Some(Epoch(10)) {
            assert!(!survey(&bent, Some(10)).lost, "byte {at}");
        }
    }
    assert!(flips > 0, "one of them was in the third group");
}
