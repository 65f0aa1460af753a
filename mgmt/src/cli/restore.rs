//! `lockstep restore`: the rows of a backup into a running cluster, of whatever shape.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lockstep_proto::ids::BackupId;
use serde_json::{Value, json};

use super::backup::{backup_id, verified};
use super::error::{CliError, CliResult, ExitKind};
use super::output::{bytes, rate, table, thousands};
use super::{Global, block_on, connect, stdout_error};
use crate::backup::files::Backup;
use crate::backup::restore::{self, Plan, Planned, Wanted};

const EXAMPLES: &str = "\
DIR is the directory of a backup on this machine, or one of backups: --backup says which if there
are several. Everything in it is verified before anything is written. The tables are seen when all
of their rows are there, all at the same moment; tables that are there already are not touched.

Examples:
  lockstep restore plan /mnt/backups/lockstep-b1763769600000
  lockstep restore run /mnt/backups/lockstep-b1763769600000
  lockstep restore run /mnt/backups --tables accounts --rename accounts=accounts_of_monday";

/// Tables that are named one by one.
const NAMED_MAX: usize = 8;

/// Arguments of `lockstep restore`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum RestoreCommand {
    /// Show what would be restored, and whether it can be
    #[command(after_help = EXAMPLES)]
    Plan(RestoreArgs),
    /// Restore
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
}

/// What to restore.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RestoreArgs {
    /// The backup's directory, or one of backups
    pub(super) dir: PathBuf,
    /// Further directories in which parts may lie
    #[arg(long, value_name = "DIR")]
    pub(super) also: Vec<PathBuf>,
    /// Which one, if there are several backups in DIR
    #[arg(long, value_name = "BACKUP", value_parser = backup_id)]
    pub(super) backup: Option<BackupId>,
    /// These tables only
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub(super) tables: Vec<String>,
    /// Other names for tables
    #[arg(long, value_delimiter = ',', value_name = "OLD=NEW,…", value_parser = renaming)]
    pub(super) rename: Vec<(String, String)>,
}

/// Arguments of `lockstep restore run`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) what: RestoreArgs,
    /// Threads that load rows
    #[arg(long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) threads: u16,
}

fn renaming(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("write OLD=NEW".to_owned()),
    }
}

pub(super) fn run(global: &Global, command: &RestoreCommand) -> CliResult<ExitKind> {
    match command {
        RestoreCommand::Plan(args) => plan(global, args),
        RestoreCommand::Run(args) => restore_now(global, args),
    }
}

fn wanted(args: &RestoreArgs) -> Wanted {
    let rename: BTreeMap<String, String> = args.rename.iter().cloned().collect();
    Wanted { tables: args.tables.clone(), rename }
}

fn plan(global: &Global, args: &RestoreArgs) -> CliResult<ExitKind> {
    let backup = Backup::open(&args.dir, &args.also, args.backup)?;
    // As `run` does: what it would refuse is not called possible.
    verified(&backup, &global.voice())?;
    let plan = block_on(async {
        let client = connect::client(global).await?;
        Plan::make(&client, &backup, &wanted(args)).await
    })?;
    let obstacle = plan.obstacle();
    let json = json!({
        "schema": "lockstep.restore-plan/v1",
        "backup": backup.manifest.backup.to_string(),
        "cluster": backup.manifest.cluster.to_string(),
        "epoch": backup.manifest.epoch.0,
        "tables": plan.tables.iter().map(to_json).collect::<Vec<_>>(),
        "memory_needed": plan.needed,
        "memory_free": plan.free,
        "possible": obstacle.is_none(),
        "obstacle": obstacle.as_ref().map(|error| error.what.clone()),
    });
    let text = || {
        let row = |planned: &Planned| {
            vec![
                planned.def.name().to_owned(),
                planned.name.clone(),
                thousands(planned.size.rows),
                bytes(planned.size.bytes),
                if planned.taken { "is there already" } else { "" }.to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = plan.tables.iter().map(row).collect();
        let end = match &obstacle {
            Some(CliError { what, why, then, .. }) => {
                let line = |name: &str, text: &str| match text {
                    "" => String::new(),
                    text => format!("  {name:<5} {text}\n"),
                };
                format!("not possible: {what}\n{}{}", line("why", why), line("then", then))
            }
            None => "possible: `lockstep restore run` does it\n".to_owned(),
        };
        format!(
            "{}\na data node needs {} and has {} left\n{end}",
            table(&["table", "becomes", "rows", "bytes", ""], &rows),
            bytes(plan.needed),
            bytes(plan.free),
        )
    };
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(if obstacle.is_some() { ExitKind::Refused } else { ExitKind::Done })
}

fn restore_now(global: &Global, args: &RunArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let backup = Arc::new(Backup::open(&args.what.dir, &args.what.also, args.what.backup)?);
    verified(&backup, &voice)?;
    let url = connect::url(global)?;
    let (plan, done) = block_on(async {
        let client = connect::client(global).await?;
        let plan = Plan::make(&client, &backup, &wanted(&args.what)).await?;
        let threads = usize::from(args.threads);
        let done = restore::run(&client, &url, &voice, &backup, &plan, threads).await?;
        Ok((plan, done))
    })?;
    let json = json!({
        "schema": "lockstep.restore/v1",
        "backup": backup.manifest.backup.to_string(),
        "epoch": backup.manifest.epoch.0,
        "tables": plan.tables.iter().map(to_json).collect::<Vec<_>>(),
        "rows": done.rows,
        "row_bytes": done.bytes,
        "seconds": done.time.as_secs_f64(),
        "rows_per_s": rate(done.rows, done.time),
    });
    let text = || {
        format!(
            "{} rows of {} restored in {:.2} s ({} rows/s)\n",
            thousands(done.rows),
            describe(&plan),
            done.time.as_secs_f64(),
            thousands(rate(done.rows, done.time)),
        )
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// The tables in words, if there are few.
fn describe(plan: &Plan) -> String {
    let name = |planned: &Planned| match (planned.def.name(), &planned.name) {
        (own, name) if own == name => own.to_owned(),
        (own, name) => format!("{own} (as {name})"),
    };
    match plan.tables.len() {
        many if many > NAMED_MAX => format!("{many} tables"),
        _ => plan.tables.iter().map(name).collect::<Vec<String>>().join(", "),
    }
}

fn to_json(planned: &Planned) -> Value {
    json!({
        "table": planned.def.name(),
        "becomes": planned.name,
        "rows": planned.size.rows,
        "bytes": planned.size.bytes,
        "exists": planned.taken,
    })
}
