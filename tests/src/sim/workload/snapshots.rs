//! Reads of the whole bank as of one closed epoch, without a lock: the total is exact, a second
//! look from elsewhere sees the same, and nothing this client has seen before is missing.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_client::core::{
    AtLeast, Call, CallError, Completion, Moment, ReadFrom, Reply, ResultList,
};
use lockstep_proto::ids::PartitionId;
use lockstep_proto::wire::op::{OpFlags, OpList, OpResult};

use super::counters::value_of;
use super::{Next, Notebook, Phase, Scene, Task, row_of};

/// The counter that is read before the snapshot and in it.
const COUNTER: u64 = 0;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    #[default]
    Resting,
    /// Reads the counter as it is.
    Before,
    /// Opens the snapshot.
    Opening,
    /// Reads everything in it, twice.
    First,
    Again,
}

/// See the module text.
#[derive(Default)]
pub struct SnapshotTask {
    step: Step,
    counted: u64,
    at: Moment,
    seen: Option<(u64, BTreeMap<u64, i64>)>,
}

impl SnapshotTask {
    fn look(&self, scene: &mut Scene<'_>, from: ReadFrom) -> Next {
        let mut ops = OpList::default();
        scene.notes.tables.counters.read(&mut ops, COUNTER, OpFlags::default());
        for account in 0..scene.notes.accounts {
            scene.notes.tables.accounts.read(&mut ops, account, OpFlags::default());
        }
        Next::Call(Call::Read { ops, from, at: Some(self.at) })
    }

    fn seen(results: &ResultList, scene: &Scene<'_>) -> (u64, BTreeMap<u64, i64>) {
        let mut all = results.iter();
        let counter = match all.next() {
            Some(OpResult::Row(row)) => value_of(scene.notes, row),
            _ => 0,
        };
        let mut balances = BTreeMap::new();
        for (account, result) in (0..).zip(all) {
            if let OpResult::Row(row) = result {
                let balance = scene.notes.tables.accounts.value(row).as_i64();
                balances.insert(account, balance.unwrap_or_default());
            }
        }
        (counter, balances)
    }

    fn rest(&mut self, done: &Completion, scene: &mut Scene<'_>) -> Next {
        scene.notes.end(done, false);
        *self = Self::default();
        Next::Sleep(Duration::from_micros(5 * scene.rng.below(scene.notes.pause_us) + 1))
    }

    fn on_first(&mut self, results: &ResultList, scene: &mut Scene<'_>) -> Next {
        let (counter, balances) = Self::seen(results, scene);
        if counter < self.counted {
            let (epoch, counted) = (self.at.epoch, self.counted);
            let text =
                format!("the snapshot of {epoch} counts {counter}, {counted} was seen before");
            scene.notes.complaints.push(text);
        }
        scene.notes.audits.push(balances.clone());
        self.seen = Some((counter, balances));
        self.step = Step::Again;
        self.look(scene, ReadFrom::Primary)
    }

    fn on_again(&mut self, results: &ResultList, scene: &mut Scene<'_>) {
        let again = Self::seen(results, scene);
        if self.seen.as_ref().is_some_and(|seen| *seen != again) {
            let text = format!("two looks at {}: {:?}, then {again:?}", self.at.epoch, self.seen);
            scene.notes.complaints.push(text);
        }
    }
}

impl Task for SnapshotTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        let Some(done) = done else {
            if scene.notes.phase != Phase::Work {
                return Next::Stop;
            }
            let mut ops = OpList::default();
            scene.notes.tables.counters.read(&mut ops, COUNTER, OpFlags::default());
            scene.notes.begin();
            self.step = Step::Before;
            return Next::Call(Call::Read { ops, from: ReadFrom::Nearest, at: None });
        };
        match (&done, self.step) {
            (Ok(_), Step::Before) => {
                self.counted = row_of(&done).map_or(0, |row| value_of(scene.notes, &row));
                self.step = Step::Opening;
                let partition = PartitionId(0);
                let from = ReadFrom::Nearest;
                let at_least = AtLeast::Seen;
                let call = Call::OpenSnapshot { partition, from, at_least };
                Next::Call(call)
            }
            (Ok(Reply::Snapshot { closed, .. }), _) => {
                self.at = *closed;
                self.step = Step::First;
                self.look(scene, ReadFrom::Nearest)
            }
            (Ok(Reply::Done { results, .. }), Step::First) => self.on_first(results, scene),
            (Ok(Reply::Done { results, .. }), Step::Again) => {
                self.on_again(results, scene);
                self.rest(&done, scene)
            }
            (Ok(_) | Err(CallError { .. }), _) => self.rest(&done, scene),
        }
    }

    fn lost(&mut self, notes: &mut Notebook) {
        if self.step != Step::Resting {
            notes.lose();
        }
    }
}
