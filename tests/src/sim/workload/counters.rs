//! Counters that are incremented by one-shot batches: lost and doubled increments show at once,
//! because every increment returns the value it made.

use std::time::Duration;

use lockstep_client::core::{Call, Completion, Reply};
use lockstep_proto::durability::Durability;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpFlags, OpList, OpResult};

use crate::checkers::history::Fate;

use super::lists::some_replica;
use super::{Next, Notebook, Phase, Scene, Task, fate, row_of};

/// Counters of a run; the first one is the hot one.
pub const COUNTERS: u64 = 6;

/// The value of a counter's row.
#[must_use]
pub fn value_of(notes: &Notebook, row: &[u8]) -> u64 {
    notes.tables.counters.value(row).as_u64().unwrap_or_default()
}

/// Increments one to three counters in one batch.
#[derive(Default)]
pub struct IncrementTask {
    keys: Vec<u64>,
    begin: u64,
    open: bool,
    durability: Durability,
}

impl IncrementTask {
    fn over(&mut self, done: &Completion, scene: &mut Scene<'_>) {
        scene.notes.end(done, true);
        let mut values: Vec<Option<u64>> = vec![None; self.keys.len()];
        if let Ok(Reply::Done { results, .. }) = done {
            for (value, result) in values.iter_mut().zip(results.iter()) {
                if let OpResult::Row(row) = result {
                    *value = Some(value_of(scene.notes, row));
                }
            }
            if self.durability == Durability::Disk {
                for (key, value) in self.keys.iter().zip(&values) {
                    let reached = scene.notes.on_disk.counters.entry(*key).or_default();
                    *reached = (*reached).max(value.unwrap_or_default());
                }
            }
        }
        if fate(done) != Fate::Aborted {
            for (key, value) in self.keys.iter().zip(values) {
                scene.notes.increment(*key, self.begin, value);
            }
        }
    }
}

impl Task for IncrementTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let Some(done) = done {
            self.open = false;
            self.over(&done, scene);
            return Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1));
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        self.keys.clear();
        if scene.rng.coin() {
            self.keys.push(0);
        }
        for _ in 0..scene.rng.range(1, 2) {
            self.keys.push(scene.rng.below(COUNTERS));
        }
        self.keys.sort_unstable();
        self.keys.dedup();
        if scene.rng.coin() {
            self.keys.reverse();
        }
        self.begin = scene.notes.now;
        let mut ops = OpList::default();
        for key in &self.keys {
            scene.notes.tables.counters.add(&mut ops, *key, Value::UInt(1), &[]);
        }
        scene.notes.begin();
        self.open = true;
        self.durability = scene.some_durability();
        Next::Call(Call::Batch { ops, durability: self.durability })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.open {
            notes.lose();
            for key in &self.keys {
                notes.increment(*key, self.begin, None);
            }
        }
    }
}

/// Reads one counter at a time from any replica.
#[derive(Default)]
pub struct CounterReadTask {
    key: u64,
    begin: u64,
    open: bool,
}

impl Task for CounterReadTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let Some(done) = done {
            self.open = false;
            scene.notes.end(&done, false);
            if let Some(row) = row_of(&done) {
                let value = value_of(scene.notes, &row);
                scene.notes.counter_read(self.key, self.begin, value);
            }
            return Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1));
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        self.key = if scene.rng.coin() { 0 } else { scene.rng.below(COUNTERS) };
        self.begin = scene.notes.now;
        let mut ops = OpList::default();
        scene.notes.tables.counters.read(&mut ops, self.key, OpFlags::default());
        scene.notes.begin();
        self.open = true;
        Next::Call(Call::Read { ops, from: some_replica(scene), at: None })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.open {
            notes.lose();
        }
    }
}
