//! Creates and drops a table of its own while everybody else works.

use std::time::Duration;

use lockstep_client::core::{Call, Completion, Reply, TxHandle};
use lockstep_proto::durability::Durability;
use lockstep_proto::ids::{PartitionId, StartOrder};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{OpFlags, OpKind, OpList};

use super::setup::define;
use super::tables::{Table, catalog_op};
use super::{Next, Notebook, Phase, Scene, Task};

/// Ids of these tables start here, far above the run's own.
const FIRST_ID: u32 = 1000;

#[derive(Clone, Copy)]
enum Stage {
    Idle,
    Creating,
    Defining,
    Filling,
    Dropping,
    Dropped,
}

/// See the module text.
pub struct DdlTask {
    number: u32,
    stage: Stage,
    table: Option<Table>,
}

impl DdlTask {
    /// A task with a number of its own among those of a run.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self { number: FIRST_ID + number * 1000, stage: Stage::Idle, table: None }
    }

    fn rest(&mut self, scene: &mut Scene<'_>) -> Next {
        Next::Sleep(Duration::from_millis(scene.rng.range(100, 1500)))
    }

    fn open(&mut self, stage: Stage, scene: &mut Scene<'_>) -> Next {
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        self.stage = stage;
        scene.notes.begin();
        Next::Call(Call::Begin { order: StartOrder::default() })
    }

    fn create(&mut self, tx: TxHandle, scene: &mut Scene<'_>) -> Next {
        self.number += 1;
        let name = format!("extra-{}", self.number);
        let partitions = scene.notes.tables.partitions;
        let table = Table::new(self.number, &name, ColumnType::U64, partitions);
        let mut ops = OpList::default();
        define(&table, partitions, &mut ops);
        self.table = Some(table);
        self.stage = Stage::Defining;
        Next::Call(Call::Finish { tx, commit: true, ops, durability: Durability::Memory })
    }

    fn fill(&mut self, scene: &mut Scene<'_>) -> Next {
        let Some(table) = &self.table else { return self.rest(scene) };
        let mut ops = OpList::default();
        for key in 0..3 {
            table.insert(&mut ops, key, Value::UInt(key));
        }
        self.stage = Stage::Filling;
        scene.notes.begin();
        Next::Call(Call::Batch { ops, durability: Durability::Memory })
    }

    fn remove(&mut self, tx: TxHandle, scene: &mut Scene<'_>) -> Next {
        let mut ops = OpList::default();
        if let Some(table) = self.table.take() {
            for partition in 0..scene.notes.tables.partitions {
                let partition = PartitionId(partition);
                let flags = OpFlags::default();
                catalog_op(&mut ops, partition, table.def.name(), OpKind::Delete, flags, &[]);
            }
        }
        self.stage = Stage::Dropped;
        Next::Call(Call::Finish { tx, commit: true, ops, durability: Durability::Memory })
    }
}

impl Task for DdlTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let Some(done) = done else {
            let stage = if self.table.is_some() { Stage::Dropping } else { Stage::Creating };
            return self.open(stage, scene);
        };
        match (stage, &done) {
            (Stage::Creating, Ok(Reply::Begun(tx))) => self.create(*tx, scene),
            (Stage::Dropping, Ok(Reply::Begun(tx))) => self.remove(*tx, scene),
            (Stage::Defining, Ok(_)) => {
                scene.notes.end(&done, true);
                self.fill(scene)
            }
            (Stage::Defining, Err(_)) => {
                scene.notes.end(&done, true);
                self.table = None;
                self.rest(scene)
            }
            _ => {
                scene.notes.end(&done, true);
                self.rest(scene)
            }
        }
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if !matches!(self.stage, Stage::Idle) {
            notes.lose();
        }
    }
}
