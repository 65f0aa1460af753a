//! The first client of a run makes the tables and their first rows, then says that work may begin.

use std::time::Duration;

use lockstep_client::core::{Call, Completion, Reply, TxHandle};
use lockstep_proto::durability::Durability;
use lockstep_proto::ids::{PartitionId, StartOrder};
use lockstep_proto::schema::CATALOG_COUNTER;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpFlags, OpKind, OpList};

use super::counters::COUNTERS;
use super::tables::{Table, catalog_op, catalog_upsert};
use super::{Next, Notebook, Phase, Scene, Task};

enum Stage {
    Begin,
    Lock,
    Write(TxHandle),
    Written,
    Rows,
}

/// See the module text.
pub struct SetupTask {
    stage: Stage,
    table: usize,
}

impl SetupTask {
    /// A task that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self { stage: Stage::Begin, table: 0 }
    }

    fn rows(scene: &Scene<'_>) -> OpList {
        let mut ops = OpList::default();
        let tables = &scene.notes.tables;
        for account in 0..scene.notes.accounts {
            tables.accounts.upsert(&mut ops, account, Value::Int(scene.notes.balance));
        }
        for counter in 0..COUNTERS {
            tables.counters.upsert(&mut ops, counter, Value::UInt(0));
        }
        ops
    }

    fn again(&mut self) -> Next {
        self.stage = Stage::Begin;
        Next::Sleep(Duration::from_millis(5))
    }
}

impl Default for SetupTask {
    fn default() -> Self {
        Self::new()
    }
}

/// Operations that write a table's definition into every partition.
pub fn define(table: &Table, partitions: u16, ops: &mut OpList) {
    let id = table.def.id.0;
    for partition in 0..partitions {
        let definition = table.def.encode();
        catalog_upsert(ops, PartitionId(partition), table.def.name(), id, &definition);
    }
}

impl Task for SetupTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        let partitions = scene.notes.tables.partitions;
        match (std::mem::replace(&mut self.stage, Stage::Begin), done) {
            (Stage::Begin, _) if self.table == scene.notes.tables.all().len() => {
                self.stage = Stage::Rows;
                Next::Call(Call::Batch { ops: Self::rows(scene), durability: Durability::Memory })
            }
            (Stage::Begin, _) => {
                self.stage = Stage::Lock;
                Next::Call(Call::Begin { order: StartOrder::default() })
            }
            (Stage::Lock, Some(Ok(Reply::Begun(tx)))) => {
                self.stage = Stage::Write(tx);
                let mut ops = OpList::default();
                let flags = OpFlags::FOR_UPDATE;
                catalog_op(&mut ops, PartitionId(0), CATALOG_COUNTER, OpKind::Read, flags, &[]);
                Next::Call(Call::Step { tx, ops })
            }
            (Stage::Write(tx), Some(done)) => {
                self.stage = Stage::Written;
                let mut ops = OpList::default();
                let commit = done.is_ok();
                if commit {
                    let table = scene.notes.tables.all()[self.table].clone();
                    let id = table.def.id.0;
                    catalog_upsert(&mut ops, PartitionId(0), CATALOG_COUNTER, id, &[]);
                    define(&table, partitions, &mut ops);
                }
                Next::Call(Call::Finish { tx, commit, ops, durability: Durability::Memory })
            }
            (Stage::Written, Some(Ok(_))) => {
                self.table += 1;
                self.again()
            }
            (Stage::Rows, Some(Ok(_))) => {
                scene.notes.phase = Phase::Work;
                Next::Stop
            }
            _ => self.again(),
        }
    }

    fn lost(&mut self, notes: &mut Notebook) {
        notes.complaints.push("the client that makes the tables died".into());
    }
}
