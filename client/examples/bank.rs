//! Transfers between accounts in interactive transactions, from many tasks, while the total stays
//! what it is. Kill a data node meanwhile: no error comes out.
//!
//! `cargo run -p lockstep-client --example bank [SECONDS]`, with `LOCKSTEP_URL` set.

use std::time::{Duration, Instant};

use lockstep_client::{Client, Code, Error, Result, TableBuilder, record};

const ACCOUNTS: u64 = 100;
const TASKS: u64 = 16;
const EACH: i64 = 1_000;

record! {
    struct Account in "bank_accounts" {
        #[key]
        id: u64,
        balance: i64,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let db = Client::from_env().await?;
    open_accounts(&db).await?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..TASKS).map(|task| tokio::spawn(work(db.clone(), task, end))).collect();
    let (mut done, mut slowest) = (0, Duration::ZERO);
    for task in tasks {
        let (count, worst) = task.await.expect("the task does not panic")?;
        done += count;
        slowest = slowest.max(worst);
    }
    let rows = db.table::<Account>().get_many(0..ACCOUNTS).await?;
    let total: i64 = rows.into_iter().flatten().map(|account| account.balance).sum();
    println!("{done} transfers, the slowest took {slowest:?}");
    println!("total {total}, expected {}", EACH * i64::try_from(ACCOUNTS).unwrap_or(0));
    Ok(())
}

async fn open_accounts(db: &Client) -> Result<()> {
    match db.create_table(TableBuilder::of::<Account>()).await {
        Err(error) if error.error_code() != Code::TableExists => return Err(error),
        _ => {}
    }
    let accounts = db.table::<Account>();
    let mut batch = db.batch();
    for id in 0..ACCOUNTS {
        batch.push(accounts.upsert(&Account { id, balance: EACH }));
    }
    batch.execute().await.map(drop)
}

async fn work(db: Client, task: u64, end: Instant) -> Result<(u64, Duration)> {
    let (mut done, mut slowest) = (0, Duration::ZERO);
    while Instant::now() < end {
        let from = (task * 31 + done * 7) % ACCOUNTS;
        let to = (from + 1 + done % (ACCOUNTS - 1)) % ACCOUNTS;
        let started = Instant::now();
        transfer(&db, from, to, 5).await?;
        slowest = slowest.max(started.elapsed());
        done += 1;
    }
    Ok((done, slowest))
}

/// Moves money if there is enough of it; says whether it did. Runs again from the start when an
/// older transaction needs one of the rows, or a node fails.
async fn transfer(db: &Client, from: u64, to: u64, amount: i64) -> Result<bool> {
    db.transaction(|tx| async move {
        let accounts = tx.table::<Account>();
        // Both reads travel together, and so do both writes.
        let (payer, payee) =
            tokio::try_join!(accounts.get_for_update(from), accounts.get_for_update(to))?;
        let (Some(mut payer), Some(mut payee)) = (payer, payee) else { return Ok(false) };
        if payer.balance < amount {
            return Ok(false);
        }
        payer.balance -= amount;
        payee.balance += amount;
        tokio::try_join!(accounts.update(&payer), accounts.update(&payee))?;
        Ok::<_, Error>(true)
    })
    .await
}
