//! The main job, as a person does it: start a cluster, import three tables, look rows up and
//! change them from an application while any one data node is killed, and export what was
//! imported, byte for byte, with every acknowledged change and no other.
//!
//! The tables have the shape of the OpenFlights ones: keys that tell other tables' rows, fields
//! that are NULL, empty, quoted and odd, and coordinates with all their digits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use lockstep_client::{Client, ErrorKind, Result, Row, ShardId, Table, col};
use lockstep_mgmt::dev::process::{ProcessId, Signal};
use lockstep_proto::ids::NodeId;
use lockstep_tests::harness::commands::{Ran, User};
use lockstep_tests::harness::wait::until;
use lockstep_tests::sim::rng::Rng;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

const AIRPORTS: u64 = 600;
const AIRLINES: u64 = 120;
const ROUTES: u64 = 4_000;

/// Acknowledged altitude steps by airport.
type Steps = BTreeMap<u64, i64>;

/// How tall an airport is before anybody changes it.
fn altitude(id: u64) -> i64 {
    (id * 37 % 4_000).cast_signed() - 50
}

/// A name as real files have them.
fn name(id: u64) -> String {
    match id % 7 {
        0 => format!("\"Airport {id}, \"\"the old\"\" one\""),
        1 => format!("Aéroport №{id}"),
        2 => format!("\"two\nlines {id}\""),
        3 => format!(" padded {id} "),
        4 => "\"\"".to_owned(),
        5 => String::new(),
        _ => format!("0{id}"),
    }
}

fn airport(id: u64, steps: i64) -> String {
    let degrees = (id as f64 - 300.5) / 1.7;
    let iata = if id.is_multiple_of(5) { String::new() } else { format!("A{id:03}") };
    format!("{id},{},{iata},{degrees},{}\n", name(id), altitude(id) + steps)
}

fn airline(id: u64) -> String {
    format!(
        "{},{},{}\n",
        id.cast_signed() - 1,
        name(id),
        if id.is_multiple_of(2) { "Y" } else { "N" }
    )
}

fn route(id: u64) -> String {
    let or_null = |id: u64, null: bool| if null { String::new() } else { id.to_string() };
    let from = or_null(1 + id * 7 % AIRPORTS, id.is_multiple_of(31));
    let to = or_null(1 + id * 11 % AIRPORTS, id.is_multiple_of(37));
    format!("{id},{},{from},{to},0\n", id % AIRLINES)
}

fn airports(steps: &Steps) -> Vec<String> {
    let steps = |id| steps.get(&id).copied().unwrap_or_default();
    let rows = (1..=AIRPORTS).map(|id| airport(id, steps(id)));
    with_names("airport_id,name,iata,latitude,altitude_ft\n", rows)
}

fn airlines() -> Vec<String> {
    with_names("airline_id,name,active\n", (0..AIRLINES).map(airline))
}

fn routes() -> Vec<String> {
    with_names("route_id,airline_id,source_id,destination_id,stops\n", (1..=ROUTES).map(route))
}

fn with_names(names: &str, rows: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(names.to_owned()).chain(rows).collect()
}

/// The same rows in another order.
fn shuffled(mut lines: Vec<String>) -> Vec<String> {
    let mut rng = Rng::new(7);
    for at in (2..lines.len()).rev() {
        lines.swap(at, 1 + rng.index(at));
    }
    lines
}

/// A user with a cluster of two groups in two zones.
fn user_with_cluster() -> User {
    let user = User::new(Path::new(BINARY));
    let _told = user.told("dev start --groups 2 --replicas 2 --zones a,b");
    user
}

fn import_all(user: &User) {
    for (table, key, lines, rows) in [
        ("airports", "airport_id", airports(&Steps::new()), AIRPORTS),
        ("airlines", "airline_id", airlines(), AIRLINES),
        ("routes", "route_id", routes(), ROUTES),
    ] {
        let file = user.home().join(format!("{table}.csv"));
        std::fs::write(file, shuffled(lines).concat()).expect("written");
        let told = user.asked(&format!("table import {table}.csv --key {key}"));
        assert_eq!((&told["rows"], &told["created"]), (&rows.into(), &true.into()), "{told}");
    }
}

/// Compares what a table has with what it must have.
#[track_caller]
fn exports(user: &User, table: &str, expected: &[String]) {
    let text = user.told(&format!("table export {table} --order key"));
    let expected = expected.concat();
    let other = text.lines().zip(expected.lines()).find(|(is, should)| is != should);
    assert_eq!(other, None, "{table}: what is there, and what should be");
    assert!(text == expected, "{table}: {} bytes, not {}", text.len(), expected.len());
}

/// Travellers: they look up routes, airlines and airports, and raise airports by a foot.
struct Travellers {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    operations: AtomicU64,
    steps: Mutex<Steps>,
    errors: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Tables {
    routes: Table<Row>,
    airlines: Table<Row>,
    airports: Table<Row>,
}

impl Travellers {
    fn start(url: String) -> Self {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(travel_all(&url, &theirs));
        });
        Self { shared, thread }
    }

    fn more(&self, count: u64) {
        let enough = self.shared.operations.load(Ordering::Relaxed) + count;
        until("the travellers to go on", || {
            let errors = self.shared.errors.lock().expect("not poisoned");
            assert!(errors.is_empty(), "errors reached the application: {errors:?}");
            (self.shared.operations.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }

    /// Ends the journey; returns what was acknowledged.
    fn finish(self) -> Steps {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the journey ends");
        let errors = self.shared.errors.lock().expect("not poisoned");
        assert!(errors.is_empty(), "errors reached the application: {errors:?}");
        self.shared.steps.lock().expect("not poisoned").clone()
    }
}

async fn travel_all(url: &str, shared: &Arc<Shared>) {
    let started = async {
        let db = Client::connect(url).await?;
        Ok::<_, lockstep_client::Error>(Tables {
            routes: db.table_named("routes").await?,
            airlines: db.table_named("airlines").await?,
            airports: db.table_named("airports").await?,
        })
    };
    let work = async {
        let tables = started.await?;
        let tasks: Vec<_> = (1..=4)
            .map(|seed| tokio::spawn(travel(tables.clone(), Rng::new(seed), shared.clone())))
            .collect();
        let mut result = Ok(());
        for task in tasks {
            result = result.and(task.await.expect("the task does not panic"));
        }
        result
    };
    if let Err(error) = work.await {
        shared.errors.lock().expect("not poisoned").push(error.to_string());
    }
}

async fn travel(tables: Tables, mut rng: Rng, shared: Arc<Shared>) -> Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        let id = 1 + rng.below(ROUTES);
        let route = tables.routes.get(id).await?.unwrap_or_else(|| panic!("route {id} is lost"));
        let airline = tables.airlines.get(route["airline_id"].clone()).await?;
        assert!(airline.is_some() || route["airline_id"].as_u64() == Some(AIRLINES - 1));
        for end in ["source_id", "destination_id"].into_iter().filter(|end| !route[*end].is_null())
        {
            let key = route[end].clone();
            let airport = tables.airports.get(key.clone()).await?.expect("the airport is there");
            let altitude = airport["altitude_ft"].as_i64().expect("a number");
            let raise = tables.airports.patch(key).add("altitude_ft", 1_i64);
            match raise.when(col("altitude_ft").eq(altitude)).await {
                Ok(()) => {
                    let id = airport["airport_id"].as_u64().expect("a key");
                    *shared.steps.lock().expect("not poisoned").entry(id).or_default() += 1;
                }
                Err(error) if error.kind() == ErrorKind::ConditionFailed => {}
                Err(error) => return Err(error),
            }
        }
        shared.operations.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Imports, travels, kills a node in the middle, and compares every table on every replica.
fn any_time_is_fine_to_lose(node: u16) {
    let user = user_with_cluster();
    import_all(&user);
    exports(&user, "airports", &airports(&Steps::new()));
    exports(&user, "airlines", &airlines());
    exports(&user, "routes", &routes());
    let travellers = Travellers::start(user.url());
    travellers.more(100);
    let _told = user.told(&format!("dev kill {node}"));
    travellers.more(300);
    let steps = travellers.finish();
    assert!(steps.len() > 50, "{} airports were changed", steps.len());
    exports(&user, "airports", &airports(&steps));
    exports(&user, "airlines", &airlines());
    exports(&user, "routes", &routes());
    // The partner in the group has all rows of the group; together with the other group, all.
    let copies: Vec<String> = (1..=4_u16)
        .filter(|other| *other != node)
        .map(|other| user.told(&format!("table export airports -o jsonl --from-node {other}")))
        .collect();
    let rows: usize = copies.iter().map(|copy| copy.lines().count()).sum();
    let pair = copies.iter().map(|copy| copy.lines().count()).max().unwrap_or_default();
    assert!(rows > AIRPORTS as usize && pair < rows, "{rows} rows on three nodes");
    let status = user.asked("status");
    assert_eq!((&status["health"], &status["can_lose"]), (&"degraded".into(), &0.into()));
    assert_eq!(status["rows"], AIRPORTS + AIRLINES + ROUTES);
}

#[test]
fn node_1_dies_while_rows_change() {
    any_time_is_fine_to_lose(1);
}

#[test]
fn node_2_dies_while_rows_change() {
    any_time_is_fine_to_lose(2);
}

#[test]
fn node_3_dies_while_rows_change() {
    any_time_is_fine_to_lose(3);
}

#[test]
fn node_4_dies_while_rows_change() {
    any_time_is_fine_to_lose(4);
}

/// Rows a node holds, by its own word.
fn rows_of(url: &str, node: u16) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = Client::connect(url).await.expect("connected");
        client.status(NodeId(node), ShardId(0)).await.map_or(0, |status| status.rows)
    })
}

/// Stops the import in the middle of its rows, kills a node meanwhile, and lets it go on.
fn in_the_middle_of_an_import_too(node: u16) {
    const ROWS: u64 = 150_000;
    let user = user_with_cluster();
    let url = user.url();
    let row = |id: u64| format!("{id},row number {id},{}\n", (id % 1_000) as f64 / 2.0);
    let lines = with_names("id,words,half\n", (0..ROWS).map(row));
    std::fs::write(user.home().join("rows.csv"), lines.concat()).expect("written");
    let import = user.starts("table import rows.csv --key id -o json");
    let process = ProcessId::of(import.id().cast_signed()).expect("it runs");
    until("rows to arrive", || (rows_of(&url, node) > 500).then_some(()));
    assert!(process.signal(Signal::Stop).expect("stopped"), "the import ended before the kill");
    let _told = user.told(&format!("dev kill {node}"));
    assert!(process.signal(Signal::Continue).expect("continued"));
    let ran = Ran::from(import.wait_with_output().expect("the import ends"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON object");
    assert_eq!(told["rows"], ROWS, "{told}");
    exports(&user, "rows", &lines);
}

#[test]
fn node_1_dies_in_the_middle_of_an_import() {
    in_the_middle_of_an_import_too(1);
}

#[test]
fn node_2_dies_in_the_middle_of_an_import() {
    in_the_middle_of_an_import_too(2);
}

#[test]
fn node_3_dies_in_the_middle_of_an_import() {
    in_the_middle_of_an_import_too(3);
}

#[test]
fn node_4_dies_in_the_middle_of_an_import() {
    in_the_middle_of_an_import_too(4);
}
