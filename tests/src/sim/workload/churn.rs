//! Rows that come and go: a replica that was away must neither miss the new ones nor keep the old
//! ones. What there is in the end is compared between replicas.

use std::collections::VecDeque;
use std::time::Duration;

use lockstep_client::core::{Call, Completion};
use lockstep_proto::durability::Durability;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::OpList;

use super::{Next, Notebook, Phase, Scene, Task};

/// The first key: far from those of the registers whose table it shares.
const FIRST: u64 = 1 << 32;
/// Rows a task lets live at the same time.
const ALIVE: usize = 40;

/// Puts new rows and removes old ones, at most three at a time.
#[derive(Default)]
pub struct ChurnTask {
    alive: VecDeque<u64>,
    open: bool,
}

impl Task for ChurnTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let Some(done) = done {
            self.open = false;
            scene.notes.end(&done, true);
            return Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1));
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        let mut ops = OpList::default();
        let table = scene.notes.tables.registers.clone();
        for _ in 0..=scene.rng.below(3) {
            let full = self.alive.len() >= ALIVE || scene.rng.percent(45);
            match self.alive.pop_front().filter(|_| full) {
                // It may be there or not: whoever removes it does not mind.
                Some(old) => table.delete(&mut ops, old),
                None => {
                    let value = scene.notes.fresh_value();
                    table.upsert(&mut ops, FIRST + value, Value::UInt(value));
                    self.alive.push_back(FIRST + value);
                }
            }
        }
        scene.notes.begin();
        self.open = true;
        Next::Call(Call::Batch { ops, durability: Durability::Memory })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.open {
            notes.lose();
        }
    }
}
