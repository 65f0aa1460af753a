//! Lockstep's client library: typed and dynamic rows, batches and transactions on a cluster that
//! commits in lockstep, with retries and outcome questions done inside.
//!
//! # A tour
//!
//! A [`Client`] is connected by URL and cheap to clone. Tables are made with a [`TableBuilder`] and
//! worked on through a [`Table`] handle: of a [`Record`] type ([`record!`] writes it), or of
//! [`Row`]s, whatever columns there are.
//!
//! ```no_run
//! use lockstep_client::{Client, TableBuilder, col, record};
//!
//! record! {
//!     #[derive(Debug)]
//!     pub struct Account in "accounts" { #[key] pub id: u64, pub balance: i64 }
//! }
//!
//! # async fn run() -> lockstep_client::Result<()> {
//! let db = Client::connect("lockstep://127.0.0.1:1186?zone=a").await?;
//! db.create_table(TableBuilder::of::<Account>()).await?;
//! let accounts = db.table::<Account>();
//!
//! // One operation: a transaction of its own, at most once, on all replicas when it returns.
//! accounts.insert(&Account { id: 1, balance: 10 }).await?;
//! accounts.upsert(&Account { id: 2, balance: 0 }).await?;
//!
//! // Evaluated where the row lives, in one round trip.
//! let enough = col("balance").ge(5);
//! let left = accounts.patch(1_u64).add("balance", -5).when(enough).returning().await?;
//! println!("{left:?}");
//!
//! // Reads come from the nearest in-sync replica and are never stale.
//! let rows = accounts.get_many([1_u64, 2, 3]).await?;
//! assert!(rows[2].is_none());
//!
//! // Several operations, all or none, in one round trip.
//! db.batch()
//!     .with(accounts.patch(1_u64).add("balance", -1))
//!     .with(accounts.patch(2_u64).add("balance", 1))
//!     .execute()
//!     .await?;
//!
//! // Reads that decide about writes: a transaction, run again if an older one got in the way.
//! db.transaction(|tx| async move {
//!     let t = tx.table::<Account>();
//!     let Some(mut account) = t.get_for_update(1_u64).await? else { return Ok(()) };
//!     account.balance *= 2;
//!     t.update(&account).await
//! })
//! .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What failures look like
//!
//! Mostly like nothing. The client follows the cluster's views, sends reads to another replica when
//! one is gone, and retries what was refused for a temporary reason. When an answer is lost it asks
//! what became of the transaction instead of guessing; it never sends a transaction twice. An
//! [`Error`] says by [`Error::outcome`] whether anything was applied, and is
//! [`Outcome::Unknown`] only when nobody could be asked in time.
//!
//! # Where things run
//!
//! A client lives on the tokio runtime it was connected on: one task owns its few sockets, any
//! number of tasks share them. The protocol itself is the pure [`core`] module, the same that the
//! simulator drives.

pub mod core;

mod arbitrate;
mod attend;
mod batch;
mod catalog;
mod client;
mod configuration;
mod error;
mod operation;
mod record;
mod request;
mod row;
mod scan;
mod snapshot;
mod table;
mod transaction;
mod url;

pub use self::core::{Outcome, ReadFrom};
pub use batch::{Batch, BatchResults};
pub use catalog::TableBuilder;
pub use client::{Client, ClientBuilder, URL_VARIABLE, ZONE_VARIABLE};
pub use error::{Error, ErrorKind, Result};
pub use lockstep_proto::configuration::{ConfigEntry, Setting};
pub use lockstep_proto::durability::Durability;
pub use lockstep_proto::error::Code;
pub use lockstep_proto::ids::{ConfigVersion, NodeId, PartitionId, ShardId, TxId};
pub use lockstep_proto::schema::{ColumnDef, TableDef};
pub use lockstep_proto::value::{ColumnType, Value};
pub use operation::{Column, Condition, col};
pub use record::{ColumnValue, Record, Timestamp};
pub use request::{Batchable, Delete, Patch, Request, Write};
pub use row::{IntoKey, Row, TableRow};
pub use scan::{PartitionScan, Scanned};
pub use snapshot::{Snapshot, TableScan};
pub use table::Table;
pub use transaction::Tx;
pub use url::PORT;
