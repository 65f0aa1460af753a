//! A hot counter: increments evaluated in the data node, one round trip each, none lost.
//!
//! `cargo run --release -p lockstep-client --example counters [SECONDS]`, with `LOCKSTEP_URL` set.

use std::time::{Duration, Instant};

use lockstep_client::{Client, Code, Result, Table, TableBuilder, record};

const TASKS: usize = 64;

record! {
    struct Counter in "counters" {
        #[key]
        name: String,
        count: u64,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    let db = Client::from_env().await?;
    match db.create_table(TableBuilder::of::<Counter>()).await {
        Err(error) if error.error_code() != Code::TableExists => return Err(error),
        _ => {}
    }
    let counters = db.table::<Counter>();
    counters.upsert(&Counter { name: "visits".into(), count: 0 }).await?;

    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(count(counters.clone(), end))).collect();
    let mut acknowledged = 0;
    for task in tasks {
        acknowledged += task.await.expect("the task does not panic")?;
    }
    let stored = counters.get("visits").await?.map_or(0, |counter| counter.count);
    let rate = acknowledged as f64 / started.elapsed().as_secs_f64();
    println!("{acknowledged} increments acknowledged, {stored} stored, {rate:.0} per second");
    Ok(())
}

async fn count(counters: Table<Counter>, end: Instant) -> Result<u64> {
    let mut done = 0;
    while Instant::now() < end {
        counters.patch("visits").add("count", 1_u64).await?;
        done += 1;
    }
    Ok(done)
}
