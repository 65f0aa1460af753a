//! Lists that transactions append to and read: the strictest test of isolation there is, because
//! every list shows the order of all its appends.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_client::core::{Call, Completion, Outcome, ReadFrom, Reply, TxHandle};
use lockstep_proto::durability::Durability;
use lockstep_proto::ids::{NodeId, StartOrder};
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpFlags, OpList, OpResult};

use crate::checkers::history::{EventKind, Fate, Micro};

use super::{Next, Notebook, Phase, Scene, Task, fate, row_of};

/// The list in a row.
#[must_use]
pub fn list_of(notes: &Notebook, row: Option<&[u8]>) -> Vec<u64> {
    let Some(row) = row else { return Vec::new() };
    let Value::Bytes(bytes) = notes.tables.lists.value(row) else { return Vec::new() };
    bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("eight"))).collect()
}

fn bytes_of(list: &[u64]) -> Value {
    Value::Bytes(list.iter().flat_map(|element| element.to_le_bytes()).collect())
}

/// Which replica a read goes to.
pub fn some_replica(scene: &mut Scene<'_>) -> ReadFrom {
    match scene.rng.below(4) {
        0 => ReadFrom::Primary,
        1 => ReadFrom::Nearest,
        _ => ReadFrom::Node(NodeId(
            u16::try_from(scene.rng.below(u64::from(scene.nodes))).expect("few nodes") + 1,
        )),
    }
}

enum Stage {
    Idle,
    Beginning,
    Locking(TxHandle),
    Thinking(TxHandle),
    Finishing,
    Dropping,
}

/// Reads one to three lists under locks and appends to some of them, over and over.
pub struct AppendTask {
    process: u64,
    stage: Stage,
    steps: Vec<Micro>,
    order: StartOrder,
    lists: BTreeMap<u64, Vec<u64>>,
    give_up: bool,
    durability: Durability,
}

impl AppendTask {
    /// A task that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            process: 0,
            stage: Stage::Idle,
            steps: Vec::new(),
            order: StartOrder::default(),
            lists: BTreeMap::new(),
            give_up: false,
            durability: Durability::Memory,
        }
    }

    fn start(&mut self, scene: &mut Scene<'_>) -> Next {
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        if self.process == 0 {
            self.process = scene.notes.fresh_process();
        }
        self.lists.clear();
        self.steps.clear();
        let mut keys: Vec<u64> =
            (0..scene.rng.range(1, 3)).map(|_| scene.notes.some_list(scene.rng)).collect();
        keys.sort_unstable();
        keys.dedup();
        if scene.rng.coin() {
            keys.reverse();
        }
        for (at, key) in keys.iter().enumerate() {
            self.steps.push(Micro::Read { key: *key, list: None });
            if at == 0 || scene.rng.percent(70) {
                let element = scene.notes.fresh_element();
                self.steps.push(Micro::Append { key: *key, element });
            }
        }
        self.give_up = scene.rng.one_in(25);
        scene.notes.begin();
        scene.notes.record(self.process, EventKind::Invoke, self.steps.clone());
        self.stage = Stage::Beginning;
        Next::Call(Call::Begin { order: self.order })
    }

    fn appends(&self, wanted: u64) -> bool {
        self.steps.iter().any(|step| matches!(step, Micro::Append { key, .. } if *key == wanted))
    }

    fn lock(&mut self, tx: TxHandle, scene: &mut Scene<'_>) -> Next {
        let mut ops = OpList::default();
        for step in &self.steps {
            if let Micro::Read { key, .. } = step {
                let flags = if self.appends(*key) { OpFlags::FOR_UPDATE } else { OpFlags(0) };
                scene.notes.tables.lists.read(&mut ops, *key, flags);
            }
        }
        self.stage = Stage::Locking(tx);
        Next::Call(Call::Step { tx, ops })
    }

    /// The rows are locked and read.
    fn locked(&mut self, tx: TxHandle, done: Completion, scene: &mut Scene<'_>) -> Next {
        let Ok(Reply::Done { results, .. }) = done else {
            return self.drop_after(tx, done, scene);
        };
        let mut rows = results.iter();
        for step in &mut self.steps {
            if let Micro::Read { key, list } = step {
                let row = match rows.next() {
                    Some(OpResult::Row(row)) => Some(row),
                    _ => None,
                };
                let seen = list_of(scene.notes, row);
                self.lists.insert(*key, seen.clone());
                *list = Some(seen);
            }
        }
        self.stage = Stage::Thinking(tx);
        if scene.rng.one_in(4) {
            return Next::Sleep(Duration::from_micros(scene.rng.below(8_000)));
        }
        self.finish(tx, scene)
    }

    fn finish(&mut self, tx: TxHandle, scene: &mut Scene<'_>) -> Next {
        self.stage = Stage::Finishing;
        let mut ops = OpList::default();
        if self.give_up {
            return Next::Call(Call::Finish {
                tx,
                commit: false,
                ops,
                durability: Durability::Memory,
            });
        }
        for step in &self.steps {
            if let Micro::Append { key, element } = step {
                let list = self.lists.entry(*key).or_default();
                list.push(*element);
                scene.notes.tables.lists.upsert(&mut ops, *key, bytes_of(list));
            }
        }
        self.durability = scene.some_durability();
        Next::Call(Call::Finish { tx, commit: true, ops, durability: self.durability })
    }

    /// The step failed: the attempt is over, the handle is given back.
    fn drop_after(&mut self, tx: TxHandle, done: Completion, scene: &mut Scene<'_>) -> Next {
        self.over(&done, scene);
        self.stage = Stage::Dropping;
        Next::Call(Call::Finish {
            tx,
            commit: false,
            ops: OpList::default(),
            durability: Durability::Memory,
        })
    }

    fn over(&mut self, done: &Completion, scene: &mut Scene<'_>) {
        scene.notes.end(done, !self.give_up);
        self.order = StartOrder::default();
        let kind = match fate(done) {
            _ if self.give_up && done.is_ok() => EventKind::Fail,
            Fate::Committed => EventKind::Ok,
            Fate::Aborted => EventKind::Fail,
            Fate::Unknown => EventKind::Info,
        };
        if let Err(error) = done
            && error.outcome == Outcome::NotApplied
            && scene.rng.percent(80)
        {
            self.order = error.order;
        }
        if done.is_ok() && kind == EventKind::Ok && self.durability == Durability::Disk {
            for step in &self.steps {
                if let Micro::Append { key, element } = step {
                    scene.notes.on_disk.elements.push((*key, *element));
                }
            }
        }
        scene.notes.record(self.process, kind, self.steps.clone());
        if kind == EventKind::Info {
            self.process = 0;
        }
    }

    fn pause(&mut self, scene: &mut Scene<'_>) -> Next {
        self.stage = Stage::Idle;
        Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1))
    }
}

impl Default for AppendTask {
    fn default() -> Self {
        Self::new()
    }
}

impl Task for AppendTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        match (std::mem::replace(&mut self.stage, Stage::Idle), done) {
            (Stage::Idle, _) => self.start(scene),
            (Stage::Beginning, Some(Ok(Reply::Begun(tx)))) => self.lock(tx, scene),
            (Stage::Locking(tx), Some(done)) => self.locked(tx, done, scene),
            (Stage::Thinking(tx), _) => self.finish(tx, scene),
            (Stage::Dropping, _) => self.pause(scene),
            (Stage::Beginning | Stage::Finishing, Some(done)) => {
                self.over(&done, scene);
                self.pause(scene)
            }
            (Stage::Beginning | Stage::Locking(_) | Stage::Finishing, None) => {
                unreachable!("a task is resumed with the completion of its call")
            }
        }
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if !matches!(self.stage, Stage::Idle | Stage::Dropping) {
            notes.lose();
            notes.record(self.process, EventKind::Info, self.steps.clone());
        }
    }
}

/// Reads one list at a time, from any replica, without a transaction.
#[derive(Default)]
pub struct ReadTask {
    process: u64,
    reading: Option<u64>,
}

impl Task for ReadTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if let (Some(key), Some(done)) = (self.reading.take(), done) {
            scene.notes.end(&done, false);
            let row = row_of(&done);
            let (kind, list) = match &done {
                Ok(_) => (EventKind::Ok, Some(list_of(scene.notes, row.as_deref()))),
                Err(_) => (EventKind::Fail, None),
            };
            scene.notes.record(self.process, kind, vec![Micro::Read { key, list }]);
            return Next::Sleep(Duration::from_micros(scene.rng.below(scene.notes.pause_us) + 1));
        }
        if scene.notes.phase != Phase::Work {
            return Next::Stop;
        }
        if self.process == 0 {
            self.process = scene.notes.fresh_process();
        }
        let key = scene.notes.some_list(scene.rng);
        let from = some_replica(scene);
        self.reading = Some(key);
        let mut ops = OpList::default();
        scene.notes.tables.lists.read(&mut ops, key, OpFlags::default());
        scene.notes.begin();
        let step = Micro::Read { key, list: None };
        scene.notes.record(self.process, EventKind::Invoke, vec![step]);
        Next::Call(Call::Read { ops, from, at: None })
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if let Some(key) = self.reading {
            notes.lose();
            let step = Micro::Read { key, list: None };
            notes.record(self.process, EventKind::Fail, vec![step]);
        }
    }
}
