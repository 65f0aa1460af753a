//! Ends a recorded dev cluster: in good order if it can, by force if it must.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::process::{ProcessId, Signal};
use super::state::DevState;
use crate::cli::error::{CliError, CliResult, Trouble};

/// How long processes may take to leave in good order before they are killed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How a dev cluster ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stopped {
    /// Processes that left by themselves.
    pub left: usize,
    /// Processes that had to be killed.
    pub killed: usize,
    /// Processes that were gone before.
    pub gone: usize,
}

/// Ends all processes of a dev cluster and removes its directory unless it is to be kept.
///
/// # Errors
/// If a process cannot be ended.
pub fn stop(state: &DevState) -> CliResult<Stopped> {
    let stopped = end(state.processes().collect()).map_err(|error| {
        CliError::new(Trouble::Process, "the dev cluster cannot be stopped").why(error.to_string())
    })?;
    if !state.keep {
        match fs::remove_dir_all(&state.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CliError::file("remove", &state.dir, &error));
            }
            _ => {}
        }
    }
    Ok(stopped)
}

/// Asks all at once, then waits for each, then kills who is left.
fn end(processes: Vec<ProcessId>) -> io::Result<Stopped> {
    let mut stopped = Stopped::default();
    let mut leaving = Vec::new();
    for process in processes {
        if process.signal(Signal::Terminate)? {
            // One that is paused must run to hear it.
            process.signal(Signal::Continue)?;
            leaving.push(process);
        } else {
            stopped.gone += 1;
        }
    }
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    let mut deaf = Vec::new();
    for process in leaving {
        if process.wait_gone(deadline.saturating_duration_since(Instant::now()))? {
            stopped.left += 1;
        } else {
            process.signal(Signal::Kill)?;
            deaf.push(process);
        }
    }
    for process in deaf {
        if !process.wait_gone(KILL_TIMEOUT)? {
            return Err(io::Error::other(format!("process {} survives SIGKILL", process.pid)));
        }
        stopped.killed += 1;
    }
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn shell(script: &str) -> (Child, ProcessId) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        (child, process)
    }

    #[test]
    fn who_listens_leaves_even_when_paused() {
        let (mut willing, first) = shell("exec sleep 60");
        let (mut paused, second) = shell("exec sleep 60");
        second.signal(Signal::Stop).unwrap();
        let gone = ProcessId { start_ticks: first.start_ticks + 1, ..first };
        let stopped = end(vec![first, second, gone]).unwrap();
        assert_eq!(stopped, Stopped { left: 2, killed: 0, gone: 1 });
        willing.wait().unwrap();
        paused.wait().unwrap();
    }
}
