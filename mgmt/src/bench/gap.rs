//! How long a client waits for its next acknowledgement around a fault.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// When the fault happened, if it has; shared by the one who causes it and all who watch.
#[derive(Clone, Default, Debug)]
pub struct Fault(Rc<Cell<Option<Instant>>>);

impl Fault {
    /// The fault happens now.
    pub fn happens(&self) {
        self.0.set(Some(Instant::now()));
    }

    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.0.get()
    }
}

/// The longest time between successive acknowledgements of one task, counting only those that end
/// after the fault.
#[derive(Debug)]
pub struct Gap {
    fault: Fault,
    last: Instant,
    longest: Duration,
    /// When the longest ended.
    longest_until: Instant,
    ended: bool,
}

impl Gap {
    /// Starts to watch.
    #[must_use]
    pub fn new(fault: &Fault) -> Self {
        let (fault, now) = (fault.clone(), Instant::now());
        Self { fault, last: now, longest: Duration::ZERO, longest_until: now, ended: false }
    }

    /// An acknowledgement came.
    pub fn acknowledged(&mut self) {
        let now = Instant::now();
        if self.fault.at().is_some() && now - self.last > self.longest {
            self.longest = now - self.last;
            self.longest_until = now;
        }
        self.last = now;
    }

    /// Whether the fault has happened.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.fault.at().is_some()
    }

    /// The task stops by itself: what comes later is not waiting.
    pub fn end(&mut self) {
        if self.longest() > self.longest {
            self.longest = self.longest();
            self.longest_until = Instant::now();
        }
        self.ended = true;
    }

    /// When the longest that has ended did.
    #[must_use]
    pub fn longest_until(&self) -> Instant {
        self.longest_until
    }

    /// The longest so far; one that still goes on counts.
    #[must_use]
    pub fn longest(&self) -> Duration {
        match self.fault.at() {
            None => Duration::ZERO,
            Some(_) if self.ended => self.longest,
            Some(_) => self.longest.max(self.last.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gaps_that_end_after_the_fault_count() {
        let fault = Fault::default();
        let mut gap = Gap::new(&fault);
        gap.acknowledged();
        assert_eq!(gap.longest(), Duration::ZERO);
        fault.happens();
        let since = gap.last;
        while since.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        assert!(gap.longest() >= Duration::from_millis(3), "it still goes on");
        gap.acknowledged();
        let longest = gap.longest;
        assert!(longest >= Duration::from_millis(3));
        gap.end();
        let ended = gap.longest();
        while since.elapsed() < Duration::from_millis(9) {
            std::hint::spin_loop();
        }
        assert_eq!(gap.longest(), ended, "nobody waits any more");
    }
}
