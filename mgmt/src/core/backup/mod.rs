//! Backups at a management server: what operators want, what becomes of it, and what is remembered.
//!
//! * `job`: one backup on its way;
//! * `removal`: files that nobody wants are removed;
//! * `records`: what is remembered; `peers`: what other management servers remember.
//!
//! One thing at a time. What operators are told is on disk first, like everything a management
//! server says; and so is at which nodes there may be files before any is written, and what is to
//! be removed before anything is. A backup that was under way when the server ended has failed, and
//! what there is of it is removed when it is started again. Files that nobody wants are removed as
//! soon as whoever has them is in sync: an operator does not wait for it, and a new backup goes
//! first.
//!
//! Invariant: a backup is done when its manifest is on disk, and a manifest is written only when
//! every partition is in exactly one part that its writer has promised to keep.

mod job;
mod peers;
mod records;
mod removal;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::disk::Completion;
use lockstep_proto::ids::{BackupId, Epoch, MgmtId, NodeId, NodeInstance, ShardAddr, ShardId};
use lockstep_proto::process::{LinkId, LogLevel, Outputs};
use lockstep_proto::stored::StoredBackups;
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord, BackupState, Manifest};

use job::Job;
use peers::Peers;
use records::{Records, is_over};
use removal::Removal;

/// How long files that could not be removed are left alone, unless there is a newer view.
const REMOVE_AGAIN: Duration = Duration::from_secs(60);

/// By how many changes a server that takes a backup over is ahead of the one that was at it, and
/// may go on for a while: more than that one will make.
const TAKEN_OVER: u64 = 1 << 32;

/// What a call has come to.
#[derive(Default)]
pub(super) struct Outcome {
    /// The records have changed: they are to be stored before the answer is told.
    pub(super) changed: bool,
    /// What the operator is told.
    pub(super) answer: Option<BackupMessage>,
}

/// Whether the records are on disk as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Saved {
    No,
    /// They will be when the store of this token is done.
    OnItsWay(u64),
    Yes,
}

/// What is being done.
enum Work {
    Making(Box<Job>),
    Removing(Removal),
}

/// See the module text.
pub(super) struct Backups {
    me: MgmtId,
    records: Records,
    saved: Saved,
    work: Option<Work>,
    /// The disk has not answered a job that is gone: that answer is nobody's.
    stray: bool,
    view: Option<View>,
    peers: Peers,
    /// Backups of which a manifest may lie here that is to go.
    named: BTreeSet<BackupId>,
    /// Links of other servers that have asked, and are told what is new.
    watchers: BTreeSet<LinkId>,
    /// When files were to be removed and could not all be.
    tried: BTreeMap<BackupId, Instant>,
    canary: Option<Canary>,
}

impl Backups {
    /// From the file of an earlier life, whose jobs have ended with it.
    pub(super) fn restore(
        me: MgmtId,
        records: StoredBackups,
        view: Option<&View>,
        canary: Option<Canary>,
    ) -> Self {
        let (records, named) = Records::restore(me, records);
        let mut backups = Self {
            me,
            records,
            saved: Saved::Yes,
            work: None,
            stray: false,
            view: view.cloned(),
            peers: Peers::default(),
            named,
            watchers: BTreeSet::new(),
            tried: BTreeMap::new(),
            canary,
        };
        if let Some(view) = &backups.view {
            backups.peers.follow(Instant::default(), me, view);
        }
        backups
    }

    /// Another server has asked over this link, and is to be told what is new from now on.
    pub(super) fn watch(&mut self, link: LinkId) {
        self.watchers.insert(link);
    }

    /// What is new, and whom to tell.
    pub(super) fn news(&self) -> impl Iterator<Item = (LinkId, BackupMessage)> {
        let list = self.records.list();
        self.watchers.iter().map(|link| (*link, BackupMessage::Backups { list: list.to_vec() }))
    }

    /// What is to be stored.
    pub(super) fn stored(&self) -> &StoredBackups {
        self.records.stored()
    }

    /// What is to be stored is on its way to the disk.
    pub(super) fn on_storing(&mut self, token: u64) {
        self.saved = Saved::OnItsWay(token);
    }

    /// Something is on disk: what has waited for it goes on.
    pub(super) fn on_stored(&mut self, now: Instant, token: u64, out: &mut Outputs) -> bool {
        if self.saved != Saved::OnItsWay(token) {
            return false;
        }
        self.saved = Saved::Yes;
        if let Some(Work::Making(job)) = self.work.as_mut() {
            job.on_recorded(now, out);
        }
        self.go_on(now, out)
    }

    /// The epoch of the backup whose parts are being written or named, for whoever checks it.
    pub(super) fn pinned(&self) -> Option<(BackupId, Epoch)> {
        match self.work.as_ref()? {
            Work::Making(job) => job.pinned(),
            Work::Removing(_) => None,
        }
    }

    /// The newest records, for whoever checks them.
    pub(super) fn records(&self) -> &[BackupRecord] {
        self.records.list()
    }

    /// What an operator says, or another management server.
    pub(super) fn on_operator(
        &mut self,
        now: Instant,
        message: BackupMessage,
        out: &mut Outputs,
    ) -> Option<Outcome> {
        let (backup, refused, changed) = match message {
            BackupMessage::List => {
                let list = self.records.list().to_vec();
                let answer = Some(BackupMessage::Backups { list });
                return Some(Outcome { changed: false, answer });
            }
            BackupMessage::Create { backup, dir, asked_ms } => {
                let refused = self.create(now, (backup, dir, asked_ms), out).err();
                (backup, refused.clone(), refused.is_none())
            }
            BackupMessage::Abort { backup } => (backup, self.abort(backup, out).err(), false),
            BackupMessage::Delete { backup } => {
                let refused = self.delete(now, backup, out).err();
                (backup, refused.clone(), refused.is_none())
            }
            _ => return None,
        };
        let answer = Some(BackupMessage::Done { backup, refused });
        self.note(changed);
        let changed = changed | self.go_on(now, out);
        Some(Outcome { changed, answer })
    }

    /// Another management server has told what it knows.
    pub(super) fn on_peer(
        &mut self,
        now: Instant,
        from: MgmtId,
        list: Vec<BackupRecord>,
        out: &mut Outputs,
    ) -> bool {
        self.peers.on_answer(now, from);
        let merged = self.records.merge(from, list);
        self.named.extend(merged.left);
        for backup in merged.taken {
            out.mark("backup_taken_over");
            self.named.insert(backup);
            if let Some(Work::Making(job)) = self.work.as_ref()
                && job.backup() == backup
            {
                self.stray = job.waits_for_disk();
                job.end(out);
                self.work = None;
            }
        }
        self.note(merged.changed);
        merged.changed | self.go_on(now, out)
    }

    /// The records may have changed.
    fn note(&mut self, changed: bool) {
        if changed {
            self.saved = Saved::No;
        }
    }

    /// Makes room for what an operator wants: files that are removed by the way can wait.
    fn make_room(&mut self, out: &mut Outputs) -> Result<(), String> {
        if self.stray {
            return Err("the disk has not answered about an earlier backup; try again".to_owned());
        }
        if let Some(backup) = self.records.removing() {
            return Err(format!("backup {backup} is being removed; one at a time"));
        }
        match self.work.as_ref() {
            None => return Ok(()),
            Some(Work::Making(job)) => {
                return Err(format!("backup {} is under way; one at a time", job.backup()));
            }
            Some(Work::Removing(removal)) => {
                if removal.waits_for_disk() {
                    let backup = removal.backup();
                    return Err(format!("backup {backup} is being removed; one at a time"));
                }
                removal.end(out);
            }
        }
        self.work = None;
        Ok(())
    }

    fn create(
        &mut self,
        now: Instant,
        (backup, dir, asked_ms): (BackupId, Option<String>, u64),
        out: &mut Outputs,
    ) -> Result<(), String> {
        if let Some(dir) = dir.as_ref().filter(|dir| !dir.starts_with('/')) {
            return Err(format!("{dir:?} is not an absolute path"));
        }
        if self.records.record(backup).is_some() {
            return Err(format!("there is a backup {backup} already"));
        }
        if self.view.is_none() {
            return Err("there is no cluster yet".to_owned());
        }
        self.make_room(out)?;
        let view = self.view.as_ref().ok_or("there is no cluster yet")?;
        let record = BackupRecord {
            backup,
            by: self.me,
            turn: 1,
            dir,
            asked_ms,
            state: BackupState::Starting,
            epoch: Epoch(0),
            rows: 0,
            row_bytes: 0,
            file_bytes: 0,
            partitions: (0, view.config.partitions),
            parts_at: Vec::new(),
            unwanted: view.in_sync().map(|member| member.instance.node).collect(),
        };
        self.records.add(record.clone());
        let mut job = Job::make(now, record, view, out);
        if self.canary == Some(Canary::PartsBeforeRecord) {
            job.on_recorded(now, out);
        }
        self.work = Some(Work::Making(Box::new(job)));
        out.mark("backup_begun");
        Ok(())
    }

    fn abort(&mut self, backup: BackupId, out: &mut Outputs) -> Result<(), String> {
        match self.work.as_mut() {
            Some(Work::Making(job)) if job.backup() == backup => job.abort(out),
            _ => Err(format!("no backup {backup} is under way here")),
        }
    }

    fn delete(&mut self, now: Instant, backup: BackupId, out: &mut Outputs) -> Result<(), String> {
        let record = self.records.record(backup);
        let record = record.ok_or_else(|| format!("no backup {backup} is known here"))?;
        if record.state == BackupState::Deleted {
            return Err(format!("backup {backup} is removed already"));
        }
        let by = record.by;
        if by != self.me && !is_over(&record.state) && self.peers.is_there(now, by) {
            return Err(format!("management server {by} is at it"));
        }
        if self.view.is_none() {
            return Err("there is no cluster yet".to_owned());
        }
        self.make_room(out)?;
        let Some(record) = self.records.record_mut(backup) else { return Ok(()) };
        let ahead = if by == self.me { 1 } else { TAKEN_OVER };
        record.turn = record.turn.saturating_add(ahead);
        (record.by, record.state) = (self.me, BackupState::Removing);
        let mut parts_at = std::mem::take(&mut record.parts_at);
        record.unwanted.append(&mut parts_at);
        record.unwanted.sort_unstable();
        record.unwanted.dedup();
        self.named.insert(backup);
        self.tried.remove(&backup);
        out.mark("backup_removal_begun");
        if by != self.me {
            out.mark("backup_takes_over");
        }
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
        match self.work.as_mut() {
            None => false,
            Some(Work::Making(job)) => job.on_shard_up(now, link, instance, shard, out),
            Some(Work::Removing(removal)) => removal.on_shard_up(link, instance, shard, out),
        }
    }

    /// A shard cannot be reached.
    pub(super) fn on_shard_lost(
        &mut self,
        now: Instant,
        (instance, shard): (NodeInstance, ShardId),
        out: &mut Outputs,
    ) -> bool {
        match self.work.as_mut() {
            None => {}
            Some(Work::Making(job)) => job.on_shard_lost(now, instance, shard, out),
            Some(Work::Removing(removal)) => {
                removal.on_shard_lost(ShardAddr { instance, shard }, out);
            }
        }
        self.go_on(now, out)
    }

    /// A shard's message.
    pub(super) fn on_shard(
        &mut self,
        now: Instant,
        link: LinkId,
        message: BackupMessage,
        out: &mut Outputs,
    ) -> bool {
        match self.work.as_mut() {
            None => {}
            Some(Work::Making(job)) => job.on_shard(now, link, message, out),
            Some(Work::Removing(removal)) => removal.on_shard(link, &message, out),
        }
        self.go_on(now, out)
    }

    /// A link to another management server, whoever has dialled.
    pub(super) fn on_peer_up(&mut self, now: Instant, id: MgmtId, link: LinkId) {
        self.peers.on_up(now, id, link);
    }

    /// Another management server cannot be reached.
    pub(super) fn on_peer_failed(&mut self, now: Instant, id: MgmtId) {
        self.peers.on_failed(now, id);
    }

    /// A link has ended.
    pub(super) fn on_link_down(&mut self, now: Instant, link: LinkId, out: &mut Outputs) -> bool {
        self.peers.on_down(now, link);
        self.watchers.remove(&link);
        match self.work.as_mut() {
            None => {}
            Some(Work::Making(job)) => job.on_link_down(now, link, out),
            Some(Work::Removing(removal)) => removal.on_link_down(link, out),
        }
        self.go_on(now, out)
    }

    /// A request of the lane for backups was executed.
    pub(super) fn on_disk(&mut self, now: Instant, done: &Completion, out: &mut Outputs) -> bool {
        match self.work.as_mut() {
            _ if std::mem::take(&mut self.stray) => {}
            None => {}
            Some(Work::Making(job)) => job.on_disk(done, out),
            Some(Work::Removing(removal)) => removal.on_disk(done, out),
        }
        self.go_on(now, out)
    }

    /// There is a newer view.
    pub(super) fn on_view(&mut self, now: Instant, view: &View, out: &mut Outputs) -> bool {
        self.view = Some(view.clone());
        self.peers.follow(now, self.me, view);
        // Who was away may be in sync again.
        self.tried.clear();
        if let Some(Work::Making(job)) = self.work.as_mut() {
            job.on_view(now, view, out);
        }
        self.go_on(now, out)
    }

    /// The time has come for something.
    pub(super) fn on_timeout(&mut self, now: Instant, out: &mut Outputs) -> bool {
        self.peers.on_timeout(now, out);
        match self.work.as_mut() {
            None => {}
            Some(Work::Making(job)) => job.on_timeout(now, out),
            Some(Work::Removing(removal)) => removal.on_timeout(now, out),
        }
        self.go_on(now, out)
    }

    /// When the time comes.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let own = match self.work.as_ref() {
            Some(Work::Making(job)) => Some(job.next_timeout()),
            Some(Work::Removing(removal)) => removal.next_timeout(),
            None if self.may_remove() && self.first_left().is_some() => Some(Instant::default()),
            None => self.tried.values().map(|tried| *tried + REMOVE_AGAIN).min(),
        };
        own.into_iter().chain(self.peers.next_timeout()).min()
    }

    /// The first backup of which something can be removed that nobody wants.
    fn first_left(&self) -> Option<BackupId> {
        let view = self.view.as_ref()?;
        let there = |node: &NodeId| view.in_sync().any(|member| member.instance.node == *node);
        let found = self.records.find_own(|backup, nodes| {
            let left = self.named.contains(&backup) || nodes.iter().any(there);
            left && !self.tried.contains_key(&backup)
        });
        found.map(|record| record.backup)
    }

    /// Whether it is on disk what is to be removed. Otherwise a server that is started again might
    /// take something for a backup of which parts are gone.
    fn may_remove(&self) -> bool {
        self.saved == Saved::Yes && !self.stray
    }

    /// Whether files are left that could be removed, for whoever checks it.
    pub(super) fn has_left(&self) -> bool {
        self.work.is_some() || self.first_left().is_some() || !self.tried.is_empty()
    }

    /// Takes over what has changed, and goes on with what is next; true if the records are to be
    /// stored.
    fn go_on(&mut self, now: Instant, out: &mut Outputs) -> bool {
        let changed = match self.work.take() {
            None => false,
            Some(Work::Making(job)) => self.follow_job(job, out),
            Some(Work::Removing(removal)) => self.follow_removal(now, removal, out),
        };
        self.note(changed);
        self.tried.retain(|_, tried| now.since(*tried) < REMOVE_AGAIN);
        if self.work.is_none()
            && self.may_remove()
            && let Some(backup) = self.first_left()
            && let Some(record) = self.records.record(backup)
        {
            let nodes = if record.by == self.me { &record.unwanted[..] } else { &[] };
            let wanted = (nodes, self.named.contains(&backup));
            let removal = Removal::begin(now, record, wanted, self.view.as_ref(), out);
            self.work = Some(Work::Removing(removal));
        }
        changed
    }

    fn follow_job(&mut self, job: Box<Job>, out: &mut Outputs) -> bool {
        let record = job.record();
        let backup = record.backup;
        let Some(known) = self.records.record_mut(backup) else {
            self.stray = job.waits_for_disk();
            job.end(out);
            return false;
        };
        let stage = std::mem::discriminant(&known.state) != std::mem::discriminant(&record.state);
        // How far a backup is need not survive a restart, which ends it.
        let told = is_over(&record.state) || record.state == BackupState::Finishing;
        let stored = stage && told || known.unwanted.len() < record.unwanted.len();
        let turn = known.turn.saturating_add(u64::from(stored));
        *known = BackupRecord { turn, ..record.clone() };
        if !job.is_over() {
            self.work = Some(Work::Making(job));
            return stored;
        }
        job.end(out);
        if known.state != BackupState::Done {
            self.named.insert(backup);
        }
        stored
    }

    fn follow_removal(&mut self, now: Instant, removal: Removal, out: &mut Outputs) -> bool {
        if !removal.is_over() {
            self.work = Some(Work::Removing(removal));
            return false;
        }
        removal.end(out);
        let backup = removal.backup();
        self.tried.insert(backup, now);
        let (cleared, refused) = (removal.cleared(), removal.refused());
        if removal.has_unnamed() {
            self.named.remove(&backup);
        }
        let me = self.me;
        let Some(record) = self.records.record_mut(backup).filter(|record| record.by == me) else {
            if refused.is_none() {
                self.tried.remove(&backup);
            }
            return false;
        };
        let before = record.unwanted.len();
        record.unwanted.retain(|node| !cleared.contains(node));
        let removed = record.unwanted.len() < before;
        if removed {
            out.mark("backup_leftovers_removed");
        }
        let removing = record.state == BackupState::Removing;
        if removing {
            record.state = BackupState::Deleted;
        }
        if let Some(error) = refused.filter(|_| removing) {
            // Parts without a manifest are no backup; a manifest without its parts must not be.
            let text = format!("its manifest cannot be removed: {error}; delete it again");
            out.log(LogLevel::Error, format!("backup {backup}: {text}"));
            record.state = BackupState::Failed(text);
            record.parts_at = std::mem::take(&mut record.unwanted);
            self.named.remove(&backup);
        }
        if record.unwanted.is_empty() && !self.named.contains(&backup) {
            self.tried.remove(&backup);
        }
        record.turn = record.turn.saturating_add(u64::from(removed | removing));
        removed | removing
    }
}

/// The bytes of a manifest, and what it is for.
fn manifest_file(manifest: &Manifest) -> Vec<u8> {
    manifest.to_file()
}
