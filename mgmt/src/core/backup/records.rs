//! What is remembered of backups, here and at other management servers.
//!
//! Each record has an owner, the server that makes the backup or has taken it over, and counts its
//! changes. Whoever hears of a later change believes it; what an owner says of its own is news even
//! between two changes.
//!
//! Invariant: records of one backup that two servers have are equal once they have talked, and what
//! has been deleted stays deleted.

use std::collections::BTreeSet;

use lockstep_proto::ids::{BackupId, MgmtId, NodeId};
use lockstep_proto::limits::BACKUPS_REMEMBERED_MAX;
use lockstep_proto::stored::StoredBackups;
use lockstep_proto::wire::backup::{BackupRecord, BackupState};

/// What has come of another server's list.
#[derive(Default)]
pub(super) struct Merged {
    /// Something is to be stored.
    pub(super) changed: bool,
    /// Backups that were this server's and are another's now.
    pub(super) taken: Vec<BackupId>,
    /// Backups of a life of this server of which it knows nothing else any more.
    pub(super) left: Vec<BackupId>,
}

/// See the module text.
pub(super) struct Records {
    me: MgmtId,
    all: StoredBackups,
}

/// Whether nothing more becomes of a backup by itself.
pub(super) fn is_over(state: &BackupState) -> bool {
    matches!(state, BackupState::Done | BackupState::Failed(_) | BackupState::Deleted)
}

impl Records {
    /// From the file of an earlier life, which ended what was under way; and the backups whose
    /// manifests may be left here.
    pub(super) fn restore(me: MgmtId, mut all: StoredBackups) -> (Self, BTreeSet<BackupId>) {
        let mut left = BTreeSet::new();
        for record in &mut all.list {
            let ours = record.by == me;
            if ours && !is_settled(&record.state) {
                fail(record);
                left.insert(record.backup);
            }
            // One that was removed by another may have left its manifest with its first owner.
            let gone = matches!(record.state, BackupState::Failed(_) | BackupState::Deleted);
            if ours && record.state == BackupState::Removing
                || gone && (!ours || !record.unwanted.is_empty())
            {
                left.insert(record.backup);
            }
        }
        (Self { me, all }, left)
    }

    /// What is to be stored.
    pub(super) fn stored(&self) -> &StoredBackups {
        &self.all
    }

    /// The newest ones, oldest first.
    pub(super) fn list(&self) -> &[BackupRecord] {
        &self.all.list
    }

    pub(super) fn record(&self, backup: BackupId) -> Option<&BackupRecord> {
        self.all.list.iter().find(|record| record.backup == backup)
    }

    pub(super) fn record_mut(&mut self, backup: BackupId) -> Option<&mut BackupRecord> {
        self.all.list.iter_mut().find(|record| record.backup == backup)
    }

    /// The one of this server's that is being removed because an operator wants it.
    pub(super) fn removing(&self) -> Option<BackupId> {
        let own = |record: &&BackupRecord| record.by == self.me;
        let mut removing = self.all.list.iter().filter(own);
        removing.find(|record| record.state == BackupState::Removing).map(|record| record.backup)
    }

    /// Adds one; the oldest is forgotten where there are too many.
    pub(super) fn add(&mut self, record: BackupRecord) {
        if self.all.list.len() >= BACKUPS_REMEMBERED_MAX {
            self.all.list.remove(0);
        }
        let at = self.all.list.partition_point(|other| other.backup < record.backup);
        self.all.list.insert(at, record);
    }

    /// The first of this server's backups that `wants` something, given where it has unwanted
    /// files.
    pub(super) fn find_own(
        &self,
        wants: impl Fn(BackupId, &[NodeId]) -> bool,
    ) -> Option<&BackupRecord> {
        self.all.list.iter().find(|record| {
            let nodes: &[NodeId] = match record.by == self.me && is_settled(&record.state) {
                true => &record.unwanted,
                false => &[],
            };
            is_settled(&record.state) && wants(record.backup, nodes)
        })
    }

    /// Takes over what another server knows better.
    pub(super) fn merge(&mut self, from: MgmtId, list: Vec<BackupRecord>) -> Merged {
        let mut merged = Merged::default();
        for mut theirs in list {
            let known = self.record(theirs.backup).is_some_and(|own| own.turn >= theirs.turn);
            if theirs.by == self.me && !known && !is_settled(&theirs.state) {
                fail(&mut theirs);
                merged.left.push(theirs.backup);
            }
            let Some(own) = self.all.list.iter_mut().find(|own| own.backup == theirs.backup) else {
                let full = self.all.list.len() >= BACKUPS_REMEMBERED_MAX;
                let oldest = self.all.list.first().map(|record| record.backup);
                if !full || oldest.is_some_and(|oldest| theirs.backup > oldest) {
                    self.add(theirs);
                    merged.changed = true;
                }
                continue;
            };
            let (known, told) = ((own.turn, own.by), (theirs.turn, theirs.by));
            if told > known {
                if own.by == self.me && theirs.by != self.me {
                    merged.taken.push(own.backup);
                }
                *own = theirs;
                merged.changed = true;
            } else if told == known && from == theirs.by {
                *own = theirs;
            }
        }
        merged
    }
}

/// The server that was at it has ended.
fn fail(record: &mut BackupRecord) {
    record.state = BackupState::Failed("the management server ended meanwhile".to_owned());
    record.turn = record.turn.saturating_add(1);
}

/// Whether files that are not wanted may be removed: it is over, or is being removed.
fn is_settled(state: &BackupState) -> bool {
    is_over(state) || *state == BackupState::Removing
}
