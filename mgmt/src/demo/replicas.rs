//! Reads every in-sync replica of every partition, from that replica and no other.

use lockstep_client::core::ReadFrom;
use lockstep_client::{Client, Record, Table};
use lockstep_proto::ids::{NodeId, PartitionId};
use lockstep_proto::view::View;

use super::bank::{Account, Books, Transfer};
use crate::check;
use crate::cli::error::CliResult;
use crate::cli::output::{Voice, thousands};

/// Rows asked for at a time.
const PAGE_ROWS: u32 = 2000;

/// What all replicas hold.
#[derive(Default)]
pub struct Holdings {
    /// The rows of every partition's primary.
    pub books: Books,
    /// Replicas read, primaries among them.
    pub replicas: u64,
    /// Backups whose rows are not those of their primary, in words.
    pub different: Vec<String>,
}

/// The rows of one replica of one partition.
#[derive(PartialEq)]
struct Share {
    accounts: Vec<Account>,
    transfers: Vec<Transfer>,
}

/// Compares all replicas as of one epoch, whoever writes meanwhile, as `lockstep check` does.
/// Returns what is different, in words.
///
/// # Errors
/// If a replica cannot be read.
pub async fn compare(client: &Client, voice: &Voice) -> CliResult<Vec<String>> {
    let comparison = check::replicas::compare(client, |_, _| {}).await?;
    let (replicas, epoch) = (comparison.replicas, comparison.epoch.0);
    let rows = thousands(comparison.rows());
    voice.say(match comparison.is_equal() {
        true => {
            format!("{replicas} replicas of partitions are equal at epoch {epoch}: {rows} rows")
        }
        false => format!("REPLICAS DIFFER at epoch {epoch}"),
    });
    Ok(comparison.in_words())
}

/// Reads all of them.
///
/// # Errors
/// If a replica cannot be read.
pub async fn read_all(client: &Client) -> CliResult<Holdings> {
    let view = client.view().await?;
    let mut holdings = Holdings::default();
    for partition in view.partitions() {
        read_partition(client, &view, partition, &mut holdings).await?;
    }
    Ok(holdings)
}

async fn read_partition(
    client: &Client,
    view: &View,
    partition: PartitionId,
    holdings: &mut Holdings,
) -> CliResult {
    let Some(placement) = view.placement(partition) else { return Ok(()) };
    let primary = read_share(client, partition, placement.primary).await?;
    holdings.replicas += 1;
    for backup in placement.replicas.iter().filter(|node| **node != placement.primary) {
        holdings.replicas += 1;
        if read_share(client, partition, *backup).await? != primary {
            let different = format!("{partition} on {backup} and on {}", placement.primary);
            holdings.different.push(different);
        }
    }
    let balances = primary.accounts.iter().map(|account| (account.id, account.balance));
    holdings.books.balances.extend(balances);
    holdings.books.transfers.extend(primary.transfers);
    Ok(())
}

async fn read_share(client: &Client, partition: PartitionId, node: NodeId) -> CliResult<Share> {
    Ok(Share {
        accounts: read(&client.table(), partition, node).await?,
        transfers: read(&client.table(), partition, node).await?,
    })
}

async fn read<R: Record>(
    table: &Table<R>,
    partition: PartitionId,
    node: NodeId,
) -> CliResult<Vec<R>> {
    let mut scan = table.scan_partition(partition).from(ReadFrom::Node(node)).page_rows(PAGE_ROWS);
    let mut rows = Vec::new();
    while let Some(page) = scan.next_page().await? {
        rows.extend(page.into_iter().map(|scanned| scanned.row));
    }
    Ok(rows)
}
