//! How long older versions of rows are kept: for readers at epochs that closed a short while ago.

use lockstep_proto::ids::Epoch;
use lockstep_proto::limits::SNAPSHOT_EPOCHS_KEPT;

use super::ShardCore;

impl ShardCore {
    /// Nobody reads at an epoch before this one.
    pub(super) fn horizon(&self) -> Epoch {
        Epoch(self.closed.0.saturating_sub(SNAPSHOT_EPOCHS_KEPT))
    }

    /// Frees what nobody can read any more.
    pub(super) fn free_versions(&mut self) {
        let horizon = self.horizon();
        for part in self.parts.iter_mut().flatten() {
            let pinned = self.checkpoints.pinned(part.id).unwrap_or(horizon);
            let horizon = horizon.min(pinned);
            part.tables.values_mut().for_each(|table| table.rows.free(horizon));
        }
    }
}
