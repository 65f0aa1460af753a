//! Writes all rows of a table: partition by partition, or merged into the order of the key.
//!
//! All rows are as of one moment, a snapshot that replicas keep as long as the export goes on. Keys
//! of a table sort as their encoded bytes do, and each partition is scanned in that
//! order, so merging the partitions gives the order of the key.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use lockstep_client::Client;
use lockstep_client::core::{AtLeast, Call, Moment, ReadFrom, Reply};
use lockstep_proto::ids::{NodeId, PartitionId};
use lockstep_proto::row::decode_columns;
use lockstep_proto::schema::TableDef;
use lockstep_proto::value::Value;
use tokio::task::JoinHandle;

use super::csv::write_record;
use super::page::each_row;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::{Progress, Voice};

/// Rows asked for at a time from each partition.
const PAGE_ROWS: u32 = 1000;

/// The order of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// By primary key.
    Key,
    /// Partition by partition, by key within each.
    Partition,
}

/// The form of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Comma-separated text with a first line of names.
    Csv,
    /// One JSON document with all rows.
    Json,
    /// One JSON object per line.
    Jsonl,
}

/// What the operator asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The table.
    pub name: String,
    /// In which order.
    pub order: Order,
    /// One replica and no other.
    pub from_node: Option<u16>,
    /// In which form.
    pub form: Form,
}

/// Writes all rows to stdout, or to a file that appears when it is whole. Returns how many.
///
/// # Errors
/// If there is no such table, a partition cannot be read, or the output cannot be written.
pub async fn export(
    client: &Client,
    voice: &Voice,
    wanted: &Wanted,
    to: Option<&Path>,
) -> CliResult<u64> {
    let def = client.table_def(&wanted.name).await?;
    let Some(path) = to else {
        let to_terminal = io::stdout().is_terminal();
        let out = BufWriter::new(io::stdout().lock());
        return match write_all(client, voice, wanted, &def, out, to_terminal).await {
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
            other => other.map_err(|failure| failure.told(Path::new("stdout"))),
        };
    };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let file = File::create(partial).map_err(|e| CliError::file("write", partial, &e))?;
    let written = write_all(client, voice, wanted, &def, BufWriter::new(file), false).await;
    let rows = written.map_err(|failure| failure.told(partial))?;
    std::fs::rename(partial, path).map_err(|e| CliError::file("write", path, &e))?;
    Ok(rows)
}

/// Why an export ended early.
enum Failure {
    Cluster(CliError),
    Output(io::Error),
}

impl Failure {
    fn told(self, path: &Path) -> CliError {
        match self {
            Self::Cluster(error) => error,
            Self::Output(error) => CliError::file("write", path, &error),
        }
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Cluster(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn write_all(
    client: &Client,
    voice: &Voice,
    wanted: &Wanted,
    def: &Arc<TableDef>,
    out: impl Write,
    to_terminal: bool,
) -> Result<u64, Failure> {
    // A bar and rows on the same terminal would spoil each other.
    let voice = Voice { quiet: voice.quiet || to_terminal, ..*voice };
    let from = wanted.from_node.map_or(ReadFrom::Nearest, |node| ReadFrom::Node(NodeId(node)));
    let partitions = partitions(client, wanted).await?;
    let at = open_snapshot(client, &partitions, from).await?;
    let progress = voice.progress(&wanted.name, partitions.len() as u64, "partitions");
    let mut writer = Writer { def, form: wanted.form, out, rows: 0, progress, partitions: 0 };
    writer.begin()?;
    match wanted.order {
        Order::Partition => {
            for partition in partitions {
                let mut cursor = Cursor::open(client, def, partition, (from, at));
                while let Some((key, row)) = cursor.next().await? {
                    writer.row(&key, &row)?;
                }
                writer.partition_done();
            }
        }
        Order::Key => {
            let open = |partition| Cursor::open(client, def, partition, (from, at));
            merge(partitions.into_iter().map(open).collect(), &mut writer).await?;
        }
    }
    writer.end()?;
    Ok(writer.rows)
}

/// A moment of which the replicas that are asked keep everything.
async fn open_snapshot(
    client: &Client,
    partitions: &[PartitionId],
    from: ReadFrom,
) -> CliResult<Moment> {
    // Raises what this client has seen to what all primaries have: a process that has just begun
    // would otherwise get a moment before what another one was told to be committed.
    client.fresh_snapshot().await?;
    let mut at: Option<Moment> = None;
    for partition in partitions {
        // The first tells an epoch; all keep it.
        loop {
            let at_least = at.map_or(AtLeast::Seen, AtLeast::Pinned);
            let call = Call::OpenSnapshot { partition: *partition, from, at_least };
            let reply = client.call(call).await.map_err(lockstep_client::Error::from)?;
            if let Reply::Snapshot { closed, .. } = reply {
                at = at.or(Some(closed));
            }
            if matches!(at_least, AtLeast::Pinned(_)) {
                break;
            }
        }
    }
    Ok(at.unwrap_or_default())
}

/// All partitions, or those of which the chosen node has a replica.
async fn partitions(client: &Client, wanted: &Wanted) -> CliResult<Vec<PartitionId>> {
    let Some(node) = wanted.from_node.map(NodeId) else {
        return Ok(client.partitions().collect());
    };
    let view = client.view().await?;
    let holds = |p: &PartitionId| view.shard_of(*p, node).is_some();
    let held: Vec<PartitionId> = client.partitions().filter(holds).collect();
    if held.is_empty() {
        let nodes: Vec<String> =
            view.members.iter().map(|m| m.instance.node.0.to_string()).collect();
        return Err(CliError::new(
            Trouble::NoSuchNode,
            format!("there is no data node {}", node.0),
        )
        .why(format!("the data nodes are {}", nodes.join(", "))));
    }
    Ok(held)
}

/// Takes the row with the smallest key of all partitions, again and again.
async fn merge<W: Write>(
    mut cursors: Vec<Cursor>,
    writer: &mut Writer<'_, W>,
) -> Result<(), Failure> {
    let mut heads = BinaryHeap::with_capacity(cursors.len());
    for (at, cursor) in cursors.iter_mut().enumerate() {
        match cursor.next().await? {
            Some((key, row)) => heads.push(Reverse((key, row, at))),
            None => writer.partition_done(),
        }
    }
    while let Some(Reverse((key, row, at))) = heads.pop() {
        writer.row(&key, &row)?;
        match cursors[at].next().await? {
            Some((key, row)) => heads.push(Reverse((key, row, at))),
            None => writer.partition_done(),
        }
    }
    Ok(())
}

/// An encoded key and row.
type Encoded = (Vec<u8>, Vec<u8>);

/// The rows of one partition in key order; the next page is on its way while one is used up.
struct Cursor {
    client: Client,
    def: Arc<TableDef>,
    partition: PartitionId,
    from: ReadFrom,
    at: Moment,
    rows: VecDeque<Encoded>,
    coming: Option<JoinHandle<CliResult<Page>>>,
}

struct Page {
    rows: VecDeque<Encoded>,
    more: bool,
}

impl Cursor {
    fn open(
        client: &Client,
        def: &Arc<TableDef>,
        partition: PartitionId,
        (from, at): (ReadFrom, Moment),
    ) -> Self {
        let (client, def) = (client.clone(), Arc::clone(def));
        let rows = VecDeque::new();
        let mut cursor = Self { client, def, partition, from, at, rows, coming: None };
        cursor.ask(Vec::new());
        cursor
    }

    /// Asks for the page behind `after`.
    fn ask(&mut self, after: Vec<u8>) {
        let call = Call::Scan {
            table: self.def.id,
            schema: self.def.version,
            partition: self.partition,
            from: self.from,
            after,
            rows_max: PAGE_ROWS,
            at: Some(self.at),
        };
        let client = self.client.clone();
        self.coming = Some(tokio::spawn(async move {
            let reply = client.call(call).await.map_err(lockstep_client::Error::from)?;
            read_page(reply)
        }));
    }

    async fn next(&mut self) -> CliResult<Option<Encoded>> {
        while self.rows.is_empty() {
            let Some(coming) = self.coming.take() else { return Ok(None) };
            let page = coming.await.map_err(|error| {
                CliError::new(Trouble::Process, "a task ended").why(error.to_string())
            })??;
            self.rows = page.rows;
            if let Some((last, _)) = self.rows.back().filter(|_| page.more) {
                let after = last.clone();
                self.ask(after);
            }
        }
        Ok(self.rows.pop_front())
    }
}

fn read_page(reply: Reply) -> CliResult<Page> {
    let broken = || CliError::new(Trouble::Process, "a page of rows cannot be read");
    let Reply::Page { more, rows } = reply else { return Err(broken()) };
    let mut page = Page { rows: VecDeque::new(), more };
    let take = |key: &[u8], row: &[u8]| page.rows.push_back((key.to_vec(), row.to_vec()));
    each_row(&rows, take).map_err(|_| broken())?;
    Ok(page)
}

/// Rows become text.
struct Writer<'a, W> {
    def: &'a TableDef,
    form: Form,
    out: W,
    rows: u64,
    progress: Progress,
    partitions: u64,
}

impl<W: Write> Writer<'_, W> {
    fn begin(&mut self) -> io::Result<()> {
        match self.form {
            Form::Csv => {
                let names = self.def.columns().iter().map(|column| Some(column.name.as_str()));
                write_record(&mut self.out, names)
            }
            Form::Json => {
                let name = serde_json::Value::from(self.def.name());
                write!(self.out, "{{\"schema\":\"lockstep.rows/v1\",\"table\":{name},\"rows\":[")
            }
            Form::Jsonl => Ok(()),
        }
    }

    fn row(&mut self, key: &[u8], row: &[u8]) -> Result<(), Failure> {
        let values = decode_columns(self.def, key, row).map_err(|code| {
            CliError::from_code(code, "a row is not what the table's definition says")
        })?;
        match self.form {
            Form::Csv => self.csv(&values)?,
            Form::Json => {
                let comma = if self.rows > 0 { "," } else { "" };
                write!(self.out, "{comma}\n{}", json(self.def, &values))?;
            }
            Form::Jsonl => writeln!(self.out, "{}", json(self.def, &values))?,
        }
        self.rows += 1;
        Ok(())
    }

    fn csv(&mut self, values: &[Value]) -> io::Result<()> {
        let texts: Vec<Option<String>> =
            values.iter().map(|value| (!value.is_null()).then(|| value.to_string())).collect();
        write_record(&mut self.out, texts.iter().map(Option::as_deref))
    }

    fn partition_done(&mut self) {
        self.partitions += 1;
        self.progress.set(self.partitions);
    }

    fn end(&mut self) -> io::Result<()> {
        if self.form == Form::Json {
            writeln!(self.out, "]}}")?;
        }
        self.out.flush()
    }
}

/// A row as a JSON object, its columns in the order of the table.
fn json(def: &TableDef, values: &[Value]) -> String {
    let mut text = String::from("{");
    for (column, value) in def.columns().iter().zip(values) {
        if text.len() > 1 {
            text.push(',');
        }
        text += &serde_json::Value::from(column.name.as_str()).to_string();
        text.push(':');
        text += &json_value(value).to_string();
    }
    text + "}"
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(v) => (*v).into(),
        Value::Int(v) => (*v).into(),
        Value::UInt(v) => (*v).into(),
        // A float as short as it can be; JSON has no infinity and no NaN.
        Value::F32(v) if v.is_finite() => {
            v.to_string().parse::<f64>().map_or(serde_json::Value::Null, Into::into)
        }
        Value::F64(v) if v.is_finite() => (*v).into(),
        Value::F32(_) | Value::F64(_) | Value::Bytes(_) | Value::Timestamp(_) => {
            value.to_string().into()
        }
        Value::String(v) => v.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_json_objects_in_column_order() {
        let specs = ["z:u64", "a:string:null", "f:f64", "b:bytes"].map(|s| s.parse().unwrap());
        let def = crate::table::shape::define("t", &specs, &["z".to_owned()]).unwrap();
        let values = [7_u64.into(), Value::Null, 0.5.into(), Value::Bytes(vec![1, 255])];
        assert_eq!(json(&def, &values), r#"{"z":7,"a":null,"f":0.5,"b":"0x01ff"}"#);
        assert_eq!(json_value(&Value::F64(f64::NAN)), "NaN");
        assert_eq!(json_value(&Value::F32(0.1)), 0.1);
    }

    #[test]
    fn a_page_is_read_to_its_end() {
        let rows = [1, 0, b'k', 2, 0, 0, 0, b'v', b'w'];
        let page = |rows: &[u8]| read_page(Reply::Page { more: false, rows: rows.into() });
        let read = page(&rows).unwrap();
        assert_eq!(read.rows, [(b"k".to_vec(), b"vw".to_vec())]);
        assert!(page(&rows[..8]).is_err());
    }
}
