//! How long one commit takes, seen by a client that does nothing else: one row, two rows in one
//! partition, two rows in two partitions; with one, two and three replicas; each beside bare
//! processes that pass as many bytes along as many hops. And one row that is acknowledged when it
//! is on the disks of all replicas, beside one sync of a file.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::Criterion;
use lockstep_benches::{Bed, Floor, ROWS, run_as_process};
use lockstep_client::Durability;
use lockstep_mgmt::bench::dice::Dice;
use lockstep_proto::wire::op::OpList;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What one commit writes.
#[derive(Clone, Copy)]
enum Rows {
    One,
    TwoInOnePartition,
    TwoPartitions,
}

impl Rows {
    const ALL: [Self; 3] = [Self::One, Self::TwoInOnePartition, Self::TwoPartitions];

    fn name(self) -> &'static str {
        match self {
            Self::One => "1 row",
            Self::TwoInOnePartition => "2 rows in 1 partition",
            Self::TwoPartitions => "2 partitions",
        }
    }

    /// Client, primary and back; one backup more each way; one participant more each way.
    fn hops(self, replicas: u16) -> u8 {
        let backup = if replicas > 1 { 2 } else { 0 };
        match self {
            Self::One | Self::TwoInOnePartition => 2 + backup,
            Self::TwoPartitions => 4 + backup,
        }
    }

    fn choose(self, bed: &Bed, dice: &mut Dice) -> (u64, Option<u64>) {
        match self {
            Self::One => (dice.below(ROWS), None),
            Self::TwoInOnePartition => {
                let first = dice.below(ROWS);
                let home = bed.table.partition(first);
                let other = (1..ROWS).map(|step| (first + step) % ROWS);
                let mut other = other.filter(|id| bed.table.partition(*id) == home);
                (first, other.next())
            }
            Self::TwoPartitions => {
                let (first, second) = bed.table.two_rows(dice, ROWS);
                (first, Some(second))
            }
        }
    }
}

fn commit(bed: &Bed, rows: Rows, durability: Durability, count: u64) -> Duration {
    let table = bed.table.with_durability(durability);
    let mut dice = Dice::new(count);
    let mut chosen: Vec<OpList> = Vec::new();
    for _ in 0..count {
        let mut ops = OpList::default();
        let (first, second) = rows.choose(bed, &mut dice);
        bed.table.push_upsert(&mut ops, first);
        second.into_iter().for_each(|id| bed.table.push_upsert(&mut ops, id));
        chosen.push(ops);
    }
    bed.runtime.block_on(async {
        let started = Instant::now();
        for ops in chosen {
            table.commit(ops).await.expect("a healthy cluster commits");
        }
        started.elapsed()
    })
}

fn main() -> ExitCode {
    if let Some(code) = run_as_process() {
        return code;
    }
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for replicas in 1..=3 {
        let bed = Bed::start(replicas);
        let mut group = criterion.benchmark_group(format!("commit_latency/{replicas} replicas"));
        for rows in Rows::ALL {
            group.bench_function(rows.name(), |b| {
                b.iter_custom(|count| commit(&bed, rows, Durability::Memory, count));
            });
            let hops = rows.hops(replicas);
            let floor = Floor::start(hops);
            group.bench_function(format!("{}/floor of {hops} hops", rows.name()), |b| {
                b.iter_custom(|count| floor.ping(count));
            });
        }
        group.bench_function("1 row on disk", |b| {
            b.iter_custom(|count| commit(&bed, Rows::One, Durability::Disk, count));
        });
        group.bench_function("1 row on disk/floor of 1 sync", |b| {
            b.iter_custom(|count| bed.sync(count));
        });
        group.finish();
    }
    criterion.final_summary();
    ExitCode::SUCCESS
}
