//! Time and the process's own use of the machine, as the cores are told about them.
//!
//! The cores' clock is CLOCK_BOOTTIME: unlike the monotonic clock it goes on while the machine is
//! suspended, and a lease must not outlive its term because a lid was closed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_proto::time::Instant;

/// The boot clock, now. Costs no system call where the kernel maps the clock into the process.
#[must_use]
pub fn now() -> Instant {
    let time = read_clock(libc::CLOCK_BOOTTIME);
    Instant(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock, in milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// CPU time used by this operating-system process so far, in user and kernel mode, all threads.
#[must_use]
pub fn cpu_time() -> Duration {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Resident memory of this operating-system process in bytes; 0 where /proc is missing.
#[must_use]
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf only reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "this kernel lacks clock {clock}");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward_and_memory_is_counted() {
        let (first, cpu) = (now(), cpu_time());
        let mut sum = 0_u64;
        while cpu_time() == cpu {
            sum = sum.wrapping_mul(31).wrapping_add(now().0);
        }
        assert!(now() > first, "{sum}");
        assert!(wall_ms() > 1_700_000_000_000);
        assert!(resident_bytes() > 100_000);
    }
}
