//! Files of a backup that nobody wants, on their way out.
//!
//! ```text
//!  Unnaming ─► Clearing ─► Leaving ─► Over
//!  the manifest   parts       the directory, if it is empty
//! ```
//! The manifest goes first, if there is to be none: a manifest without its parts must not be. What
//! lies at a node that is not in sync, or whose disk refuses, is left, and told who is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lockstep_proto::disk::{Completion, Directory, DiskError, FileName, Lane, Op, Request};
use lockstep_proto::ids::{BackupId, NodeId, NodeInstance, ShardAddr, ShardId};
use lockstep_proto::process::{Effect, LinkId, LogLevel, Outputs, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord};

use super::shards::tell;

/// How long shards may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Unnaming,
    Clearing,
    Leaving,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Awaited,
    Removed,
    /// It is gone, or could not.
    None,
}

/// See the module text.
pub(super) struct Removal {
    backup: BackupId,
    dir: Option<String>,
    phase: Phase,
    unnames: bool,
    shards: BTreeMap<ShardAddr, (Option<LinkId>, Answer)>,
    deadline: Instant,
    /// Why the manifest is still there.
    refused: Option<DiskError>,
}

impl Removal {
    /// Begins to remove what lies at these nodes, and the manifest if `unnames`.
    pub(super) fn begin(
        now: Instant,
        record: &BackupRecord,
        (nodes, unnames): (&[NodeId], bool),
        view: Option<&View>,
        out: &mut Outputs,
    ) -> Self {
        let mut removal = Self {
            backup: record.backup,
            dir: record.dir.clone(),
            phase: if unnames { Phase::Unnaming } else { Phase::Clearing },
            unnames,
            shards: BTreeMap::new(),
            deadline: now + PATIENCE,
            refused: None,
        };
        let members = view.into_iter().flat_map(View::in_sync);
        for member in members.filter(|member| nodes.contains(&member.instance.node)) {
            for shard in (0..member.shards).map(ShardId) {
                let addr = ShardAddr { instance: member.instance, shard };
                let to = Target::Shard(addr.instance, addr.shard);
                out.effect(Effect::Dial { to, addr: member.addr.clone() });
                removal.shards.insert(addr, (None, Answer::Awaited));
            }
        }
        if unnames {
            removal.ask_disk(
                [
                    Op::Remove(FileName::Manifest(record.backup)),
                    Op::Remove(FileName::Draft(record.backup)),
                    Op::SyncDirectory(Directory::Backup(record.backup)),
                ],
                out,
            );
        }
        removal.go_on(out);
        removal
    }

    /// Whose files they are.
    pub(super) fn backup(&self) -> BackupId {
        self.backup
    }

    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether it waits for the disk here, and cannot be left for something else.
    pub(super) fn waits_for_disk(&self) -> bool {
        matches!(self.phase, Phase::Unnaming | Phase::Leaving)
    }

    /// Why the manifest, and so all the rest, is still there.
    pub(super) fn refused(&self) -> Option<DiskError> {
        self.refused
    }

    /// Whether it has removed the manifest, or found none.
    pub(super) fn has_unnamed(&self) -> bool {
        self.unnames && self.refused.is_none()
    }

    /// The nodes all of whose shards have removed what they had.
    pub(super) fn cleared(&self) -> BTreeSet<NodeId> {
        let nodes = self.shards.keys().map(|addr| addr.instance.node);
        let mut cleared: BTreeSet<NodeId> = nodes.collect();
        for (addr, (_, answer)) in &self.shards {
            if *answer != Answer::Removed {
                cleared.remove(&addr.instance.node);
            }
        }
        cleared
    }

    /// A dialled shard is there; false if nobody waits for it.
    pub(super) fn on_shard_up(
        &mut self,
        link: LinkId,
        instance: NodeInstance,
        shard: ShardId,
        out: &mut Outputs,
    ) -> bool {
        let Some(own) = self.shards.get_mut(&ShardAddr { instance, shard }) else { return false };
        if *own != (None, Answer::Awaited) || self.phase == Phase::Over {
            return false;
        }
        own.0 = Some(link);
        if self.phase == Phase::Clearing {
            self.clear(link, out);
        }
        true
    }

    fn clear(&self, link: LinkId, out: &mut Outputs) {
        let message = BackupMessage::Clear { backup: self.backup, dir: self.dir.clone() };
        tell(Some(link), &message, out);
    }

    /// A shard cannot be reached, or its link has ended.
    pub(super) fn on_shard_lost(&mut self, addr: ShardAddr, out: &mut Outputs) {
        if let Some(own) = self.shards.get_mut(&addr)
            && own.1 == Answer::Awaited
        {
            *own = (None, Answer::None);
            self.go_on(out);
        }
    }

    /// A link has ended.
    pub(super) fn on_link_down(&mut self, link: LinkId, out: &mut Outputs) {
        let found = self.shards.iter().find(|(_, (of, _))| *of == Some(link));
        if let Some((addr, _)) = found {
            self.on_shard_lost(*addr, out);
        }
    }

    /// A shard's message.
    pub(super) fn on_shard(&mut self, link: LinkId, message: &BackupMessage, out: &mut Outputs) {
        let BackupMessage::Cleared { backup, failed } = message else { return };
        let found = self.shards.iter_mut().find(|(_, (of, _))| *of == Some(link));
        let Some((addr, (_, answer))) = found.filter(|_| *backup == self.backup) else { return };
        *answer = Answer::Removed;
        if let Some(error) = failed {
            *answer = Answer::None;
            let text = format!("files of backup {backup} are left at {addr}: {error}");
            out.log(LogLevel::Warn, text);
        }
        self.go_on(out);
    }

    /// A request of the lane for backups was executed.
    pub(super) fn on_disk(&mut self, done: &Completion, out: &mut Outputs) {
        match (self.phase, done.failed) {
            // Where there is nothing, nothing is to be removed.
            (Phase::Unnaming, Some((_, error))) if error != DiskError::Missing => {
                let text = format!("the manifest of backup {} is left: {error}", self.backup);
                out.log(LogLevel::Error, text);
                self.refused = Some(error);
                self.phase = Phase::Over;
            }
            (Phase::Unnaming, _) => {
                self.phase = Phase::Clearing;
                let links: Vec<LinkId> = self.shards.values().filter_map(|(l, _)| *l).collect();
                links.into_iter().for_each(|link| self.clear(link, out));
                self.go_on(out);
            }
            (Phase::Leaving, _) => self.phase = Phase::Over,
            (Phase::Clearing | Phase::Over, _) => {}
        }
    }

    fn go_on(&mut self, out: &mut Outputs) {
        let waits = self.shards.values().any(|(_, answer)| *answer == Answer::Awaited);
        if self.phase != Phase::Clearing || waits {
            return;
        }
        self.phase = Phase::Over;
        if self.unnames {
            self.phase = Phase::Leaving;
            self.ask_disk([Op::RemoveEmpty(self.backup)], out);
        }
    }

    fn ask_disk(&self, then: impl IntoIterator<Item = Op>, out: &mut Outputs) {
        let locate = Op::Locate { backup: self.backup, at: self.dir.clone() };
        let ops = std::iter::once(locate).chain(then).collect();
        out.effect(Effect::Disk { lane: Lane::Backup, request: Request { ops } });
    }

    /// The time has come for something.
    pub(super) fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        if self.phase != Phase::Clearing || now < self.deadline {
            return;
        }
        out.mark("backup_shard_silent");
        for (link, answer) in self.shards.values_mut().filter(|own| own.1 == Answer::Awaited) {
            *answer = Answer::None;
            if let Some(link) = link.take() {
                let why = "it does not answer about a backup";
                out.effect(Effect::Close { link, why });
            }
        }
        self.go_on(out);
    }

    /// When the time comes.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        (self.phase == Phase::Clearing).then_some(self.deadline)
    }

    /// Lets go of the shards.
    pub(super) fn end(&self, out: &mut Outputs) {
        for link in self.shards.values().filter_map(|(link, _)| *link) {
            out.effect(Effect::Close { link, why: "" });
        }
    }
}
