//! How long older versions of rows are kept: for readers at epochs that closed a short while ago or
//! that somebody has pinned, and for the checkpoint that is being written.

use lockstep_proto::ids::Epoch;
use lockstep_proto::limits::SNAPSHOT_EPOCHS_KEPT;
use lockstep_proto::process::{LogLevel, Outputs};

use super::ShardCore;

impl ShardCore {
    /// Frees what nobody can read any more.
    pub(super) fn free_versions(&mut self, out: &mut Outputs) {
        let tables = self.parts.iter().flatten().flat_map(|part| part.tables.values());
        let kept: usize = tables.map(|table| table.rows.versions_bytes()).sum();
        let too_much = kept as u64 > self.data_memory / 4;
        if self.snapshots.expire_pins(self.now, too_much) {
            let text = "too many older versions of rows are kept: ongoing snapshots end";
            out.log(LogLevel::Warn, text);
        }
        let recent = Epoch(self.closed.0.saturating_sub(SNAPSHOT_EPOCHS_KEPT));
        let horizon = self.snapshots.oldest_pin().map_or(recent, |pin| recent.min(pin));
        self.snapshots.freed(horizon);
        for part in self.parts.iter_mut().flatten() {
            let pinned = self.checkpoints.pinned(part.id).unwrap_or(horizon);
            let horizon = horizon.min(pinned);
            part.tables.values_mut().for_each(|table| table.rows.free(horizon));
        }
    }
}
