//! The tasks that transfer money and remember what they were told.

use std::time::Instant;

use lockstep_client::core::Outcome;
use lockstep_client::{Client, Error, Table, col};

use super::bank::{Account, Told, Transfer};
use crate::bench::gap::{Fault, Gap};
use crate::bench::measure::Latencies;

/// One task.
pub struct Teller {
    client: Client,
    accounts: Table<Account>,
    transfers: Table<Transfer>,
    task: u32,
    accounts_count: u64,
    deadline: Instant,
    report: Report,
}

/// What one task saw.
pub struct Report {
    /// What it was told, by number of the transfer.
    pub told: Vec<Told>,
    /// Latencies of committed transfers.
    pub latencies: Latencies,
    /// The longest wait for an acknowledgement around the fault.
    pub gap: Gap,
    /// Transfers tried again by the task itself, beyond what the library retries.
    pub retries: u64,
}

impl Teller {
    /// A task that works until `deadline`.
    #[must_use]
    pub fn new(
        client: &Client,
        task: u32,
        accounts: u64,
        deadline: Instant,
        fault: &Fault,
    ) -> Self {
        let (told, latencies, retries) = (Vec::new(), Latencies::default(), 0);
        Self {
            client: client.clone(),
            accounts: client.table(),
            transfers: client.table(),
            task,
            accounts_count: accounts,
            deadline,
            report: Report { told, latencies, gap: Gap::new(fault), retries },
        }
    }

    /// Transfers until the deadline.
    pub async fn work(mut self) -> Report {
        while Instant::now() < self.deadline {
            let number = u32::try_from(self.report.told.len()).expect("bounded by the time");
            let transfer = Transfer::of(self.task, number, self.accounts_count);
            let told = self.settle(&transfer).await;
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
