//! Older versions of rows against a map of all versions there ever were: what is read or scanned at
//! an epoch is what was there then, whatever was written since and however versions are freed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use lockstep_proto::ids::{Epoch, SchemaVersion};
use lockstep_proto::placement::key_hash;
use lockstep_storage::{Fragment, Position};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A write, this many epochs behind the newest one: commits may come late.
    Put(u16, u8, u64),
    Remove(u16, u64),
    /// The clock goes on.
    Next,
    /// What was replaced this long ago goes.
    Free(u64),
    /// A read this many epochs ago.
    Get(u16, u64),
    /// A scan this many epochs ago goes a step, or begins.
    Scan(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..600_u16;
    prop_oneof![
        6 => (key.clone(), any::<u8>(), 0..3_u64).prop_map(|(k, v, late)| Step::Put(k, v, late)),
        3 => (key.clone(), 0..3_u64).prop_map(|(k, late)| Step::Remove(k, late)),
        1 => Just(Step::Next),
        1 => (0..12_u64).prop_map(Step::Free),
        2 => (key, 0..12_u64).prop_map(|(k, back)| Step::Get(k, back)),
        4 => (0..12_u64).prop_map(Step::Scan),
    ]
}

/// An epoch, and a value or `None` where the row was deleted.
type Version = (u64, Option<Vec<u8>>);

/// All versions of each row, oldest first.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
}

impl Model {
    fn write(&mut self, key: Vec<u8>, epoch: u64, value: Option<Vec<u8>>) {
        self.versions.entry(key).or_default().push((epoch, value));
    }

    fn last(&self, key: &[u8]) -> u64 {
        self.versions.get(key).and_then(|all| all.last()).map_or(0, |(epoch, _)| *epoch)
    }

    fn get(&self, key: &[u8], at: u64) -> Option<(u64, Vec<u8>)> {
        let all = self.versions.get(key)?;
        let (epoch, value) = all.iter().rev().find(|(epoch, _)| *epoch <= at)?;
        value.clone().map(|value| (*epoch, value))
    }

    fn all(&self, at: u64) -> Vec<(Vec<u8>, u64, Vec<u8>)> {
        let rows = self.versions.keys().filter_map(|key| {
            let (epoch, value) = self.get(key, at)?;
            Some((key.clone(), epoch, value))
        });
        rows.collect()
    }
}

struct Scan {
    epoch: u64,
    at: Position,
    rows: Vec<(Vec<u8>, u64, Vec<u8>)>,
}

struct Rig {
    fragment: Fragment,
    model: Model,
    now: u64,
    horizon: u64,
    scan: Option<Scan>,
}

fn key_of(number: u16) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

impl Rig {
    fn write(&mut self, key: u16, late: u64, value: Option<Vec<u8>>) {
        let key = key_of(key);
        // Epochs that are read are closed: nothing is written in them any more.
        let closed = self.now - 4;
        let epoch = (self.now - late).max(self.model.last(&key)).max(closed + 1);
        match &value {
            Some(value) => self.fragment.put(key_hash(&key), &key, value, Epoch(epoch)),
            None => self.fragment.remove(key_hash(&key), &key, Epoch(epoch)),
        };
        if value.is_some() || self.model.get(&key, u64::MAX).is_some() {
            self.model.write(key, epoch, value);
        }
    }

    fn past(&self, back: u64) -> u64 {
        (self.now - 4).saturating_sub(back).max(self.horizon)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(key, byte, late) => {
                self.write(key, late, Some(vec![byte; usize::from(byte % 40)]));
            }
            Step::Remove(key, late) => self.write(key, late, None),
            Step::Next => self.now += 1,
            Step::Free(back) => {
                let pinned = self.scan.as_ref().map_or(u64::MAX, |scan| scan.epoch);
                self.horizon = self.past(back).min(pinned).max(self.horizon);
                self.fragment.free(Epoch(self.horizon));
            }
            Step::Get(key, back) => {
                let (key, at) = (key_of(key), self.past(back));
                let found = self.fragment.row_at(Epoch(at), key_hash(&key), &key);
                let found = found.map(|row| (row.epoch().0, row.value().to_vec()));
                assert_eq!(found, self.model.get(&key, at));
            }
            Step::Scan(back) => self.scan(back),
        }
    }

    fn scan(&mut self, back: u64) {
        let epoch = self.past(back);
        let mut scan =
            self.scan.take().unwrap_or(Scan { epoch, at: Position::default(), rows: Vec::new() });
        let next = self.fragment.scan(Epoch(scan.epoch), scan.at, |hash, row| {
            assert_eq!(hash, key_hash(row.key()));
            scan.rows.push((row.key().to_vec(), row.epoch().0, row.value().to_vec()));
        });
        match next {
            Some(at) => self.scan = Some(Scan { at, ..scan }),
            None => {
                scan.rows.sort_unstable();
                assert_eq!(scan.rows, self.model.all(scan.epoch), "at {}", scan.epoch);
            }
        }
    }
}

fn rig() -> Rig {
    let fragment = Fragment::new(SchemaVersion(3));
    Rig { fragment, model: Model::default(), now: 5, horizon: 0, scan: None }
}

proptest! {
    #[test]
    fn what_is_read_at_an_epoch_is_what_was_there(steps in vec(step(), 0..1500)) {
        let mut rig = rig();
        steps.into_iter().for_each(|step| rig.take(step));
        // To the end of the last scan, and one of the present.
        while rig.scan.is_some() {
            rig.scan(0);
        }
        rig.scan(0);
        while rig.scan.is_some() {
            rig.scan(0);
        }
    }
}

/// A table that grows, is emptied and grows again under a scan: splits, joins and a new index.
#[test]
fn a_scan_outlives_every_change_of_the_index() {
    let mut rig = rig();
    let keys = if cfg!(miri) { 200 } else { 5000 };
    (0..keys).for_each(|key| rig.write(key, 0, Some(vec![1; 8])));
    rig.now += 10;
    let mut steps = 0_u32;
    rig.scan(0);
    for round in 0..3 {
        for key in 0..keys {
            rig.write(key, 0, (round % 2 == 1).then(|| vec![2; 8]));
            if key % 16 == 0 && rig.scan.is_some() {
                rig.scan(0);
                steps += 1;
            }
        }
        rig.now += 1;
    }
    while rig.scan.is_some() {
        rig.scan(0);
        steps += 1;
    }
    assert!(steps > u32::from(keys / 40), "{steps} steps are too few to prove anything");
}

#[test]
fn a_hot_row_keeps_one_version_for_each_epoch_and_they_all_go() {
    let mut fragment = Fragment::new(SchemaVersion(3));
    let key = b"hot";
    let hash = key_hash(key);
    for write in 0..1000_u64 {
        fragment.put(hash, key, &write.to_be_bytes(), Epoch(1 + write / 100));
    }
    assert_eq!(fragment.versions(), 9);
    assert_eq!(fragment.versions_bytes(), 9 * (3 + 8));
    let seen = fragment.row_at(Epoch(4), hash, key).unwrap();
    assert_eq!(seen.value(), 399_u64.to_be_bytes());
    fragment.free(Epoch(4));
    fragment.free(Epoch(4));
    assert_eq!(fragment.versions(), 6);
    assert_eq!(fragment.row_at(Epoch(4), hash, key).unwrap().value(), 399_u64.to_be_bytes());
    fragment.remove(hash, key, Epoch(11));
    assert!(fragment.row_at(Epoch(11), hash, key).is_none());
    assert_eq!(fragment.row_at(Epoch(10), hash, key).unwrap().value(), 999_u64.to_be_bytes());
    fragment.free(Epoch(20));
    fragment.free(Epoch(20));
    assert_eq!((fragment.versions(), fragment.versions_bytes()), (0, 0));
}
