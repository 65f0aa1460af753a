//! Ready files: how a process tells whoever started it that it listens, and where.

use std::fs;
use std::io;
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

/// Waits for the file and returns what it says.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if it does not come, or those of the file system.
pub fn wait(path: &Path, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    loop {
        match fs::read_to_string(path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "did not get ready"));
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
