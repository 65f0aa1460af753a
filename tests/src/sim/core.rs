//! Every kind of process the world can run, behind the one trait. An enum rather than a trait
//! object, because the checks look inside.

use lockstep_proto::process::{Input, Outputs, Process};
use lockstep_proto::time::Instant;

/// A process of the simulated cluster.
pub enum Core {
    /// A process of the simulator's own tests.
    Toy(Box<dyn Process>),
}

impl Core {
    fn process(&mut self) -> &mut dyn Process {
        match self {
            Self::Toy(process) => process.as_mut(),
        }
    }

    /// See [`Process::handle`].
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        self.process().handle(now, input, out);
    }

    /// See [`Process::settle`].
    pub fn settle(&mut self, now: Instant, out: &mut Outputs) {
        self.process().settle(now, out);
    }

    /// See [`Process::next_timeout`].
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match self {
            Self::Toy(process) => process.next_timeout(),
        }
    }
}
