//! What a start costs per row, on one core and without a disk: loading a checkpoint, beside reading
//! the same bytes and filling a bare hash map with the same rows; and replaying redo.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_mgmt::bench::restart::Material;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// More than any cache holds.
const ROWS: u64 = 100_000;

fn starts(c: &mut Criterion) {
    let material = Material::make(ROWS).expect("the bench's own rows are good");
    let mut group = c.benchmark_group("restart");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ROWS));
    let whole = "what was written comes back";
    measure(&mut group, "load a checkpoint", || material.load().expect(whole));
    measure(&mut group, "load a checkpoint/floor", || material.load_floor());
    measure(&mut group, "replay redo", || material.replay().expect(whole));
    group.finish();
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut once: impl FnMut() -> Duration,
) {
    group.bench_function(name, |b| b.iter_custom(|times| (0..times).map(|_| once()).sum()));
}

criterion_group!(benches, starts);
criterion_main!(benches);
