//! The last reads of a run, when all is healed and quiet: every list, counter, register and account
//! from every in-sync replica.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockstep_client::core::{Call, Completion, ReadFrom};
use lockstep_proto::error::Code;
use lockstep_proto::ids::NodeId;
use lockstep_proto::wire::op::{OpFlags, OpList};

use crate::checkers::history::{EventKind, Micro};
use crate::checkers::register::RegisterStep;

use super::counters::{COUNTERS, value_of};
use super::lists::list_of;
use super::registers::REGISTERS;
use super::{Next, Notebook, Scene, Task, row_of};

/// Tries of one read before the run has failed.
const TRIES: u32 = 40;

#[derive(Clone, Copy, Debug)]
enum What {
    List(u64),
    Counter(u64),
    Register(u64),
    Account(u64),
}

/// See the module text.
pub struct FinaleTask {
    left: VecDeque<(What, ReadFrom)>,
    process: u64,
    begin: u64,
    tries: u32,
    waiting: bool,
    /// Balances by replica; `None` stands for the primary.
    balances: BTreeMap<u64, i64>,
}

impl FinaleTask {
    /// Reads of everything from the primary, and from each of these nodes.
    #[must_use]
    pub fn new(notes: &Notebook, nodes: Vec<NodeId>) -> Self {
        let mut what: Vec<What> = notes.lists_touched().into_iter().map(What::List).collect();
        what.extend((0..COUNTERS).map(What::Counter));
        what.extend((0..REGISTERS).map(What::Register));
        let mut left = VecDeque::new();
        for item in what {
            left.push_back((item, ReadFrom::Primary));
            left.extend(nodes.iter().map(|node| (item, ReadFrom::Node(*node))));
        }
        left.extend((0..notes.accounts).map(|key| (What::Account(key), ReadFrom::Primary)));
        let balances = BTreeMap::new();
        Self { left, process: 0, begin: 0, tries: 0, waiting: false, balances }
    }

    fn ask(&mut self, scene: &mut Scene<'_>) -> Next {
        let Some((what, from)) = self.left.front().copied() else {
            scene.notes.balances = Some(std::mem::take(&mut self.balances));
            scene.notes.finished = true;
            return Next::Stop;
        };
        if self.process == 0 {
            self.process = scene.notes.fresh_process();
        }
        self.begin = scene.notes.now;
        self.waiting = true;
        let (mut ops, flags) = (OpList::default(), OpFlags::default());
        let tables = &scene.notes.tables;
        match what {
            What::List(key) => tables.lists.read(&mut ops, key, flags),
            What::Counter(key) => tables.counters.read(&mut ops, key, flags),
            What::Register(key) => tables.registers.read(&mut ops, key, flags),
            What::Account(key) => tables.accounts.read(&mut ops, key, flags),
        }
        if let What::List(key) = what {
            let step = Micro::Read { key, list: None };
            scene.notes.record(self.process, EventKind::Invoke, vec![step]);
        }
        Next::Call(Call::Read { ops, from, at: None })
    }

    fn told(&mut self, done: &Completion, scene: &mut Scene<'_>) -> Next {
        let Some((what, from)) = self.left.front().copied() else { return Next::Stop };
        let row = row_of(done);
        if let What::List(key) = what {
            let list = done.is_ok().then(|| list_of(scene.notes, row.as_deref()));
            let kind = if done.is_ok() { EventKind::Ok } else { EventKind::Fail };
            scene.notes.record(self.process, kind, vec![Micro::Read { key, list }]);
        }
        let Err(error) = done else {
            self.learn(what, row.as_deref(), scene);
            self.left.pop_front();
            self.tries = 0;
            return self.ask(scene);
        };
        if error.code == Code::NotReplica && matches!(from, ReadFrom::Node(_)) {
            self.left.pop_front();
            return self.ask(scene);
        }
        self.tries += 1;
        if self.tries == TRIES {
            scene.notes.complaints.push(format!("last read of {what:?} from {from:?}: {error}"));
            self.left.clear();
        }
        Next::Sleep(Duration::from_millis(20))
    }

    fn learn(&mut self, what: What, row: Option<&[u8]>, scene: &mut Scene<'_>) {
        let notes = &mut *scene.notes;
        match what {
            What::List(_) => {}
            What::Counter(key) => {
                let value = row.map_or(0, |row| value_of(notes, row));
                notes.counter_read(key, self.begin, value);
            }
            What::Register(key) => {
                let value = row.and_then(|row| notes.tables.registers.value(row).as_u64());
                let step = RegisterStep::Read(value.unwrap_or(0));
                notes.register(key, self.begin, true, step);
            }
            What::Account(key) => {
                let value = row.and_then(|row| notes.tables.accounts.value(row).as_i64());
                self.balances.insert(key, value.unwrap_or_default());
            }
        }
    }
}

impl Task for FinaleTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        match done {
            Some(done) if std::mem::take(&mut self.waiting) => self.told(&done, scene),
            _ => self.ask(scene),
        }
    }

    fn lost(&mut self, notes: &mut Notebook) {
        notes.complaints.push("the client of the last reads died".into());
    }
}
