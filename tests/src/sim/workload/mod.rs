//! What the clients of a run do. A client is a [`ClientCore`] and a few tasks; a task does one call
//! at a time, writes down what it was told, and pauses. All clients of a run share one notebook.

pub mod bank;
pub mod churn;
pub mod config;
pub mod counters;
pub mod ddl;
pub mod finale;
pub mod lists;
pub mod notebook;
pub mod operator;
pub mod orders;
pub mod registers;
pub mod setup;
pub mod snapshots;
pub mod tables;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use lockstep_client::core::{Call, CallError, CallId, ClientCore, Completion, Outcome, Reply};
use lockstep_proto::durability::Durability;
use lockstep_proto::process::{Input, Outputs, Process};
use lockstep_proto::time::Instant;

use super::rng::Rng;
pub use notebook::{Notebook, Phase};
pub use tables::Tables;

/// What a task wants next.
pub enum Next {
    /// Make this call and hand its completion in.
    Call(Call),
    /// Wait.
    Sleep(Duration),
    /// The task is over.
    Stop,
}

/// What a task sees of its surroundings.
pub struct Scene<'a> {
    /// Chance of this client.
    pub rng: &'a mut Rng,
    /// Where results are written down.
    pub notes: &'a mut Notebook,
    /// Nodes that could be asked for reads.
    pub nodes: u16,
}

impl Scene<'_> {
    /// What a task asks for, mostly the cheaper.
    pub fn some_durability(&mut self) -> Durability {
        if self.rng.one_in(4) { Durability::Disk } else { Durability::Memory }
    }
}

/// One thing a client does over and over.
pub trait Task {
    /// Goes on: after the start and after a sleep without a completion, else with the one of its
    /// last call.
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next;

    /// The client dies: writes down that nobody knows what becomes of the open operation.
    fn lost(&mut self, notes: &mut Notebook);
}

struct Slot {
    task: Box<dyn Task>,
    wake: Option<Instant>,
    over: bool,
}

/// A client with its tasks, as the world runs it.
pub struct ClientProcess {
    /// The library's core.
    pub core: ClientCore,
    tasks: Vec<Slot>,
    calls: BTreeMap<CallId, usize>,
    rng: Rng,
    nodes: u16,
    notes: Rc<RefCell<Notebook>>,
}

impl ClientProcess {
    /// A client that begins its tasks when it first runs.
    #[must_use]
    pub fn new(core: ClientCore, rng: Rng, nodes: u16, notes: Rc<RefCell<Notebook>>) -> Self {
        Self { core, tasks: Vec::new(), calls: BTreeMap::new(), rng, nodes, notes }
    }

    /// Adds a task that starts at this local time.
    pub fn add(&mut self, task: Box<dyn Task>, start: Instant) {
        self.tasks.push(Slot { task, wake: Some(start), over: false });
    }

    /// The client is about to die: its open operations will never be told.
    pub fn lose_all(&mut self) {
        let notes = &mut self.notes.borrow_mut();
        let waiting: Vec<usize> = self.calls.values().copied().collect();
        for (index, slot) in self.tasks.iter_mut().enumerate() {
            if !slot.over && (waiting.contains(&index) || slot.wake.is_some()) {
                slot.task.lost(notes);
            }
        }
    }

    /// Whether no task will do anything more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks.iter().all(|slot| slot.over)
    }

    fn drive(&mut self, now: Instant, index: usize, done: Option<Completion>, out: &mut Outputs) {
        let slot = &mut self.tasks[index];
        slot.wake = None;
        let notes = &mut self.notes.borrow_mut();
        let mut scene = Scene { rng: &mut self.rng, notes, nodes: self.nodes };
        match slot.task.resume(done, &mut scene) {
            Next::Call(call) => {
                let id = self.core.submit(now, call, out);
                self.calls.insert(id, index);
            }
            Next::Sleep(length) => slot.wake = Some(now + length),
            Next::Stop => slot.over = true,
        }
    }

    fn pump(&mut self, now: Instant, out: &mut Outputs) {
        loop {
            let done: Vec<(CallId, Completion)> = self.core.completions().collect();
            if done.is_empty() {
                break;
            }
            for (id, completion) in done {
                let Some(index) = self.calls.remove(&id) else { continue };
                self.drive(now, index, Some(completion), out);
            }
        }
        for index in 0..self.tasks.len() {
            if self.tasks[index].wake.is_some_and(|at| at <= now) {
                self.drive(now, index, None, out);
            }
        }
        let done: Vec<(CallId, Completion)> = self.core.completions().collect();
        for (id, completion) in done {
            let Some(index) = self.calls.remove(&id) else { continue };
            self.drive(now, index, Some(completion), out);
        }
    }
}

impl Process for ClientProcess {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        let core_is_due = self.core.next_timeout().is_some_and(|at| at <= now);
        if !matches!(input, Input::Timeout) || core_is_due {
            self.core.handle(now, input, out);
        }
        self.pump(now, out);
    }

    fn settle(&mut self, now: Instant, out: &mut Outputs) {
        self.core.settle(now, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        let tasks = self.tasks.iter().filter_map(|slot| slot.wake).min();
        tasks.into_iter().chain(self.core.next_timeout()).min()
    }
}

/// What a completion says about the transaction.
#[must_use]
pub fn fate(done: &Completion) -> crate::checkers::history::Fate {
    use crate::checkers::history::Fate;
    match done {
        Ok(_) => Fate::Committed,
        Err(CallError { outcome: Outcome::Applied, .. }) => Fate::Committed,
        Err(CallError { outcome: Outcome::NotApplied, .. }) => Fate::Aborted,
        Err(CallError { outcome: Outcome::Unknown, .. }) => Fate::Unknown,
    }
}

/// The row a completion's only result shows, if it shows one.
#[must_use]
pub fn row_of(done: &Completion) -> Option<Vec<u8>> {
    let Ok(Reply::Done { results, .. }) = done else { return None };
    match results.first()? {
        lockstep_proto::wire::op::OpResult::Row(row) => Some(row.to_vec()),
        _ => None,
    }
}
