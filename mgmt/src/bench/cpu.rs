//! CPU time of this process and of the children it started.

use std::io;
use std::time::Duration;

/// CPU time this process has used, all threads.
///
/// # Errors
/// Those of the kernel.
pub fn own() -> io::Result<Duration> {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time another process of this machine has used, all threads.
///
/// # Errors
/// If it is gone.
pub fn of(pid: i32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: writes one clock id.
    let failed = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    read_clock(clock)
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Ok(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_time() {
        let before = own().unwrap();
        let pid = std::process::id().cast_signed();
        while own().unwrap() - before < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(of(pid).unwrap() >= Duration::from_millis(5));
    }
}
