//! How rows of the application become rows of a table and back: by name, checked once per table
//! definition.

use std::ops::Index;
use std::sync::Arc;

use lockstep_proto::error::Code;
use lockstep_proto::ids::PartitionId;
use lockstep_proto::placement::partition_of;
use lockstep_proto::row::decode_row;
use lockstep_proto::schema::{ColumnDef, TableDef};
use lockstep_proto::value::Value;

use crate::error::{Error, Result};
use crate::record::Record;

/// What a table handle reads and writes: a [`Record`], or a [`Row`] of whatever columns there are.
pub trait TableRow: Sized + Send + Sync + 'static {
    /// The columns the type insists on; `None` takes the table as it is.
    #[doc(hidden)]
    fn wanted_columns() -> Option<Vec<ColumnDef>>;

    #[doc(hidden)]
    fn to_row(&self) -> Vec<Value>;

    #[doc(hidden)]
    fn from_row(def: &Arc<TableDef>, values: Vec<Value>) -> Result<Self, Code>;
}

impl<R: Record> TableRow for R {
    fn wanted_columns() -> Option<Vec<ColumnDef>> {
        Some(R::columns())
    }

    fn to_row(&self) -> Vec<Value> {
        self.to_values()
    }

    fn from_row(_def: &Arc<TableDef>, values: Vec<Value>) -> Result<Self, Code> {
        R::from_values(values)
    }
}

/// A row of any table: its values in the order of the table's columns.
///
/// ```
/// # use lockstep_client::Row;
/// let row = Row::new([1_u64.into(), "Oslo".into()]);
/// assert_eq!(row.values().len(), 2);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Known for rows that were read.
    def: Option<Arc<TableDef>>,
    values: Vec<Value>,
}

impl Row {
    /// A row to be written: a value for each column, in their order.
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = Value>) -> Self {
        Self { def: None, values: values.into_iter().collect() }
    }

    /// The values in the order of the columns.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The values in the order of the columns.
    #[must_use]
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }

    /// The value of a column of a row that was read; `None` if there is no such column.
    #[must_use]
    pub fn value(&self, column: &str) -> Option<&Value> {
        let position = self.def.as_ref()?.position(column)?;
        self.values.get(usize::from(position))
    }

    /// The columns of a row that was read; empty for others.
    #[must_use]
    pub fn columns(&self) -> &[ColumnDef] {
        self.def.as_ref().map_or(&[], |def| def.columns())
    }
}

impl From<Vec<Value>> for Row {
    fn from(values: Vec<Value>) -> Self {
        Self { def: None, values }
    }
}

impl Index<&str> for Row {
    type Output = Value;

    /// # Panics
    /// If the row was not read, or has no such column.
    fn index(&self, column: &str) -> &Value {
        self.value(column).unwrap_or_else(|| panic!("the row has no column {column:?}"))
    }
}

impl TableRow for Row {
    fn wanted_columns() -> Option<Vec<ColumnDef>> {
        None
    }

    fn to_row(&self) -> Vec<Value> {
        self.values.clone()
    }

    fn from_row(def: &Arc<TableDef>, values: Vec<Value>) -> Result<Self, Code> {
        Ok(Self { def: Some(Arc::clone(def)), values })
    }
}

/// A primary key: one value, a tuple of them, or a list.
pub trait IntoKey {
    /// The values in the order of the key's columns.
    fn into_key(self) -> Vec<Value>;
}

macro_rules! plain_keys {
    ($($ty:ty),*) => {
        $(impl IntoKey for $ty {
            fn into_key(self) -> Vec<Value> {
                vec![self.into()]
            }
        })*
    };
}

plain_keys!(bool, i8, i16, i32, i64, u8, u16, u32, u64, &str, String, &[u8]);

impl IntoKey for crate::Timestamp {
    fn into_key(self) -> Vec<Value> {
        vec![self.into()]
    }
}

impl IntoKey for Value {
    fn into_key(self) -> Vec<Value> {
        vec![self]
    }
}

impl IntoKey for Vec<Value> {
    fn into_key(self) -> Vec<Value> {
        self
    }
}

impl<A: Into<Value>, B: Into<Value>> IntoKey for (A, B) {
    fn into_key(self) -> Vec<Value> {
        vec![self.0.into(), self.1.into()]
    }
}

impl<A: Into<Value>, B: Into<Value>, C: Into<Value>> IntoKey for (A, B, C) {
    fn into_key(self) -> Vec<Value> {
        vec![self.0.into(), self.1.into(), self.2.into()]
    }
}

/// A row type matched with a table definition.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) def: Arc<TableDef>,
    /// Where each column of the type stands in the table; `None` if they are the same.
    places: Option<Vec<u16>>,
    partitions: u16,
}

impl Binding {
    pub(crate) fn new(
        def: Arc<TableDef>,
        wanted: Option<Vec<ColumnDef>>,
        partitions: u16,
    ) -> Result<Self> {
        let places = match wanted {
            None => None,
            Some(columns) => {
                let places =
                    columns.iter().map(|c| place_of(&def, c)).collect::<Result<Vec<_>>>()?;
                let same = places.len() == def.columns().len()
                    && places.iter().copied().eq(0_u16..places.len() as u16);
                (!same).then_some(places)
            }
        };
        Ok(Self { def, places, partitions })
    }

    /// The values of all columns in the table's order, from those of the type.
    pub(crate) fn to_table(&self, values: Vec<Value>) -> Result<Vec<Value>> {
        let Some(places) = &self.places else {
            let (given, wanted) = (values.len(), self.def.columns().len());
            if given == wanted {
                return Ok(values);
            }
            let text = format!("{given} values for {wanted} columns");
            return Err(Error::new(Code::Malformed, text));
        };
        let mut given: Vec<Option<Value>> = vec![None; self.def.columns().len()];
        for (place, value) in places.iter().zip(values) {
            given[usize::from(*place)] = Some(value);
        }
        let fill = |(value, position): (Option<Value>, u16)| match value {
            Some(value) => Ok(value),
            None => self.def.default_of(position).map_err(|code| self.column_error(code, position)),
        };
        given.into_iter().zip(0_u16..).map(fill).collect()
    }

    /// The values of the type, from the key's and the bytes of the row.
    pub(crate) fn row_of<R: TableRow>(&self, key: &[Value], row: &[u8]) -> Result<R> {
        let mut values = vec![Value::Null; self.def.columns().len()];
        for (position, value) in self.def.key().iter().zip(key) {
            values[usize::from(*position)] = value.clone();
        }
        let from_row = decode_row(&self.def, row)?;
        for (position, value) in self.def.layout().value_columns().iter().zip(from_row) {
            values[usize::from(*position)] = value;
        }
        if let Some(places) = &self.places {
            let mut take = |place: &u16| std::mem::take(&mut values[usize::from(*place)]);
            values = places.iter().map(&mut take).collect();
        }
        let text = "the row is not what the type says";
        R::from_row(&self.def, values).map_err(|code| Error::new(code, text))
    }

    /// The key's values among those of all columns.
    pub(crate) fn key_of(&self, values: &[Value]) -> Vec<Value> {
        self.def.key().iter().map(|position| values[usize::from(*position)].clone()).collect()
    }

    /// Where the row with this encoded key lives.
    pub(crate) fn partition(&self, key: &[u8]) -> Result<PartitionId> {
        Ok(partition_of(self.def.partition_hash(key)?, self.partitions))
    }

    fn column_error(&self, code: Code, position: u16) -> Error {
        let name = self.def.column(position).map_or("?", |column| column.name.as_str());
        Error::new(code, format!("column {name}"))
    }
}

/// The position in the table of a column that a type insists on.
fn place_of(def: &TableDef, wanted: &ColumnDef) -> Result<u16> {
    let name = &wanted.name;
    let Some(position) = def.position(name) else {
        return Err(Error::new(Code::NoSuchColumn, format!("column {name}")));
    };
    let column = def.column(position)?;
    if column.ty != wanted.ty {
        let text = format!("column {name} is {} here and {} in the table", wanted.ty, column.ty);
        return Err(Error::new(Code::WrongType, text));
    }
    if column.nullable != wanted.nullable {
        let text = format!("column {name} is nullable on one side only");
        return Err(Error::new(Code::WrongType, text));
    }
    Ok(position)
}

/// The values of a key, for people.
pub(crate) fn key_text(key: &[Value]) -> String {
    match key {
        [one] => one.to_string(),
        several => {
            let texts: Vec<String> = several.iter().map(Value::to_string).collect();
            format!("({})", texts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_proto::key::encode_key;
    use lockstep_proto::row::encode_row;
    use lockstep_proto::value::ColumnType;

    crate::record! {
        #[derive(Debug, PartialEq)]
        struct City in "cities" { name: String, #[key] id: u64 }
    }

    fn def() -> Arc<TableDef> {
        let columns = vec![
            ColumnDef::new("id", ColumnType::U64),
            ColumnDef::new("size", ColumnType::I32).or_default(3),
            ColumnDef::new("name", ColumnType::String),
        ];
        Arc::new(TableDef::with_key("cities", columns, &["id"]).unwrap())
    }

    #[test]
    fn columns_are_matched_by_name_and_defaults_fill_the_rest() {
        let binding = Binding::new(def(), City::wanted_columns(), 4).unwrap();
        let oslo = City { name: "Oslo".into(), id: 7 };
        let values = binding.to_table(oslo.to_row()).unwrap();
        assert_eq!(values, [7_u64.into(), 3_i32.into(), "Oslo".into()]);
        let key = binding.key_of(&values);
        let row = encode_row(&binding.def, &values).unwrap();
        assert_eq!(binding.row_of::<City>(&key, &row).unwrap(), oslo);
        let dynamic: Row = Binding::new(def(), None, 4).unwrap().row_of(&key, &row).unwrap();
        assert_eq!(dynamic["name"], "Oslo".into());
        assert!(binding.partition(&encode_key(&binding.def, &key).unwrap()).unwrap().0 < 4);
    }

    #[test]
    fn a_type_that_does_not_fit_is_refused_by_column() {
        let wanted = Some(vec![ColumnDef::new("id", ColumnType::I64)]);
        let error = Binding::new(def(), wanted, 4).unwrap_err();
        assert_eq!(error.error_code(), Code::WrongType);
        assert!(error.to_string().contains("column id"), "{error}");
        let wanted = Some(vec![ColumnDef::new("mayor", ColumnType::I64)]);
        assert_eq!(Binding::new(def(), wanted, 4).unwrap_err().error_code(), Code::NoSuchColumn);
    }
}
