//! Table definitions: what a table's rows look like, and the catalog that holds the definitions.
//!
//! Clients encode rows and keys by a definition, servers check and change them by the same one;
//! it travels and lies in the catalog as bytes.
//!
//! Invariant: a [`TableDef`] that exists is valid, and so is the layout of rows derived from it;
//! [`TableDef::new`] and [`TableDef::decode`] refuse everything else.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::Code;
use crate::ids::{SchemaVersion, TableId};
use crate::limits::{COLUMNS_MAX, KEY_COLUMNS_MAX, NAME_BYTES_MAX};
use crate::row::RowLayout;
use crate::value::{ColumnType, Value};
use crate::wire::codec;

/// The table of tables. Its rows have a copy in every partition, so its keys belong to none in
/// particular.
pub const CATALOG: TableId = TableId(0);

/// The id of a table that has not been given one.
pub const TABLE_UNNUMBERED: TableId = TableId(u32::MAX);

/// The catalog row whose id column is the last table id handed out. It holds no definition; the
/// sign in front keeps it apart from all table names.
pub const CATALOG_COUNTER: &str = "#next";

/// Positions of the catalog's columns.
pub mod catalog_column {
    /// The table's name; the key.
    pub const NAME: u16 = 0;
    /// The table's id.
    pub const ID: u16 = 1;
    /// The encoded definition.
    pub const DEFINITION: u16 = 2;
}

/// First byte of an encoded definition.
const FORMAT: u8 = 1;

/// First byte of one that is being loaded: the rest is the same.
const FORMAT_LOADING: u8 = 2;

/// Schema versions fit the header of a row block.
const VERSION_MAX: u32 = (1 << 24) - 1;

/// Why a definition is not a table.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SchemaError {
    /// A name that is no name of a table.
    #[error(
        "{0:?} is not a table name: it needs 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' or \
         '.', and begins with a letter or '_'"
    )]
    BadTableName(String),
    /// A name that is no name of a column.
    #[error(
        "{0:?} is not a column name: it needs 1 to {NAME_BYTES_MAX} bytes without control \
         characters, and no blank at either end"
    )]
    BadColumnName(String),
    /// Two columns of one name.
    #[error("there are two columns named {0:?}")]
    DuplicateColumn(String),
    /// Too many columns.
    #[error("a table has at most {COLUMNS_MAX} columns")]
    TooManyColumns,
    /// No key, or one of too many columns.
    #[error("a primary key has 1 to {KEY_COLUMNS_MAX} columns")]
    BadKeyLength,
    /// A key names a column that is not there.
    #[error("a key names a column that the table does not have ({0})")]
    NoSuchColumn(String),
    /// A column is in a key twice.
    #[error("column {0:?} is twice in a key")]
    RepeatedKeyColumn(String),
    /// A key column that may be NULL.
    #[error("key column {0:?} must not be nullable")]
    NullableKey(String),
    /// A key column of a floating point type.
    #[error("key column {0:?} must not be a floating point number")]
    FloatKey(String),
    /// A partition key that is empty or not within the key.
    #[error("a partition key has at least one column, and all of them are in the primary key")]
    BadPartitionKey,
    /// A default that is not a value of its column.
    #[error("the default of column {0:?} does not fit its type")]
    BadDefault(String),
    /// A version beyond the limit.
    #[error("schema version beyond {VERSION_MAX}")]
    BadVersion,
    /// Bytes that are no definition.
    #[error("the bytes are not a table definition")]
    Malformed,
}

impl From<SchemaError> for Code {
    fn from(_: SchemaError) -> Self {
        Self::BadSchema
    }
}

/// One column.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ColumnDef {
    /// Unique in the table.
    pub name: String,
    /// What it holds.
    pub ty: ColumnType,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// What a row gets that is written without this column. Without one, such a row gets NULL or,
    /// where that is not allowed, is refused.
    pub default: Option<Value>,
}

impl ColumnDef {
    /// A column that must have a value.
    #[must_use]
    pub fn new(name: impl Into<String>, ty: ColumnType) -> Self {
        Self { name: name.into(), ty, nullable: false, default: None }
    }

    /// The same column, allowing NULL.
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// The same column with a default.
    #[must_use]
    pub fn or_default(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self
    }
}

/// What a definition is made of: what travels. Turned into a [`TableDef`] by checking it.
#[derive(Serialize, Deserialize)]
struct Parts {
    id: TableId,
    version: SchemaVersion,
    name: String,
    columns: Vec<ColumnDef>,
    key: Vec<u16>,
    partition_key: Vec<u16>,
}

/// A valid table definition, with the layout of its keys and rows worked out.
#[derive(Clone, PartialEq, Debug)]
pub struct TableDef {
    /// The table; [`TABLE_UNNUMBERED`] until an id is handed out.
    pub id: TableId,
    /// Of this definition; changes when the table is altered.
    pub version: SchemaVersion,
    name: String,
    columns: Vec<ColumnDef>,
    key: Vec<u16>,
    partition_key: Vec<u16>,
    loading: bool,
    layout: RowLayout,
}

impl TableDef {
    /// A table of the given columns. `key` and `partition_key` are positions of columns.
    ///
    /// # Errors
    /// [`SchemaError`] if it cannot be one.
    pub fn new(
        id: TableId,
        version: SchemaVersion,
        name: impl Into<String>,
        columns: Vec<ColumnDef>,
        key: Vec<u16>,
        partition_key: Vec<u16>,
    ) -> Result<Self, SchemaError> {
        let name = name.into();
        Self::from_parts(Parts { id, version, name, columns, key, partition_key })
    }

    /// A new table without an id, its key given by names and partitioned by the whole key.
    ///
    /// # Errors
    /// [`SchemaError`] if it cannot be one.
    pub fn with_key(
        name: impl Into<String>,
        columns: Vec<ColumnDef>,
        key: &[&str],
    ) -> Result<Self, SchemaError> {
        Self::with_partition_key(name, columns, key, key)
    }

    /// A new table without an id, its key and partition key given by names.
    ///
    /// # Errors
    /// [`SchemaError`] if it cannot be one.
    pub fn with_partition_key(
        name: impl Into<String>,
        columns: Vec<ColumnDef>,
        key: &[&str],
        partition_key: &[&str],
    ) -> Result<Self, SchemaError> {
        let position = |wanted: &&str| {
            let at = columns.iter().position(|column| column.name == *wanted);
            at.and_then(|at| u16::try_from(at).ok())
                .ok_or_else(|| SchemaError::NoSuchColumn((*wanted).to_owned()))
        };
        let key = key.iter().map(position).collect::<Result<Vec<_>, _>>()?;
        let partition_key = partition_key.iter().map(position).collect::<Result<Vec<_>, _>>()?;
        Self::new(TABLE_UNNUMBERED, SchemaVersion(1), name, columns, key, partition_key)
    }

    fn from_parts(parts: Parts) -> Result<Self, SchemaError> {
        check(&parts)?;
        let Parts { id, version, name, mut columns, key, partition_key } = parts;
        for column in &mut columns {
            column.default = match column.default.take() {
                Some(value) => Some(fit_default(column, value)?),
                None => None,
            };
        }
        let layout = RowLayout::new(&columns, &key, &partition_key);
        let loading = false;
        Ok(Self { id, version, name, columns, key, partition_key, loading, layout })
    }

    /// The definition as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let parts = Parts {
            id: self.id,
            version: self.version,
            name: self.name.clone(),
            columns: self.columns.clone(),
            key: self.key.clone(),
            partition_key: self.partition_key.clone(),
        };
        let mut bytes = vec![if self.loading { FORMAT_LOADING } else { FORMAT }];
        bytes.extend_from_slice(&codec::encode(&parts));
        bytes
    }

    /// Reads and checks a definition.
    ///
    /// # Errors
    /// [`SchemaError`] if the bytes are none, or not a valid one.
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        match bytes {
            [format @ (FORMAT | FORMAT_LOADING), rest @ ..] => {
                let parts = codec::decode(rest).map_err(|_| SchemaError::Malformed)?;
                Ok(Self::from_parts(parts)?.being_loaded(*format == FORMAT_LOADING))
            }
            _ => Err(SchemaError::Malformed),
        }
    }

    /// The same table while it is being loaded, or when it is.
    #[must_use]
    pub fn being_loaded(self, loading: bool) -> Self {
        Self { loading, ..self }
    }

    /// Whether it is still being loaded: its name is taken, and nobody sees it but who loads it.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.loading
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All columns, in the order of their positions.
    #[must_use]
    pub fn columns(&self) -> &[ColumnDef] {
        &self.columns
    }

    /// The column at a position.
    ///
    /// # Errors
    /// [`Code::NoSuchColumn`].
    #[inline]
    pub fn column(&self, position: u16) -> Result<&ColumnDef, Code> {
        self.columns.get(usize::from(position)).ok_or(Code::NoSuchColumn)
    }

    /// The position of the column of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<u16> {
        let at = self.columns.iter().position(|column| column.name == name)?;
        u16::try_from(at).ok()
    }

    /// Positions of the key's columns, in the order of the key.
    #[must_use]
    pub fn key(&self) -> &[u16] {
        &self.key
    }

    /// Positions of the partition key's columns, in its order.
    #[must_use]
    pub fn partition_key(&self) -> &[u16] {
        &self.partition_key
    }

    /// Whether it is the catalog, whose rows have copies in every partition.
    #[must_use]
    pub fn is_catalog(&self) -> bool {
        self.id == CATALOG
    }

    /// Where the columns lie in keys and rows.
    #[must_use]
    #[inline]
    pub fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// What a row gets that is written without the column.
    ///
    /// # Errors
    /// [`Code::NullViolation`] if the column has no default and does not allow NULL.
    pub fn default_of(&self, position: u16) -> Result<Value, Code> {
        let column = self.column(position)?;
        match &column.default {
            Some(value) => Ok(value.clone()),
            None if column.nullable => Ok(Value::Null),
            None => Err(Code::NullViolation),
        }
    }
}

fn fit_default(column: &ColumnDef, value: Value) -> Result<Value, SchemaError> {
    let bad = || SchemaError::BadDefault(column.name.clone());
    if value.is_null() && !column.nullable {
        return Err(bad());
    }
    value.fit(column.ty).map_err(|_| bad())
}

fn check(parts: &Parts) -> Result<(), SchemaError> {
    check_table_name(&parts.name)?;
    if parts.version.0 > VERSION_MAX {
        return Err(SchemaError::BadVersion);
    }
    if parts.columns.len() > COLUMNS_MAX {
        return Err(SchemaError::TooManyColumns);
    }
    let mut names: Vec<&str> = parts.columns.iter().map(|column| column.name.as_str()).collect();
    names.iter().try_for_each(|name| check_column_name(name))?;
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(SchemaError::DuplicateColumn(pair[0].to_owned()));
    }
    check_keys(parts)
}

fn check_keys(parts: &Parts) -> Result<(), SchemaError> {
    if !(1..=KEY_COLUMNS_MAX).contains(&parts.key.len()) {
        return Err(SchemaError::BadKeyLength);
    }
    check_distinct(&parts.key, &parts.columns)?;
    for position in &parts.key {
        let column = &parts.columns[usize::from(*position)];
        if column.nullable {
            return Err(SchemaError::NullableKey(column.name.clone()));
        }
        if column.ty.is_float() {
            return Err(SchemaError::FloatKey(column.name.clone()));
        }
    }
    let within = parts.partition_key.iter().all(|position| parts.key.contains(position));
    if parts.partition_key.is_empty() || !within {
        return Err(SchemaError::BadPartitionKey);
    }
    if parts.partition_key.len() > parts.key.len() {
        return Err(SchemaError::BadPartitionKey);
    }
    check_distinct(&parts.partition_key, &parts.columns)
}

/// Checks that the positions are of columns, none of them twice.
fn check_distinct(positions: &[u16], columns: &[ColumnDef]) -> Result<(), SchemaError> {
    for (at, position) in positions.iter().enumerate() {
        let Some(column) = columns.get(usize::from(*position)) else {
            return Err(SchemaError::NoSuchColumn(format!("position {position}")));
        };
        if positions[..at].contains(position) {
            return Err(SchemaError::RepeatedKeyColumn(column.name.clone()));
        }
    }
    Ok(())
}

/// Checks the name of a table. None can begin with the sign of [`CATALOG_COUNTER`].
fn check_table_name(name: &str) -> Result<(), SchemaError> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if starts && goes_on && name.len() <= NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(SchemaError::BadTableName(name.to_owned()))
    }
}

fn check_column_name(name: &str) -> Result<(), SchemaError> {
    let bounded = (1..=NAME_BYTES_MAX).contains(&name.len());
    if bounded && name.trim() == name && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(SchemaError::BadColumnName(name.to_owned()))
    }
}

/// The definition of the catalog itself, built in: name, id and definition of every table.
#[must_use]
pub fn catalog_def() -> &'static TableDef {
    static DEF: LazyLock<TableDef> = LazyLock::new(|| {
        let columns = vec![
            ColumnDef::new("name", ColumnType::String),
            ColumnDef::new("id", ColumnType::U32),
            ColumnDef::new("definition", ColumnType::Bytes),
        ];
        TableDef::new(CATALOG, SchemaVersion(1), "catalog", columns, vec![0], vec![0])
            .expect("the built-in definition is valid")
    });
    &DEF
}

/// Checks a row of the catalog beyond its types: a definition must be one, under its own name and
/// id, so that every node can act on it; the counter has none.
///
/// # Errors
/// [`Code::BadSchema`], or [`Code::Malformed`] if it is not a row of the catalog at all.
pub fn check_catalog_row(key: &[u8], row: &[u8]) -> Result<(), Code> {
    let (id, definition) = catalog_row(row)?;
    if key == CATALOG_COUNTER.as_bytes() {
        return if definition.is_empty() { Ok(()) } else { Err(Code::BadSchema) };
    }
    let def = TableDef::decode(definition)?;
    let numbered = !def.is_catalog() && id != TABLE_UNNUMBERED;
    if def.name().as_bytes() == key && def.id == id && numbered {
        Ok(())
    } else {
        Err(Code::BadSchema)
    }
}

/// The id and the encoded definition in a row of the catalog.
///
/// # Errors
/// [`Code::Malformed`] if it is no such row.
pub fn catalog_row(row: &[u8]) -> Result<(TableId, &[u8]), Code> {
    let (id, definition) = row.split_first_chunk().ok_or(Code::Malformed)?;
    Ok((TableId(u32::from_le_bytes(*id)), definition))
}
