//! Every kind of process the world can run, behind the one trait. An enum rather than a trait
//! object, because the checks look inside.

use lockstep_cluster::control::ControlCore;
use lockstep_cluster::newcomer::NewcomerCore;
use lockstep_cluster::restart::RestartCore;
use lockstep_cluster::shard::ShardCore;
use lockstep_mgmt::core::MgmtCore;
use lockstep_proto::arbitrator::ApiArbitrator;
use lockstep_proto::process::{Input, Outputs, Process};
use lockstep_proto::time::Instant;

use super::workload::ClientProcess;

/// A process of the simulated cluster.
pub enum Core {
    /// A node's control core.
    Control(Box<ControlCore>),
    /// A data node without an identity.
    Newcomer(Box<NewcomerCore>),
    /// A node that was started again and looks for its cluster.
    Restart(Box<RestartCore>),
    /// A shard core.
    Shard(Box<ShardCore>),
    /// A management server.
    Mgmt(Box<MgmtCore>),
    /// An API node's arbitrator.
    Api(Box<ApiArbitrator>),
    /// A client with its tasks.
    Client(Box<ClientProcess>),
    /// A process of the simulator's own tests.
    Toy(Box<dyn Process>),
}

impl Core {
    fn process(&mut self) -> &mut dyn Process {
        match self {
            Self::Control(core) => core.as_mut(),
            Self::Newcomer(core) => core.as_mut(),
            Self::Restart(core) => core.as_mut(),
            Self::Shard(core) => core.as_mut(),
            Self::Mgmt(core) => core.as_mut(),
            Self::Api(core) => core.as_mut(),
            Self::Client(core) => core.as_mut(),
            Self::Toy(core) => core.as_mut(),
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
            Self::Control(core) => core.next_timeout(),
            Self::Newcomer(core) => core.next_timeout(),
            Self::Restart(core) => core.next_timeout(),
            Self::Shard(core) => core.next_timeout(),
            Self::Mgmt(core) => core.next_timeout(),
            Self::Api(core) => core.next_timeout(),
            Self::Client(core) => core.next_timeout(),
            Self::Toy(core) => core.next_timeout(),
        }
    }
}
