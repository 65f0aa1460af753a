//! A load that proves something: clients of a real cluster append to lists and read them, in
//! transactions and with committed reads from every replica, and write down what they did and
//! were told. [`crate::checkers::check_list_append`] judges the history.
//!
//! Runs on a thread of its own, so that a test can kill and cut on the main thread meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use lockstep_client::{Client, ClientBuilder, Error, Outcome, ReadFrom, TableBuilder, record};
use lockstep_proto::ids::NodeId;

use crate::checkers::{Event, EventKind, Micro};
use crate::sim::rng::Rng;

record! {
    /// A list: elements of eight bytes each.
    #[derive(Clone, PartialEq, Debug)]
    pub struct List in "lists" {
        /// Which list.
        #[key]
        pub id: u64,
        /// Elements in order of arrival.
        pub elements: Vec<u8>,
    }
}

/// Elements after which a list is left alone; reads stay short.
const LIST_ELEMENTS_MAX: u64 = 40;

/// How a load behaves.
#[derive(Clone, Debug)]
pub struct ListPlan {
    /// How many tasks share the client.
    pub tasks: u64,
    /// Lists in use at a time.
    pub lists: u64,
    /// Replicas that committed reads are spread over; none for the nearest.
    pub read_from: Vec<NodeId>,
    /// Of all choices.
    pub seed: u64,
}

/// A running load.
pub struct ListLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plan: ListPlan,
    started: Instant,
    stop: AtomicBool,
    committed: AtomicU64,
    /// Elements are appended once; processes are named once.
    elements: AtomicU64,
    processes: AtomicU64,
    history: Mutex<Vec<Event>>,
    errors: Mutex<Vec<String>>,
}

/// What a load leaves behind.
pub struct ListRun {
    /// Everything its clients did and were told.
    pub history: Vec<Event>,
    /// Errors that reached the application, in words.
    pub errors: Vec<String>,
}

impl ListLoad {
    /// Starts a load through a client that `builder` connects.
    ///
    /// # Panics
    /// When the thread cannot be started. What goes wrong later is told by [`ListLoad::finish`].
    #[must_use]
    pub fn start(builder: ClientBuilder, plan: ListPlan) -> Self {
        let shared = Arc::new(Shared {
            plan,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            elements: AtomicU64::new(1),
            processes: AtomicU64::new(0),
            history: Mutex::new(Vec::new()),
            errors: Mutex::new(Vec::new()),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("list load".to_owned());
        let thread = thread.spawn(move || run(builder, &theirs)).expect("a thread");
        Self { shared, thread: Some(thread) }
    }

    /// How many transactions and reads were acknowledged so far.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// Ends the load: every list is read once more, by a committed read.
    ///
    /// # Panics
    /// When the load did.
    #[must_use]
    pub fn finish(mut self) -> ListRun {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("taken only here").join().expect("the load runs to its end");
        let take =
            |list: &Mutex<Vec<Event>>| std::mem::take(&mut *list.lock().expect("unpoisoned"));
        let errors = std::mem::take(&mut *self.shared.errors.lock().expect("unpoisoned"));
        ListRun { history: take(&self.shared.history), errors }
    }
}

impl Drop for ListLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn run(builder: ClientBuilder, shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = builder.connect().await.expect("the load connects");
        client.create_table(TableBuilder::of::<List>()).await.expect("the table is made");
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..shared.plan.tasks {
            let rng = Rng::new(shared.plan.seed * 1_000 + number);
            let process = shared.new_process();
            let task = Task { client: client.clone(), shared: Arc::clone(shared), rng, process };
            tasks.spawn(task.run());
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a task of the load runs to its end");
        }
        let rng = Rng::new(0);
        let process = shared.new_process();
        let mut last = Task { client, shared: Arc::clone(shared), rng, process };
        for key in 0..shared.first_list() + shared.plan.lists {
            last.read_committed(key, ReadFrom::Nearest).await;
        }
    });
}

impl Shared {
    fn new_process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// The lists in use move on as elements are added.
    fn first_list(&self) -> u64 {
        let elements = self.elements.load(Ordering::Relaxed);
        elements / (LIST_ELEMENTS_MAX * self.plan.lists) * self.plan.lists
    }

    /// The order of the lock is the order of the history.
    fn tell(&self, process: u64, kind: EventKind, value: Vec<Micro>) {
        let mut history = self.history.lock().expect("unpoisoned");
        let time = u64::try_from(self.started.elapsed().as_nanos()).expect("centuries");
        history.push(Event { process, kind, time, value });
    }
}

struct Task {
    client: Client,
    shared: Arc<Shared>,
    rng: Rng,
    process: u64,
}

impl Task {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.rng.below(10) {
                0..4 => {
                    let (key, from) = (self.list(), self.replica());
                    self.read_committed(key, from).await;
                }
                _ => self.transact().await,
            }
        }
    }

    fn list(&mut self) -> u64 {
        self.shared.first_list() + self.rng.below(self.shared.plan.lists)
    }

    fn replica(&mut self) -> ReadFrom {
        let replicas = &self.shared.plan.read_from;
        let choice = self.rng.below(replicas.len() as u64 + 1);
        let node = usize::try_from(choice).ok().and_then(|choice| replicas.get(choice));
        node.map_or(ReadFrom::Nearest, |node| ReadFrom::Node(*node))
    }

    async fn read_committed(&mut self, key: u64, from: ReadFrom) {
        let asked = vec![Micro::Read { key, list: None }];
        self.shared.tell(self.process, EventKind::Invoke, asked.clone());
        let row = self.client.table::<List>().reading_from(from).get(key).await;
        let seen = row.map(|row| vec![Micro::Read { key, list: Some(elements(row.as_ref())) }]);
        // A node that is asked by name may have to say no, or hold no replica of the list.
        let refusal_is_fine = from != ReadFrom::Nearest;
        self.conclude(asked, seen, refusal_is_fine);
    }

    async fn transact(&mut self) {
        let mut asked = Vec::new();
        for _ in 0..=self.rng.below(3) {
            let key = self.list();
            if self.rng.below(3) == 0 {
                asked.push(Micro::Read { key, list: None });
            } else {
                let element = self.shared.elements.fetch_add(1, Ordering::Relaxed);
                asked.push(Micro::Append { key, element });
            }
        }
        self.shared.tell(self.process, EventKind::Invoke, asked.clone());
        let done = self.client.transaction(|tx| carry_out(tx, asked.clone())).await;
        self.conclude(asked, done, false);
    }

    fn conclude(
        &mut self,
        asked: Vec<Micro>,
        done: Result<Vec<Micro>, Error>,
        refusal_is_fine: bool,
    ) {
        let error = match done {
            Ok(seen) => {
                self.shared.tell(self.process, EventKind::Ok, seen);
                self.shared.committed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Err(error) => error,
        };
        if error.outcome() == Outcome::NotApplied {
            self.shared.tell(self.process, EventKind::Fail, asked);
        } else {
            self.shared.tell(self.process, EventKind::Info, asked);
            self.process = self.shared.new_process();
        }
        if !refusal_is_fine {
            self.shared.errors.lock().expect("unpoisoned").push(error.to_string());
        }
    }
}

async fn carry_out(tx: lockstep_client::Tx, mut steps: Vec<Micro>) -> Result<Vec<Micro>, Error> {
    let lists = tx.table::<List>();
    for step in &mut steps {
        match step {
            Micro::Read { key, list } => *list = Some(elements(lists.get(*key).await?.as_ref())),
            Micro::Append { key, element } => {
                let row = lists.get_for_update(*key).await?;
                let mut row = row.unwrap_or(List { id: *key, elements: Vec::new() });
                row.elements.extend_from_slice(&element.to_le_bytes());
                lists.upsert(&row).await?;
            }
        }
    }
    Ok(steps)
}

fn elements(row: Option<&List>) -> Vec<u64> {
    let bytes = row.map_or(&[][..], |row| &row.elements);
    let (chunks, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "a list of whole elements");
    chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}
