//! What shards tell people of their way back to being in sync.

use std::collections::BTreeMap;

use lockstep_cluster::shard::ShardCore;
use lockstep_proto::ids::NodeInstance;
use lockstep_proto::wire::progress::JoinProgress;

use crate::sim::host::ProcId;

/// What each shard told last, by life and process.
#[derive(Default)]
pub struct ProgressBook {
    told: BTreeMap<(NodeInstance, usize), JoinProgress>,
}

impl ProgressBook {
    /// Looks at a shard after its turn: it takes nothing back of what it has counted, its figures
    /// fit each other, and it has finished when, and only when, nothing joins any more.
    pub fn judge(&mut self, proc: ProcId, shard: &ShardCore) -> Option<String> {
        let (now, joining) = shard.join_inspection()?;
        let key = (shard.instance(), proc.index());
        let before = self.told.get(&key);
        if before == Some(&now) {
            return None;
        }
        let counted = |join: &JoinProgress| {
            let copies = u64::from(join.copies_full) + u64::from(join.copies_delta);
            [join.rows, join.bytes, join.records, copies, join.elapsed_ms, join.finished.into()]
        };
        let grows = |before: &JoinProgress| {
            counted(before).iter().zip(counted(&now)).all(|(old, new)| *old <= new)
        };
        let fits = now.partitions_kept <= now.partitions_copied
            && now.partitions_copied <= now.partitions
            && now.partitions_copied <= now.copies_full.saturating_add(now.copies_delta)
            && now.rows_expected.is_none_or(|expected| expected >= now.rows);
        let ends = now.partitions == 0 || now.finished == (joining == 0);
        if before.is_none_or(grows) && fits && ends {
            self.told.insert(key, now);
            return None;
        }
        let who = shard.instance();
        Some(format!("{who} told {before:?}, and now, {joining} partitions joining, {now:?}"))
    }
}
