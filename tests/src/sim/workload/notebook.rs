//! What all clients of a run were told, in order of true time: the histories that are checked when
//! the run is over.

use std::collections::{BTreeMap, VecDeque};

use crate::checkers::bank::Transfer;
use crate::checkers::counter::{CounterOp, CounterStep};
use crate::checkers::history::{Event, EventKind, Fate, Micro};
use crate::checkers::register::{RegisterOp, RegisterStep};
use lockstep_client::core::Completion;
use lockstep_proto::orders::Order;

use super::tables::Tables;

/// How far a run has got, as far as tasks care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Tables and first rows are being made.
    Setup,
    /// Work and faults.
    Work,
    /// No new work: every open operation must end.
    Drain,
    /// Everything is read once more.
    Final,
}

/// What clients were told to be on disk: a power cut of all machines must leave it.
#[derive(Default)]
pub struct OnDisk {
    /// Lists and elements in them.
    pub elements: Vec<(u64, u64)>,
    /// The highest value that each counter has reached.
    pub counters: BTreeMap<u64, u64>,
}

/// See the module text.
pub struct Notebook {
    /// True time of the event being executed.
    pub now: u64,
    /// How far the run has got.
    pub phase: Phase,
    /// The tables.
    pub tables: Tables,
    /// Transactions and reads of the lists.
    pub history: Vec<Event>,
    /// Operations on each counter.
    pub counters: BTreeMap<u64, Vec<CounterOp>>,
    /// Operations on each register.
    pub registers: BTreeMap<u64, Vec<RegisterOp>>,
    /// Transfers of the bank.
    pub transfers: Vec<Transfer>,
    /// What audits of the whole bank saw.
    pub audits: Vec<BTreeMap<u64, i64>>,
    /// What was acknowledged as durable.
    pub on_disk: OnDisk,
    /// Operations begun.
    pub operations: u64,
    /// Operations that committed (reads not counted).
    pub committed: u64,
    /// Operations that failed with nothing applied, by code.
    pub refused: BTreeMap<u16, u64>,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Operations open now.
    pub open: u64,
    /// Accounts of the bank; account numbers are 0 up to this.
    pub accounts: u64,
    /// What each account starts with.
    pub balance: i64,
    /// Lists in use at a time.
    pub lists: u64,
    /// Longest pause between operations of one task, in microseconds.
    pub pause_us: u64,
    /// Epochs a transaction id lives.
    pub expiry_epochs: u64,
    /// A script wants a backup, and what there is of them removed.
    pub backups_wanted: bool,
    /// See there.
    pub removals_wanted: bool,
    /// What operators want, in order.
    pub orders: VecDeque<Order>,
    /// The last reads are done.
    pub finished: bool,
    /// The last balances.
    pub balances: Option<BTreeMap<u64, i64>>,
    /// What the last reads could not find out.
    pub complaints: Vec<String>,
    next_process: u64,
    next_element: u64,
    next_value: u64,
    appended: BTreeMap<u64, u64>,
    list_base: u64,
}

/// Appends after which a list is left alone: reading it costs its length.
const LIST_MAX: u64 = 60;

impl Notebook {
    /// An empty one.
    #[must_use]
    pub fn new(tables: Tables) -> Self {
        Self {
            now: 0,
            phase: Phase::Setup,
            tables,
            history: Vec::new(),
            counters: BTreeMap::new(),
            registers: BTreeMap::new(),
            transfers: Vec::new(),
            audits: Vec::new(),
            on_disk: OnDisk::default(),
            operations: 0,
            committed: 0,
            refused: BTreeMap::new(),
            unknown: 0,
            open: 0,
            accounts: 12,
            balance: 100,
            lists: 6,
            pause_us: 100_000,
            expiry_epochs: lockstep_proto::limits::TX_EXPIRY_EPOCHS,
            backups_wanted: false,
            orders: VecDeque::new(),
            removals_wanted: false,
            finished: false,
            balances: None,
            complaints: Vec::new(),
            next_process: 0,
            next_element: 0,
            next_value: 0,
            appended: BTreeMap::new(),
            list_base: 0,
        }
    }

    /// A history process that nobody has been.
    pub fn fresh_process(&mut self) -> u64 {
        self.next_process += 1;
        self.next_process
    }

    /// An element that was never appended.
    pub fn fresh_element(&mut self) -> u64 {
        self.next_element += 1;
        self.next_element
    }

    /// A value that was never written to a register.
    pub fn fresh_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// One of the lists in use.
    pub fn some_list(&mut self, rng: &mut crate::sim::rng::Rng) -> u64 {
        self.list_base + rng.below(self.lists)
    }

    /// Every list that was ever appended to.
    #[must_use]
    pub fn lists_touched(&self) -> Vec<u64> {
        self.appended.keys().copied().collect()
    }

    /// Begins an operation.
    pub fn begin(&mut self) {
        self.operations += 1;
        self.open += 1;
    }

    /// Ends one.
    pub fn end(&mut self, done: &Completion, writes: bool) {
        self.open -= 1;
        match super::fate(done) {
            Fate::Committed => self.committed += u64::from(writes),
            Fate::Unknown => self.unknown += 1,
            Fate::Aborted => {
                if let Err(error) = done {
                    *self.refused.entry(error.code as u16).or_default() += 1;
                }
            }
        }
    }

    /// An operation's client died: nobody will ever be told.
    pub fn lose(&mut self) {
        self.open -= 1;
        self.unknown += 1;
    }

    /// Writes an event of the list history.
    pub fn record(&mut self, process: u64, kind: EventKind, value: Vec<Micro>) {
        if kind == EventKind::Invoke {
            for step in &value {
                if let Micro::Append { key, .. } = step {
                    let count = self.appended.entry(*key).or_default();
                    *count += 1;
                    if *count >= LIST_MAX && *key == self.list_base {
                        self.list_base += 1;
                    }
                }
            }
        }
        self.history.push(Event { process, kind, time: self.now, value });
    }

    /// Writes an increment of a counter.
    pub fn increment(&mut self, key: u64, begin: u64, value: Option<u64>) {
        let end = self.now;
        let step = CounterStep::Increment(value);
        self.counters.entry(key).or_default().push(CounterOp { begin, end, step });
    }

    /// Writes a read of a counter.
    pub fn counter_read(&mut self, key: u64, begin: u64, value: u64) {
        let (end, step) = (self.now, CounterStep::Read(value));
        self.counters.entry(key).or_default().push(CounterOp { begin, end, step });
    }

    /// Writes an operation on a register; `known` says whether its end is.
    pub fn register(&mut self, key: u64, begin: u64, known: bool, step: RegisterStep) {
        let end = known.then_some(self.now);
        self.registers.entry(key).or_default().push(RegisterOp { begin, end, step });
    }
}
