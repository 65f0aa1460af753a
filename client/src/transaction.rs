//! Interactive transactions: closures that are retried, and the handle they work on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::error::Code;
use lockstep_proto::ids::StartOrder;
use lockstep_proto::wire::op::OpList;

use crate::client::{Client, unexpected};
use crate::core::{Call, Reply};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::row::{Row, TableRow};
use crate::table::{Item, Place, Ran, StaleTries, Table, TableCore, encode, stale_result};

mod steps;

use steps::Steps;

/// First and longest wait before an aborted closure runs again. It keeps its age, so it wins soon.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(50));

/// A transaction: reads take locks, writes are seen by others only after the commit. Cheap to
/// clone; when the last clone is dropped without a commit, it is aborted at once.
///
/// Operations that are first polled together (in `tokio::try_join!`, say) travel together.
///
/// Cancel safety: a dropped read leaves at most a lock until the end; a dropped write leaves it
/// open whether it was done, so the transaction can only be aborted from then on.
#[derive(Clone)]
pub struct Tx(Arc<Owner>);

/// Ends the transaction when the application has let go of it.
struct Owner {
    steps: Arc<Steps>,
}

impl Client {
    /// Opens a transaction. Ends with [`Tx::commit`], [`Tx::rollback`] or by dropping it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if the cluster cannot be reached.
    pub async fn begin(&self) -> Result<Tx> {
        self.begin_at(StartOrder::default()).await
    }

    /// Runs `work` in a transaction and commits it if it returns `Ok`; aborts it otherwise. If the
    /// transaction is aborted for a temporary reason (an older one needed a lock, a node failed),
    /// `work` runs again, as old as the first time, so that it cannot starve. Whether it does
    /// follows from the transaction itself, not from the error that `work` returns.
    ///
    /// ```no_run
    /// # use lockstep_client::{Client, Error, Result};
    /// # lockstep_client::record! { struct Account in "accounts" { #[key] id: u64, balance: i64 } }
    /// # async fn run(db: Client, from: u64, to: u64, n: i64) -> Result<()> {
    /// let left = db
    ///     .transaction(|tx| async move {
    ///         let t = tx.table::<Account>();
    ///         let (a, b) = tokio::try_join!(t.get_for_update(from), t.get_for_update(to))?;
    ///         let (Some(mut a), Some(mut b)) = (a, b) else { return Ok(None) };
    ///         a.balance -= n;
    ///         b.balance += n;
    ///         tokio::try_join!(t.update(&a), t.update(&b))?;
    ///         Ok::<_, Error>(Some(a.balance))
    ///     })
    ///     .await?;
    /// # let _ = left;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Cancel safety: dropped before the commit is sent, nothing is applied; after that it is open.
    ///
    /// # Errors
    /// What `work` returns, or why the commit failed, once no retry can help or the deadline of
    /// the client is over.
    pub async fn transaction<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let give_up = tokio::time::Instant::now() + self.0.deadline;
        let mut order = StartOrder::default();
        let (mut wait, wait_max) = RETRY_WAIT;
        loop {
            let tx = self.begin_at(order).await?;
            let (failure, error) = match work(tx.clone()).await {
                Ok(value) => match tx.commit().await {
                    Ok(()) => return Ok(value),
                    Err(error) => (Some(error.clone()), E::from(error)),
                },
                Err(error) => (tx.failure(), error),
            };
            let Some(failure) = failure.filter(Error::is_retryable) else { return Err(error) };
            if tokio::time::Instant::now() + wait >= give_up {
                return Err(error);
            }
            order = failure.order();
            drop(tx);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(wait_max);
        }
    }

    async fn begin_at(&self, order: StartOrder) -> Result<Tx> {
        match self.call(Call::Begin { order }).await? {
            Reply::Begun(handle) => {
                let steps = Steps::new(Arc::clone(&self.0), handle);
                Ok(Tx(Arc::new(Owner { steps: Arc::new(steps) })))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Tx {
    /// The table of a record type, in this transaction.
    #[must_use]
    pub fn table<R: Record>(&self) -> Table<R> {
        self.table_of(R::TABLE)
    }

    /// The table of a record type under another name than the type says, in this transaction.
    #[must_use]
    pub fn table_as<R: Record>(&self, name: &str) -> Table<R> {
        self.table_of(name)
    }

    /// A table by name, with rows of whatever columns it has, in this transaction.
    #[must_use]
    pub fn table_named(&self, name: &str) -> Table<Row> {
        self.table_of(name)
    }

    /// A table handle from outside, in this transaction: spares looking the table up.
    #[must_use]
    pub fn with<R: TableRow>(&self, table: &Table<R>) -> Table<R> {
        Table::at(Arc::clone(table.core()), Place::In(self.clone()))
    }

    /// Commits. `Ok` means that all writes are on all in-sync replicas: in their memory, or on
    /// their disks if the client is one [with that durability](Client::with_durability).
    ///
    /// Cancel safety: a dropped future leaves the outcome open.
    ///
    /// # Errors
    /// Nothing is applied unless [`Error::outcome`] says otherwise.
    pub async fn commit(&self) -> Result<()> {
        if let Err(error) = self.0.steps.settle().await {
            self.0.steps.abort();
            return Err(error);
        }
        let Some(handle) = self.0.steps.finish() else {
            return Err(Error::new(Code::NoSuchTransaction, "it was finished before"));
        };
        let durability = self.0.steps.shared().durability;
        let ops = OpList::default();
        let call = Call::Finish { tx: handle, commit: true, ops, durability };
        self.0.steps.shared().connection.call(call).await?;
        Ok(())
    }

    /// Aborts: nothing of the transaction is applied. The same as dropping it, but visible.
    pub fn rollback(&self) {
        self.0.steps.abort();
    }

    /// Why the transaction cannot go on, if it cannot.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.0.steps.failure()
    }

    /// Carries out operations in the transaction.
    pub(crate) async fn run(&self, items: &[Item]) -> Result<Ran> {
        let mut tries = StaleTries::new(self.0.steps.shared().deadline);
        loop {
            let mut ops = OpList::default();
            let subjects = encode(items, &mut ops).await?;
            let results = self.0.steps.run(ops).await?;
            let Some(code) = stale_result(&results) else { return Ok(Ran { subjects, results }) };
            let error = Error::from(code).on_table(items[0].table.name());
            items.iter().for_each(|item| {
                item.table.forget(&error);
            });
            if !tries.wait(code).await {
                return Err(error);
            }
        }
    }

    fn table_of<R: TableRow>(&self, name: &str) -> Table<R> {
        let core = TableCore::new::<R>(self.0.steps.shared(), name.into());
        Table::at(Arc::new(core), Place::In(self.clone()))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.steps.abort();
    }
}
