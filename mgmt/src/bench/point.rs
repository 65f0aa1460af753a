//! `bench point`, `bench batch`: reads and writes of the bench's own table.

use std::rc::Rc;
use std::time::Duration;

use lockstep_client::Client;
use lockstep_client::core::{CallError, ReadFrom};
use lockstep_proto::wire::op::OpList;

use super::dice::Dice;
use super::floor::{self, Chain};
use super::load::{self, Kind, Loaded, Work};
use super::measure::Measured;
use super::rows::{BenchTable, KEY_BYTES, ROW_BYTES};
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::cli::output::Voice;

/// Name of the table that benches make, fill and remove.
const TABLE: &str = "lockstep_bench";

/// How long the floor is measured, before and after the load each.
const FLOOR_TIME_MAX: Duration = Duration::from_secs(2);

/// What a write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Puts a whole row.
    Upsert,
    /// Adds one to a balance.
    Increment,
    /// Moves one between two rows on two partitions.
    Transfer,
}

impl Write {
    /// Processes a floor's frame visits for such a write: half its hops.
    fn floor_depth(self) -> u8 {
        match self {
            // Client, primary, backup, primary, client: four hops.
            Self::Upsert | Self::Increment => 2,
            // Client, coordinator, other primary, its backup, and back: six hops.
            Self::Transfer => 3,
        }
    }
}

/// What `bench point` and `bench batch` do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Tasks, time and rate.
    pub load: load::Plan,
    /// Percentage of operations that write.
    pub write_percent: u8,
    /// Rows to choose from.
    pub keys: u64,
    /// What a write does.
    pub write: Write,
    /// Rows of one operation; more than one is a batch.
    pub rows: u16,
    /// Measure the floor too.
    pub floor: bool,
}

/// What came out.
pub struct Outcome {
    /// The load.
    pub loaded: Loaded,
    /// The floor, if it was asked for.
    pub floor: Option<Measured>,
}

/// Makes, fills, drives and removes the table; the floor is measured before and after.
///
/// # Errors
/// Whatever the cluster refuses.
pub async fn run(client: &Client, voice: &Voice, plan: &Plan) -> CliResult<Outcome> {
    let table = BenchTable::create(client, TABLE).await?;
    table.fill(voice, plan.keys).await?;
    let before = measure_floor(voice, plan).await?;
    let result = drive(client, voice, plan, &table).await;
    let after = measure_floor(voice, plan).await?;
    table.remove().await?;
    let floor = before.zip(after).map(|(before, after)| before.joined(&after));
    Ok(Outcome { loaded: result?, floor })
}

/// Drives a table that is filled already, without a floor.
///
/// # Errors
/// Whatever the cluster refuses.
pub(super) async fn drive(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    table: &BenchTable,
) -> CliResult<Loaded> {
    load::run(client, voice, &plan.load, workers(plan, table)).await
}

/// The same beside something else, for as long as that takes; see [`load::run_beside`].
///
/// # Errors
/// Whatever the cluster refuses.
pub(super) async fn drive_beside<T>(
    client: &Client,
    voice: &Voice,
    plan: &Plan,
    table: &BenchTable,
    meanwhile: impl Future<Output = T>,
) -> CliResult<(Loaded, Option<T>)> {
    load::run_beside(client, voice, &plan.load, workers(plan, table), meanwhile).await
}

fn workers(plan: &Plan, table: &BenchTable) -> impl FnMut(u32) -> Worker + use<> {
    let (table, plan) = (Rc::new(table.clone()), *plan);
    move |number: u32| Worker {
        table: Rc::clone(&table),
        plan,
        dice: Dice::new(u64::from(number) + 1),
    }
}

struct Worker {
    table: Rc<BenchTable>,
    plan: Plan,
    dice: Dice,
}

impl Work for Worker {
    async fn step(&mut self) -> Result<Kind, CallError> {
        let Self { table, plan, dice } = self;
        let writes = dice.percent(plan.write_percent);
        let mut ops = OpList::default();
        if writes && plan.write == Write::Transfer {
            let (from, to) = table.two_rows(dice, plan.keys);
            table.push_add(&mut ops, from, false);
            table.push_add(&mut ops, to, true);
            return table.commit(ops).await.map(|()| Kind::Write);
        }
        for _ in 0..plan.rows {
            let id = dice.below(plan.keys);
            match (writes, plan.write) {
                (false, _) => table.push_read(&mut ops, id),
                (true, Write::Upsert) => table.push_upsert(&mut ops, id),
                (true, _) => table.push_add(&mut ops, id, true),
            }
        }
        match writes {
            true => table.commit(ops).await.map(|()| Kind::Write),
            false => table.read(ops, ReadFrom::Nearest).await.map(|()| Kind::Read),
        }
    }
}

/// Bare processes passing as many bytes along as many hops.
async fn measure_floor(voice: &Voice, plan: &Plan) -> CliResult<Option<Measured>> {
    if !plan.floor {
        return Ok(None);
    }
    let depth_write = plan.write.floor_depth();
    let depth = if plan.write_percent == 0 { 1 } else { depth_write };
    let row = match plan.write {
        Write::Upsert => KEY_BYTES + ROW_BYTES,
        Write::Increment => KEY_BYTES * 2,
        Write::Transfer => KEY_BYTES * 4,
    };
    let floor_plan = floor::Plan {
        tasks: plan.load.tasks as usize,
        time: plan.load.time.min(FLOOR_TIME_MAX),
        frame_bytes: floor::FRAME_OVERHEAD_BYTES + row * usize::from(plan.rows),
        depth_write,
        write_percent: plan.write_percent,
    };
    voice.detail(format!("measuring the floor: {} hops", depth * 2));
    let failed = |error: std::io::Error| {
        CliError::new(Trouble::Process, "the floor cannot be measured").why(error.to_string())
    };
    let chain = Chain::start(depth, floor_plan.frame_bytes).map_err(failed)?;
    chain.run(&floor_plan).await.map(Some).map_err(failed)
}
