//! `lockstep table`: make, list, show, import and export tables.

use std::path::PathBuf;

use clap::ValueEnum;
use lockstep_proto::schema::TableDef;
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind};
use super::output::{Format, table, thousands};
use super::{Global, block_on, connect, stdout_error};
use crate::table::export::{self, Order};
use crate::table::import;
use crate::table::shape::{self, ColumnSpec, builder};

const CREATE_EXAMPLES: &str = "\
Types: bool, i8…i64, u8…u64, f32, f64, string, bytes, timestamp; `:null` allows NULL.

Examples:
  lockstep table create account --column id:u64 --column owner:string --column balance:i64 --key id
  lockstep table create reading --column sensor:u32,at:timestamp,value:f64:null --key sensor,at";

const IMPORT_EXAMPLES: &str = "\
The first line names the columns. An empty field is NULL, a quoted empty one (\"\") an empty string.
Types not given are inferred from the whole file, so that every value is exported as it was.
The table is made if it is not there; rows whose key is there already are an error.

Examples:
  lockstep table import airports.csv --key airport_id
  lockstep table import routes.csv --table route --key route_id --types stops:u8,airline_id:u32
  zcat log.csv.gz | lockstep table import - --table log --key host,at";

const EXPORT_EXAMPLES: &str = "\
Every row is a committed one. With --order key rows come in the order of the primary key; without,
partition by partition.

Examples:
  lockstep table export airports --order key --to airports.csv
  lockstep table export airports -o jsonl | jq .city
  lockstep table export airports --order key --from-node 3    what this replica has";

/// Arguments of `lockstep table`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum TableCommand {
    /// Make a table
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List all tables
    List,
    /// Show the columns of a table
    Show(ShowArgs),
    /// Remove a table and all its rows
    Drop(DropArgs),
    /// Load a CSV file
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
    /// Write all rows of a table
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
}

/// Arguments of `lockstep table create`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct CreateArgs {
    /// The table's name
    pub(super) name: String,
    /// Columns in order, NAME:TYPE or NAME:TYPE:null
    #[arg(long, required = true, value_delimiter = ',', value_name = "COLUMN")]
    pub(super) column: Vec<ColumnSpec>,
    /// Primary-key columns in order
    #[arg(long, required = true, value_delimiter = ',', value_name = "COL,…")]
    pub(super) key: Vec<String>,
}

/// Arguments of `lockstep table show`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ShowArgs {
    /// The table's name
    pub(super) name: String,
}

/// Arguments of `lockstep table drop`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct DropArgs {
    /// The table's name
    pub(super) name: String,
}

/// Arguments of `lockstep table import`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ImportArgs {
    /// The file; `-` is stdin
    pub(super) file: PathBuf,
    /// The table [default: the file's name without its ending]
    #[arg(long, value_name = "NAME")]
    pub(super) table: Option<String>,
    /// Primary-key columns in order; needed if the table is not there yet
    #[arg(long, value_delimiter = ',', value_name = "COL,…")]
    pub(super) key: Vec<String>,
    /// Types of some columns, NAME:TYPE; the others are inferred
    #[arg(long, value_delimiter = ',', value_name = "COL:TYPE,…")]
    pub(super) types: Vec<ColumnSpec>,
}

/// Arguments of `lockstep table export`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ExportArgs {
    /// The table's name
    pub(super) name: String,
    /// The order of rows
    #[arg(long, value_enum, value_name = "ORDER")]
    pub(super) order: Option<ExportOrder>,
    /// Read from this data node only, whatever its role
    #[arg(long, value_name = "NODE", value_parser = super::node_id)]
    pub(super) from_node: Option<u16>,
    /// Write to a file instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(super) to: Option<PathBuf>,
}

/// In what order `table export` writes rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum ExportOrder {
    /// By primary key
    Key,
    /// Partition by partition, by key within each
    Partition,
}

pub(super) fn run(global: &Global, command: &TableCommand) -> CliResult<ExitKind> {
    match command {
        TableCommand::Create(args) => create(global, args),
        TableCommand::List => list(global),
        TableCommand::Show(args) => show(global, args),
        TableCommand::Drop(args) => drop_table(global, args),
        TableCommand::Import(args) => import_file(global, args),
        TableCommand::Export(args) => export_table(global, args),
    }
}

fn create(global: &Global, args: &CreateArgs) -> CliResult<ExitKind> {
    let def = shape::define(&args.name, &args.column, &args.key)?;
    let def = block_on(async {
        let client = connect::client(global).await?;
        Ok(client.create_table(builder(&def)).await?)
    })?;
    let text = || format!("table {} created\n", def.name());
    global.voice().data(&to_json(&def), text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn list(global: &Global) -> CliResult<ExitKind> {
    let defs = block_on(async {
        let client = connect::client(global).await?;
        Ok(client.tables().await?)
    })?;
    let json: Vec<Value> = defs.iter().map(|def| to_json(def)).collect();
    let text = || {
        let row = |def: &std::sync::Arc<TableDef>| {
            let columns: Vec<&str> = def.columns().iter().map(|c| c.name.as_str()).collect();
            vec![def.name().to_owned(), key_names(def).join(", "), columns.join(", ")]
        };
        let rows: Vec<Vec<String>> = defs.iter().map(row).collect();
        table(&["table", "key", "columns"], &rows)
    };
    global.voice().list("lockstep.tables/v1", "tables", &json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn show(global: &Global, args: &ShowArgs) -> CliResult<ExitKind> {
    let def = block_on(async {
        let client = connect::client(global).await?;
        Ok(client.table_def(&args.name).await?)
    })?;
    global.voice().data(&to_json(&def), || describe(&def)).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn drop_table(global: &Global, args: &DropArgs) -> CliResult<ExitKind> {
    global.confirm(&format!("remove table {} and all its rows?", args.name))?;
    block_on(async {
        let client = connect::client(global).await?;
        Ok(client.drop_table(&args.name).await?)
    })?;
    let json = json!({ "schema": "lockstep.table-drop/v1", "table": args.name });
    let text = || format!("table {} is gone\n", args.name);
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn import_file(global: &Global, args: &ImportArgs) -> CliResult<ExitKind> {
    let name = match (&args.table, args.file.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) if args.file.as_os_str() != "-" => stem.to_string_lossy().into_owned(),
        _ => {
            return Err(CliError::usage("rows from stdin need a table").then("add `--table NAME`"));
        }
    };
    let source = import::Source::open(&args.file)?;
    let wanted = import::Wanted { name, key: args.key.clone(), types: args.types.clone() };
    let voice = global.voice();
    let done = block_on(async {
        let client = connect::client(global).await?;
        import::import(&client, &voice, &source, &wanted).await
    })?;
    let json = json!({
        "schema": "lockstep.import/v1",
        "table": wanted.name,
        "created": done.created,
        "rows": done.rows,
        "seconds": done.seconds(),
        "rows_per_s": done.rows_per_s(),
    });
    let text = || {
        format!(
            "{} rows into table {} in {:.2} s ({} rows/s)\n",
            thousands(done.rows),
            wanted.name,
            done.seconds(),
            thousands(done.rows_per_s()),
        )
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn export_table(global: &Global, args: &ExportArgs) -> CliResult<ExitKind> {
    let voice = global.voice_or(Format::Csv);
    let wanted = export::Wanted {
        name: args.name.clone(),
        order: match args.order {
            Some(ExportOrder::Key) => Order::Key,
            Some(ExportOrder::Partition) | None => Order::Partition,
        },
        from_node: args.from_node,
        form: match voice.format {
            Format::Csv | Format::Table => export::Form::Csv,
            Format::Json => export::Form::Json,
            Format::Jsonl => export::Form::Jsonl,
        },
    };
    let rows = block_on(async {
        let client = connect::client(global).await?;
        export::export(&client, &voice, &wanted, args.to.as_deref()).await
    })?;
    if let Some(path) = &args.to {
        voice.say(format!("{} rows in {}", thousands(rows), path.display()));
    }
    Ok(ExitKind::Done)
}

fn key_names(def: &TableDef) -> Vec<&str> {
    names(def, def.key())
}

fn names<'a>(def: &'a TableDef, positions: &[u16]) -> Vec<&'a str> {
    positions.iter().map(|at| def.columns()[usize::from(*at)].name.as_str()).collect()
}

fn describe(def: &TableDef) -> String {
    let rows = def.columns().iter().map(|column| {
        let null = if column.nullable { "may be NULL" } else { "" };
        let default = column.default.as_ref().map(ToString::to_string).unwrap_or_default();
        vec![column.name.clone(), column.ty.to_string(), null.to_owned(), default]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    format!(
        "table {} ({}, schema version {})\nkey {}, partitioned by {}\n\n{}",
        def.name(),
        def.id,
        def.version.0,
        key_names(def).join(", "),
        names(def, def.partition_key()).join(", "),
        table(&["column", "type", "null", "default"], &rows),
    )
}

fn to_json(def: &TableDef) -> Value {
    let columns = def.columns().iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.ty.name(),
            "nullable": column.nullable,
            "default": column.default.as_ref().map(ToString::to_string),
        })
    });
    json!({
        "schema": "lockstep.table/v1",
        "name": def.name(),
        "id": def.id.0,
        "version": def.version.0,
        "key": key_names(def),
        "partition_key": names(def, def.partition_key()),
        "columns": columns.collect::<Vec<_>>(),
    })
}
