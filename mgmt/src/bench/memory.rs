//! `bench memory`: what a row costs above its own key and value, by the growth of one node's
//! resident memory.

use lockstep_client::{Client, TableBuilder};
use lockstep_proto::ids::{NodeId, ShardId};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::OpKind;

use super::measure::round_to;
use super::rows::make_anew;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;
use crate::table::loader::Loader;

const TABLE: &str = "lockstep_bench_memory";

/// Bytes of a key: one u64.
const KEY_BYTES: u64 = 8;

/// Bytes of a row beside its key.
const VALUE_BYTES: u64 = 100;

/// What the filling came to, at one node.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// The node that was looked at.
    pub node: NodeId,
    /// Rows of the table that this node holds.
    pub rows: u64,
    /// Growth of its resident memory.
    pub rss_growth: u64,
    /// Growth of what it counts against `data_memory`.
    pub counted_growth: u64,
}

impl Filled {
    /// Resident bytes per row above key and value.
    #[must_use]
    pub fn overhead_per_row(&self) -> f64 {
        self.per_row(self.rss_growth) - (KEY_BYTES + VALUE_BYTES) as f64
    }

    /// Resident bytes per row, all included.
    #[must_use]
    pub fn rss_per_row(&self) -> f64 {
        round_to(self.per_row(self.rss_growth), 2)
    }

    /// Counted bytes per row.
    #[must_use]
    pub fn counted_per_row(&self) -> f64 {
        round_to(self.per_row(self.counted_growth), 2)
    }

    fn per_row(&self, bytes: u64) -> f64 {
        bytes as f64 / self.rows.max(1) as f64
    }
}

/// What a node says about its memory.
#[derive(Clone, Copy)]
struct Usage {
    rows: u64,
    rss: u64,
    counted: u64,
}

/// Fills a table of its own with `rows` rows, looks at one node, and removes the table.
///
/// # Errors
/// Whatever the cluster refuses.
pub async fn run(client: &Client, voice: &Voice, rows: u64) -> CliResult<Filled> {
    let view = client.view().await?;
    let member = view
        .members
        .first()
        .ok_or_else(|| CliError::new(Trouble::NotHealthy, "the cluster has no data nodes"))?;
    let (node, shards) = (member.instance.node, member.shards);
    let table = TableBuilder::new(TABLE)
        .column("id", ColumnType::U64)
        .column("value", ColumnType::Bytes)
        .key(["id"]);
    let def = make_anew(client, TABLE, &table).await?;
    let before = usage(client, node, shards).await?;
    let mut progress = voice.progress("filling", rows, "rows");
    let mut loader = Loader::new(client, &def, OpKind::Insert);
    let value = vec![0x5a; usize::try_from(VALUE_BYTES).expect("small")];
    let mut row = [Value::UInt(0), Value::Bytes(value)];
    for id in 0..rows {
        row[0] = Value::UInt(id);
        loader.add(&row, id).await.map_err(|failed| failed.error)?;
        progress.set(loader.loaded());
    }
    loader.flush().await.map_err(|failed| failed.error)?;
    progress.finish();
    let after = usage(client, node, shards).await?;
    client.drop_table(TABLE).await?;
    Ok(Filled {
        node,
        rows: after.rows.saturating_sub(before.rows),
        rss_growth: after.rss.saturating_sub(before.rss),
        counted_growth: after.counted.saturating_sub(before.counted),
    })
}

async fn usage(client: &Client, node: NodeId, shards: u16) -> CliResult<Usage> {
    let mut usage = Usage { rows: 0, rss: 0, counted: 0 };
    for shard in (0..shards).map(ShardId) {
        let status = client.status(node, shard).await?;
        usage.rows += status.rows;
        usage.counted += status.data_bytes;
        usage.rss = usage.rss.max(status.rss_bytes);
    }
    Ok(usage)
}
