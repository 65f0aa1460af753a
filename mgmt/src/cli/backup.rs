//! `lockstep backup`: make backups of the running cluster, look at them, verify and remove them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_proto::ids::{BackupId, NodeId};
use lockstep_proto::value::Value as Cell;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord, BackupState};
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{Voice, bytes, table, thousands};
use super::{Global, block_on, connect, stdout_error};
use crate::backup::ask::{self, Known, Server};
use crate::backup::files::Backup;

/// Between two looks at how far a backup is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const CREATE_EXAMPLES: &str = "\
Every data node writes its part to DIR on its own machine, and the management server the manifest
to DIR on its own: one share that is mounted everywhere, or directories of the same name. DIR must
be there. A backup has everything that was acknowledged before it was asked for; those who work
meanwhile are not kept waiting.

Examples:
  lockstep backup create --to /mnt/backups --wait
  lockstep backup list
  lockstep backup verify /mnt/backups/lockstep-b1763769600000";

/// Arguments of `lockstep backup`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum BackupCommand {
    /// Make a backup of everything, as of one moment
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List the backups that the management servers know
    List,
    /// Show one of them
    Show(OneArgs),
    /// Read every byte of a backup and compare it with its checksums
    Verify(VerifyArgs),
    /// End a backup that is under way, and remove what there is of it
    Abort(OneArgs),
    /// Remove the files of a backup
    Delete(OneArgs),
}

/// Arguments of `lockstep backup create`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct CreateArgs {
    /// An absolute path [default: the directory `backup` in that of each process]
    #[arg(long, value_name = "DIR")]
    pub(super) to: Option<PathBuf>,
    /// Wait until it is whole
    #[arg(long)]
    pub(super) wait: bool,
}

/// Arguments of commands about one backup.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct OneArgs {
    /// Its name, such as b1763769600000
    #[arg(value_parser = backup_id)]
    pub(super) backup: BackupId,
}

/// Arguments of `lockstep backup verify`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// The backup's directory, or one of backups
    pub(super) dir: PathBuf,
    /// Further directories in which parts may lie
    #[arg(long, value_name = "DIR")]
    pub(super) also: Vec<PathBuf>,
    /// Which one, if there are several backups in DIR
    #[arg(long, value_name = "BACKUP", value_parser = backup_id)]
    pub(super) backup: Option<BackupId>,
}

pub(super) fn backup_id(text: &str) -> Result<BackupId, String> {
    let digits = text.strip_prefix('b').unwrap_or(text);
    digits.parse().map(BackupId).map_err(|_| "a backup is named like b1763769600000".to_owned())
}

pub(super) fn run(global: &Global, command: &BackupCommand) -> CliResult<ExitKind> {
    match command {
        BackupCommand::Create(args) => create(global, args),
        BackupCommand::List => list(global),
        BackupCommand::Show(args) => show(global, args.backup),
        BackupCommand::Verify(args) => verify(global, args),
        BackupCommand::Abort(args) => abort(global, args.backup),
        BackupCommand::Delete(args) => delete(global, args.backup),
    }
}

/// Asks for a backup; returns who makes it.
///
/// # Errors
/// Why there will be none.
pub async fn begin(
    client: &lockstep_client::Client,
    dir: Option<&std::path::Path>,
) -> CliResult<(Server, BackupId)> {
    let dir = dir.map(|dir| {
        let text = dir.to_str().filter(|_| dir.is_absolute());
        text.map(str::to_owned).ok_or_else(|| {
            CliError::usage(format!("{} is not an absolute path", dir.display()))
                .then("the path is one on the machines of the data nodes")
        })
    });
    let dir = dir.transpose()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let asked_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let backup = BackupId(asked_ms);
    let mut server = ask::servers(client).await?.remove(0);
    server.order(&BackupMessage::Create { backup, dir, asked_ms }).await?;
    Ok((server, backup))
}

/// Waits until a backup is whole.
///
/// # Errors
/// Why it will never be.
pub async fn wait(server: &mut Server, backup: BackupId, voice: &Voice) -> CliResult<BackupRecord> {
    let mut record = server.record(backup).await?;
    let mut progress = voice.progress("backing up", u64::from(record.partitions.1), "partitions");
    loop {
        progress.set(u64::from(record.partitions.0));
        match &record.state {
            BackupState::Done => {
                progress.finish();
                return Ok(record);
            }
            BackupState::Failed(why) => {
                progress.finish();
                return Err(CliError::new(Trouble::Partly, format!("backup {backup} has failed"))
                    .why(why.clone())
                    .then("what there was of it has been removed; make another one"));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
        record = server.record(backup).await?;
    }
}

fn create(global: &Global, args: &CreateArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let record = block_on(async {
        let client = connect::client(global).await?;
        let (mut server, backup) = begin(&client, args.to.as_deref()).await?;
        match args.wait {
            true => wait(&mut server, backup, &voice).await,
            false => server.record(backup).await,
        }
    })?;
    let known = Known { record, answers: true };
    voice.data(&to_json(&known), || describe(&known)).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn list(global: &Global) -> CliResult<ExitKind> {
    let all = block_on(async { ask::list(&connect::client(global).await?).await })?;
    let json: Vec<Value> = all.iter().map(to_json).collect();
    let text = || {
        let row = |known: &Known| {
            let record = &known.record;
            vec![
                record.backup.to_string(),
                state_name(&record.state).to_owned(),
                Cell::Timestamp(micros(record.asked_ms)).to_string(),
                thousands(record.rows),
                bytes(record.file_bytes),
                record.by.to_string(),
                record.dir.clone().unwrap_or_else(|| "own directories".to_owned()),
            ]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        let table =
            table(&["backup", "state", "asked for", "rows", "files", "by", "directory"], &rows);
        all.iter().filter_map(failure).fold(table, |text, why| text + &why)
    };
    global.voice().list("lockstep.backups/v1", "backups", &json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// Why a backup has failed, if it has: too long for a cell of the table.
fn failure(known: &Known) -> Option<String> {
    match &known.record.state {
        BackupState::Failed(why) => Some(format!("{} failed: {why}\n", known.record.backup)),
        _ => None,
    }
}

fn show(global: &Global, backup: BackupId) -> CliResult<ExitKind> {
    let (_, known) = block_on(async { ask::find(&connect::client(global).await?, backup).await })?;
    global.voice().data(&to_json(&known), || describe(&known)).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn abort(global: &Global, backup: BackupId) -> CliResult<ExitKind> {
    order(global, backup, &BackupMessage::Abort { backup })
}

fn delete(global: &Global, backup: BackupId) -> CliResult<ExitKind> {
    global.confirm(&format!("remove the files of backup {backup}?"))?;
    order(global, backup, &BackupMessage::Delete { backup })
}

/// Gives an order about a backup, and waits until there is nothing more to do.
fn order(global: &Global, backup: BackupId, message: &BackupMessage) -> CliResult<ExitKind> {
    let record = block_on(async {
        let (mut server, _) = ask::find(&connect::client(global).await?, backup).await?;
        server.order(message).await?;
        let done = async {
            loop {
                let record = server.record(backup).await?;
                match record.state {
                    BackupState::Failed(_) | BackupState::Deleted => return Ok(record),
                    _ => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        let waited = tokio::time::timeout(global.timeout, done).await;
        let record: CliResult<BackupRecord> = waited.map_err(|_| {
            CliError::new(Trouble::TimedOut, format!("backup {backup} is still being removed"))
        })?;
        record
    })?;
    if let (BackupMessage::Delete { .. }, BackupState::Failed(why)) = (message, &record.state) {
        let what = format!("backup {backup} could not be removed");
        return Err(CliError::new(Trouble::Partly, what).why(why.clone()));
    }
    let known = Known { record, answers: true };
    global.voice().data(&to_json(&known), || describe(&known)).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn verify(global: &Global, args: &VerifyArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let backup = Backup::open(&args.dir, &args.also, args.backup)?;
    let rows = verified(&backup, &voice)?;
    let manifest = &backup.manifest;
    let sizes = backup.sizes().unwrap_or_default();
    let in_tables: u64 =
        backup.tables.iter().filter_map(|def| sizes.get(&def.id)).map(|s| s.rows).sum();
    let json = json!({
        "schema": "lockstep.backup-verify/v1",
        "backup": manifest.backup.to_string(),
        "cluster": manifest.cluster.to_string(),
        "epoch": manifest.epoch.0,
        "restart_generation": manifest.generation.0,
        "asked_ms": manifest.asked_ms,
        "parts": manifest.parts.len(),
        "partitions": manifest.partitions,
        "tables": backup.tables.iter().map(|def| def.name()).collect::<Vec<_>>(),
        "rows": rows,
        "row_bytes": manifest.rows().1,
        "file_bytes": manifest.file_bytes(),
        "whole": true,
    });
    let text = || {
        format!(
            "backup {} is whole: {} rows of {} tables and {} of the catalog as of {}, {} in {} \
             parts\n",
            manifest.backup,
            thousands(in_tables),
            backup.tables.len(),
            thousands(rows.saturating_sub(in_tables)),
            manifest.epoch,
            bytes(manifest.file_bytes()),
            manifest.parts.len()
        )
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// Verifies with a bar; gives the number of rows.
///
/// # Errors
/// What is not as it was written.
pub fn verified(backup: &Backup, voice: &Voice) -> CliResult<u64> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let progress = voice.progress("verifying", backup.manifest.rows().0, "rows");
    let moving = Mutex::new((0, progress));
    let rows = backup.verify(threads, |rows| {
        let (done, progress) = &mut *moving.lock().unwrap_or_else(PoisonError::into_inner);
        *done += rows;
        progress.set(*done);
    });
    moving.into_inner().unwrap_or_else(PoisonError::into_inner).1.finish();
    rows
}

fn state_name(state: &BackupState) -> &'static str {
    match state {
        BackupState::Starting => "starting",
        BackupState::Writing => "writing",
        BackupState::Finishing => "finishing",
        BackupState::Done => "done",
        BackupState::Failed(_) => "failed",
        BackupState::Removing => "removing",
        BackupState::Deleted => "deleted",
    }
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000)
}

/// The data nodes at which files may lie that are not wanted any more, once it is over.
fn leftovers(record: &BackupRecord) -> Vec<u16> {
    let over =
        matches!(record.state, BackupState::Done | BackupState::Failed(_) | BackupState::Deleted);
    let nodes: &[NodeId] = if over { &record.unwanted } else { &[] };
    nodes.iter().map(|node| node.0).collect()
}

fn describe(Known { record, answers }: &Known) -> String {
    let (done, all) = record.partitions;
    let mut text = format!(
        "backup {}, {} ({done} of {all} partitions)\n",
        record.backup,
        state_name(&record.state),
    );
    if let BackupState::Failed(why) = &record.state {
        text += &format!("  why        {why}\n");
    }
    let by = record.by;
    text += &format!("  asked for  {}, by {by}\n", Cell::Timestamp(micros(record.asked_ms)));
    text += &format!(
        "  rows       {} ({}), as of {}\n",
        thousands(record.rows),
        bytes(record.row_bytes),
        record.epoch
    );
    let dir = record.dir.as_deref().unwrap_or("the directory `backup` of each process");
    text += &format!("  files      {} in {dir}\n", bytes(record.file_bytes));
    if !answers {
        text += &format!(
            "  note       {by} does not answer: this is the last that is known; `lockstep backup \
             delete` lets another server remove what there is\n"
        );
    }
    let left = leftovers(record);
    if !left.is_empty() {
        text += &format!(
            "  leftovers  may lie at data nodes {}, and go when these are in sync\n",
            left.iter().map(u16::to_string).collect::<Vec<String>>().join(", ")
        );
    }
    text
}

fn to_json(Known { record, answers }: &Known) -> Value {
    let failed = match &record.state {
        BackupState::Failed(why) => Some(why),
        _ => None,
    };
    json!({
        "schema": "lockstep.backup/v1",
        "backup": record.backup.to_string(),
        "state": state_name(&record.state),
        "failed": failed,
        "management_server": record.by.to_string(),
        "management_server_answers": answers,
        "asked_ms": record.asked_ms,
        "directory": record.dir,
        "epoch": record.epoch.0,
        "rows": record.rows,
        "row_bytes": record.row_bytes,
        "file_bytes": record.file_bytes,
        "partitions_done": record.partitions.0,
        "partitions": record.partitions.1,
        "leftovers_at": leftovers(record),
    })
}
