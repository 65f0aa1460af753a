//! Single values, overwritten and read one at a time from any replica: linearizability per key.

use std::time::Duration;

use lockstep_client::core::{Call, Completion};
use lockstep_proto::durability::Durability;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpFlags, OpList};

use crate::checkers::history::Fate;
use crate::checkers::register::RegisterStep;

use super::lists::some_replica;
use super::{Next, Notebook, Phase, Scene, Task, fate, row_of};

/// Registers of a run.
pub const REGISTERS: u64 = 4;

/// Writes or reads one register at a time.
#[derive(Default)]
pub struct RegisterTask {
    key: u64,
    begin: u64,
    open: bool,
    written: Option<u64>,
}

impl RegisterTask {
    fn over(&mut self, done: &Completion, scene: &mut Scene<'_>) {
        scene.notes.end(done, self.written.is_some());
        let known = fate(done) != Fate::Unknown;
        match self.written {
            Some(_) if fate(done) == Fate::Aborted => {}
            Some(value) => {
                let step = RegisterStep::Write(value);
                scene.notes.register(self.key, self.begin, known, step);
            }
            None if done.is_ok() => {
                let row = row_of(done);
                let value = row.and_then(|row| scene.notes.tables.registers.value(&row).as_u64());
                let step = RegisterStep::Read(value.unwrap_or(0));
                scene.notes.register(self.key, self.begin, true, step);
            }
            None => {}
        }
    }
}

impl Task for RegisterTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let Some(done) = done {
            self.open = false;
            self.over(&done, scene);
            return Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1));
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        self.key = scene.rng.below(REGISTERS);
        self.begin = scene.notes.now;
        let mut ops = OpList::default();
        scene.notes.begin();
        self.open = true;
        if scene.rng.percent(30) {
            let value = scene.notes.fresh_value();
            self.written = Some(value);
            scene.notes.tables.registers.upsert(&mut ops, self.key, Value::UInt(value));
            return Next::Call(Call::Batch { ops, durability: Durability::Memory });
        }
        self.written = None;
        scene.notes.tables.registers.read(&mut ops, self.key, OpFlags::default());
        Next::Call(Call::Read { ops, from: some_replica(scene), at: None })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.open {
            notes.lose();
            if let Some(value) = self.written {
                notes.register(self.key, self.begin, false, RegisterStep::Write(value));
            }
        }
    }
}
