//! What the kernel knows about this operating-system process.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_runtime::clock;

/// Threads that are told of one by one; a process with more adds the rest up.
const THREADS_MAX: usize = 512;

/// One thread, or several of the same name.
#[derive(Clone, PartialEq, Debug)]
pub struct ThreadFigures {
    /// As the kernel shows it.
    pub name: String,
    /// CPU time, user and kernel mode.
    pub cpu: Duration,
}

/// Use of the machine, now.
#[derive(Clone, Debug)]
pub struct ProcessFigures {
    /// The kernel's number.
    pub pid: u32,
    /// CPU time of all threads.
    pub cpu: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors; 0 where /proc is missing.
    pub open_files: u64,
    /// How many there may be.
    pub open_files_max: u64,
    /// CPU time by thread.
    pub threads: Vec<ThreadFigures>,
}

impl ProcessFigures {
    /// Asks the kernel.
    #[must_use]
    pub fn read() -> Self {
        Self {
            pid: std::process::id(),
            cpu: clock::cpu_time(),
            resident_bytes: clock::resident_bytes(),
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64),
            open_files_max: open_files_max(),
            threads: threads(),
        }
    }
}

/// Now, in seconds since 1970.
#[must_use]
pub fn wall_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// How many files this process may open at most; 0 if the kernel does not say.
#[must_use]
pub fn open_files_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if failed == 0 { limit.rlim_cur } else { 0 }
}

fn threads() -> Vec<ThreadFigures> {
    let mut found: Vec<ThreadFigures> = Vec::new();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return found };
    for task in tasks.filter_map(Result::ok) {
        // A thread may end between the listing and the look.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        let Some(thread) = parse(&stat) else { continue };
        let room = found.len() < THREADS_MAX;
        match found.iter_mut().find(|other| other.name == thread.name) {
            Some(same) => same.cpu += thread.cpu,
            None if room => found.push(thread),
            None => {}
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Reads a line of `/proc/…/stat`. The name may hold spaces and parentheses.
fn parse(stat: &str) -> Option<ThreadFigures> {
    let (before, after) = stat.rsplit_once(") ")?;
    let name = before.split_once('(')?.1.to_owned();
    let mut fields = after.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    // SAFETY: sysconf only reads a constant of the system.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?.max(1);
    let micros = ticks.saturating_mul(1_000_000) / per_second;
    Some(ThreadFigures { name, cpu: Duration::from_micros(micros) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_known_by_its_name_and_its_time() {
        let line = "42 (shard 0 (x)) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 7";
        let thread = parse(line).expect("parsed");
        assert_eq!((thread.name.as_str(), thread.cpu), ("shard 0 (x)", Duration::from_secs(2)));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn this_process_is_there() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes > 0 && figures.open_files > 0);
        assert!(figures.open_files <= figures.open_files_max);
        assert!(!figures.threads.is_empty());
    }
}
