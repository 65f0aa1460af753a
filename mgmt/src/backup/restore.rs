//! The rows of a backup into a running cluster, whatever its shape: this process is a client of it
//! like any other, with a few threads.
//!
//! ```text
//!  open, verify every byte ─► plan: names, memory ─► tables that nobody sees ─► rows
//!                                                        ─► all tables seen at once
//! ```
//! Invariant: nothing is written before everything is known to be whole; what fails later leaves
//! nothing that anybody sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lockstep_client::{Client, TableBuilder};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{SchemaVersion, ShardId, TableId};
use lockstep_proto::schema::TableDef;
use lockstep_proto::wire::op::OpKind;
use lockstep_storage::ROW_OVERHEAD_BYTES;
use lockstep_storage::backup::Unpacked;

use super::files::{Backup, TableSize};
use crate::cli::connect;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::{Voice, bytes};
use crate::table::loader::Loader;
use crate::table::shape::builder;

/// Tables that one transaction can make seen: its writes to a partition are bounded.
pub const TABLES_MAX: usize = 1024;

/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the operator wants.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// These tables only; all if empty.
    pub tables: Vec<String>,
    /// Other names for some.
    pub rename: BTreeMap<String, String>,
}

/// A table as it would be restored.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its definition in the backup.
    pub def: TableDef,
    /// The name it gets.
    pub name: String,
    /// How much of it there is.
    pub size: TableSize,
    /// The cluster has a table of that name, seen or not.
    pub taken: bool,
}

/// What a restore would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The tables.
    pub tables: Vec<Planned>,
    /// Memory that the data node with the least to spare would need, and has.
    pub needed: u64,
    /// See there.
    pub free: u64,
}

/// What a restore has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restored {
    /// Rows written.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long writing them took.
    pub time: Duration,
}

impl Plan {
    /// What would be done with a backup in a cluster.
    ///
    /// # Errors
    /// Names that are not there, or a cluster that does not answer.
    pub async fn make(client: &Client, backup: &Backup, wanted: &Wanted) -> CliResult<Self> {
        let known = |name: &String| backup.tables.iter().any(|def| def.name() == name);
        if let Some(name) = wanted.tables.iter().chain(wanted.rename.keys()).find(|n| !known(n)) {
            let names: Vec<&str> = backup.tables.iter().map(TableDef::name).collect();
            return Err(CliError::usage(format!("the backup has no table {name}"))
                .why(format!("it has {}", names.join(", "))));
        }
        let left_out = |name: &&String| !wanted.tables.is_empty() && !wanted.tables.contains(name);
        if let Some(name) = wanted.rename.keys().find(left_out) {
            return Err(CliError::usage(format!("{name} gets another name and is not restored"))
                .why("--tables does not have it")
                .then(format!("leave `{name}` out of --rename, or add it to --tables")));
        }
        let sizes = backup.sizes().map_err(not_whole)?;
        let mut tables = Vec::new();
        for def in &backup.tables {
            let own = def.name().to_owned();
            if !wanted.tables.is_empty() && !wanted.tables.contains(&own) {
                continue;
            }
            let name = wanted.rename.get(&own).unwrap_or(&own).clone();
            if tables.iter().any(|other: &Planned| other.name == name) {
                return Err(CliError::usage(format!("two tables would be named {name}")));
            }
            check_name(def, &name)?;
            let taken = client.is_table_name_taken(&name).await?;
            let size = sizes.get(&def.id).copied().unwrap_or_default();
            tables.push(Planned { def: def.clone(), name, size, taken });
        }
        let (needed, free) = memory(client, &tables).await?;
        Ok(Self { tables, needed, free })
    }

    /// Why it cannot be done, if it cannot.
    #[must_use]
    pub fn obstacle(&self) -> Option<CliError> {
        let refuse = |what: String| Some(CliError::new(Trouble::Refused, what));
        if let Some(table) = self.tables.iter().find(|table| table.taken) {
            return refuse(format!("the cluster has a table {} already", table.name)).map(
                |error| {
                    error
                        .why("or a restore of it is under way, or was cut off and left it unseen")
                        .then(format!(
                            "`--rename {}=OTHER`, or `lockstep table drop {}`",
                            table.def.name(),
                            table.name
                        ))
                },
            );
        }
        if self.tables.len() > TABLES_MAX {
            return refuse(format!("{} tables are too many at once", self.tables.len()))
                .map(|error| error.then(format!("restore {TABLES_MAX} at a time: `--tables`")));
        }
        if self.needed > self.free {
            let (needed, free) = (bytes(self.needed), bytes(self.free));
            return refuse("the rows do not fit the memory of the data nodes".to_owned()).map(
                |error| {
                    error
                        .why(format!("a data node needs {needed}, and has {free} left"))
                        .then("more groups, a larger data_memory, or fewer tables: `--tables`")
                },
            );
        }
        None
    }
}

/// What the rows need in the memory of the data node with the least room, and what that has.
async fn memory(client: &Client, tables: &[Planned]) -> CliResult<(u64, u64)> {
    let view = client.view().await?;
    let rows: u64 = tables.iter().map(|table| table.size.rows).sum();
    let data: u64 = tables.iter().map(|table| table.size.bytes).sum();
    let all = data + rows * ROW_OVERHEAD_BYTES as u64;
    let needed = all / (view.groups().len() as u64).max(1);
    let mut free = u64::MAX;
    for member in &view.members {
        let mut left = 0;
        for shard in (0..member.shards).map(ShardId) {
            let status = client.status(member.instance.node, shard).await?;
            left += status.data_bytes_max.saturating_sub(status.data_bytes);
        }
        free = free.min(left);
    }
    Ok((needed, free))
}

/// Whether a table can have this name.
fn check_name(def: &TableDef, name: &str) -> CliResult {
    let columns = def.columns();
    let named = |at: &u16| columns[usize::from(*at)].name.as_str();
    let key: Vec<&str> = def.key().iter().map(named).collect();
    let partition: Vec<&str> = def.partition_key().iter().map(named).collect();
    match TableDef::with_partition_key(name, columns.to_vec(), &key, &partition) {
        Ok(_) => Ok(()),
        Err(error) => Err(CliError::from_code(Code::BadSchema, error.to_string())
            .at(format!("{} as {name}", def.name()))
            .then("choose another name with --rename")),
    }
}

fn not_whole(why: String) -> CliError {
    CliError::new(Trouble::NotVerified, "the backup is not whole").why(why)
}

/// Tables by their id in the backup, with the version of their schema there.
type Tables = BTreeMap<TableId, (Arc<TableDef>, SchemaVersion)>;

/// What the threads share.
struct Shared {
    backup: Arc<Backup>,
    blocks: Vec<(usize, usize)>,
    /// By their id in the backup, with the version they have there.
    tables: Tables,
    next: AtomicUsize,
    rows: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

/// Restores what is planned: all of it, or nothing that anybody sees.
///
/// # Errors
/// What stood in the way.
pub async fn run(
    client: &Client,
    url: &str,
    voice: &Voice,
    backup: &Arc<Backup>,
    plan: &Plan,
    threads: usize,
) -> CliResult<Restored> {
    if let Some(obstacle) = plan.obstacle() {
        return Err(obstacle);
    }
    let mut made: Vec<Arc<TableDef>> = Vec::new();
    let mut tables = Tables::new();
    let mut failed = None;
    for table in &plan.tables {
        let wanted: TableBuilder = builder(&table.def).named(table.name.clone());
        match client.create_unseen_table(wanted).await {
            Ok(def) => {
                tables.insert(table.def.id, (Arc::clone(&def), table.def.version));
                made.push(def);
            }
            Err(error) => {
                failed = Some(CliError::from(error));
                break;
            }
        }
    }
    let done = match failed {
        Some(error) => Err(error),
        None => load(url, voice, backup, tables, threads).await,
    };
    let done = match done {
        Ok(restored) => match client.reveal_tables(&made).await {
            Ok(()) => return Ok(restored),
            Err(error) => Err(CliError::from(error)),
        },
        Err(error) => Err(error),
    };
    for def in &made {
        if let Err(error) = client.drop_table(def.name()).await
            && error.error_code() != Code::NoSuchTable
        {
            voice.say(format!("table {} is left, unseen: {error}", def.name()));
        }
    }
    done
}

async fn load(
    url: &str,
    voice: &Voice,
    backup: &Arc<Backup>,
    tables: Tables,
    threads: usize,
) -> CliResult<Restored> {
    let blocks = backup.blocks_of(|table| tables.contains_key(&table)).map_err(not_whole)?;
    let sizes = backup.sizes().map_err(not_whole)?;
    let rows = tables.keys().filter_map(|id| sizes.get(id)).map(|size| size.rows).sum();
    let shared = Arc::new(Shared {
        backup: Arc::clone(backup),
        blocks,
        tables,
        next: AtomicUsize::new(0),
        rows: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let started = Instant::now();
    let mut progress = voice.progress("restoring", rows, "rows");
    let mut workers = Vec::new();
    for _ in 0..threads.max(1) {
        let (url, shared) = (url.to_owned(), Arc::clone(&shared));
        let worker = std::thread::Builder::new().name("restore".to_owned());
        let worker = worker.spawn(move || load_some(&url, &shared)).map_err(|error| {
            CliError::new(Trouble::Process, "cannot start a thread").why(error.to_string())
        });
        workers.push(worker?);
    }
    // This task has clients of its own to attend to meanwhile.
    while !workers.iter().all(std::thread::JoinHandle::is_finished) {
        tokio::time::sleep(LOOK_EVERY).await;
        progress.set(shared.rows.load(Ordering::Relaxed));
    }
    let time = started.elapsed();
    progress.finish();
    for worker in workers {
        match worker.join() {
            Ok(result) => result?,
            Err(_) => return Err(CliError::new(Trouble::Process, "a thread ended")),
        }
    }
    let (rows, bytes) = (shared.rows.load(Ordering::Relaxed), shared.bytes.load(Ordering::Relaxed));
    Ok(Restored { rows, bytes, time })
}

/// One thread: a client of its own, which loads one block after the other.
fn load_some(url: &str, shared: &Shared) -> CliResult {
    let result = crate::cli::block_on(load_blocks(url, shared));
    if result.is_err() {
        shared.stop.store(true, Ordering::Relaxed);
    }
    result
}

async fn load_blocks(url: &str, shared: &Shared) -> CliResult {
    let client = connect::connect(url, Duration::from_secs(30)).await?;
    let mut loaders: BTreeMap<TableId, Loader> = BTreeMap::new();
    for (id, (def, _)) in &shared.tables {
        loaders.insert(*id, Loader::new(&client, def, OpKind::Insert));
    }
    let mut room = Unpacked::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let at = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some((part, number)) = shared.blocks.get(at) else { break };
        let part = shared.backup.part(*part).map_err(not_whole)?;
        let Some(block) = part.blocks().nth(*number) else { continue };
        let rows = block.rows(&mut room).map_err(|fault| not_whole(fault.to_string()))?;
        let Some(loader) = loaders.get_mut(&block.table()) else { continue };
        let version = shared.tables.get(&rows.table).map(|(_, version)| *version);
        if version != Some(rows.schema) {
            return Err(not_whole(format!("rows of {} are of another version of it", rows.table)));
        }
        let (mut count, mut bytes) = (0, 0);
        for row in rows {
            loader.add_encoded(row.key, row.value, 0).await.map_err(|failed| failed.error)?;
            count += 1;
            bytes += (row.key.len() + row.value.len()) as u64;
        }
        shared.rows.fetch_add(count, Ordering::Relaxed);
        shared.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    for loader in loaders.values_mut() {
        loader.flush().await.map_err(|failed| failed.error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lockstep_proto::schema::ColumnDef;
    use lockstep_proto::value::ColumnType;

    use super::*;
    use crate::cli::error::ExitKind;

    fn planned(name: &str, taken: bool) -> Planned {
        let columns = vec![ColumnDef::new("id", ColumnType::U64)];
        let def = TableDef::with_key(name, columns, &["id"]).expect("a definition");
        Planned { def, name: name.to_owned(), size: TableSize { rows: 10, bytes: 100 }, taken }
    }

    #[test]
    fn what_stands_in_the_way_is_said_before_anything_is_done() {
        let plan = |tables, needed| Plan { tables, needed, free: 100 };
        assert!(plan(vec![planned("a", false)], 100).obstacle().is_none());
        let refused = |plan: Plan| {
            let error = plan.obstacle().expect("it cannot be done");
            assert_eq!(error.exit, ExitKind::Refused);
            error.to_string()
        };
        let taken = refused(plan(vec![planned("a", false), planned("b", true)], 1));
        assert!(taken.contains("has a table b already"), "{taken}");
        let much = refused(plan(vec![planned("a", false)], 101));
        assert!(much.contains("do not fit the memory"), "{much}");
        let many = (0..=TABLES_MAX).map(|at| planned(&format!("t{at}"), false)).collect();
        let many = refused(plan(many, 1));
        assert!(many.contains("too many at once"), "{many}");
    }
}
