//! Reads from the replica in one's own zone, compared with reads from the primaries, and what is
//! read when it is gone: the same, from another one.
//!
//! `cargo run --release -p lockstep-client --example zone_reads [ZONE]`, with `LOCKSTEP_URL` set.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lockstep_client::{
    Client, Code, ReadFrom, Result, ShardId, Table, TableBuilder, URL_VARIABLE, record,
};

const ROWS: u64 = 1_000;
const READS: u64 = 20_000;

record! {
    struct Item in "zone_items" {
        #[key]
        id: u64,
        text: String,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let zone = std::env::args().nth(1).unwrap_or_else(|| "a".into());
    let url = std::env::var(URL_VARIABLE).unwrap_or_default();
    let db = Client::at(&url).zone(&zone).connect().await?;
    match db.create_table(TableBuilder::of::<Item>()).await {
        Err(error) if error.error_code() != Code::TableExists => return Err(error),
        _ => {}
    }
    let items = db.table::<Item>();
    let mut batch = db.batch();
    for id in 0..ROWS {
        batch.push(items.upsert(&Item { id, text: format!("item {id}") }));
    }
    batch.execute().await?;

    println!("a client in zone {zone}");
    measure(&db, "nearest", &items).await?;
    measure(&db, "primary", &items.reading_from(ReadFrom::Primary)).await
}

/// Reads, and says which node answered how many.
async fn measure(db: &Client, name: &str, items: &Table<Item>) -> Result<()> {
    let before = reads_by_node(db).await?;
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    for read in 0..READS {
        let one = Instant::now();
        items.get(read % ROWS).await?;
        slowest = slowest.max(one.elapsed());
    }
    let mean = started.elapsed() / u32::try_from(READS).unwrap_or(u32::MAX);
    println!("{name}: {mean:?} on average, {slowest:?} at most");
    for (node, reads) in reads_by_node(db).await? {
        println!("  {node}: {} reads", reads - before.get(&node).copied().unwrap_or(0).min(reads));
    }
    Ok(())
}

/// Node and zone, and how many reads it has answered so far.
async fn reads_by_node(db: &Client) -> Result<BTreeMap<String, u64>> {
    let mut reads = BTreeMap::new();
    for member in &db.view().await?.members {
        let mut sum = 0;
        for shard in (0..member.shards).map(ShardId) {
            sum += db.status(member.instance.node, shard).await.map_or(0, |status| status.reads);
        }
        reads.insert(format!("{} in zone {}", member.instance.node, member.zone), sum);
    }
    Ok(reads)
}
