//! Waiting for conditions. A test that sleeps for a fixed time is slow on a fast machine and red
//! on a slow one; a test that waits for what it needs is neither.

use std::time::{Duration, Instant};

/// How often a condition is looked at: often enough not to matter, seldom enough not to disturb.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long anything may take on a loaded machine before the test calls it broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives a value, at most [`PATIENCE`].
///
/// # Panics
/// When it does not, naming `what`.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, condition)
}

/// Waits until `condition` gives a value, at most `patience`.
///
/// # Panics
/// When it does not, naming `what`.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match poll(patience, condition) {
        Some(value) => value,
        None => panic!("waited {patience:?} in vain for {what}"),
    }
}

/// Waits until `condition` gives a value; `None` if it does not in time.
pub fn poll<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let late = Instant::now() >= deadline;
        match condition() {
            Some(value) => return Some(value),
            None if late => return None,
            None => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_least_once_and_gives_up_in_time() {
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
        let mut looks = 0;
        let none: Option<()> = poll(Duration::from_millis(20), || {
            looks += 1;
            None
        });
        assert_eq!(none, None);
        assert!(looks >= 2);
    }

    #[test]
    #[should_panic(expected = "in vain for the moon")]
    fn names_what_did_not_come() {
        within(Duration::ZERO, "the moon", || None::<()>);
    }
}
