//! Finds the types of a text file's columns from all its rows.
//!
//! Invariant: a column gets a type other than `string` only if every value of the file, written
//! back from that type, is the text it was read from. So an import followed by an export gives the
//! same file, and `007`, `1.50` or a telephone number stay what they were.

use lockstep_proto::value::{ColumnType, Value};

use super::csv::{CsvError, Field, Record};

/// The types tried, the most special first; what none of them keeps is a string.
const CANDIDATES: [ColumnType; 5] =
    [ColumnType::Bool, ColumnType::U64, ColumnType::I64, ColumnType::F64, ColumnType::Timestamp];

/// What has been seen of one column.
#[derive(Clone, Debug)]
pub struct ColumnGuess {
    /// One bit per candidate that fits all values so far.
    fits: u8,
    seen: bool,
    nulls: u64,
    /// The longest text, in bytes.
    bytes_max: usize,
}

impl Default for ColumnGuess {
    fn default() -> Self {
        Self { fits: (1 << CANDIDATES.len()) - 1, seen: false, nulls: 0, bytes_max: 0 }
    }
}

impl ColumnGuess {
    /// Takes one more value into account.
    pub fn observe(&mut self, field: Field<'_>) {
        if field.is_null() {
            self.nulls += 1;
            return;
        }
        self.seen = true;
        self.bytes_max = self.bytes_max.max(field.text.len());
        for (index, ty) in CANDIDATES.iter().enumerate() {
            let bit = 1 << index;
            if self.fits & bit != 0 && !survives(field.text, *ty) {
                self.fits &= !bit;
            }
        }
    }

    /// The type that keeps every value as it was.
    #[must_use]
    pub fn ty(&self) -> ColumnType {
        if !self.seen {
            return ColumnType::String;
        }
        let index = self.fits.trailing_zeros() as usize;
        CANDIDATES.get(index).copied().unwrap_or(ColumnType::String)
    }

    /// How many values were NULL.
    #[must_use]
    pub fn nulls(&self) -> u64 {
        self.nulls
    }
}

/// Whether a text comes back from a type as it was.
fn survives(text: &str, ty: ColumnType) -> bool {
    // Words that parse as floats (`inf`, `NaN`) are words all the same.
    let starts_like_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    if ty.is_float() && (!starts_like_number || text == "-inf") {
        return false;
    }
    Value::parse(text, ty).is_ok_and(|value| value.to_string() == text)
}

/// What a whole file looks like.
#[derive(Debug, Default)]
pub struct FileGuess {
    /// Column names, from the first line.
    pub names: Vec<String>,
    /// By column.
    pub columns: Vec<ColumnGuess>,
    /// Rows, without the first line.
    pub rows: u64,
}

impl FileGuess {
    /// Starts with the first line.
    ///
    /// # Errors
    /// If a name is missing or stands there twice.
    pub fn new(header: &Record) -> Result<Self, CsvError> {
        let mut names: Vec<String> = Vec::with_capacity(header.len());
        for (index, field) in header.fields().enumerate() {
            let what = if field.text.is_empty() {
                Some("the first line must name every column; this name is empty")
            } else if names.iter().any(|name| name == field.text) {
                Some("this column name stands here a second time")
            } else {
                None
            };
            if let Some(what) = what {
                return Err(CsvError::Malformed { line: header.line(), field: index + 1, what });
            }
            names.push(field.text.to_owned());
        }
        let columns = vec![ColumnGuess::default(); names.len()];
        Ok(Self { names, columns, rows: 0 })
    }

    /// Takes one more row into account.
    ///
    /// # Errors
    /// If it has more or fewer fields than the first line.
    pub fn observe(&mut self, record: &Record) -> Result<(), CsvError> {
        check_width(record, self.names.len())?;
        for (guess, field) in self.columns.iter_mut().zip(record.fields()) {
            guess.observe(field);
        }
        self.rows += 1;
        Ok(())
    }
}

/// Checks that a row has as many fields as the first line.
///
/// # Errors
/// If it has more or fewer.
pub fn check_width(record: &Record, width: usize) -> Result<(), CsvError> {
    let what = match record.len().cmp(&width) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "the row has fewer fields than the first line",
        std::cmp::Ordering::Greater => "the row has more fields than the first line",
    };
    Err(CsvError::Malformed { line: record.line(), field: record.len().min(width + 1), what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::csv::Reader;

    fn types_of(text: &str) -> Vec<ColumnType> {
        let mut reader = Reader::new(text.as_bytes());
        let mut record = Record::default();
        assert!(reader.read(&mut record).unwrap());
        let mut guess = FileGuess::new(&record).unwrap();
        while reader.read(&mut record).unwrap() {
            guess.observe(&record).unwrap();
        }
        guess.columns.iter().map(ColumnGuess::ty).collect()
    }

    fn type_of(values: &[&str]) -> ColumnType {
        types_of(&format!("id,x\n{}", values.map_lines()))[1]
    }

    trait MapLines {
        fn map_lines(&self) -> String;
    }

    impl MapLines for [&str] {
        fn map_lines(&self) -> String {
            self.iter().map(|value| format!("1,{value}\n")).collect()
        }
    }

    #[test]
    fn the_most_special_type_that_keeps_the_text() {
        let cases: [(&[&str], ColumnType); 17] = [
            (&["1", "20", "18446744073709551615"], ColumnType::U64),
            (&["1", "-1"], ColumnType::I64),
            (&["1", "-1.5"], ColumnType::F64),
            (&["-6.081689834590001", "53.584701538100006", "10"], ColumnType::F64),
            (&["true", "false", ""], ColumnType::Bool),
            (&["2026-11-20T10:05:00.25Z"], ColumnType::Timestamp),
            (&["", ""], ColumnType::String),
            (&["007", "1"], ColumnType::String),
            (&["1.50"], ColumnType::String),
            (&["1e3"], ColumnType::String),
            (&["+1"], ColumnType::String),
            (&["-0"], ColumnType::F64),
            (&["NaN"], ColumnType::String),
            (&["-inf"], ColumnType::String),
            (&["INF"], ColumnType::String),
            (&["9007199254740993", "0.5"], ColumnType::String),
            (&["1", "\"\""], ColumnType::String),
        ];
        for (values, expected) in cases {
            assert_eq!(type_of(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_row_of_another_width_is_named() {
        let mut reader = Reader::new("a,b\n1\n".as_bytes());
        let mut record = Record::default();
        reader.read(&mut record).unwrap();
        let mut guess = FileGuess::new(&record).unwrap();
        reader.read(&mut record).unwrap();
        let error = guess.observe(&record).unwrap_err().to_string();
        assert_eq!(error, "line 2, column 1: the row has fewer fields than the first line");
    }

    #[test]
    fn names_must_be_there_and_differ() {
        for (text, says) in [("a,\n", "column 2: the first line"), ("a,b,a\n", "column 3: this")] {
            let mut record = Record::default();
            Reader::new(text.as_bytes()).read(&mut record).unwrap();
            let error = FileGuess::new(&record).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
