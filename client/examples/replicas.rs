//! Rows without a Rust type: walks every partition of a table on every replica, in key order, and
//! compares them.
//!
//! `cargo run -p lockstep-client --example replicas TABLE`, with `LOCKSTEP_URL` set. The table must
//! not be written meanwhile.

use lockstep_client::{Client, NodeId, PartitionId, ReadFrom, Result, Row, Table};

#[tokio::main]
async fn main() -> Result<()> {
    let db = Client::from_env().await?;
    let Some(name) = std::env::args().nth(1) else {
        println!("which table? there are:");
        for def in db.tables().await? {
            println!("  {} ({} columns)", def.name(), def.columns().len());
        }
        return Ok(());
    };
    let table = db.table_named(&name).await?;
    let view = db.view().await?;
    let (mut rows, mut copies, mut different) = (0, 0, 0);
    for partition in db.partitions() {
        let Some(placement) = view.placement(partition) else { continue };
        let mut first: Option<Vec<Row>> = None;
        for node in &placement.replicas {
            let copy = read(&table, partition, *node).await?;
            copies += copy.len();
            match &first {
                None => {
                    rows += copy.len();
                    first = Some(copy);
                }
                Some(first) if *first == copy => {}
                Some(_) => {
                    println!("{partition} differs on {node}");
                    different += 1;
                }
            }
        }
    }
    println!("{rows} rows, {copies} copies compared, {different} partitions differ");
    Ok(())
}

async fn read(table: &Table<Row>, partition: PartitionId, node: NodeId) -> Result<Vec<Row>> {
    let mut scan = table.scan_partition(partition).from(ReadFrom::Node(node));
    let mut rows = Vec::new();
    while let Some(page) = scan.next_page().await? {
        rows.extend(page.into_iter().map(|scanned| scanned.row));
    }
    Ok(rows)
}
