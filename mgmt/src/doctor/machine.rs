//! Checks of the machine this command runs on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lockstep_proto::figures::bytes;

use super::{Finding, Level};

/// A node with 20,000 connections and its files needs this many descriptors.
const OPEN_FILES_MIN: u64 = 21_000;

/// Less free space than this is worth a word: a few redo segments and checkpoints of each shard.
const FREE_BYTES_MIN: u64 = 2 << 30;

/// With less than this a node does not even start.
const FREE_BYTES_LEAST: u64 = 64 << 20;

/// How often a small piece is written and synced.
const SYNCS: usize = 20;

/// A sync that takes longer than this makes commits on disk slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);

/// A sync that takes longer than this keeps redo waiting all the time.
const SYNC_BAD: Duration = Duration::from_millis(200);

/// All checks of the machine, and of these directories.
#[must_use]
pub fn check(dirs: &[&Path]) -> Vec<Finding> {
    let mut findings = vec![clock(), clock_source(), memory(), swap(), open_files(), processors()];
    for dir in dirs {
        findings.extend(directory(dir));
    }
    findings
}

fn clock() -> Finding {
    // SAFETY: all-zero is a valid timex, which asks for nothing to be changed.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `timex` is valid and outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0 {
        return Finding::well("clock", "the wall clock is synchronised");
    }
    Finding::of("clock", Level::Note, "the kernel does not say that the wall clock is synchronised")
        .why(
            "times in logs and of changes would not fit those of other machines; leases and epochs \
             do not depend on it",
        )
        .then("run chrony or systemd-timesyncd, unless the host does it")
}

fn clock_source() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = fs::read_to_string(path).unwrap_or_default();
    match source.trim() {
        "" => Finding::of("clocksource", Level::Note, "the kernel does not name its clock source"),
        slow @ ("hpet" | "acpi_pm" | "jiffies" | "xen") => {
            Finding::of("clocksource", Level::Warn, format!("the clock source is {slow}"))
                .why("each look at the clock is a system call then, and every turn has one")
                .then("boot with clocksource=tsc or that of your hypervisor, if it is reliable")
        }
        fast => Finding::well("clocksource", fast),
    }
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

fn memory() -> Finding {
    let (Some(total), Some(available)) = (meminfo("MemTotal"), meminfo("MemAvailable")) else {
        return Finding::of("memory", Level::Note, "the kernel does not say how much there is");
    };
    let what = format!("{} of {} are available", bytes(available), bytes(total));
    if available >= total / 10 {
        return Finding::well("memory", what);
    }
    Finding::of("memory", Level::Warn, what)
        .why("a data node that cannot get memory is killed by the kernel, with all its rows")
        .then("lower `cluster.data_memory`, or run less beside it")
}

fn swap() -> Finding {
    match meminfo("SwapTotal") {
        None | Some(0) => Finding::well("swap", "none"),
        Some(total) => {
            Finding::of("swap", Level::Note, format!("{} of swap are configured", bytes(total)))
                .why("a row that is swapped out makes its whole shard wait for the disk")
                .then("switch it off on machines of data nodes")
        }
    }
}

fn open_files() -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let most = if failed == 0 { limit.rlim_max } else { 0 };
    let what = format!("{most} files may be open");
    if most >= OPEN_FILES_MIN {
        return Finding::well("files", what);
    }
    Finding::of("files", Level::Warn, what)
        .why("a process takes 20,000 connections, each of which is an open file")
        .then("raise the hard limit: LimitNOFILE= of the service, or limits.conf")
}

fn processors() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    match count {
        1 => Finding::of("processors", Level::Note, "1 may be used")
            .why("a data node has a thread for membership and one for each shard")
            .then("give a data node two or more"),
        _ => Finding::well("processors", format!("{count} may be used")),
    }
}

/// A data directory: whether it can be written, how much room there is, how fast a sync is.
fn directory(dir: &Path) -> Vec<Finding> {
    let name = dir.display();
    if !dir.is_dir() {
        return vec![
            Finding::of("directory", Level::Bad, format!("{name} is no directory"))
                .why("a process keeps its identity there")
                .then("make it, or check --dir"),
        ];
    }
    let space = match space(dir) {
        Ok((kind, free)) => vec![free_space(dir, free), file_system(dir, kind)],
        Err(error) => {
            vec![Finding::of("space", Level::Note, format!("{name}: {error}"))]
        }
    };
    space.into_iter().chain([sync(dir)]).collect()
}

fn free_space(dir: &Path, free: u64) -> Finding {
    let what = format!("{} are free in {}", bytes(free), dir.display());
    let level = match free {
        ..FREE_BYTES_LEAST => Level::Bad,
        FREE_BYTES_LEAST..FREE_BYTES_MIN => Level::Warn,
        _ => return Finding::well("space", what),
    };
    Finding::of("space", level, what)
        .why("redo and checkpoints need room, for a while about twice the size of the data")
        .then("make room; what a node does not need any more it removes by itself")
}

fn file_system(dir: &Path, kind: i64) -> Finding {
    const TMPFS: i64 = 0x0102_1994;
    const NFS: i64 = 0x6969;
    let what = |kind: &str| format!("{} is on {kind}", dir.display());
    match kind {
        TMPFS => Finding::of("filesystem", Level::Warn, what("tmpfs"))
            .why("it is memory: nothing of it is there after a loss of power")
            .then("use a disk where data matters"),
        NFS => Finding::of("filesystem", Level::Warn, what("NFS"))
            .why("locks and syncs are only as good as its server")
            .then("use a local disk"),
        _ => Finding::well("filesystem", what("a disk")),
    }
}

/// Kind of file system and free bytes for those who are not root.
fn space(dir: &Path) -> io::Result<(i64, u64)> {
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid and outlive the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let block = u64::try_from(stat.f_bsize).unwrap_or_default();
    Ok((stat.f_type, stat.f_bavail.saturating_mul(block)))
}

fn sync(dir: &Path) -> Finding {
    let times = match sync_times(dir) {
        Ok(times) => times,
        Err(error) => {
            let what = format!("{} cannot be written: {error}", dir.display());
            return Finding::of("sync", Level::Bad, what)
                .why("a data node writes its redo there")
                .then("check owner, rights and disk");
        }
    };
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let what = format!(
        "4 KiB are on the disk of {} after {:.2} ms, at worst {:.1} ms",
        dir.display(),
        ms(median),
        ms(worst)
    );
    let level = match median {
        median if median > SYNC_BAD => Level::Bad,
        median if median > SYNC_SLOW => Level::Warn,
        _ => return Finding::well("sync", what),
    };
    Finding::of("sync", level, what)
        .why("a commit with Durability::Disk waits for this, and all redo goes through it")
        .then("use a disk of its own, one with a cache that survives a loss of power")
}

/// How long it takes to write and sync a little, sorted. The file is gone afterwards.
fn sync_times(dir: &Path) -> io::Result<Vec<Duration>> {
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let times = write_and_sync(&path);
    let removed = fs::remove_file(&path);
    let mut times = times?;
    removed?;
    times.sort_unstable();
    Ok(times)
}

fn write_and_sync(path: &Path) -> io::Result<Vec<Duration>> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[b'.'; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let findings = directory(dir.path());
        let checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
        assert_eq!(checks, ["space", "filesystem", "sync"]);
        assert!(findings[2].what.contains("4 KiB are on the disk"), "{findings:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_directory_that_is_none_is_bad() {
        let findings = directory(Path::new("/proc/self/stat"));
        assert_eq!((findings.len(), findings[0].level), (1, Level::Bad));
        let refused = sync(Path::new("/proc"));
        assert_eq!((refused.check, refused.level), ("sync", Level::Bad));
    }

    #[test]
    fn levels_follow_the_free_space() {
        let level = |free| free_space(Path::new("/x"), free).level;
        assert_eq!(
            [level(0), level(1 << 30), level(8 << 30)],
            [Level::Bad, Level::Warn, Level::Well]
        );
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let findings = check(&[]);
        assert_eq!(findings.len(), 6);
        for finding in findings {
            assert_eq!(
                finding.level == Level::Well,
                finding.why.is_empty() && finding.then.is_empty() && finding.level != Level::Note,
                "{finding:?}"
            );
        }
    }
}
