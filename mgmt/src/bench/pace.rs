//! When operations start: as soon as a task is free (closed loop), or by a timetable that does not
//! care how the earlier ones are doing (open loop).
//!
//! Invariant of the open loop: an operation's latency counts from the moment the timetable had it
//! start, so that a slow cluster cannot hide its queue (no coordinated omission).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// How often operations of an open loop are started if nothing else is said: with a wake for every
/// operation the load would be its own bottleneck long before the cluster is.
pub const WAKE_INTERVAL: Duration = Duration::from_micros(50);

/// Hands out starts to the tasks of one run.
pub struct Pace {
    kind: Kind,
    deadline: Instant,
    stopped: Cell<bool>,
}

enum Kind {
    Closed,
    Open(Rc<Timetable>),
}

/// The `n`th operation starts at `start + n × interval`.
struct Timetable {
    start: Instant,
    interval: Duration,
    /// The number of the next operation no task has taken.
    next: Cell<u32>,
    /// How many were due so far.
    released: Cell<u32>,
    /// One permit for each operation that is due and not taken.
    due: Semaphore,
}

impl Timetable {
    fn time_of(&self, number: u32) -> Instant {
        self.start + self.interval * number
    }
}

impl Pace {
    /// A closed loop that ends at `deadline`.
    #[must_use]
    pub fn closed(deadline: Instant) -> Rc<Self> {
        Rc::new(Self { kind: Kind::Closed, deadline, stopped: Cell::new(false) })
    }

    /// An open loop of `rate` operations per second from `start` to `deadline`. Runs a pacing task
    /// on the current local set, which wakes once in `wake` at most and then starts what is due;
    /// latencies count from the timetable all the same.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub fn open(
        start: Instant,
        deadline: Instant,
        rate: u64,
        wake: Duration,
    ) -> io::Result<Rc<Self>> {
        let interval = Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
        let timetable = Rc::new(Timetable {
            start,
            interval,
            next: Cell::new(0),
            released: Cell::new(0),
            due: Semaphore::new(0),
        });
        let timer = FineTimer::new()?;
        tokio::task::spawn_local(keep_time(Rc::clone(&timetable), timer, deadline, wake));
        Ok(Rc::new(Self { kind: Kind::Open(timetable), deadline, stopped: Cell::new(false) }))
    }

    /// Nothing is started any more, though the deadline may be far.
    pub fn stop(&self) {
        self.stopped.set(true);
        if let Kind::Open(timetable) = &self.kind {
            timetable.due.close();
        }
    }

    /// Waits until the caller may start an operation; `None` when the run is over. The moment
    /// returned is where its latency counts from.
    pub async fn next(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Closed if self.stopped.get() => None,
            Kind::Closed => Some(Instant::now()).filter(|now| *now < self.deadline),
            Kind::Open(timetable) => {
                let permit = timetable.due.acquire().await.ok()?;
                permit.forget();
                let number = timetable.next.get();
                timetable.next.set(number + 1);
                Some(timetable.time_of(number))
            }
        }
    }

    /// Operations the timetable had start that no task was free for.
    #[must_use]
    pub fn left_behind(&self) -> u32 {
        match &self.kind {
            Kind::Closed => 0,
            Kind::Open(timetable) => timetable.released.get() - timetable.next.get(),
        }
    }
}

/// Releases operations when they are due; closes the semaphore at the end, so that what is due but
/// not taken by then is dropped with the waiting tasks.
async fn keep_time(timetable: Rc<Timetable>, timer: FineTimer, deadline: Instant, wake: Duration) {
    let length = deadline.saturating_duration_since(timetable.start).as_nanos();
    let total = length.div_ceil(timetable.interval.as_nanos().max(1));
    let total = u32::try_from(total).unwrap_or(u32::MAX);
    let mut number = 0;
    let mut rested = timetable.start;
    while number < total && !timetable.due.is_closed() {
        let due = timetable.time_of(number);
        if timer.until(due.max(rested)).await.is_err() {
            break;
        }
        rested = Instant::now() + wake;
        // Whatever came due while this task did not run is released with it.
        let behind = due.elapsed().as_nanos() / timetable.interval.as_nanos().max(1);
        let count = u32::try_from(behind).unwrap_or(u32::MAX).saturating_add(1);
        let count = count.min(total - number);
        timetable.due.add_permits(count as usize);
        number += count;
        timetable.released.set(number);
    }
    timetable.due.close();
}

/// A timer finer than tokio's millisecond wheel.
struct FineTimer(AsyncFd<OwnedFd>);

impl FineTimer {
    fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: plain system call; the result is checked.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened and owned by nobody else.
        let timer = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an owned descriptor is the same one for as long as it is registered.
        Ok(Self(unsafe { AsyncFd::register(timer) }?))
    }

    async fn until(&self, moment: Instant) -> io::Result<()> {
        let wait = moment.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            // The tasks that were released must get their turn.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let value = libc::timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let once = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: value,
        };
        let fd = self.0.get_ref().as_raw_fd();
        // SAFETY: a valid descriptor and a valid setting; the old one is not asked for.
        if unsafe { libc::timerfd_settime(fd, 0, &raw const once, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // The timer stays readable until it is set anew, so there is nothing to read.
        let mut ready = self.0.readable().await?;
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(work))
    }

    #[test]
    fn a_slow_operation_does_not_move_the_timetable() {
        run(async {
            let start = Instant::now();
            let deadline = start + Duration::from_secs(60);
            let pace = Pace::open(start, deadline, 1_000, WAKE_INTERVAL).unwrap();
            let first = pace.next().await.unwrap();
            assert_eq!(first, start);
            // The task is busy past three starts; each keeps its place in the timetable.
            while start.elapsed() < Duration::from_millis(5) {
                tokio::task::yield_now().await;
            }
            for n in 1..4 {
                let at = pace.next().await.unwrap();
                assert_eq!(at, start + Duration::from_millis(n));
                assert!(at.elapsed() > Duration::ZERO, "latency counts from the timetable");
            }
        });
    }

    #[test]
    fn an_open_loop_ends_and_says_what_it_left() {
        run(async {
            let start = Instant::now();
            let pace =
                Pace::open(start, start + Duration::from_millis(5), 1_000, WAKE_INTERVAL).unwrap();
            assert_eq!(pace.next().await, Some(start));
            while pace.left_behind() < 4 {
                tokio::task::yield_now().await;
            }
            assert_eq!(pace.next().await, None, "what was not taken in time is not started");
            assert_eq!(pace.left_behind(), 4);
        });
    }

    #[test]
    fn both_loops_end_when_they_are_stopped() {
        run(async {
            let (start, far) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
            for pace in [Pace::closed(far), Pace::open(start, far, 1_000, WAKE_INTERVAL).unwrap()] {
                assert!(pace.next().await.is_some());
                pace.stop();
                assert_eq!(pace.next().await, None);
            }
        });
    }

    #[test]
    fn a_closed_loop_ends_at_its_deadline() {
        run(async {
            let pace = Pace::closed(Instant::now() + Duration::from_millis(2));
            while pace.next().await.is_some() {
                tokio::task::yield_now().await;
            }
        });
    }
}
