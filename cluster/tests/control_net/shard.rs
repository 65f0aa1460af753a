//! A shard core that answers its control core at once and remembers what it was told.

use std::collections::BTreeMap;

use lockstep_proto::durability::DiskReport;
use lockstep_proto::ids::{Epoch, NodeId, NodeInstance, PartitionId, Seq, ViewNumber};
use lockstep_proto::wire::shard_control::ShardControl;

/// What a node's one shard was told.
#[derive(Default)]
pub(crate) struct FakeShard {
    pub(crate) view: ViewNumber,
    pub(crate) leases: BTreeMap<NodeId, u64>,
    pub(crate) fenced: Vec<NodeInstance>,
    pub(crate) closed: Epoch,
    pub(crate) drained: bool,
    /// Transactions stay open.
    pub(crate) drains_never: bool,
    /// Answers nothing.
    pub(crate) stuck: bool,
    /// Finishes no epoch above this one.
    pub(crate) finishes: Option<Epoch>,
    /// What it says about its disk.
    pub(crate) disk: DiskReport,
    /// What it was told to be durable, and whether nothing happens.
    pub(crate) durable: Epoch,
    pub(crate) quiet: bool,
    /// Length of every log it holds.
    pub(crate) log_end: u64,
}

impl FakeShard {
    pub(super) fn answer(
        &mut self,
        message: ShardControl,
        partitions: &[PartitionId],
    ) -> Vec<ShardControl> {
        if self.stuck {
            return Vec::new();
        }
        match message {
            ShardControl::Fence { proposal, failed, .. } => {
                self.fenced = failed;
                let ends = partitions.iter().map(|p| (*p, Seq(self.log_end))).collect();
                vec![ShardControl::Fenced { proposal, ends }]
            }
            ShardControl::Enter { view } => {
                self.view = view.number;
                self.fenced.clear();
                vec![ShardControl::Entered { view: view.number }]
            }
            ShardControl::Leases { deadlines } => {
                self.leases = deadlines.iter().map(|(n, until)| (n.node, *until)).collect();
                Vec::new()
            }
            ShardControl::Tick { epoch, closed, pulse } => {
                self.durable = pulse.durable;
                self.quiet = pulse.quiet;
                self.closed = self.closed.max(closed);
                let epoch = self.finishes.map_or(epoch.before(), |most| epoch.before().min(most));
                let finished = ShardControl::Finished { view: self.view, epoch };
                vec![finished, ShardControl::Disk(self.disk)]
            }
            ShardControl::Ping { number } => vec![ShardControl::Pong { number }],
            ShardControl::Drain => {
                self.drained = !self.drains_never;
                if self.drained { vec![ShardControl::Drained] } else { Vec::new() }
            }
            other => panic!("not for a shard: {other:?}"),
        }
    }
}
