//! Child processes of this machine: started apart from us, watched and signalled without ever
//! hitting a stranger that got the same number.
//!
//! Invariant: a signal goes out only through a pidfd whose process was compared with the start
//! time recorded when we started it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A process by number and start time: the two together are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's number.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub start_ticks: u64,
}

/// What we may do to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM: leave in good order.
    Terminate,
    /// SIGKILL: gone at once.
    Kill,
    /// SIGSTOP: silent until continued.
    Stop,
    /// SIGCONT.
    Continue,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// How a process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Running or sleeping.
    Running,
    /// Stopped by a signal.
    Stopped,
    /// Not there any more.
    Gone,
}

impl Condition {
    /// The word for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "paused",
            Self::Gone => "gone",
        }
    }
}

impl ProcessId {
    /// The identity of a running process.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = Stat::read(pid)?;
        Ok(Self { pid, start_ticks: stat.start_ticks })
    }

    /// How it is doing now.
    #[must_use]
    pub fn condition(self) -> Condition {
        match Stat::read(self.pid) {
            Ok(stat) if stat.start_ticks != self.start_ticks => Condition::Gone,
            // Its files are held for as long as one of its threads is on its way out.
            Ok(Stat { state: b'Z' | b'X', .. }) if threads(self.pid) > 1 => Condition::Running,
            Ok(Stat { state: b'Z' | b'X', .. }) | Err(_) => Condition::Gone,
            Ok(Stat { state: b'T' | b't', .. }) => Condition::Stopped,
            Ok(_) => Condition::Running,
        }
    }

    /// Sends a signal; `false` if the process is gone.
    ///
    /// # Errors
    /// Those of the kernel, such as missing rights.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        // SAFETY: the descriptor is open and the info pointer may be null.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                signal.number(),
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(true),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        }
    }

    /// Waits until it is gone; `false` if it is still there after `timeout`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn wait_gone(self, timeout: Duration) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(true) };
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one valid pollfd.
            let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
            match io::Error::last_os_error() {
                _ if ready > 0 => return Ok(true),
                _ if ready == 0 => return Ok(false),
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }

    /// A descriptor of exactly this process, or `None` if it is gone.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        // SAFETY: plain system call; the result is checked.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            let gone = matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL));
            return if gone { Ok(None) } else { Err(error) };
        }
        let fd = i32::try_from(fd).expect("descriptors are small");
        // SAFETY: just opened and owned by nobody else.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Opened first, compared second: whatever is alive now cannot be replaced behind the pidfd.
        Ok((self.condition() != Condition::Gone).then_some(pidfd))
    }
}

/// How many threads a process has that are not gone.
fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// The fields of `/proc/PID/stat` that matter here.
struct Stat {
    state: u8,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command's name may hold spaces and parentheses; the fields follow the last one.
        let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
        let parsed = fields.and_then(|fields| {
            let state = *fields.first()?.as_bytes().first()?;
            Some(Self { state, start_ticks: fields.get(19)?.parse().ok()? })
        });
        parsed.ok_or_else(|| io::Error::other("unexpected form of /proc/PID/stat"))
    }
}

/// How a child is tied to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tie {
    /// It outlives us: a session of its own.
    Detached,
    /// It stays in our session; it is told to die with us by its own arguments.
    Child,
}

/// Starts this very binary with `args`, its output appended to `log`, with none of our descriptors
/// and in the directory `dir`.
///
/// # Errors
/// If the log cannot be opened or the process cannot be started.
pub fn spawn_self(args: &[OsString], dir: &Path, log: &Path, tie: Tie) -> io::Result<Child> {
    let log = open_log(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // What our caller left open (pipes of a test harness) must not stay open in a child.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if tie == Tie::Detached && libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Asks the kernel to end this process when the one that started it ends.
///
/// # Errors
/// If the parent is gone already, or the kernel refuses.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain system calls.
    let failed = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: cannot fail.
    match unsafe { libc::getppid() } {
        1 => Err(io::Error::other("the process that started this one is gone")),
        _ => Ok(()),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The last lines of a log, for an error message.
#[must_use]
pub fn log_tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n        ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_only_the_process_that_was_recorded() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        assert_eq!(id.condition(), Condition::Running);
        let stranger = ProcessId { start_ticks: id.start_ticks + 1, ..id };
        assert_eq!(stranger.condition(), Condition::Gone);
        assert!(!stranger.signal(Signal::Kill).unwrap());
        assert!(stranger.wait_gone(Duration::ZERO).unwrap());
        assert!(!id.wait_gone(Duration::ZERO).unwrap());
        assert!(id.signal(Signal::Kill).unwrap());
        assert!(id.wait_gone(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert_eq!(id.condition(), Condition::Gone);
    }

    #[test]
    fn a_stopped_process_is_told_apart() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(id.signal(Signal::Stop).unwrap());
        while id.condition() == Condition::Running {
            std::thread::yield_now();
        }
        assert_eq!(id.condition(), Condition::Stopped);
        assert!(id.signal(Signal::Kill).unwrap());
        child.wait().unwrap();
    }
}
