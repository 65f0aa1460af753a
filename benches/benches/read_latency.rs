//! How long one committed read takes, from the primary and from a backup, beside a bare process
//! that answers.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::Criterion;
use lockstep_benches::{Bed, Floor, ROWS, run_as_process};
use lockstep_client::core::ReadFrom;
use lockstep_mgmt::bench::dice::Dice;
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::View;
use lockstep_proto::wire::op::OpList;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The replica of a row that leads, or the first that does not.
fn replica_of(bed: &Bed, view: &View, id: u64, primary: bool) -> NodeId {
    let placement = view.placement(bed.table.partition(id)).expect("a partition of the cluster");
    let wanted = |node: &&NodeId| (**node == placement.primary) == primary;
    *placement.replicas.iter().find(wanted).expect("two replicas of each partition")
}

fn read(bed: &Bed, view: &View, primary: bool, count: u64) -> Duration {
    let mut dice = Dice::new(count);
    let mut chosen: Vec<(OpList, ReadFrom)> = Vec::new();
    for _ in 0..count {
        let id = dice.below(ROWS);
        let mut ops = OpList::default();
        bed.table.push_read(&mut ops, id);
        chosen.push((ops, ReadFrom::Node(replica_of(bed, view, id, primary))));
    }
    bed.runtime.block_on(async {
        let started = Instant::now();
        for (ops, from) in chosen {
            bed.table.read(ops, from).await.expect("a healthy cluster answers");
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
    let bed = Bed::start(2);
    let view = bed.runtime.block_on(bed.client.view()).expect("a connected client has a view");
    let floor = Floor::start(2);
    let mut group = criterion.benchmark_group("read_latency");
    for (name, primary) in [("primary", true), ("backup", false)] {
        group.bench_function(name, |b| b.iter_custom(|count| read(&bed, &view, primary, count)));
    }
    group.bench_function("floor of 2 hops", |b| b.iter_custom(|count| floor.ping(count)));
    group.finish();
    criterion.final_summary();
    ExitCode::SUCCESS
}
