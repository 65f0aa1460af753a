//! The event log at a management server: what it is told of the cluster and does itself, written
//! down with its own clock, before anybody is told that it has been.

use lockstep_proto::events::{EventLog, Happening};
use lockstep_proto::ids::ClusterId;
use lockstep_proto::process::Outputs;
use lockstep_proto::stored::StoredBackups;
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::backup::{BackupRecord, BackupState};

use super::{MgmtCore, State, Told};

/// See the module text.
pub(super) struct Chronicle {
    log: EventLog,
    /// The backups up to which it tells.
    backups: Vec<BackupRecord>,
    /// Wall clock minus boot clock at the start, milliseconds.
    wall_offset_ms: u64,
}

impl Chronicle {
    /// From the files of an earlier life. A log of another cluster, to which the directory once
    /// belonged, is nobody's.
    pub(super) fn restore(
        log: Option<EventLog>,
        cluster: Option<ClusterId>,
        backups: Option<&StoredBackups>,
        wall_offset_ms: u64,
    ) -> Self {
        let log = log.filter(|log| cluster.is_some() && log.cluster() == cluster);
        let backups = backups.map(|stored| stored.list.clone()).unwrap_or_default();
        Self { log: log.unwrap_or_default(), backups, wall_offset_ms }
    }

    pub(super) fn log(&self) -> &EventLog {
        &self.log
    }

    /// Writes down what this view tells, and that the register for it is missing; true if the log
    /// is to be stored.
    pub(super) fn on_view(&mut self, now: Instant, view: &View, register_lost: bool) -> bool {
        let when_ms = self.wall_ms(now);
        let news = self.log.note_view(when_ms, view);
        let lost = register_lost && self.log.note_register_lost(when_ms);
        news || lost
    }

    /// Writes down what has become of backups; true if the log is to be stored.
    pub(super) fn on_backups(&mut self, now: Instant, records: &[BackupRecord]) -> bool {
        let what: Vec<Happening> = records
            .iter()
            .filter_map(|record| {
                let before = self.backups.iter().find(|known| known.backup == record.backup);
                happened(before.map(|known| &known.state), record)
            })
            .collect();
        self.backups = records.to_vec();
        let news = !what.is_empty();
        self.log.note(self.wall_ms(now), what);
        news
    }

    fn wall_ms(&self, now: Instant) -> u64 {
        self.wall_offset_ms + now.0 / 1_000_000
    }
}

impl MgmtCore {
    /// What has happened, as far as it was told.
    #[must_use]
    pub fn events(&self) -> &EventLog {
        self.chronicle.log()
    }

    /// Writes down what the view tells, before whoever told it is answered.
    pub(super) fn note_view(&mut self, register_lost: bool, out: &mut Outputs) {
        let State::Created(created) = &self.state else { return };
        let view = self.chronicle.on_view(self.now, created.view(), register_lost);
        let backups = self.chronicle.on_backups(self.now, self.backups.records());
        if view || backups {
            self.vault.store(self.chronicle.log(), out);
        }
    }

    /// Stores what is known of backups, after the log that tells of it.
    pub(super) fn store_backups(&mut self, changed: bool, out: &mut Outputs) {
        if !changed {
            return;
        }
        if self.chronicle.on_backups(self.now, self.backups.records()) {
            self.vault.store(self.chronicle.log(), out);
        }
        let token = self.vault.store(self.backups.stored(), out);
        self.backups.on_storing(token);
        let news: Vec<_> = self.backups.news().collect();
        for (link, message) in news {
            self.tell(Told::Backup { link, message }, out);
        }
    }
}

fn happened(before: Option<&BackupState>, record: &BackupRecord) -> Option<Happening> {
    let backup = record.backup;
    if before.map(std::mem::discriminant) == Some(std::mem::discriminant(&record.state)) {
        return None;
    }
    match &record.state {
        BackupState::Done => {
            Some(Happening::BackupDone { backup, epoch: record.epoch, rows: record.rows })
        }
        BackupState::Failed(why) => Some(Happening::BackupFailed { backup, why: why.clone() }),
        BackupState::Deleted => Some(Happening::BackupDeleted { backup }),
        BackupState::Starting | BackupState::Writing | BackupState::Finishing => {
            before.is_none().then_some(Happening::BackupBegun { backup })
        }
        BackupState::Removing => None,
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::ids::{BackupId, Epoch, MgmtId};

    use super::*;

    fn record(state: BackupState) -> BackupRecord {
        BackupRecord {
            backup: BackupId(7),
            by: MgmtId(1),
            turn: 1,
            dir: None,
            asked_ms: 5,
            state,
            epoch: Epoch(90),
            rows: 11,
            row_bytes: 0,
            file_bytes: 0,
            partitions: (0, 4),
            parts_at: Vec::new(),
            unwanted: Vec::new(),
        }
    }

    fn names(chronicle: &Chronicle) -> Vec<&'static str> {
        chronicle.log().events().iter().map(|event| event.what.name()).collect()
    }

    #[test]
    fn what_becomes_of_a_backup_is_told_once() {
        let mut chronicle = Chronicle::restore(None, None, None, 100);
        let now = Instant(3_000_000);
        let stages = [BackupState::Starting, BackupState::Writing, BackupState::Done];
        let told = stages.map(|state| chronicle.on_backups(now, &[record(state)]));
        assert_eq!(told, [true, false, true]);
        assert!(!chronicle.on_backups(now, &[record(BackupState::Done)]));
        assert!(!chronicle.on_backups(now, &[record(BackupState::Removing)]));
        assert!(chronicle.on_backups(now, &[record(BackupState::Deleted)]));
        assert_eq!(names(&chronicle), ["backup_begun", "backup_done", "backup_deleted"]);
        let event = &chronicle.log().events()[1];
        let done = Happening::BackupDone { backup: BackupId(7), epoch: Epoch(90), rows: 11 };
        assert_eq!((&event.what, event.when_ms), (&done, 103));
    }

    #[test]
    fn a_backup_that_ended_with_its_server_is_told_when_that_is_back() {
        let before = StoredBackups { list: vec![record(BackupState::Writing)] };
        let mut chronicle = Chronicle::restore(None, None, Some(&before), 0);
        let failed = record(BackupState::Failed("it ended".into()));
        assert!(chronicle.on_backups(Instant(0), std::slice::from_ref(&failed)));
        assert_eq!(names(&chronicle), ["backup_failed"]);
        let known = StoredBackups { list: vec![failed.clone()] };
        let mut chronicle = Chronicle::restore(None, None, Some(&known), 0);
        assert!(!chronicle.on_backups(Instant(0), &[failed]));
    }
}
