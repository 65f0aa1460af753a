//! From a file's columns to a table's: a new table's definition, the match with a table that is
//! there, and values from fields.

use std::fmt;

use lockstep_client::TableBuilder;
use lockstep_proto::schema::{ColumnDef, TableDef};
use lockstep_proto::value::{ColumnType, Value};

use super::csv::{CsvError, Record};
use super::infer::{FileGuess, check_width};
use crate::cli::error::{CliError, CliResult, Trouble};

/// A column as an operator writes it: `NAME:TYPE[:null]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnSpec {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
    /// Whether it may hold NULL.
    pub nullable: bool,
}

impl std::str::FromStr for ColumnSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (name, ty) = (parts.next().unwrap_or_default(), parts.next());
        let Some(ty) = ty.filter(|_| !name.is_empty()) else {
            return Err("write NAME:TYPE or NAME:TYPE:null".into());
        };
        let ty = ColumnType::from_name(ty).ok_or_else(|| {
            let known: Vec<&str> = ColumnType::ALL.iter().map(|ty| ty.name()).collect();
            format!("{ty:?} is not a type; there are {}", known.join(", "))
        })?;
        let nullable = match (parts.next(), parts.next()) {
            (None, _) => false,
            (Some("null"), None) => true,
            _ => return Err("behind the type only `:null` may stand".into()),
        };
        Ok(Self { name: name.to_owned(), ty, nullable })
    }
}

/// Defines a table of the given columns.
///
/// # Errors
/// If they cannot be a table.
pub fn define(name: &str, columns: &[ColumnSpec], key: &[String]) -> CliResult<TableDef> {
    let columns = columns
        .iter()
        .map(|spec| ColumnDef { nullable: spec.nullable, ..ColumnDef::new(&spec.name, spec.ty) });
    with_key(name, columns.collect(), key)
}

/// Defines a table for a file: types as given, or else as the file's values are; everything outside
/// the key may be NULL, because one file is only a sample.
///
/// # Errors
/// If no key is given, a type is given for a column the file does not have, or a key column has
/// NULLs.
pub fn define_for_file(
    name: &str,
    guess: &FileGuess,
    types: &[ColumnSpec],
    key: &[String],
) -> CliResult<TableDef> {
    if key.is_empty() {
        let first = guess.names.first().map_or("COL", String::as_str);
        return Err(CliError::usage(format!("table {name} is not there yet and needs a key"))
            .why("the first line of the file names the columns, but not which of them is the key")
            .then(format!("give it: `--key {first}`, or several: `--key COL,COL`")));
    }
    let named = types.iter().map(|spec| &spec.name).chain(key);
    if let Some(unknown) = named.into_iter().find(|name| !guess.names.contains(name)) {
        return Err(no_such_column(unknown, &guess.names));
    }
    let columns = guess.names.iter().zip(&guess.columns).map(|(column, guess)| {
        let given = types.iter().find(|spec| spec.name == *column);
        let ty = given.map_or_else(|| guess.ty(), |spec| spec.ty);
        let in_key = key.contains(column);
        // A float cannot be a key; its text can.
        let ty = if in_key && given.is_none() && ty.is_float() { ColumnType::String } else { ty };
        ColumnDef { nullable: !in_key, ..ColumnDef::new(column, ty) }
    });
    let columns = columns.collect();
    for column in key {
        let nulls = guess.names.iter().position(|name| name == column).map(|at| &guess.columns[at]);
        if let Some(nulls) = nulls.map(super::infer::ColumnGuess::nulls).filter(|n| *n > 0) {
            return Err(CliError::usage(format!("column {column} cannot be a key"))
                .why(format!("it is empty in {nulls} rows of the file"))
                .then("choose columns that have a value in every row"));
        }
    }
    with_key(name, columns, key)
}

fn with_key(name: &str, columns: Vec<ColumnDef>, key: &[String]) -> CliResult<TableDef> {
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    TableDef::with_key(name, columns, &key).map_err(|error| {
        CliError::from_code(
            lockstep_proto::error::Code::BadSchema,
            format!("{name} cannot be defined like that"),
        )
        .why(error.to_string())
    })
}

/// What the client library is asked to make for a definition.
pub fn builder(def: &TableDef) -> TableBuilder {
    let name = |at: &u16| def.columns()[usize::from(*at)].name.clone();
    let table = TableBuilder::new(def.name());
    let table = def.columns().iter().cloned().fold(table, TableBuilder::column_def);
    table.key(def.key().iter().map(name)).partition_key(def.partition_key().iter().map(name))
}

fn no_such_column(name: &str, known: &[String]) -> CliError {
    CliError::usage(format!("the file has no column {name}"))
        .why(format!("its columns are {}", known.join(", ")))
}

/// How the fields of a file's rows become the columns of a table.
#[derive(Debug)]
pub struct RowShape<'a> {
    def: &'a TableDef,
    /// By field: the column's position.
    positions: Vec<u16>,
    /// What a row has before its fields are put in: the defaults of columns the file lacks.
    blank: Vec<Value>,
}

impl<'a> RowShape<'a> {
    /// Matches the file's columns with the table's by name.
    ///
    /// # Errors
    /// If the file has a column the table lacks, or lacks one that must have a value.
    pub fn new(def: &'a TableDef, names: &[String]) -> CliResult<Self> {
        let position = |name: &String| {
            def.position(name).ok_or_else(|| {
                let known: Vec<&str> = def.columns().iter().map(|c| c.name.as_str()).collect();
                CliError::usage(format!("table {} has no column {name}", def.name()))
                    .why(format!("its columns are {}", known.join(", ")))
                    .then("import into another table: `--table NAME`")
            })
        };
        let positions = names.iter().map(position).collect::<CliResult<Vec<u16>>>()?;
        let mut blank = Vec::with_capacity(def.columns().len());
        for (at, column) in (0_u16..).zip(def.columns()) {
            blank.push(match def.default_of(at) {
                _ if positions.contains(&at) => Value::Null,
                Ok(value) => value,
                Err(_) => {
                    return Err(CliError::usage(format!("the file has no column {}", column.name))
                        .why(format!("every row of table {} needs one", def.name())));
                }
            });
        }
        Ok(Self { def, positions, blank })
    }

    /// The table.
    #[must_use]
    pub fn def(&self) -> &'a TableDef {
        self.def
    }

    /// The values of one row, by column position.
    ///
    /// # Errors
    /// Names the line and the column.
    pub fn values(&self, record: &Record) -> CliResult<Vec<Value>> {
        check_width(record, self.positions.len()).map_err(bad_text)?;
        let mut values = self.blank.clone();
        for (field, at) in record.fields().zip(&self.positions) {
            let column = &self.def.columns()[usize::from(*at)];
            let place = Place { line: record.line(), column: &column.name };
            values[usize::from(*at)] = match field.is_null() {
                true if column.nullable => Value::Null,
                true => return Err(place.error("the field is empty, but NULL is not allowed")),
                false => Value::parse(field.text, column.ty).map_err(|_| {
                    place.error(format!("{:?} is not a {}", shorten(field.text), column.ty))
                })?,
            };
        }
        Ok(values)
    }
}

/// A place in a file that an editor can go to.
struct Place<'a> {
    line: u64,
    column: &'a str,
}

impl Place<'_> {
    fn error(&self, what: impl fmt::Display) -> CliError {
        let Self { line, column } = self;
        CliError::new(Trouble::BadText, format!("line {line}, column {column}: {what}"))
    }
}

/// An error of the text itself.
#[must_use]
pub fn bad_text(error: CsvError) -> CliError {
    CliError::new(Trouble::BadText, error.to_string())
}

/// A text short enough for an error message.
#[must_use]
pub fn shorten(text: &str) -> String {
    const LENGTH_MAX: usize = 40;
    if text.chars().count() <= LENGTH_MAX {
        return text.to_owned();
    }
    text.chars().take(LENGTH_MAX).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::csv::Reader;

    const FILE: &str = "id,name,height\n1,one,2.5\n2,,\n";

    fn guess(text: &str) -> (FileGuess, Vec<Record>) {
        let mut reader = Reader::new(text.as_bytes());
        let mut header = Record::default();
        assert!(reader.read(&mut header).unwrap());
        let mut guess = FileGuess::new(&header).unwrap();
        let mut rows = Vec::new();
        loop {
            let mut record = Record::default();
            if !reader.read(&mut record).unwrap() {
                return (guess, rows);
            }
            guess.observe(&record).unwrap();
            rows.push(record);
        }
    }

    fn key(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_file_makes_a_table_and_its_rows() {
        let (guess, rows) = guess(FILE);
        let def = define_for_file("things", &guess, &[], &key(&["id"])).unwrap();
        let columns: Vec<_> = def.columns().iter().map(|c| (c.ty, c.nullable)).collect();
        let expected =
            [(ColumnType::U64, false), (ColumnType::String, true), (ColumnType::F64, true)];
        assert_eq!(columns, expected);
        let shape = RowShape::new(&def, &guess.names).unwrap();
        assert_eq!(
            shape.values(&rows[0]).unwrap(),
            [Value::UInt(1), Value::from("one"), Value::F64(2.5)]
        );
        assert_eq!(shape.values(&rows[1]).unwrap(), [Value::UInt(2), Value::Null, Value::Null]);
    }

    #[test]
    fn types_may_be_given_and_bad_values_are_named() {
        let (guess, rows) = guess(FILE);
        let types = ["height:u8".parse().unwrap()];
        let def = define_for_file("things", &guess, &types, &key(&["id"])).unwrap();
        let shape = RowShape::new(&def, &guess.names).unwrap();
        let error = shape.values(&rows[0]).unwrap_err();
        assert_eq!(error.what, "line 2, column height: \"2.5\" is not a u8");
    }

    #[test]
    fn what_cannot_be_a_table_says_why() {
        let (guess, _) = guess(FILE);
        let types = ["weight:u8".parse().unwrap()];
        for (types, names, says) in [
            (&types[..], &["id"][..], "no column weight"),
            (&[], &["nam"], "no column nam"),
            (&[], &[], "needs a key"),
            (&[], &["name"], "cannot be a key"),
        ] {
            let error = define_for_file("things", &guess, types, &key(names)).unwrap_err();
            assert!(error.what.contains(says), "{error}");
        }
    }

    #[test]
    fn a_table_that_is_there_decides() {
        let specs = ["name:string", "id:i64", "note:string:null"].map(|s| s.parse().unwrap());
        let def = define("things", &specs, &key(&["id"])).unwrap();
        let names = key(&["id", "name"]);
        let shape = RowShape::new(&def, &names).unwrap();
        let mut record = Record::default();
        Reader::new("7,x\n".as_bytes()).read(&mut record).unwrap();
        assert_eq!(shape.values(&record).unwrap(), [Value::from("x"), Value::Int(7), Value::Null]);
        Reader::new("7,\n".as_bytes()).read(&mut record).unwrap();
        let error = shape.values(&record).unwrap_err();
        assert!(error.what.contains("column name: the field is empty"), "{error}");
        let error = RowShape::new(&def, &key(&["id", "size"])).unwrap_err();
        assert!(error.what.contains("no column size"), "{error}");
        let error = RowShape::new(&def, &key(&["id"])).unwrap_err();
        assert!(error.what.contains("no column name"), "{error}");
    }

    #[test]
    fn columns_are_name_type_and_null() {
        let spec = |text: &str| text.parse::<ColumnSpec>();
        assert!(spec("city:string:null").unwrap().nullable);
        assert!(!spec("id:u64").unwrap().nullable);
        for (bad, says) in [
            ("id", "write NAME:TYPE"),
            (":u64", "write NAME:TYPE"),
            ("id:uint", "is not a type; there are bool, i8"),
            ("id:u64:not", "only `:null`"),
            ("id:u64:null:x", "only `:null`"),
        ] {
            let error = spec(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
