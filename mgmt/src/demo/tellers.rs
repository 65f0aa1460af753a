//! The tasks that transfer money and remember what they were told.

use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use lockstep_client::core::Outcome;
use lockstep_client::{Client, Durability, Error, Table, col};

use super::bank::{Account, Told, Transfer};
use crate::bench::gap::{Fault, Gap};
use crate::bench::measure::Latencies;
use crate::cli::error::{CliError, CliResult, Trouble};

/// What tellers are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Go on.
    Work,
    /// End with what is begun.
    Finish,
    /// Drop what is begun: nobody will answer.
    Abandon,
}

/// Tellers at work.
pub struct Crew {
    tasks: JoinSet<(u32, Report)>,
    orders: watch::Sender<Order>,
}

impl Crew {
    /// Starts tellers with the numbers from `first` on; those for whom `durable` says so have every
    /// transfer on disk before they count it as done.
    #[must_use]
    pub fn start(
        client: &Client,
        tasks: std::ops::Range<u32>,
        accounts: u64,
        fault: &Fault,
        durable: impl Fn(u32) -> bool,
    ) -> Self {
        let (orders, ordered) = watch::channel(Order::Work);
        let mut set = JoinSet::new();
        for task in tasks {
            let teller = Teller {
                client: client.with_durability(match durable(task) {
                    true => Durability::Disk,
                    false => Durability::Memory,
                }),
                accounts: client.table(),
                transfers: client.table(),
                task,
                accounts_count: accounts,
                ordered: ordered.clone(),
                report: Report {
                    told: Vec::new(),
                    durable: durable(task),
                    latencies: Latencies::default(),
                    gap: Gap::new(fault),
                    retries: 0,
                },
            };
            set.spawn_local(async move { (task, teller.work().await) });
        }
        Self { tasks: set, orders }
    }

    /// Ends their work and collects their reports, in order of task.
    ///
    /// # Errors
    /// If one has ended badly.
    pub async fn end(mut self, order: Order) -> CliResult<Vec<Report>> {
        let _heard_by_those_who_work = self.orders.send(order);
        let mut reports = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            reports.push(ended.map_err(|error| {
                CliError::new(Trouble::Process, "a task ended").why(error.to_string())
            })?);
        }
        reports.sort_by_key(|(task, _)| *task);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }
}

/// One task.
struct Teller {
    client: Client,
    accounts: Table<Account>,
    transfers: Table<Transfer>,
    task: u32,
    accounts_count: u64,
    ordered: watch::Receiver<Order>,
    report: Report,
}

/// What one task saw.
pub struct Report {
    /// What it was told, by number of the transfer.
    pub told: Vec<Told>,
    /// It was told so only when it was on disk on every replica.
    pub durable: bool,
    /// Latencies of committed transfers.
    pub latencies: Latencies,
    /// The longest wait for an acknowledgement around the fault.
    pub gap: Gap,
    /// Transfers tried again by the task itself, beyond what the library retries.
    pub retries: u64,
}

impl Teller {
    /// Transfers until it is ordered to end.
    async fn work(mut self) -> Report {
        let mut ordered = self.ordered.clone();
        while *self.ordered.borrow() == Order::Work {
            let number = u32::try_from(self.report.told.len()).expect("bounded by the time");
            let transfer = Transfer::of(self.task, number, self.accounts_count);
            let abandoned = async {
                // If nobody is left to give orders, none comes.
                if ordered.wait_for(|order| *order == Order::Abandon).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let told = tokio::select! {
                biased;
                told = self.settle(&transfer) => told,
                () = abandoned => Told::Unknown,
            };
            self.report.told.push(told);
        }
        self.report.gap.end();
        self.report
    }

    /// Makes one transfer; tries again only what certainly left nothing behind.
    async fn settle(&mut self, transfer: &Transfer) -> Told {
        let started = Instant::now();
        loop {
            let error = self.transfer(transfer).await.err();
            let outcome = error.as_ref().map_or(Outcome::Applied, Error::outcome);
            match (outcome, error) {
                (Outcome::Applied, _) => {
                    self.report.latencies.record(started.elapsed());
                    self.report.gap.acknowledged();
                    return Told::Committed;
                }
                (Outcome::Unknown, _) => return Told::Unknown,
                (Outcome::NotApplied, Some(error)) if error.is_retryable() => {
                    self.report.retries += 1;
                }
                (Outcome::NotApplied, _) => {
                    self.report.gap.acknowledged();
                    return Told::NotDone;
                }
            }
        }
    }

    /// Three rows on two partitions, all or none, in one round trip.
    async fn transfer(&self, transfer: &Transfer) -> Result<(), Error> {
        let Transfer { payer, payee, amount, .. } = *transfer;
        let take = self.accounts.patch(payer).add("balance", -amount);
        let batch = self
            .client
            .batch()
            .with(take.when(col("balance").ge(amount)))
            .with(self.accounts.patch(payee).add("balance", amount))
            .with(self.transfers.insert(transfer));
        batch.execute().await.map(drop)
    }
}
