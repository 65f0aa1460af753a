//! Comma-separated text, read and written so that a file survives the round trip.
//!
//! Written here because a table must tell an empty field (NULL) from a quoted empty one (an empty
//! string), and because an error must name the line a person sees in an editor.
//!
//! Accepted: `\n` and `\r\n` line ends, a byte-order mark, line ends and doubled quotes inside
//! quotes, a quote inside an unquoted field (it stands for itself), a last line without an end,
//! blank lines (skipped: every row has a key, so none is all empty). Refused with line and column:
//! an unclosed quote, text behind a closing quote, bytes that are not UTF-8, records longer than
//! [`RECORD_BYTES_MAX`].

use std::fmt;
use std::io::{self, BufRead, Write};

/// Longest record accepted: a row of the largest size, every byte doubled by quoting.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

/// One field of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// The text, without quotes.
    pub text: &'a str,
    /// Whether it stood in quotes.
    pub quoted: bool,
}

impl Field<'_> {
    /// Empty and not in quotes: NULL.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.text.is_empty() && !self.quoted
    }
}

/// One record, reused from line to line.
#[derive(Default, Debug)]
pub struct Record {
    text: String,
    ends: Vec<(usize, bool)>,
    line: u64,
}

impl Record {
    /// How many fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has no field at all; a reader never returns such a record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The line it starts on, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The field at a position.
    #[must_use]
    pub fn field(&self, index: usize) -> Option<Field<'_>> {
        let &(end, quoted) = self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1].0 };
        Some(Field { text: &self.text[start..end], quoted })
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        (0..self.len()).map(|index| self.field(index).expect("within the record"))
    }
}

/// What is wrong with a text, and where.
#[derive(Debug)]
pub enum CsvError {
    /// The file cannot be read.
    Io(io::Error),
    /// The text is not what it should be.
    Malformed {
        /// Line, from 1.
        line: u64,
        /// Field within the record, from 1.
        field: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

impl fmt::Display for CsvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read: {error}"),
            Self::Malformed { line, field, what } => {
                write!(f, "line {line}, column {field}: {what}")
            }
        }
    }
}

impl std::error::Error for CsvError {}

/// Reads records one after the other.
pub struct Reader<R> {
    input: R,
    line: u64,
    bytes_read: u64,
    raw: Vec<u8>,
    /// The bytes of all fields of the current record, checked as UTF-8 at its end.
    fields: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the start of `input`.
    #[must_use]
    pub fn new(input: R) -> Self {
        Self { input, line: 0, bytes_read: 0, raw: Vec::new(), fields: Vec::new() }
    }

    /// Bytes consumed so far, for progress.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads the next record into `record`; `false` at the end.
    ///
    /// # Errors
    /// [`CsvError`] with the place.
    pub fn read(&mut self, record: &mut Record) -> Result<bool, CsvError> {
        loop {
            record.ends.clear();
            self.fields.clear();
            self.raw.clear();
            if !self.read_line()? {
                return Ok(false);
            }
            if self.line == 1 && self.raw.starts_with(b"\xEF\xBB\xBF") {
                self.raw.drain(..3);
            }
            if line_end(&self.raw) == 0 {
                continue;
            }
            record.line = self.line;
            self.split(record)?;
            return self.check_utf8(record).map(|()| true);
        }
    }

    /// Appends one more physical line to `raw`; `false` at the end of the input.
    fn read_line(&mut self) -> Result<bool, CsvError> {
        let before = self.raw.len();
        let room = (RECORD_BYTES_MAX + 1).saturating_sub(before) as u64;
        let count = io::Read::take(&mut self.input, room)
            .read_until(b'\n', &mut self.raw)
            .map_err(CsvError::Io)?;
        self.bytes_read += count as u64;
        if self.raw.len() > RECORD_BYTES_MAX {
            return Err(self.malformed(1, "the record is longer than 4 MiB (unclosed quote?)"));
        }
        if count > 0 {
            self.line += 1;
        }
        Ok(count > 0)
    }

    fn split(&mut self, record: &mut Record) -> Result<(), CsvError> {
        let mut at = 0;
        loop {
            let quoted = self.raw.get(at) == Some(&b'"');
            at = if quoted { self.quoted(at + 1, record)? } else { self.unquoted(at) };
            record.ends.push((self.fields.len(), quoted));
            if at == line_end(&self.raw) {
                return Ok(());
            }
            if self.raw[at] != b',' {
                return Err(self.malformed(record.len(), "text behind the closing quote"));
            }
            at += 1;
        }
    }

    /// Takes an unquoted field starting at `at`; returns where it ends.
    fn unquoted(&mut self, at: usize) -> usize {
        let end = line_end(&self.raw);
        let length = self.raw[at..end].iter().position(|&b| b == b',').unwrap_or(end - at);
        self.fields.extend_from_slice(&self.raw[at..at + length]);
        at + length
    }

    /// Takes a quoted field whose text starts at `at`; returns the position behind its last quote.
    fn quoted(&mut self, mut at: usize, record: &Record) -> Result<usize, CsvError> {
        loop {
            let Some(length) = self.raw[at..].iter().position(|&b| b == b'"') else {
                self.fields.extend_from_slice(&self.raw[at..]);
                at = self.raw.len();
                if !self.read_line()? {
                    self.line = record.line;
                    return Err(self.malformed(record.len() + 1, "the quote is never closed"));
                }
                continue;
            };
            self.fields.extend_from_slice(&self.raw[at..at + length]);
            at += length + 1;
            if self.raw.get(at) != Some(&b'"') {
                return Ok(at);
            }
            self.fields.push(b'"');
            at += 1;
        }
    }

    fn check_utf8(&mut self, record: &mut Record) -> Result<(), CsvError> {
        record.text.clear();
        match std::str::from_utf8(&self.fields) {
            Ok(text) => record.text.push_str(text),
            Err(error) => {
                let bad = error.valid_up_to();
                let field = record.ends.iter().take_while(|(end, _)| *end <= bad).count() + 1;
                self.line = record.line;
                return Err(self.malformed(field, "not UTF-8 text"));
            }
        }
        // A field must not cut a character in two: commas and quotes are ASCII, so it cannot.
        debug_assert!(record.ends.iter().all(|(end, _)| record.text.is_char_boundary(*end)));
        Ok(())
    }

    fn malformed(&self, field: usize, what: &'static str) -> CsvError {
        CsvError::Malformed { line: self.line, field, what }
    }
}

/// Where the text of a line ends: before its `\n` or `\r\n`.
fn line_end(raw: &[u8]) -> usize {
    match raw {
        [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n'] => rest.len(),
        _ => raw.len(),
    }
}

/// Appends one record; `None` is NULL, an empty unquoted field. Quotes only what must be quoted.
///
/// # Errors
/// Those of the output.
pub fn write_record<'a>(
    out: &mut impl Write,
    fields: impl Iterator<Item = Option<&'a str>>,
) -> io::Result<()> {
    for (index, field) in fields.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        if let Some(text) = field {
            write_field(out, text)?;
        }
    }
    out.write_all(b"\n")
}

fn write_field(out: &mut impl Write, text: &str) -> io::Result<()> {
    let must_quote = |b: u8| matches!(b, b',' | b'"' | b'\n' | b'\r');
    let odd_start = text.starts_with('\u{FEFF}');
    if !text.is_empty() && !odd_start && !text.bytes().any(must_quote) {
        return out.write_all(text.as_bytes());
    }
    out.write_all(b"\"")?;
    let mut parts = text.split('"');
    out.write_all(parts.next().unwrap_or_default().as_bytes())?;
    for part in parts {
        out.write_all(b"\"\"")?;
        out.write_all(part.as_bytes())?;
    }
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &[u8]) -> Result<Vec<Vec<Option<String>>>, String> {
        let mut reader = Reader::new(text);
        let mut record = Record::default();
        let mut rows = Vec::new();
        while reader.read(&mut record).map_err(|e| e.to_string())? {
            let row = record.fields().map(|f| (!f.is_null()).then(|| f.text.to_owned()));
            rows.push(row.collect());
        }
        Ok(rows)
    }

    fn row(fields: &[Option<&str>]) -> Vec<Option<String>> {
        fields.iter().map(|f| f.map(str::to_owned)).collect()
    }

    #[test]
    fn tells_null_from_the_empty_string() {
        let rows = read_all(b"a,,\"\"\n").unwrap();
        assert_eq!(rows, [row(&[Some("a"), None, Some("")])]);
    }

    #[test]
    fn takes_what_real_files_hold() {
        let text =
            b"\xEF\xBB\xBFid,name\r\n1,\"a \"\"b\"\", c\"\r\n\r\n2,\"two\r\nlines\"\n3,5\" pipe";
        let rows = read_all(text).unwrap();
        assert_eq!(
            rows,
            [
                row(&[Some("id"), Some("name")]),
                row(&[Some("1"), Some("a \"b\", c")]),
                row(&[Some("2"), Some("two\r\nlines")]),
                row(&[Some("3"), Some("5\" pipe")]),
            ]
        );
    }

    #[test]
    fn names_the_place_of_what_is_wrong() {
        let cases: [(&[u8], &str); 4] = [
            (b"a,b\n1,\"x\ny\n", "line 2, column 2: the quote is never closed"),
            (b"a,b\n\"x\"y,2\n", "line 2, column 1: text behind the closing quote"),
            (b"a,b\n1,\xff\n", "line 2, column 2: not UTF-8 text"),
            (b"a,b\n\"x\ny\",\"z\"z\n", "line 3, column 2: text behind the closing quote"),
        ];
        for (text, expected) in cases {
            assert_eq!(read_all(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn an_endless_record_is_refused_before_it_is_held() {
        let mut text = b"a\n\"".to_vec();
        text.resize(text.len() + RECORD_BYTES_MAX + 10, b'x');
        assert!(read_all(&text).unwrap_err().contains("longer than 4 MiB"));
    }

    #[test]
    fn what_is_written_reads_back() {
        let rows: [&[Option<&str>]; 3] = [
            &[Some("plain"), None, Some("")],
            &[Some("a,b"), Some("say \"hi\""), Some("two\nlines")],
            &[Some(" padded "), Some("\r"), Some("\u{FEFF}mark")],
        ];
        let mut out = Vec::new();
        for fields in rows {
            write_record(&mut out, fields.iter().copied()).unwrap();
        }
        let back = read_all(&out).unwrap();
        assert_eq!(back, rows.map(row));
    }
}
