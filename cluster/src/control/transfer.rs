//! Partitions that move to another node group: which step is due, and what a member gives up when
//! it answers one. The rules are in [`lockstep_proto::transfer`].
//!
//! A step waits until every node of the group that gets the partition has said, in the view that is
//! to be changed, that it is so far. Between two moves there is a pause, in which other changes of
//! view find their place.

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::PartitionId;
use lockstep_proto::process::{LogLevel, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::transfer::{TransferStep, receives};
use lockstep_proto::wire::control::{JoinStage, ViewChange};

use super::ControlCore;

impl ControlCore {
    /// The step that the partition on its way takes next, or that one begins with.
    pub(super) fn transfer_due(&mut self, now: Instant, out: &mut Outputs) -> Option<TransferStep> {
        let Some((partition, to)) = self.view.moving() else {
            if now < self.returns.transfers_after {
                return None;
            }
            let begin = self.view.next_transfer()?;
            if self.backup_holds() {
                if !std::mem::replace(&mut self.returns.transfers_wait, true) {
                    out.mark("transfer_waits_for_backup");
                    let text = "partitions are to move, and wait until a backup is written";
                    out.log(LogLevel::Info, text.to_owned());
                }
                return None;
            }
            self.returns.transfers_wait = false;
            if let TransferStep::Begin { partition, group } = begin {
                out.mark("transfer_begins");
                out.log(LogLevel::Info, format!("{partition} moves to node group {group}"));
            }
            return Some(begin);
        };
        let placement = self.view.placement(partition)?;
        let wanted = match to.attached {
            true => JoinStage::CaughtUp,
            false => JoinStage::Copied,
        };
        let is_there = |node| {
            let mut stages = self.returns.stages.iter();
            stages.any(|(other, stage)| *other == node && *stage >= wanted)
        };
        let mut nodes = self.view.members.iter().filter(|member| receives(placement, member));
        if !nodes.all(|member| is_there(member.instance)) {
            return None;
        }
        if !to.attached {
            out.mark("transfer_attached");
            return Some(TransferStep::Attach { partition });
        }
        out.mark("transfer_handed_over");
        Some(TransferStep::HandOver { partition })
    }

    /// Whether a backup is written: a partition would be gone from who has pinned its epoch, and
    /// with it the backup.
    fn backup_holds(&self) -> bool {
        let hasty = self.canary == Some(Canary::MoveDuringBackup);
        let there = self.returns.pinned.iter().any(|node| self.view.contains(*node));
        !hasty && (there || self.shards.iter().any(|shard| shard.backup_pinned))
    }

    /// The partition that a change gives to another node group, if its replicas here may not serve
    /// any more.
    pub(super) fn handed_by(&self, change: &ViewChange) -> Option<PartitionId> {
        match change.transfer? {
            TransferStep::HandOver { partition } if change.failed.is_empty() => Some(partition),
            _ => None,
        }
    }
}
