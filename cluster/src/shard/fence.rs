//! Fences: a proposal is being answered, so this shard refuses whom it drops, and stops appending
//! to the logs it leads and that get another primary.
//!
//! A planned change of primary is finished only when the new one has the old one's log end. So the
//! old one stops, and reports its ends when all of it is stable: then every replica has it. What is
//! asked of a stopped partition meanwhile is refused like a partition that is led elsewhere, or
//! dropped; the view that follows in any case asks and decides everything anew.
//!
//! A partition that another node group gets is not read here either from then on, by any replica:
//! the nodes of that group may act in the next view, and commit, before this one has heard of it.
//! A higher proposal does not change that, as the one before may be in force.

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{NodeInstance, PartitionId};
use lockstep_proto::process::Outputs;
use lockstep_proto::wire::shard_control::{ProposalId, ShardControl};

use super::ShardCore;

/// Which partitions are stopped, and what is to be reported when they are stable.
#[derive(Default)]
pub(super) struct Fence {
    /// The proposal to answer when everything below is stable.
    waiting: Option<ProposalId>,
    stopped: Vec<PartitionId>,
    /// Stopped at any moment of this view: what was sent to them may be lost.
    ever: Vec<PartitionId>,
    /// Answered to be another group's, at any moment of this view.
    handed: Vec<PartitionId>,
}

impl Fence {
    /// Whether nothing may be appended to a partition.
    pub(super) fn stops(&self, p: PartitionId) -> bool {
        !self.stopped.is_empty() && self.stopped.contains(&p)
    }

    /// Whether a partition was stopped in the view that has just ended.
    pub(super) fn has_stopped(&self, p: PartitionId) -> bool {
        self.ever.contains(&p)
    }

    /// Whether the partition may be another node group's already.
    pub(super) fn hands_over(&self, p: PartitionId) -> bool {
        !self.handed.is_empty() && self.handed.contains(&p)
    }

    /// A view begins: the proposals of the one before are history.
    pub(super) fn enter(&mut self) {
        self.waiting = None;
        self.stopped.clear();
        self.handed.clear();
    }

    /// What was lost is being asked anew.
    pub(super) fn forget_stopped(&mut self) {
        self.ever.clear();
    }
}

impl ShardCore {
    /// Refuses everything from the failed from now on; what needs nobody of them goes on, but for
    /// the partitions that move.
    pub(super) fn on_fence(
        &mut self,
        proposal: ProposalId,
        failed: Vec<NodeInstance>,
        (moving, handed): (&[PartitionId], Option<PartitionId>),
        out: &mut Outputs,
    ) {
        self.fenced = failed;
        if let Some(p) = handed.filter(|p| !self.fence.hands_over(*p)) {
            self.hand_over(p, out);
        }
        let led = self.parts.iter().flatten().filter(|part| part.leads).map(|part| part.id);
        self.fence.stopped = led.filter(|p| moving.contains(p)).collect();
        if !self.fence.stopped.is_empty() {
            out.mark("partition_stops_to_move");
        }
        let stopped = self.fence.stopped.iter().copied();
        self.fence.ever.extend(stopped);
        self.fence.waiting = Some(proposal);
        self.report_fenced(out);
    }

    /// A partition that may be another group's from now on.
    fn hand_over(&mut self, p: PartitionId, out: &mut Outputs) {
        self.fence.handed.push(p);
        if self.canary == Some(Canary::DropBeforeStored) && self.serves(p) {
            out.mark("files_dropped_early");
            self.drop_checkpoints(p);
        }
    }

    /// Reports the log ends once what has stopped is stable.
    pub(super) fn report_fenced(&mut self, out: &mut Outputs) {
        let Some(proposal) = self.fence.waiting else { return };
        let stable = |p: &PartitionId| self.part(*p).stable == self.part(*p).end;
        if !self.fence.stopped.iter().all(stable) {
            return;
        }
        self.fence.waiting = None;
        let ends = self.parts.iter().flatten().map(|part| (part.id, part.end)).collect();
        self.report(&ShardControl::Fenced { proposal, ends }, out);
    }
}
