//! Key look-ups and conditional updates on the OpenFlights tables while a data node is killed.
//!
//! ```sh
//! lockstep table import airports.csv --key airport_id       # and airlines, routes
//! export LOCKSTEP_URL=lockstep://127.0.0.1:PORT             # as `lockstep dev status` says
//! cargo run --release -p lockstep-client --example flights 30 > changes.csv &
//! lockstep dev kill 2
//! ```
//!
//! Goes from random routes to their airline and airports, and raises the altitude of an airport by
//! a foot where it is still what was read. Any error ends it with exit code 1. At the end, each
//! changed row is compared on every replica with what was acknowledged, and the changes are
//! printed as `airport_id,altitude_ft`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockstep_client::{
    Client, Error, ErrorKind, ReadFrom, Result, Row, ShardId, Table, Value, col,
};

const TASKS: u64 = 8;

/// What was read and acknowledged.
#[derive(Default)]
struct Tally {
    operations: u64,
    refused: u64,
    slowest: Duration,
    /// Acknowledged altitude steps by airport.
    steps: BTreeMap<u64, i64>,
}

#[derive(Clone)]
struct Flights {
    routes: Table<Row>,
    airlines: Table<Row>,
    airports: Table<Row>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            eprintln!("{wrong} rows are not what was acknowledged");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<usize> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20);
    let db = Client::from_env().await?;
    let flights = Flights {
        routes: db.table_named("routes").await?,
        airlines: db.table_named("airlines").await?,
        airports: db.table_named("airports").await?,
    };
    let before = altitudes(&flights.airports, &db).await?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> =
        (0..TASKS).map(|task| tokio::spawn(travel(flights.clone(), task, end))).collect();
    let mut all = Tally::default();
    for task in tasks {
        let tally = task.await.expect("the task does not panic")?;
        all.operations += tally.operations;
        all.refused += tally.refused;
        all.slowest = all.slowest.max(tally.slowest);
        for (airport, steps) in tally.steps {
            *all.steps.entry(airport).or_default() += steps;
        }
    }
    let steps: i64 = all.steps.values().sum();
    let (operations, refused) = (all.operations, all.refused);
    eprintln!("{operations} operations, {steps} of them updates, {refused} conditions not met");
    eprintln!("no errors; the slowest operation took {:?}", all.slowest);
    let wrong = compare(&db, &flights.airports, &before, &all.steps).await?;
    println!("airport_id,altitude_ft");
    for (airport, steps) in &all.steps {
        println!("{airport},{}", before[airport] + steps);
    }
    Ok(wrong)
}

/// The altitude of every airport that has one.
async fn altitudes(airports: &Table<Row>, db: &Client) -> Result<BTreeMap<u64, i64>> {
    let mut altitudes = BTreeMap::new();
    for partition in db.partitions() {
        let mut scan = airports.scan_partition(partition);
        while let Some(page) = scan.next_page().await? {
            for scanned in page {
                let (id, altitude) = (&scanned.row["airport_id"], &scanned.row["altitude_ft"]);
                if let (Some(id), Some(altitude)) = (id.as_u64(), altitude.as_i64()) {
                    altitudes.insert(id, altitude);
                }
            }
        }
    }
    Ok(altitudes)
}

async fn travel(flights: Flights, task: u64, end: Instant) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut dice = task + 1;
    while Instant::now() < end {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let route = timed(&mut tally, flights.routes.get(1 + (dice >> 33) % 67_663)).await?;
        let Some(route) = route else { continue };
        if !route["airline_id"].is_null() {
            timed(&mut tally, flights.airlines.get(route["airline_id"].clone())).await?;
        }
        for end in ["source_id", "destination_id"] {
            if route[end].is_null() {
                continue;
            }
            let airport = timed(&mut tally, flights.airports.get(route[end].clone())).await?;
            if let Some(airport) = airport {
                climb(&flights.airports, &airport, &mut tally).await?;
            }
        }
    }
    Ok(tally)
}

/// Raises an airport by a foot, unless somebody else has since it was read.
async fn climb(airports: &Table<Row>, airport: &Row, tally: &mut Tally) -> Result<()> {
    let (Some(id), Some(altitude)) =
        (airport["airport_id"].as_u64(), airport["altitude_ft"].as_i64())
    else {
        return Ok(());
    };
    let patch = airports
        .patch(Value::from(id))
        .add("altitude_ft", 1_i64)
        .when(col("altitude_ft").eq(altitude));
    match timed(tally, patch).await {
        Ok(()) => *tally.steps.entry(id).or_default() += 1,
        Err(error) if error.kind() == ErrorKind::ConditionFailed => tally.refused += 1,
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn timed<T>(
    tally: &mut Tally,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T> {
    let started = Instant::now();
    let result = operation.await;
    tally.slowest = tally.slowest.max(started.elapsed());
    tally.operations += 1;
    result
}

/// Looks at every changed row on every replica; returns how many are wrong.
async fn compare(
    db: &Client,
    airports: &Table<Row>,
    before: &BTreeMap<u64, i64>,
    steps: &BTreeMap<u64, i64>,
) -> Result<usize> {
    let view = db.view().await?;
    let (mut wrong, mut compared) = (0, 0);
    for (airport, steps) in steps {
        let partition = airports.partition_of(*airport).await?;
        let Some(placement) = view.placement(partition) else { continue };
        for node in &placement.replicas {
            let copy = airports.reading_from(ReadFrom::Node(*node)).get(*airport).await?;
            let altitude = copy.and_then(|row| row["altitude_ft"].as_i64());
            wrong += usize::from(altitude != Some(before[airport] + steps));
            compared += 1;
        }
    }
    eprintln!("{compared} copies of changed rows compared, {wrong} wrong");
    for member in &view.members {
        let status = db.status(member.instance.node, ShardId(0)).await?;
        eprintln!("{} in {} acts in {}", member.instance, member.zone, status.view);
    }
    Ok(wrong)
}
