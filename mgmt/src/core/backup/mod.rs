//! Backups at a management server: what operators want, what becomes of it, and what is remembered.
//!
//! * `job`: one backup on its way, or one whose files are removed.
//!
//! One job at a time. What operators are told is on disk first, like everything a management
//! server says; a job that was under way when the server ended has failed, and says so at the next
//! start.
//!
//! Invariant: a backup is done when its manifest is on disk, and a manifest is written only when
//! every partition is in exactly one part that its writer has promised to keep.

mod job;
mod shards;
#[cfg(test)]
mod tests;

use lockstep_proto::disk::Completion;
use lockstep_proto::ids::{BackupId, Epoch, NodeInstance, ShardId};
use lockstep_proto::limits::BACKUPS_REMEMBERED_MAX;
use lockstep_proto::process::{LinkId, Outputs};
use lockstep_proto::stored::StoredBackups;
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord, BackupState, Manifest};

use job::Job;

/// What a call has come to.
#[derive(Default)]
pub(super) struct Outcome {
    /// The records have changed: they are to be stored before the answer is told.
    pub(super) changed: bool,
    /// What the operator is told.
    pub(super) answer: Option<BackupMessage>,
}

/// See the module text.
pub(super) struct Backups {
    records: StoredBackups,
    job: Option<Box<Job>>,
}

/// Whether nothing more becomes of a backup by itself.
fn is_over(state: &BackupState) -> bool {
    matches!(state, BackupState::Done | BackupState::Failed(_) | BackupState::Deleted)
}

impl Backups {
    /// From the file of an earlier life, whose jobs have ended with it.
    pub(super) fn restore(mut records: StoredBackups) -> Self {
        for record in &mut records.list {
            let text = match record.state {
                BackupState::Starting | BackupState::Writing => {
                    "the management server ended meanwhile; `lockstep backup delete` removes what \
                     there is of it"
                }
                BackupState::Finishing => {
                    "the management server ended just when it was finished; `lockstep backup \
                     verify` tells whether it is whole"
                }
                BackupState::Removing => {
                    "the management server ended while it was removed; `lockstep backup delete` \
                     removes what is left"
                }
                _ => continue,
            };
            record.state = BackupState::Failed(text.to_owned());
        }
        Self { records, job: None }
    }

    /// What is to be stored.
    pub(super) fn stored(&self) -> &StoredBackups {
        &self.records
    }

    /// The epoch of the backup whose parts are being written or named, for whoever checks it.
    pub(super) fn pinned(&self) -> Option<(BackupId, Epoch)> {
        self.job.as_ref()?.pinned()
    }

    /// The newest records, for whoever checks them.
    pub(super) fn records(&self) -> &[BackupRecord] {
        &self.records.list
    }

    /// What an operator says.
    pub(super) fn on_operator(
        &mut self,
        now: Instant,
        message: BackupMessage,
        view: Option<&View>,
        out: &mut Outputs,
    ) -> Option<Outcome> {
        let (backup, refused, changed) = match message {
            BackupMessage::List => {
                let list = self.records.list.clone();
                let answer = Some(BackupMessage::Backups { list });
                return Some(Outcome { changed: false, answer });
            }
            BackupMessage::Create { backup, dir, asked_ms } => {
                let refused = self.create(now, (backup, dir, asked_ms), view, out).err();
                (backup, refused.clone(), refused.is_none())
            }
            BackupMessage::Abort { backup } => (backup, self.abort(backup, out).err(), false),
            BackupMessage::Delete { backup } => {
                (backup, self.delete(now, backup, view, out).err(), false)
            }
            _ => return None,
        };
        let answer = Some(BackupMessage::Done { backup, refused });
        let changed = changed | self.take_changes(now, out);
        Some(Outcome { changed, answer })
    }

    fn refuse_second(&self) -> Result<(), String> {
        let Some(job) = &self.job else { return Ok(()) };
        let what = if job.removes() { "is being removed" } else { "is under way" };
        Err(format!("backup {} {what}; one at a time", job.backup()))
    }

    fn create(
        &mut self,
        now: Instant,
        (backup, dir, asked_ms): (BackupId, Option<String>, u64),
        view: Option<&View>,
        out: &mut Outputs,
    ) -> Result<(), String> {
        self.refuse_second()?;
        let view = view.ok_or("there is no cluster yet")?;
        if self.records.list.iter().any(|record| record.backup == backup) {
            return Err(format!("there is a backup {backup} already"));
        }
        if let Some(dir) = dir.as_ref().filter(|dir| !dir.starts_with('/')) {
            return Err(format!("{dir:?} is not an absolute path"));
        }
        if self.records.list.len() >= BACKUPS_REMEMBERED_MAX {
            self.records.list.remove(0);
        }
        let record = BackupRecord {
            backup,
            dir,
            asked_ms,
            state: BackupState::Starting,
            epoch: Epoch(0),
            rows: 0,
            row_bytes: 0,
            file_bytes: 0,
            partitions: (0, view.config.partitions),
        };
        self.records.list.push(record.clone());
        self.job = Some(Box::new(Job::make(now, record, view, out)));
        out.mark("backup_begun");
        Ok(())
    }

    fn abort(&mut self, backup: BackupId, out: &mut Outputs) -> Result<(), String> {
        let job = self.job.as_mut().filter(|job| job.backup() == backup);
        let job = job.ok_or_else(|| format!("no backup {backup} is under way here"))?;
        job.abort(out)
    }

    fn delete(
        &mut self,
        now: Instant,
        backup: BackupId,
        view: Option<&View>,
        out: &mut Outputs,
    ) -> Result<(), String> {
        self.refuse_second()?;
        let view = view.ok_or("there is no cluster yet")?;
        let record = self.records.list.iter().find(|record| record.backup == backup);
        let record = record.ok_or_else(|| format!("no backup {backup} is known here"))?;
        if record.state == BackupState::Deleted {
            return Err(format!("backup {backup} is removed already"));
        }
        self.job = Some(Box::new(Job::remove(now, record.clone(), view, out)));
        out.mark("backup_removal_begun");
        Ok(())
    }

    /// A dialled shard is there; false if nobody waits for it.
    pub(super) fn on_shard_up(
        &mut self,
        now: Instant,
        link: LinkId,
        (instance, shard): (NodeInstance, ShardId),
        out: &mut Outputs,
    ) -> bool {
        self.job.as_mut().is_some_and(|job| job.on_shard_up(now, link, instance, shard, out))
    }

    /// A shard cannot be reached.
    pub(super) fn on_shard_lost(
        &mut self,
        now: Instant,
        (instance, shard): (NodeInstance, ShardId),
        out: &mut Outputs,
    ) -> bool {
        if let Some(job) = &mut self.job {
            job.on_shard_lost(now, instance, shard, out);
        }
        self.take_changes(now, out)
    }

    /// A shard's message.
    pub(super) fn on_shard(
        &mut self,
        now: Instant,
        link: LinkId,
        message: BackupMessage,
        out: &mut Outputs,
    ) -> bool {
        if let Some(job) = &mut self.job {
            job.on_shard(now, link, message, out);
        }
        self.take_changes(now, out)
    }

    /// A link has ended.
    pub(super) fn on_link_down(&mut self, now: Instant, link: LinkId, out: &mut Outputs) -> bool {
        if let Some(job) = &mut self.job {
            job.on_link_down(now, link, out);
        }
        self.take_changes(now, out)
    }

    /// A request of the lane for backups was executed.
    pub(super) fn on_disk(&mut self, now: Instant, done: &Completion, out: &mut Outputs) -> bool {
        if let Some(job) = &mut self.job {
            job.on_disk(now, done, out);
        }
        self.take_changes(now, out)
    }

    /// There is a newer view.
    pub(super) fn on_view(&mut self, now: Instant, view: &View, out: &mut Outputs) -> bool {
        if let Some(job) = &mut self.job {
            job.on_view(now, view, out);
        }
        self.take_changes(now, out)
    }

    /// The time has come for something.
    pub(super) fn on_timeout(&mut self, now: Instant, out: &mut Outputs) -> bool {
        if let Some(job) = &mut self.job {
            job.on_timeout(now, out);
        }
        self.take_changes(now, out)
    }

    /// When the time comes.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        Some(self.job.as_ref()?.next_timeout())
    }

    /// Takes over what has changed in the job; true if that is to be stored.
    fn take_changes(&mut self, now: Instant, out: &mut Outputs) -> bool {
        let Some(job) = &mut self.job else { return false };
        let record = job.record();
        let known = self.records.list.iter_mut().find(|known| known.backup == record.backup);
        let Some(known) = known else { return false };
        let stage = std::mem::discriminant(&known.state) != std::mem::discriminant(&record.state);
        let over = is_over(&record.state);
        known.clone_from(record);
        if job.is_over() {
            job.end(now, out);
            self.job = None;
        }
        // How far a backup is need not survive a restart, which ends it.
        let kept = matches!(known.state, BackupState::Finishing | BackupState::Removing);
        stage && (over || kept)
    }
}

/// The bytes of a manifest, and what it is for.
fn manifest_file(manifest: &Manifest) -> Vec<u8> {
    manifest.to_file()
}
