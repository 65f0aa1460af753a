//! Tables: creating, dropping, listing them, and knowing their definitions.
//!
//! The catalog is a table of its own with a copy of every row in every partition, so a definition
//! is read wherever it is near, and changes in an ordinary transaction over all partitions. That
//! one is on disk when it is acknowledged, wherever there is a disk and whatever the handle's
//! durability: whoever has made a table writes to it next, and must not find it gone.
//!
//! Invariant: a cached definition is only a guess; servers refuse operations under another version,
//! and the cache is then filled anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::change::{Action, Assignment, encode_update};
use lockstep_proto::durability::Durability;
use lockstep_proto::error::Code;
use lockstep_proto::ids::{PartitionId, SchemaVersion, StartOrder, TableId};
use lockstep_proto::key::encode_key;
use lockstep_proto::placement::{key_hash, partition_of};
use lockstep_proto::row::encode_row;
use lockstep_proto::schema::{
    CATALOG, CATALOG_COUNTER, ColumnDef, TableDef, catalog_column, catalog_def, catalog_row,
};
use lockstep_proto::value::{ColumnType, Value};
use lockstep_proto::wire::op::{Op, OpFlags, OpKind, OpList, OpResult};
use parking_lot::RwLock;

use crate::client::{Client, Shared, unexpected};
use crate::core::{Call, CallError, Moment, Outcome, ReadFrom, Reply, ResultList, TxHandle};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::scan::{RawPage, read_page};

/// The partition of the catalog that holds the counter of table ids.
const COUNTER_PARTITION: PartitionId = PartitionId(0);

/// Tables listed per request.
const LIST_PAGE_ROWS: u32 = 1000;

/// First wait before an aborted creation is tried again; doubled each time.
const RETRY_AFTER: Duration = Duration::from_millis(2);

/// Tries of a creation that is aborted again and again.
const TRIES_MAX: u32 = 12;

/// Copies of a definition that are changed in one step: a definition may be long.
const REVEALED_TOGETHER: usize = 256;

/// Definitions known so far, by name; as many as the cluster has tables.
#[derive(Default)]
pub(crate) struct Catalog {
    known: RwLock<HashMap<Arc<str>, Arc<TableDef>>>,
}

/// A table to be created.
///
/// ```
/// # use lockstep_client::{ColumnDef, ColumnType, TableBuilder};
/// let cities = TableBuilder::new("cities")
///     .column("country", ColumnType::String)
///     .column("name", ColumnType::String)
///     .column_def(ColumnDef::new("people", ColumnType::U64).nullable())
///     .key(["country", "name"])
///     .partition_key(["country"]);
/// # let _ = cities;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TableBuilder {
    name: String,
    columns: Vec<ColumnDef>,
    key: Vec<String>,
    partition_key: Vec<String>,
}

impl TableBuilder {
    /// A table without columns.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { name, columns: Vec::new(), key: Vec::new(), partition_key: Vec::new() }
    }

    /// The table of a record type.
    pub fn of<R: Record>() -> Self {
        Self {
            columns: R::columns(),
            ..Self::new(R::TABLE)
                .key(R::key().iter().copied())
                .partition_key(R::partition_key().iter().copied())
        }
    }

    /// The same table under another name.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds a column that must have a value.
    pub fn column(self, name: impl Into<String>, ty: ColumnType) -> Self {
        self.column_def(ColumnDef::new(name, ty))
    }

    /// Adds a column.
    pub fn column_def(mut self, column: ColumnDef) -> Self {
        self.columns.push(column);
        self
    }

    /// The primary key: names of columns.
    pub fn key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// The partition key: some of the primary key's columns; rows in which they are equal live in
    /// one partition, whatever their table. Without it, the primary key.
    pub fn partition_key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.partition_key = columns.into_iter().map(Into::into).collect();
        self
    }

    fn build(self) -> Result<TableDef> {
        let partition_key =
            if self.partition_key.is_empty() { &self.key } else { &self.partition_key };
        let key: Vec<&str> = self.key.iter().map(String::as_str).collect();
        let partition_key: Vec<&str> = partition_key.iter().map(String::as_str).collect();
        TableDef::with_partition_key(self.name, self.columns, &key, &partition_key)
            .map_err(|error| Error::new(Code::BadSchema, error.to_string()))
    }
}

/// Whether a change of definitions was refused because no disk of a group works, or none is used.
fn is_without_disk(error: &CallError, durability: Durability) -> bool {
    durability == Durability::Disk && error.code == Code::NotDurable
}

impl Client {
    /// Creates a table, while others work. Survives the failure of nodes in the middle, and once it
    /// has returned, of everything at once: definitions are on disk, where there is any.
    ///
    /// Cancel safety: a dropped future may have created the table.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] if there is a table of that name or the definition is not one.
    pub async fn create_table(&self, table: TableBuilder) -> Result<Arc<TableDef>> {
        self.create(table.build()?).await
    }

    async fn create(&self, def: TableDef) -> Result<Arc<TableDef>> {
        let name: Arc<str> = def.name().into();
        if self.0.load_def(&name).await.is_ok() {
            return Err(Error::new(Code::TableExists, "").on_table(&name));
        }
        let (mut order, mut durability) = (StartOrder::default(), Durability::Disk);
        let mut tries = 0;
        loop {
            match self.0.create_once(&def, order, durability).await {
                Ok(def) => {
                    let def = Arc::new(def);
                    if !def.is_loading() {
                        self.0.catalog.known.write().insert(name, Arc::clone(&def));
                    }
                    return Ok(def);
                }
                Err(error) if error.is_retryable() && tries < TRIES_MAX => {
                    order = error.order;
                    tokio::time::sleep(RETRY_AFTER * (1 << tries.min(6))).await;
                    tries += 1;
                }
                Err(error) if is_without_disk(&error, durability) => {
                    durability = Durability::Memory
                }
                Err(error) if error.code == Code::DuplicateKey => {
                    return Err(Error::new(Code::TableExists, "").on_table(&name));
                }
                Err(error) => return Err(Error::from(error).on_table(&name)),
            }
        }
    }

    /// Creates a table that nobody sees until [`Client::reveal_tables`]: its name is taken, and
    /// rows can be written to it by its definition. For tools that load many rows and want all of
    /// them to be there at once or none.
    ///
    /// # Errors
    /// Those of [`Client::create_table`].
    pub async fn create_unseen_table(&self, table: TableBuilder) -> Result<Arc<TableDef>> {
        self.create(table.build()?.being_loaded(true)).await
    }

    /// Lets everybody see tables that were created unseen, in one transaction: all of them or none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] if one of them is not there any more.
    pub async fn reveal_tables(&self, tables: &[Arc<TableDef>]) -> Result<()> {
        let (mut order, mut durability) = (StartOrder::default(), Durability::Disk);
        let mut tries = 0;
        loop {
            match self.0.reveal_once(tables, order, durability).await {
                Ok(()) => return Ok(()),
                Err(error) if is_without_disk(&error, durability) => {
                    durability = Durability::Memory
                }
                Err(error) if error.is_retryable() && tries < TRIES_MAX => {
                    order = error.order;
                    tokio::time::sleep(RETRY_AFTER * (1 << tries.min(6))).await;
                    tries += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a table of this name can not be created: there is one, or one is being loaded.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn is_table_name_taken(&self, name: &str) -> Result<bool> {
        let key = catalog_key(name)?;
        let partition = partition_of(key_hash(&key), self.0.partitions);
        let mut ops = OpList::default();
        ops.push(&catalog_op(OpKind::Read, partition, &key, &[]));
        let call = Call::Read { ops, from: ReadFrom::Primary, at: None };
        let results = results_of(self.call(call).await)?;
        match results.first() {
            Some(OpResult::Failed(code)) => Err(Error::from(code).on_table(&name.into())),
            result => Ok(matches!(result, Some(OpResult::Row(_)))),
        }
    }

    /// Drops a table and all its rows, while others work.
    ///
    /// Cancel safety: a dropped future may have dropped the table.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] if there is no such table.
    pub async fn drop_table(&self, name: &str) -> Result<()> {
        let key = catalog_key(name)?;
        let mut ops = OpList::default();
        for partition in self.partitions() {
            ops.push(&catalog_op(OpKind::Delete, partition, &key, &[]));
        }
        self.0.catalog.known.write().remove(name);
        let mut dropped =
            self.call(Call::Batch { ops: ops.clone(), durability: Durability::Disk }).await;
        if dropped.as_ref().is_err_and(|error| is_without_disk(error, Durability::Disk)) {
            dropped = self.call(Call::Batch { ops, durability: Durability::Memory }).await;
        }
        match dropped {
            Ok(_) => Ok(()),
            Err(error) if error.code == Code::NotFound => {
                Err(Error::new(Code::NoSuchTable, "").on_table(&name.into()))
            }
            Err(error) => Err(Error::from(error).on_table(&name.into())),
        }
    }

    /// The definitions of all tables, in order of their names.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn tables(&self) -> Result<Vec<Arc<TableDef>>> {
        self.0.list(ReadFrom::Nearest, None).await
    }

    /// The definition of a table, from the cluster.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Schema`] if there is no such table.
    pub async fn table_def(&self, name: &str) -> Result<Arc<TableDef>> {
        self.0.load_def(&name.into()).await
    }
}

impl Shared {
    /// The definitions of all tables, now or as of a closed epoch.
    pub(crate) async fn list(
        &self,
        from: ReadFrom,
        at: Option<Moment>,
    ) -> Result<Vec<Arc<TableDef>>> {
        let mut tables = Vec::new();
        let mut after = Vec::new();
        loop {
            let call = Call::Scan {
                table: CATALOG,
                schema: catalog_def().version,
                partition: COUNTER_PARTITION,
                from,
                after,
                rows_max: LIST_PAGE_ROWS,
                at,
            };
            let page = RawPage::of(self.connection.call(call).await?)?;
            after = page.last_key().to_vec();
            for (key, row) in read_page(&page.rows) {
                if key == CATALOG_COUNTER.as_bytes() {
                    continue;
                }
                let def = def_in(row)?;
                if !def.is_loading() {
                    tables.push(Arc::new(def));
                }
            }
            if !page.more {
                return Ok(tables);
            }
        }
    }

    /// The definition as far as it is known, else from the cluster.
    pub(crate) async fn def(&self, name: &Arc<str>) -> Result<Arc<TableDef>> {
        let known = self.catalog.known.read().get(name).cloned();
        match known {
            Some(def) => Ok(def),
            None => self.load_def(name).await,
        }
    }

    pub(crate) fn forget_def(&self, name: &Arc<str>) {
        self.catalog.known.write().remove(name);
    }

    /// The definition from the cluster.
    pub(crate) async fn load_def(&self, name: &Arc<str>) -> Result<Arc<TableDef>> {
        let key = catalog_key(name).map_err(|error| error.on_table(name))?;
        let partition = partition_of(key_hash(&key), self.partitions);
        let mut ops = OpList::default();
        ops.push(&catalog_op(OpKind::Read, partition, &key, &[]));
        let call = Call::Read { ops, from: ReadFrom::Nearest, at: None };
        let results = results_of(self.connection.call(call).await)?;
        let def = match results.first() {
            Some(OpResult::Row(row)) => Some(Arc::new(def_in(row)?)),
            Some(OpResult::Failed(code)) => return Err(Error::from(code).on_table(name)),
            Some(OpResult::Done | OpResult::Absent) | None => None,
        };
        let Some(def) = def.filter(|def| !def.is_loading()) else {
            self.forget_def(name);
            return Err(Error::new(Code::NoSuchTable, "").on_table(name));
        };
        self.catalog.known.write().insert(Arc::clone(name), Arc::clone(&def));
        Ok(def)
    }

    /// One attempt at creating a table: a new id from the counter, then the definition everywhere.
    async fn create_once(
        &self,
        def: &TableDef,
        order: StartOrder,
        durability: Durability,
    ) -> Result<TableDef, CallError> {
        let Reply::Begun(tx) = self.connection.call(Call::Begin { order }).await? else {
            return Err(CallError::refused(Code::Malformed, "no transaction was begun"));
        };
        let numbered = match self.next_table_id(tx).await {
            Ok(id) => renumbered(def, id),
            Err(error) => Err(error),
        };
        let (commit, ops) = match &numbered {
            Ok(def) => (true, self.definition_everywhere(def)?),
            Err(_) => (false, OpList::default()),
        };
        let finished = self.connection.call(Call::Finish { tx, commit, ops, durability }).await;
        match (numbered, finished) {
            (Ok(def), Ok(_)) => Ok(def),
            (Ok(_), Err(error)) | (Err(error), _) => Err(error),
        }
    }

    /// Takes a table id from the counter, which the first creation puts there.
    async fn next_table_id(&self, tx: TxHandle) -> Result<TableId, CallError> {
        let key = catalog_key(CATALOG_COUNTER).map_err(to_call_error)?;
        let add = Assignment { column: catalog_column::ID, action: Action::Add(1_u32.into()) };
        let body = encode_update(&[], &[add])?;
        let mut ops = OpList::default();
        ops.push(&Op {
            flags: OpFlags::RETURNING,
            ..catalog_op(OpKind::Update, COUNTER_PARTITION, &key, &body)
        });
        let results = results_of(self.connection.call(Call::Step { tx, ops }).await)?;
        match results.first() {
            Some(OpResult::Row(row)) => Ok(catalog_row(row)?.0),
            Some(OpResult::Failed(Code::NotFound)) => {
                let first = TableId(1);
                let row = catalog_values(CATALOG_COUNTER, first, Vec::new())?;
                let mut ops = OpList::default();
                ops.push(&catalog_op(OpKind::Insert, COUNTER_PARTITION, &key, &row));
                let results = results_of(self.connection.call(Call::Step { tx, ops }).await)?;
                match results.first() {
                    Some(OpResult::Failed(code)) => Err(code.into()),
                    _ => Ok(first),
                }
            }
            Some(OpResult::Failed(code)) => Err(code.into()),
            Some(OpResult::Done | OpResult::Absent) | None => Err(Code::Malformed.into()),
        }
    }

    /// One attempt at making tables seen.
    async fn reveal_once(
        &self,
        tables: &[Arc<TableDef>],
        order: StartOrder,
        durability: Durability,
    ) -> Result<(), CallError> {
        let Reply::Begun(tx) = self.connection.call(Call::Begin { order }).await? else {
            return Err(CallError::refused(Code::Malformed, "no transaction was begun"));
        };
        let mut failed = None;
        for def in tables {
            let key = catalog_key(def.name()).map_err(to_call_error)?;
            let seen = TableDef::clone(def).being_loaded(false).encode();
            let action = Action::Set(seen.into());
            let set = Assignment { column: catalog_column::DEFINITION, action };
            let body = encode_update(&[], &[set])?;
            // Definitions may be long, and partitions many.
            for some in (0..self.partitions).collect::<Vec<u16>>().chunks(REVEALED_TOGETHER) {
                let mut ops = OpList::default();
                for partition in some.iter().copied().map(PartitionId) {
                    ops.push(&catalog_op(OpKind::Update, partition, &key, &body));
                }
                let done = results_of(self.connection.call(Call::Step { tx, ops }).await);
                failed = match done {
                    Ok(results) => results.iter().find_map(|result| match result {
                        OpResult::Failed(Code::NotFound) => Some(Code::NoSuchTable.into()),
                        OpResult::Failed(code) => Some(code.into()),
                        _ => None,
                    }),
                    Err(error) => Some(error),
                };
                if failed.is_some() {
                    break;
                }
            }
            if failed.is_some() {
                break;
            }
        }
        let (commit, ops) = (failed.is_none(), OpList::default());
        let finished = self.connection.call(Call::Finish { tx, commit, ops, durability }).await;
        match failed {
            Some(error) => Err(error),
            None => finished.map(drop),
        }
    }

    fn definition_everywhere(&self, def: &TableDef) -> Result<OpList, CallError> {
        let key = catalog_key(def.name()).map_err(to_call_error)?;
        let row = catalog_values(def.name(), def.id, def.encode())?;
        let mut ops = OpList::default();
        for partition in (0..self.partitions).map(PartitionId) {
            ops.push(&catalog_op(OpKind::Insert, partition, &key, &row));
        }
        Ok(ops)
    }
}

impl From<Code> for CallError {
    fn from(code: Code) -> Self {
        Self::refused(code, "")
    }
}

fn to_call_error(error: Error) -> CallError {
    CallError { outcome: Outcome::NotApplied, ..CallError::refused(error.error_code(), "") }
}

fn renumbered(def: &TableDef, id: TableId) -> Result<TableDef, CallError> {
    let (key, partition_key) = (def.key().to_vec(), def.partition_key().to_vec());
    let columns = def.columns().to_vec();
    TableDef::new(id, SchemaVersion(1), def.name(), columns, key, partition_key)
        .map(|new| new.being_loaded(def.is_loading()))
        .map_err(|error| CallError::refused(Code::BadSchema, error.to_string()))
}

fn catalog_key(name: &str) -> Result<Vec<u8>> {
    Ok(encode_key(catalog_def(), &[Value::from(name)])?)
}

fn catalog_values(name: &str, id: TableId, definition: Vec<u8>) -> Result<Vec<u8>, Code> {
    let mut values = vec![Value::Null; catalog_def().columns().len()];
    values[usize::from(catalog_column::NAME)] = name.into();
    values[usize::from(catalog_column::ID)] = id.0.into();
    values[usize::from(catalog_column::DEFINITION)] = definition.into();
    encode_row(catalog_def(), &values)
}

fn catalog_op<'a>(kind: OpKind, partition: PartitionId, key: &'a [u8], body: &'a [u8]) -> Op<'a> {
    let (table, schema, flags) = (CATALOG, catalog_def().version, OpFlags::default());
    Op { kind, flags, table, schema, partition, key, body }
}

fn def_in(row: &[u8]) -> Result<TableDef> {
    let (_, definition) = catalog_row(row)?;
    TableDef::decode(definition).map_err(|error| Error::new(Code::BadSchema, error.to_string()))
}

/// The results of a call that has results.
pub(crate) fn results_of(completion: Result<Reply, CallError>) -> Result<ResultList, CallError> {
    match completion? {
        Reply::Done { results, .. } => Ok(results),
        other => Err(CallError::refused(Code::Malformed, unexpected(&other).to_string())),
    }
}
