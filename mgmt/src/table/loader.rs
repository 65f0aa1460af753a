//! Many rows into a table, fast: batches of one partition each, many under way at a time.
//!
//! Invariant: a row counts as loaded only when its batch is acknowledged; the client library
//! applies each batch at most once, also when a data node dies in the middle.

use std::sync::Arc;

use lockstep_client::Client;
use lockstep_client::core::{Call, CallError, Outcome, Reply};
use lockstep_proto::durability::Durability;
use lockstep_proto::error::Code;
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::partition_of;
use lockstep_proto::row::encode_row;
use lockstep_proto::schema::TableDef;
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList};
use tokio::task::{JoinError, JoinSet};

use crate::cli::error::{CliError, Trouble};

/// Rows in a batch: enough that the cost of a commit is shared by many.
const BATCH_ROWS_MAX: usize = 128;

/// Bytes in a batch, so that large rows make small batches.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Batches under way: enough to keep every node busy.
const BATCHES_UNDER_WAY_MAX: usize = 64;

/// Rows waiting for their batch to fill, over all partitions; beyond that all batches leave.
const ROWS_WAITING_MAX: usize = 16 << 10;

/// Loads rows of one table.
pub struct Loader {
    client: Client,
    def: Arc<TableDef>,
    kind: OpKind,
    partitions: u16,
    /// By partition.
    buckets: Vec<Bucket>,
    rows_waiting: usize,
    under_way: JoinSet<Ended>,
    loaded: u64,
}

/// Rows of one partition on their way into a batch.
#[derive(Default)]
struct Bucket {
    ops: OpList,
    bytes: usize,
    tags: Vec<u64>,
}

/// A batch that came to an end.
struct Ended {
    tags: Vec<u64>,
    result: Result<Reply, CallError>,
}

/// A row or batch that could not be loaded.
#[derive(Debug)]
pub struct LoadFailed {
    /// The row, by the number its caller gave it, if it was one row.
    pub tag: Option<u64>,
    /// Why.
    pub error: CliError,
}

impl Loader {
    /// A loader that inserts or upserts rows of a table.
    #[must_use]
    pub fn new(client: &Client, def: &Arc<TableDef>, kind: OpKind) -> Self {
        let partitions = u16::try_from(client.partitions().count()).expect("16 bits on the wire");
        let mut buckets = Vec::new();
        buckets.resize_with(usize::from(partitions), Bucket::default);
        Self {
            client: client.clone(),
            def: Arc::clone(def),
            kind,
            partitions,
            buckets,
            rows_waiting: 0,
            under_way: JoinSet::new(),
            loaded: 0,
        }
    }

    /// Rows acknowledged so far.
    #[must_use]
    pub fn loaded(&self) -> u64 {
        self.loaded
    }

    /// Adds a row, by column position; `tag` names it in an error.
    ///
    /// # Errors
    /// If this row cannot be encoded, or an earlier batch failed.
    pub async fn add(&mut self, values: &[Value], tag: u64) -> Result<(), LoadFailed> {
        let def = &*self.def;
        let of_key = def.key().iter().map(|at| values[usize::from(*at)].clone());
        let failed = |code: Code| LoadFailed {
            tag: Some(tag),
            error: CliError::from_code(code, code.text()),
        };
        let key = encode_key(def, &of_key.collect::<Vec<Value>>()).map_err(failed)?;
        let body = encode_row(def, values).map_err(failed)?;
        self.add_encoded(&key, &body, tag).await
    }

    /// Adds a row as it is kept: its key and its value, encoded by the definition of the table.
    ///
    /// # Errors
    /// If the key is none, or an earlier batch failed.
    pub async fn add_encoded(
        &mut self,
        key: &[u8],
        body: &[u8],
        tag: u64,
    ) -> Result<(), LoadFailed> {
        let at = self.put(key, body).map_err(|code| LoadFailed {
            tag: Some(tag),
            error: CliError::from_code(code, code.text()),
        })?;
        let bucket = &mut self.buckets[at];
        bucket.tags.push(tag);
        self.rows_waiting += 1;
        if bucket.tags.len() >= BATCH_ROWS_MAX || bucket.bytes >= BATCH_BYTES_MAX {
            self.send(at).await?;
        }
        if self.rows_waiting >= ROWS_WAITING_MAX {
            self.send_all().await?;
        }
        Ok(())
    }

    /// Sends what waits and waits for all of it.
    ///
    /// # Errors
    /// The first batch that failed.
    pub async fn flush(&mut self) -> Result<(), LoadFailed> {
        self.send_all().await?;
        while let Some(ended) = self.under_way.join_next().await {
            self.on_ended(ended)?;
        }
        Ok(())
    }

    /// Waits for what is under way, whatever becomes of it; returns the rows acknowledged in all.
    pub async fn drain(mut self) -> u64 {
        while let Some(ended) = self.under_way.join_next().await {
            // The first error was told already; here only the count matters.
            let _ = self.on_ended(ended);
        }
        self.loaded
    }

    /// Puts a row into the batch of its partition; returns which.
    fn put(&mut self, key: &[u8], body: &[u8]) -> Result<usize, Code> {
        let def = &*self.def;
        let partition = partition_of(def.partition_hash(key)?, self.partitions);
        let at = usize::from(partition.0);
        let bucket = &mut self.buckets[at];
        bucket.ops.push(&Op {
            kind: self.kind,
            flags: OpFlags::default(),
            table: def.id,
            schema: def.version,
            partition,
            key,
            body,
        });
        bucket.bytes += key.len() + body.len();
        Ok(at)
    }

    async fn send_all(&mut self) -> Result<(), LoadFailed> {
        for at in 0..self.buckets.len() {
            if !self.buckets[at].tags.is_empty() {
                self.send(at).await?;
            }
        }
        Ok(())
    }

    /// Sends one bucket as a batch, waiting first if too many are under way.
    async fn send(&mut self, at: usize) -> Result<(), LoadFailed> {
        while self.under_way.len() >= BATCHES_UNDER_WAY_MAX {
            let ended = self.under_way.join_next().await.expect("some are under way");
            self.on_ended(ended)?;
        }
        let Bucket { ops, tags, .. } = std::mem::take(&mut self.buckets[at]);
        self.rows_waiting -= tags.len();
        let client = self.client.clone();
        self.under_way.spawn(async move {
            let result = client.call(Call::Batch { ops, durability: Durability::Memory }).await;
            Ended { tags, result }
        });
        Ok(())
    }

    fn on_ended(&mut self, ended: Result<Ended, JoinError>) -> Result<(), LoadFailed> {
        let Ended { tags, result } = ended.map_err(|error| LoadFailed {
            tag: None,
            error: CliError::new(Trouble::Process, "a task ended").why(error.to_string()),
        })?;
        match result {
            // `Applied`: committed, and there were no results to lose.
            Ok(_) | Err(CallError { outcome: Outcome::Applied, .. }) => {
                self.loaded += tags.len() as u64;
                Ok(())
            }
            Err(error) => Err(LoadFailed {
                tag: error.op.and_then(|op| tags.get(usize::from(op)).copied()),
                error: lockstep_client::Error::from(error).into(),
            }),
        }
    }
}
