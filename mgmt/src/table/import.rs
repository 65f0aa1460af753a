//! Loads a text file into a table: first all of it is read and checked, then its rows travel.
//!
//! Invariant: nothing of a file that is wrong anywhere is loaded; the number of rows told is the
//! number acknowledged.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::error::Code;
use lockstep_proto::schema::TableDef;
use lockstep_proto::wire::op::OpKind;

use super::csv::{Reader, Record};
use super::infer::FileGuess;
use super::loader::{LoadFailed, Loader};
use super::shape::{ColumnSpec, RowShape, bad_text, builder, define_for_file};
use crate::cli::error::{CliError, CliResult, ExitKind, Trouble};
use crate::cli::output::{Progress, Voice, rate, thousands};

/// What is read from a file at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Where the text comes from. It is read twice, so what cannot be read twice is kept.
pub enum Source {
    /// A file, opened anew for each reading.
    File(std::path::PathBuf),
    /// What stdin had.
    Bytes(Vec<u8>),
}

impl Source {
    /// Opens a file, or reads all of stdin for `-`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> CliResult<Self> {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|e| CliError::file("read", path, &e))?;
            return Ok(Self::Bytes(bytes));
        }
        let file = File::open(path).and_then(|file| file.metadata());
        let meta = file.map_err(|e| CliError::file("read", path, &e))?;
        match meta.is_file() {
            true => Ok(Self::File(path.to_owned())),
            false => {
                Ok(Self::Bytes(std::fs::read(path).map_err(|e| CliError::file("read", path, &e))?))
            }
        }
    }

    fn reader(&self) -> CliResult<Reader<Box<dyn BufRead + '_>>> {
        let input: Box<dyn BufRead + '_> = match self {
            Self::File(path) => {
                let file = File::open(path).map_err(|e| CliError::file("read", path, &e))?;
                Box::new(BufReader::with_capacity(BUFFER_BYTES, file))
            }
            Self::Bytes(bytes) => Box::new(bytes.as_slice()),
        };
        Ok(Reader::new(input))
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Bytes(_) => "stdin".to_owned(),
        }
    }

    /// Calls `each` with every row behind the first line.
    fn for_rows(&self, mut each: impl FnMut(&Record) -> CliResult) -> CliResult {
        let mut reader = self.reader()?;
        let mut record = Record::default();
        reader.read(&mut record).map_err(bad_text)?;
        while reader.read(&mut record).map_err(bad_text)? {
            each(&record)?;
        }
        Ok(())
    }

    /// Reads everything once to learn names, types and the number of rows.
    fn guess(&self) -> CliResult<FileGuess> {
        let mut header = Record::default();
        if !self.reader()?.read(&mut header).map_err(bad_text)? {
            return Err(CliError::new(Trouble::BadText, "the file is empty")
                .then("its first line must name the columns"));
        }
        let mut guess = FileGuess::new(&header).map_err(bad_text)?;
        self.for_rows(|record| guess.observe(record).map_err(bad_text))?;
        Ok(guess)
    }
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The table.
    pub name: String,
    /// Its key, if it is to be made.
    pub key: Vec<String>,
    /// Types that are not to be inferred.
    pub types: Vec<ColumnSpec>,
}

/// A finished import.
#[derive(Clone, Copy, Debug, Default)]
pub struct Imported {
    /// Rows acknowledged.
    pub rows: u64,
    /// Whether the table was made.
    pub created: bool,
    /// How long loading took.
    pub time: Duration,
}

impl Imported {
    /// How long loading took, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }

    /// Rows per second.
    #[must_use]
    pub fn rows_per_s(&self) -> u64 {
        rate(self.rows, self.time)
    }
}

/// Imports a file.
///
/// # Errors
/// What is wrong with the file, by line and column, before any row is loaded; or what the cluster
/// refused, with the number of rows loaded until then.
pub async fn import(
    client: &Client,
    voice: &Voice,
    source: &Source,
    wanted: &Wanted,
) -> CliResult<Imported> {
    voice.detail(format!("reading {}", source.name()));
    let guess = source.guess().map_err(|error| error.at(source.name()))?;
    let (def, created) = find_or_create(client, source, &guess, wanted).await?;
    let shape = RowShape::new(&def, &guess.names)?;
    let started = Instant::now();
    let mut loader = Loader::new(client, &def, OpKind::Insert);
    let mut progress = voice.progress(&wanted.name, guess.rows, "rows");
    let result = load(&mut loader, source, &shape, &mut progress).await;
    let rows = loader.drain().await;
    progress.finish();
    match result {
        Ok(()) => Ok(Imported { rows, created, time: started.elapsed() }),
        Err(error) => Err(partly(error.at(source.name()), rows, guess.rows, &wanted.name)),
    }
}

async fn load(
    loader: &mut Loader,
    source: &Source,
    shape: &RowShape<'_>,
    progress: &mut Progress,
) -> CliResult {
    let line = |failed: LoadFailed| match failed.tag {
        Some(line) => failed.error.at(format_args!("line {line}")),
        None => failed.error,
    };
    let mut reader = source.reader()?;
    let mut record = Record::default();
    reader.read(&mut record).map_err(bad_text)?;
    while reader.read(&mut record).map_err(bad_text)? {
        let values = shape.values(&record)?;
        loader.add(&values, record.line()).await.map_err(line)?;
        progress.set(loader.loaded());
    }
    loader.flush().await.map_err(line)
}

/// The table, made if it is not there. Every row of the file is tried against its definition
/// before anything is changed.
async fn find_or_create(
    client: &Client,
    source: &Source,
    guess: &FileGuess,
    wanted: &Wanted,
) -> CliResult<(std::sync::Arc<TableDef>, bool)> {
    let check = |def: &TableDef| {
        let shape = RowShape::new(def, &guess.names)?;
        let checked = source.for_rows(|record| shape.values(record).map(drop));
        checked.map_err(|error| error.at(source.name()))
    };
    match client.table_def(&wanted.name).await {
        Ok(def) => {
            check_key(&def, &wanted.key)?;
            check(&def)?;
            Ok((def, false))
        }
        Err(error) if error.error_code() == Code::NoSuchTable => {
            let def = define_for_file(&wanted.name, guess, &wanted.types, &wanted.key)?;
            // Inferred types hold every value; given ones may not.
            if !wanted.types.is_empty() {
                check(&def)?;
            }
            Ok((client.create_table(builder(&def)).await?, true))
        }
        Err(error) => Err(error.into()),
    }
}

/// A table that is there has its own key; another one asked for is a misunderstanding.
fn check_key(def: &TableDef, key: &[String]) -> CliResult {
    let names: Vec<&str> =
        def.key().iter().map(|at| def.columns()[usize::from(*at)].name.as_str()).collect();
    if key.is_empty() || key.iter().map(String::as_str).eq(names.iter().copied()) {
        return Ok(());
    }
    Err(CliError::usage(format!("the key of table {} is {}", def.name(), names.join(", ")))
        .then("leave out --key, or import into another table: `--table NAME`"))
}

/// What an import that failed in the middle leaves behind, in words.
fn partly(error: CliError, loaded: u64, rows: u64, table: &str) -> CliError {
    if loaded == 0 {
        return error;
    }
    let count = format!("{} of {} rows are in table {table}", thousands(loaded), thousands(rows));
    let why = if error.why.is_empty() { count } else { format!("{}; {count}", error.why) };
    CliError { why, exit: ExitKind::Partly, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_failed_in_the_middle_says_how_far_it_came() {
        let error = CliError::new(Trouble::BadText, "line 7: no");
        assert_eq!(partly(error.clone(), 0, 10, "t"), error);
        let told = partly(error, 6, 10, "t");
        assert_eq!(
            (told.why.as_str(), told.exit),
            ("6 of 10 rows are in table t", ExitKind::Partly)
        );
    }

    #[test]
    fn an_empty_file_is_refused() {
        let error = Source::Bytes(Vec::new()).guess().unwrap_err();
        assert!(error.what.contains("empty"), "{error}");
    }

    #[test]
    fn another_key_than_the_tables_is_refused() {
        let specs = ["id:u64", "name:string"].map(|s| s.parse().unwrap());
        let def = super::super::shape::define("things", &specs, &["id".to_owned()]).unwrap();
        assert!(check_key(&def, &[]).is_ok());
        assert!(check_key(&def, &["id".to_owned()]).is_ok());
        assert!(check_key(&def, &["name".to_owned()]).is_err());
    }
}
