//! Ready files: how a process tells whoever started it that it listens, and where.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a ready file is looked for. Starting is rare; a file is the simplest thing that works
/// for a parent that keeps no pipe to its child.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Puts the file in place as a whole.
///
/// # Errors
/// Those of the file system.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("new");
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

/// What a ready file says: where a process listens, and where its admin port is.
#[must_use]
pub fn text(addr: SocketAddr, admin: Option<SocketAddr>) -> String {
    match admin {
        Some(admin) => format!("{addr}\nadmin {admin}\n"),
        None => format!("{addr}\n"),
    }
}

/// The address of the admin port in a ready file, if there is one.
#[must_use]
pub fn admin(text: &str) -> Option<SocketAddr> {
    text.lines().find_map(|line| line.strip_prefix("admin ")?.parse().ok())
}

/// The address in a ready file: its first word.
///
/// # Errors
/// If it is none.
pub fn addr(text: &str) -> io::Result<SocketAddr> {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse().map_err(|_| io::Error::other(format!("{word:?} is not an address")))
}

/// Waits for the file for as long as `alive`, and returns what it says.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if it does not come by `deadline`, another error if `alive` ends or
/// the file system refuses.
pub fn wait(path: &Path, deadline: Instant, mut alive: impl FnMut() -> bool) -> io::Result<String> {
    loop {
        match fs::read_to_string(path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it did not get ready in time",
                ));
            }
            Err(_) if !alive() => return Err(io::Error::other("it ended")),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
