//! A table to work with: each method is one operation, awaited by itself, put into a batch, or part
//! of a transaction, depending on where the handle comes from.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::error::Code;
use lockstep_proto::ids::PartitionId;
use lockstep_proto::key::encode_key;
use lockstep_proto::limits::BATCH_OPS_MAX;
use lockstep_proto::schema::{ColumnDef, TableDef};
use lockstep_proto::value::Value;
use lockstep_proto::wire::op::{OpKind, OpList, OpResult};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::catalog::results_of;
use crate::client::Shared;
use crate::core::{Call, CallError, Moment, ReadFrom, ResultList};
use crate::error::{Error, Result};
use crate::operation::{Operation, Subject, read_result};
use crate::request::{Delete, Patch, Request, Write};
use crate::row::{Binding, IntoKey, TableRow, key_text};
use crate::scan::PartitionScan;
use crate::snapshot::TableScan;
use crate::transaction::Tx;

/// Tries of an operation whose table definition turns out to be out of date: creation may still be
/// on its way to some partitions when its transaction is decided.
const STALE_TRIES_MAX: u32 = 10;

/// First wait before such a try; doubled up to sixteen times as long.
const STALE_WAIT: Duration = Duration::from_millis(1);

/// Rows of type `R` in a table. Cheap to clone.
///
/// From [`crate::Client::table`], each operation is a transaction of its own. From [`Tx::table`],
/// operations belong to the transaction, and reads take locks.
///
/// Cancel safety, for all operations outside of transactions: a dropped read never mattered; a
/// dropped write may or may not take effect.
pub struct Table<R> {
    core: Arc<TableCore>,
    place: Place,
    row: PhantomData<fn() -> R>,
}

/// Where operations of a handle happen.
#[derive(Clone)]
pub(crate) enum Place {
    /// Each by itself; reads from this replica.
    Alone(ReadFrom),
    /// In a transaction.
    In(Tx),
    /// As of a closed epoch, read from this replica.
    Past(ReadFrom, Moment),
}

impl Place {
    /// Where scans read, and as of when.
    fn of_scan(&self) -> (ReadFrom, Option<Moment>) {
        match self {
            Self::Alone(from) => (*from, None),
            Self::In(_) => (ReadFrom::Nearest, None),
            Self::Past(from, at) => (*from, Some(*at)),
        }
    }
}

/// A table's name, and its definition matched with a row type, as far as known.
pub(crate) struct TableCore {
    shared: Arc<Shared>,
    name: Arc<str>,
    wanted: fn() -> Option<Vec<ColumnDef>>,
    bound: RwLock<Option<Arc<Binding>>>,
}

/// An operation on a table.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) table: Arc<TableCore>,
    pub(crate) operation: Operation,
}

/// How operations are carried out.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// As a transaction of their own.
    Commit,
    /// As committed reads.
    Read(ReadFrom),
    /// As reads as of a closed epoch.
    ReadAt(ReadFrom, Moment),
}

/// What operations came to, with what it takes to make rows of it.
pub(crate) struct Ran {
    /// The binding and the key of each operation.
    pub(crate) subjects: Vec<(Arc<Binding>, Vec<Value>)>,
    pub(crate) results: ResultList,
}

impl<R: TableRow> Table<R> {
    pub(crate) fn new(core: TableCore) -> Self {
        Self::at(Arc::new(core), Place::Alone(ReadFrom::Nearest))
    }

    pub(crate) fn at(core: Arc<TableCore>, place: Place) -> Self {
        Self { core, place, row: PhantomData }
    }

    pub(crate) fn core(&self) -> &Arc<TableCore> {
        &self.core
    }

    /// The same table, read from another replica than the nearest. No effect in a transaction,
    /// whose reads take locks at the primaries.
    #[must_use]
    pub fn reading_from(&self, from: ReadFrom) -> Self {
        let place = match &self.place {
            Place::Alone(_) => Place::Alone(from),
            Place::In(tx) => Place::In(tx.clone()),
            Place::Past(_, at) => Place::Past(from, *at),
        };
        Self::at(Arc::clone(&self.core), place)
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.core.name()
    }

    /// The table's definition, as this handle uses it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] if there is no such table or the type does not fit it.
    pub async fn def(&self) -> Result<Arc<TableDef>> {
        Ok(Arc::clone(&self.core.bound().await?.def))
    }

    /// The row with this key. Alone, it is the newest committed one, from the replica nearest to
    /// this process; in a transaction it stays as it is until the end (a shared lock).
    pub fn get(&self, key: impl IntoKey) -> Request<Option<R>> {
        let operation = Operation::on_key(OpKind::Read, key.into_key());
        self.request(operation, read_result)
    }

    /// The row with this key, about to be written: in a transaction nobody else reads it under a
    /// lock or writes it until the end (an exclusive lock). Alone it is like [`Table::get`].
    pub fn get_for_update(&self, key: impl IntoKey) -> Request<Option<R>> {
        let operation = Operation::on_key(OpKind::Read, key.into_key());
        match self.place {
            Place::In(_) => self.request(operation.for_update(), read_result),
            Place::Alone(_) | Place::Past(..) => self.request(operation, read_result),
        }
    }

    /// The rows with these keys, in one round trip per shard that holds some of them. Each is
    /// committed; outside of a transaction two of them may be of different moments.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn get_many<K: IntoKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<R>>> {
        let item = |key: K| Item {
            table: Arc::clone(&self.core),
            operation: Operation::on_key(OpKind::Read, key.into_key()),
        };
        let items: Vec<Item> = keys.into_iter().map(item).collect();
        let mut rows = Vec::with_capacity(items.len());
        for chunk in items.chunks(BATCH_OPS_MAX) {
            let ran = match &self.place {
                Place::Alone(from) => run(&self.core.shared, chunk, How::Read(*from)).await?,
                Place::In(tx) => tx.run(chunk).await?,
                Place::Past(from, at) => {
                    run(&self.core.shared, chunk, How::ReadAt(*from, *at)).await?
                }
            };
            for ((binding, key), result) in ran.subjects.iter().zip(ran.results.iter()) {
                let row = read_result(binding, key, result);
                rows.push(row.map_err(|error| error.on_table(self.core.name()))?);
            }
        }
        Ok(rows)
    }

    /// Puts a row that is not there.
    pub fn insert(&self, row: &R) -> Write<R> {
        Write::new(self.write(Operation::on_row(OpKind::Insert, row)))
    }

    /// Puts a row, whether or not one is there.
    pub fn upsert(&self, row: &R) -> Write<R> {
        Write::new(self.write(Operation::on_row(OpKind::Upsert, row)))
    }

    /// Replaces a row that is there.
    pub fn update(&self, row: &R) -> Write<R> {
        Write::new(self.write(Operation::on_row(OpKind::Update, row)))
    }

    /// Changes some columns of a row that is there, evaluated where it lives.
    pub fn patch(&self, key: impl IntoKey) -> Patch<R> {
        Patch::new(self.write(self.change(OpKind::Update, key.into_key())))
    }

    /// Removes a row that is there.
    pub fn delete(&self, key: impl IntoKey) -> Delete<R> {
        Delete::new(self.write(self.change(OpKind::Delete, key.into_key())))
    }

    /// The rows of one partition in key order, page by page.
    #[must_use]
    pub fn scan_partition(&self, partition: PartitionId) -> PartitionScan<R> {
        let (from, at) = self.place.of_scan();
        PartitionScan::new(Arc::clone(&self.core), partition, from, at)
    }

    /// All rows as of one moment, in no particular order: that of the snapshot the table belongs
    /// to, or the newest closed epoch. In a transaction it does not see the transaction's writes
    /// and takes no locks.
    #[must_use]
    pub fn scan(&self) -> TableScan<R> {
        let (from, at) = self.place.of_scan();
        TableScan::new(Arc::clone(&self.core), from, at)
    }

    /// The partition in which the row with this key lives.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidData`] if it is not a key of the table.
    pub async fn partition_of(&self, key: impl IntoKey) -> Result<PartitionId> {
        let binding = self.core.bound().await?;
        let key = encode_key(&binding.def, &key.into_key())?;
        binding.partition(&key)
    }

    fn change(&self, kind: OpKind, key: Vec<Value>) -> Operation {
        let subject = Subject::Patch { key, conditions: Vec::new(), changes: Vec::new() };
        Operation { kind, flags: lockstep_proto::wire::op::OpFlags::default(), subject }
    }

    fn write(&self, operation: Operation) -> Request<()> {
        self.request(operation, crate::request::read_nothing)
    }

    fn request<T>(&self, operation: Operation, read: crate::request::ReadResult<T>) -> Request<T> {
        let item = Item { table: Arc::clone(&self.core), operation };
        Request::new(item, self.place.clone(), read)
    }
}

impl<R> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core), place: self.place.clone(), row: PhantomData }
    }
}

impl TableCore {
    pub(crate) fn new<R: TableRow>(shared: &Arc<Shared>, name: Arc<str>) -> Self {
        let shared = Arc::clone(shared);
        Self { shared, name, wanted: R::wanted_columns, bound: RwLock::new(None) }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The definition and how the row type fits it.
    pub(crate) async fn bound(&self) -> Result<Arc<Binding>> {
        if let Some(binding) = &*self.bound.read() {
            return Ok(Arc::clone(binding));
        }
        let def = self.shared.def(&self.name).await?;
        let binding = Binding::new(def, (self.wanted)(), self.shared.partitions);
        let binding = Arc::new(binding.map_err(|error| error.on_table(&self.name))?);
        *self.bound.write() = Some(Arc::clone(&binding));
        Ok(binding)
    }

    /// Forgets the definition if the error says that it is out of date. Returns whether it does.
    pub(crate) fn forget(&self, error: &Error) -> bool {
        let stale = is_stale(error.error_code());
        if stale {
            *self.bound.write() = None;
            self.shared.forget_def(&self.name);
        }
        stale
    }
}

/// Counts tries with definitions that turned out to be out of date.
pub(crate) struct StaleTries {
    count: u32,
    /// Until when a table that is known to be on its way is waited for.
    give_up: Instant,
}

impl StaleTries {
    /// For one call, which may take until the deadline of its client.
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { count: 0, give_up: Instant::now() + deadline }
    }

    /// Waits before another try; false if there have been enough. The first is free.
    pub(crate) async fn wait(&mut self, code: Code) -> bool {
        if self.count > 0 {
            tokio::time::sleep(STALE_WAIT * (1 << self.count.min(4))).await;
        }
        self.count += 1;
        match code {
            Code::NotServing => Instant::now() < self.give_up,
            _ => self.count <= STALE_TRIES_MAX,
        }
    }
}

/// Whether a definition is out of date, or ahead of a replica: that one has a creation prepared,
/// which was acknowledged, but not its commit.
fn is_stale(code: Code) -> bool {
    matches!(code, Code::WrongSchema | Code::NoSuchTable | Code::NotServing)
}

/// Encodes the operations of one request; returns the bindings and keys.
pub(crate) async fn encode(
    items: &[Item],
    ops: &mut OpList,
) -> Result<Vec<(Arc<Binding>, Vec<Value>)>> {
    let mut subjects = Vec::with_capacity(items.len());
    for Item { table, operation } in items {
        let binding = table.bound().await?;
        let key = operation.encode(&binding, ops).map_err(|error| error.on_table(&table.name))?;
        subjects.push((binding, key));
    }
    Ok(subjects)
}

/// Carries out operations outside of transactions, anew if a table definition is out of date.
pub(crate) async fn run(shared: &Shared, items: &[Item], how: How) -> Result<Ran> {
    let mut tries = StaleTries::new(shared.deadline);
    loop {
        let mut ops = OpList::default();
        let subjects = encode(items, &mut ops).await?;
        let call = match how {
            How::Commit => Call::Batch { ops, durability: shared.durability },
            How::Read(from) => Call::Read { ops, from, at: None },
            How::ReadAt(from, at) => Call::Read { ops, from, at: Some(at) },
        };
        let error = match results_of(shared.connection.call(call).await) {
            Ok(results) => match stale_result(&results) {
                None => return Ok(Ran { subjects, results }),
                Some(code) => CallError::refused(code, ""),
            },
            Err(error) => error,
        };
        let error = explain(error, items, &subjects);
        let stale = items.iter().fold(false, |stale, item| item.table.forget(&error) | stale);
        if !stale || !tries.wait(error.error_code()).await {
            return Err(error);
        }
    }
}

/// The first result that says that a definition is out of date.
pub(crate) fn stale_result(results: &ResultList) -> Option<Code> {
    results.iter().find_map(|result| match result {
        OpResult::Failed(code) if is_stale(code) => Some(code),
        _ => None,
    })
}

/// Names the table and key of the operation that failed.
fn explain(error: CallError, items: &[Item], subjects: &[(Arc<Binding>, Vec<Value>)]) -> Error {
    let failed = match (error.op, items.len()) {
        (Some(op), _) => Some(usize::from(op)),
        (None, 1) => Some(0),
        (None, _) => None,
    };
    let error = Error::from(error);
    match failed.and_then(|index| Some((items.get(index)?, subjects.get(index)?))) {
        Some((item, (_, key))) => error.on_table(&item.table.name).on_key(|| key_text(key)),
        None => error,
    }
}
