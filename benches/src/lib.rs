//! Lockstep's criterion benchmarks. Each group has its floor beside it: what the same journey costs
//! with nobody doing anything on the way.
//!
//! `cargo bench -p lockstep-benches` measures; `cargo test` runs every benchmark once, so that none
//! rots. A benchmark that needs a cluster starts its own: its binary, run with other words, is also
//! a data node, a management server and a link of the floor's chain.
//!
//! Invariant: a floor shares no code with what it is the floor of.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_mgmt::bench::floor::{Chain, FRAME_OVERHEAD_BYTES, LINK_WORD};
use lockstep_mgmt::bench::rows::{BenchTable, KEY_BYTES, ROW_BYTES};
use lockstep_mgmt::cli::connect;
use lockstep_mgmt::cli::output::{Format, Voice};
use lockstep_mgmt::dev::cluster::{LocalCluster, Shape};
use lockstep_mgmt::dev::process::Tie;
use tokio::runtime::Runtime;

/// Rows of the table: few enough to be loaded at once, more than any cache of a shard holds.
pub const ROWS: u64 = 10_000;

/// Bytes of a floor's frame: what an operation on one row has.
pub const FRAME_BYTES: usize = FRAME_OVERHEAD_BYTES + KEY_BYTES + ROW_BYTES;

/// How long a cluster may take to serve.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs this process as what its first word says; `None` if it is the benchmark itself.
#[must_use]
pub fn run_as_process() -> Option<ExitCode> {
    let word = std::env::args().nth(1)?;
    (word == "run" || word == LINK_WORD).then(lockstep_mgmt::cli::main)
}

/// A cluster of two groups with a filled table, and a client on a runtime of one thread.
pub struct Bed {
    /// Runs the client.
    pub runtime: Runtime,
    /// The client.
    pub client: Client,
    /// Its table.
    pub table: BenchTable,
    _cluster: LocalCluster,
    dir: tempfile::TempDir,
}

impl Bed {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start: there is nothing to measure then.
    #[must_use]
    pub fn start(replicas: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let shape = Shape { replicas, ..Shape::two_by_two() };
        let cluster = LocalCluster::start(&shape, dir.path(), false, Tie::Child)
            .unwrap_or_else(|error| panic!("{error}"));
        let runtime = one_thread();
        let voice = Voice { format: Format::Table, quiet: true, verbose: false, color: false };
        let ready = runtime.block_on(async {
            connect::wait_until_serving(&cluster.url(), PATIENCE).await?;
            let client = connect::connect(&cluster.url(), PATIENCE).await?;
            let table = BenchTable::create(&client, "bench").await?;
            table.fill(&voice, ROWS).await?;
            Ok::<_, lockstep_mgmt::cli::error::CliError>((client, table))
        });
        let (client, table) = ready.unwrap_or_else(|error| panic!("{error}"));
        Self { runtime, client, table, _cluster: cluster, dir }
    }
}

impl Bed {
    /// Appends to a file on the disk of the nodes and syncs it, so many times.
    ///
    /// # Panics
    /// If the disk does not work.
    #[must_use]
    pub fn sync(&self, count: u64) -> Duration {
        const RECORD: [u8; 256] = [7; 256];
        let file = std::fs::File::create(self.dir.path().join("floor")).expect("a new file");
        let started = Instant::now();
        for _ in 0..count {
            (&file).write_all(&RECORD).expect("room on the disk");
            file.sync_data().expect("a disk that works");
        }
        started.elapsed()
    }
}

/// Bare processes, and a driver on a runtime of one thread.
pub struct Floor {
    runtime: Runtime,
    chain: Chain,
    depth: u8,
}

impl Floor {
    /// A floor of `hops` hops, an even number.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(hops: u8) -> Self {
        let depth = hops / 2;
        let chain = Chain::start(depth, FRAME_BYTES).expect("bare processes can be started");
        Self { runtime: one_thread(), chain, depth }
    }

    /// How long `count` round trips take, one after the other.
    ///
    /// # Panics
    /// If a process went away.
    #[must_use]
    pub fn ping(&self, count: u64) -> Duration {
        let pings = self.chain.ping(self.depth, FRAME_BYTES, count);
        self.runtime.block_on(pings).expect("bare processes answer")
    }
}

fn one_thread() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made")
}
