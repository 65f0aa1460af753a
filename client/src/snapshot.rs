//! Rows of the whole cluster as they were at one moment: reads and scans without locks, which no
//! writer waits for.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use lockstep_proto::error::Code;
use lockstep_proto::ids::{Epoch, PartitionId};
use lockstep_proto::key::decode_key;
use lockstep_proto::schema::TableDef;
use tokio::task::JoinSet;

use crate::client::{Client, Shared, unexpected};
use crate::core::{AtLeast, Call, CallError, Moment, ReadFrom, Reply};
use crate::error::{Error, Result};
use crate::row::{Binding, TableRow};
use crate::scan::read_page;
use crate::table::{Place, Table, TableCore};

/// Rows asked for at a time.
const SWEEP_ROWS: u32 = 1000;

/// All committed rows as of one moment. Made by [`Client::snapshot`]; cheap to clone.
///
/// Older versions of rows are kept for about a second; a snapshot that is older answers with
/// [`Code::SnapshotTooOld`], unless a scan of it is under way, which keeps what it needs. So does
/// one from before a restart of the whole cluster.
#[derive(Clone)]
pub struct Snapshot {
    shared: Arc<Shared>,
    at: Moment,
    from: ReadFrom,
}

impl Client {
    /// Everything up to a moment not long ago, and at least everything this client has seen.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if nobody answers before the deadline.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::open(&self.0, ReadFrom::Nearest).await
    }

    /// Everything that anybody was told to be committed before this call: asks all shards how far
    /// they are, and waits a few hundredths of a second.
    ///
    /// # Errors
    /// As [`Client::snapshot`].
    pub async fn fresh_snapshot(&self) -> Result<Snapshot> {
        let (from, at_least) = (ReadFrom::Primary, AtLeast::Any);
        let ask = |partition| Call::OpenSnapshot { partition, from, at_least };
        // The answers raise what this client has seen.
        on_all(&self.0, ask).await?;
        self.snapshot().await
    }
}

impl Snapshot {
    async fn open(shared: &Arc<Shared>, from: ReadFrom) -> Result<Self> {
        let (partition, at_least) = (PartitionId(0), AtLeast::Seen);
        let call = Call::OpenSnapshot { partition, from, at_least };
        match shared.connection.call(call).await? {
            Reply::Snapshot { closed, .. } => {
                Ok(Self { shared: Arc::clone(shared), at: closed, from })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The epoch it is of: all commits of that epoch and before, none after.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.at.epoch
    }

    /// The epoch and the restart generation it was closed in, for [`Client::call`].
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.at
    }

    /// The same snapshot, read from other replicas than the nearest.
    #[must_use]
    pub fn reading_from(&self, from: ReadFrom) -> Self {
        Self { from, ..self.clone() }
    }

    /// The rows as of a later epoch that is closed, which are kept as long as this snapshot is
    /// held. For tools that learn from others which epoch they want.
    #[must_use]
    pub fn later(&self, epoch: Epoch) -> Self {
        let at = Moment { epoch: epoch.max(self.at.epoch), ..self.at };
        Self { at, ..self.clone() }
    }

    /// The table as it is in the snapshot. It can only be read.
    #[must_use]
    pub fn table<R: TableRow>(&self, table: &Table<R>) -> Table<R> {
        Table::at(Arc::clone(table.core()), Place::Past(self.from, self.at))
    }

    /// The definitions of all tables there were then, in order of their names.
    ///
    /// # Errors
    /// [`Code::SnapshotTooOld`] if the snapshot is not kept any more, and those of any read.
    pub async fn tables(&self) -> Result<Vec<Arc<TableDef>>> {
        self.shared.list(self.from, Some(self.at)).await
    }

    /// Lets all replicas that will be asked keep what is needed to read this snapshot, until this
    /// client is gone or has not read it for a quarter of a minute.
    ///
    /// # Errors
    /// [`Code::SnapshotTooOld`] if some of it is gone already, and those of any read.
    pub async fn hold(&self) -> Result<()> {
        let (from, at_least) = (self.from, AtLeast::Pinned(self.at));
        let pin = |partition| Call::OpenSnapshot { partition, from, at_least };
        on_all(&self.shared, pin).await
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Makes a call for every partition, all at once.
async fn on_all(shared: &Arc<Shared>, call: impl Fn(PartitionId) -> Call) -> Result<()> {
    let mut calls = JoinSet::new();
    for partition in (0..shared.partitions).map(PartitionId) {
        let (shared, call) = (Arc::clone(shared), call(partition));
        calls.spawn(async move { shared.connection.call(call).await });
    }
    while let Some(answered) = calls.join_next().await {
        let ended = |_| CallError::refused(Code::Unreachable, "the call was given up");
        answered.map_err(ended).and_then(|reply| reply)?;
    }
    Ok(())
}

/// All rows of a table as of one moment, in no particular order. Made by [`Table::scan`].
pub struct TableScan<R> {
    table: Arc<TableCore>,
    from: ReadFrom,
    snapshot: Option<Snapshot>,
    at: Option<Moment>,
    binding: Option<Arc<Binding>>,
    partitions: VecDeque<PartitionId>,
    place: u64,
    row: PhantomData<fn() -> R>,
}

impl<R: TableRow> TableScan<R> {
    pub(crate) fn new(table: Arc<TableCore>, from: ReadFrom, at: Option<Moment>) -> Self {
        let partitions = (0..table.shared().partitions).map(PartitionId).collect();
        let row = PhantomData;
        Self { table, from, snapshot: None, at, binding: None, partitions, place: 0, row }
    }

    /// The next rows; `None` at the end. A page is never empty.
    ///
    /// Cancel safety: a dropped future loses nothing; the next call reads the same rows.
    ///
    /// # Errors
    /// [`Code::SnapshotTooOld`] if the replicas do not keep the snapshot any more, and those of any
    /// read.
    pub async fn next_page(&mut self) -> Result<Option<Vec<R>>> {
        let (at, binding) = self.begin().await?;
        while let Some(partition) = self.partitions.front() {
            let call = Call::Sweep {
                table: binding.def.id,
                schema: binding.def.version,
                partition: *partition,
                from: self.from,
                at,
                place: self.place,
                rows_max: SWEEP_ROWS,
            };
            let (next, rows) = match self.table.shared().connection.call(call).await {
                Ok(Reply::Swept { next, rows }) => (next, rows),
                Ok(other) => return Err(unexpected(&other)),
                Err(error) => return Err(Error::from(error).on_table(self.table.name())),
            };
            let page = decoded(&rows, &binding)?;
            match next {
                Some(place) => self.place = place,
                None => {
                    self.place = 0;
                    self.partitions.pop_front();
                }
            }
            if !page.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// All rows at once. For tables that fit this process's memory.
    ///
    /// # Errors
    /// As [`TableScan::next_page`].
    pub async fn all(mut self) -> Result<Vec<R>> {
        let mut all = Vec::new();
        while let Some(page) = self.next_page().await? {
            all.extend(page);
        }
        Ok(all)
    }

    /// The epoch and the table's definition, the same for all pages.
    async fn begin(&mut self) -> Result<(Moment, Arc<Binding>)> {
        // The definition first: a snapshot that is opened then is not from before it.
        let binding = match &self.binding {
            Some(binding) => Arc::clone(binding),
            None => self.table.bound().await?,
        };
        let shared = self.table.shared();
        let snapshot = match (&self.snapshot, self.at) {
            (Some(snapshot), _) => snapshot.clone(),
            (None, Some(at)) => {
                let held = Snapshot { shared: Arc::clone(shared), at, from: self.from };
                held.hold().await?;
                held
            }
            (None, None) => {
                let fresh = Snapshot::open(shared, self.from).await?;
                fresh.hold().await?;
                fresh
            }
        };
        let at = snapshot.at;
        (self.snapshot, self.binding) = (Some(snapshot), Some(Arc::clone(&binding)));
        Ok((at, binding))
    }
}

fn decoded<R: TableRow>(rows: &[u8], binding: &Binding) -> Result<Vec<R>> {
    let whole: usize = read_page(rows).map(|(key, row)| 2 + key.len() + 4 + row.len()).sum();
    if whole != rows.len() {
        return Err(Error::new(Code::Malformed, "a broken page"));
    }
    let decode = |(key, row): (&[u8], &[u8])| {
        let values = decode_key(&binding.def, key)?;
        binding.row_of(&values, row)
    };
    read_page(rows).map(decode).collect()
}
