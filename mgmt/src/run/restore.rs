//! Restoring a node from its files with all processors: logs are checked in parallel, then
//! partitions restored lane by lane.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use lockstep_cluster::{Restored, restore_lane};
use lockstep_proto::ids::Epoch;
use lockstep_storage::disk::FileFault;
use lockstep_storage::redo::Log;
use lockstep_storage::restore::{Files, Owner, Reach, Restoration};

/// Threads that work at a time.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does something with each of `count` things, on a few threads; the results in order.
fn each<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        numbers.take_while(|at| *at < count).map(|at| (at, work(at))).collect::<Vec<_>>()
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads().min(count)).map(|_| scope.spawn(take)).collect();
        let results = workers.into_iter().map(ScopedJoinHandle::join);
        results.flat_map(|done| done.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Chooses what to restore from; the logs are checked in parallel.
pub(crate) fn open<'a>(
    owner: &Owner,
    files: &Files<'a>,
    to: Option<Epoch>,
) -> Result<Restoration<'a>, Box<Reach>> {
    Restoration::open_with(owner, files, to, |logs| each(logs.len(), |at| Log::check(logs[at])))
}

/// Restores all partitions; the lanes in parallel.
pub(crate) fn load(restoration: &Restoration<'_>, shards: u16) -> Result<Restored, Vec<FileFault>> {
    let lanes = each(usize::from(restoration.lanes()), |lane| {
        restore_lane(restoration, u16::try_from(lane).expect("there are few"))
    });
    let (lanes, faults): (Vec<_>, Vec<_>) = lanes.into_iter().partition(Result::is_ok);
    if faults.is_empty() {
        let lanes = lanes.into_iter().filter_map(Result::ok).collect();
        return Ok(Restored::new(restoration, shards, lanes));
    }
    Err(faults.into_iter().filter_map(Result::err).map(|fault| *fault).collect())
}

/// Restores a node with so many shards, to an epoch or as far as its files reach.
pub(crate) fn restore_in_parallel(
    owner: &Owner,
    files: &Files<'_>,
    to: Option<Epoch>,
    shards: u16,
) -> Result<Restored, Vec<FileFault>> {
    let restoration = open(owner, files, to).map_err(|reach| reach.faults)?;
    load(&restoration, shards)
}
