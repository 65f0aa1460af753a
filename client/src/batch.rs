//! Operations on any tables that happen together or not at all, in one round trip.

use std::sync::Arc;

use lockstep_proto::error::Code;
use lockstep_proto::wire::op::OpResult;

use crate::client::Shared;
use crate::error::{Error, Result};
use crate::operation::read_result;
use crate::request::Batchable;
use crate::row::TableRow;
use crate::table::{How, Item, Ran, run};

/// A transaction in one request. It is applied at most once, whatever fails; temporary errors are
/// retried inside.
///
/// ```no_run
/// # use lockstep_client::{Client, Result, col};
/// # lockstep_client::record! { struct Account in "accounts" { #[key] id: u64, balance: i64 } }
/// # async fn run(db: Client) -> Result<()> {
/// let accounts = db.table::<Account>();
/// db.batch()
///     .with(accounts.patch(1_u64).add("balance", -5).when(col("balance").ge(5)))
///     .with(accounts.patch(2_u64).add("balance", 5))
///     .execute()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens until it is executed"]
pub struct Batch {
    shared: Arc<Shared>,
    items: Vec<Item>,
    misused: bool,
}

/// What the operations of a [`Batch`] came to.
pub struct BatchResults {
    ran: Ran,
}

impl Batch {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, items: Vec::new(), misused: false }
    }

    /// Adds an operation: what [`crate::Table`]'s methods give, not awaited.
    pub fn with(mut self, operation: impl Batchable) -> Self {
        self.push(operation);
        self
    }

    /// Adds an operation: what [`crate::Table`]'s methods give, not awaited.
    pub fn push(&mut self, operation: impl Batchable) {
        match operation.into_item() {
            Some(sealed) => self.items.push(sealed.0),
            None => self.misused = true,
        }
    }

    /// How many operations there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Carries out all operations in order, or none of them.
    ///
    /// Cancel safety: a dropped future may or may not take effect, as a whole.
    ///
    /// # Errors
    /// The first operation that failed, by table, key and [`Error::operation`]; nothing is applied
    /// then.
    pub async fn execute(self) -> Result<BatchResults> {
        if self.misused {
            return Err(Error::new(Code::Malformed, "an operation was polled before it was added"));
        }
        let ran = run(&self.shared, &self.items, How::Commit).await?;
        Ok(BatchResults { ran })
    }
}

impl BatchResults {
    /// How many operations there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ran.subjects.len()
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ran.subjects.is_empty()
    }

    /// The row that an operation read or returned; `None` if it did not, or there was none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidData`] if the row is not an `R`, or there is no such operation.
    pub fn row<R: TableRow>(&self, operation: usize) -> Result<Option<R>> {
        let missing = || Error::new(Code::Malformed, format!("no operation {operation}"));
        let (binding, key) = self.ran.subjects.get(operation).ok_or_else(missing)?;
        let result = self.ran.results.iter().nth(operation).unwrap_or(OpResult::Absent);
        read_result(binding, key, result)
    }
}
