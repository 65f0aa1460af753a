//! Files that are to be removed, and those of them that mislead while they are still there.
//!
//! ```text
//!   first copy ──► checkpoint at e79 ──┐
//!   second copy begins                 │  e79 has nothing of what came in between, and the log
//!   ... ──► checkpoint at e172         │  of this life does not go on from it: it must be gone
//!   attached: the log closes epochs  ◄─┘  before this log leads anywhere
//! ```
//! Invariant: a partition counts as being on the disk only when no file of an earlier copy of the
//! same life can be found there any more, whenever the power fails.

use std::time::Duration;

use lockstep_proto::disk::{CheckpointName, Completion, Directory, FileName, Op, Request};
use lockstep_proto::ids::PartitionId;
use lockstep_proto::time::Instant;

/// How long after a failure files are removed again.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module text.
#[derive(Default)]
pub(super) struct Removals {
    gone: Vec<FileName>,
    /// Those that mislead, until their removal is durable.
    misleading: Vec<CheckpointName>,
    not_before: Instant,
}

impl Removals {
    /// Files that only take room.
    pub(super) fn add(&mut self, names: impl IntoIterator<Item = FileName>) {
        self.gone.extend(names);
    }

    /// A file that must not be found, if it is there at all.
    pub(super) fn add_misleading(&mut self, name: CheckpointName) {
        if !self.misleading.contains(&name) {
            self.misleading.push(name);
            self.gone.push(FileName::Checkpoint(name));
        }
    }

    /// Whether nothing on the disk misleads about a partition.
    pub(super) fn is_clean(&self, p: PartitionId) -> bool {
        self.misleading.iter().all(|name| name.partition != p)
    }

    /// Whether there is something to be removed; somebody may wait for it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.gone.is_empty() && now >= self.not_before
    }

    /// Whether the next request is to go before that of a checkpoint.
    pub(super) fn is_urgent(&self, now: Instant) -> bool {
        self.is_due(now) && !self.misleading.is_empty()
    }

    /// All of it, as one request.
    pub(super) fn take(&mut self) -> Request {
        let mut ops: Vec<Op> = self.gone.drain(..).map(Op::Remove).collect();
        ops.extend([Directory::Checkpoint, Directory::Redo].map(Op::SyncDirectory));
        Request { ops }
    }

    /// The request was executed, or a part of it. Files that only take room and are still there are
    /// found at the next start; the others are tried again.
    pub(super) fn on_done(&mut self, done: &Completion, now: Instant) {
        let removed = |name: &CheckpointName| {
            let name = FileName::Checkpoint(*name);
            done.ops.iter().any(|op| matches!(op, Op::Remove(other) if *other == name))
        };
        if done.failed.is_none() {
            self.misleading.retain(|name| !removed(name));
            return;
        }
        self.not_before = now + PAUSE;
        let again = self.misleading.iter().filter(|name| removed(name));
        self.gone.extend(again.copied().map(FileName::Checkpoint));
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::disk::DiskError;
    use lockstep_proto::ids::{Epoch, RestartGeneration};

    use super::*;

    #[test]
    fn what_misleads_is_tried_again_until_it_is_gone() {
        let (now, p) = (Instant::default(), PartitionId(3));
        let generation = RestartGeneration(0);
        let name = CheckpointName { partition: p, generation, epoch: Epoch(79) };
        let mut removals = Removals::default();
        assert!(!removals.is_due(now));
        removals.add_misleading(name);
        assert!(removals.is_urgent(now) && !removals.is_clean(p));
        assert!(removals.is_clean(PartitionId(4)));
        let Request { ops } = removals.take();
        assert!(!removals.is_due(now) && !removals.is_clean(p), "it is on its way");
        removals.on_done(&Completion { ops, failed: Some((0, DiskError::Failed)) }, now);
        assert!(!removals.is_due(now) && removals.is_due(now + PAUSE));
        let Request { ops } = removals.take();
        assert!(!removals.is_clean(p));
        removals.on_done(&Completion { ops, failed: None }, now);
        assert!(removals.is_clean(p) && !removals.is_due(now + PAUSE));
    }
}
