//! All redo files of a node: which lives there were, what each of them still contributes, and up to
//! which epoch the node can restore itself.
//!
//! Every file must be one of this node's, in its place; the logs are then checked one by one, which
//! may be done in parallel, and [`RedoFiles::judge`] puts the results together.
//!
//! Invariant: the epoch reached is one at which every shard's log, in every life that contributes,
//! is whole.

use std::collections::BTreeMap;

use lockstep_proto::ids::{ClusterId, Epoch, Incarnation, NodeId, ShardId};

use super::format::{LogIdentity, SegmentHeader, salt};
use super::log::{Extent, Log};
use super::segment::{HEADLESS, Segment};
use crate::disk::{FaultKind, FileFault, FileName, SegmentName};
use lockstep_proto::generations::Generations;

/// Whose files they must be, and what is known from elsewhere.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// What counts of which restart generation.
    pub generations: Generations,
    /// What the node's checkpoints hold.
    pub covered: Coverage,
    /// This epoch was durable on this disk, as the node has told others; 0 if that is not known.
    pub promised: Epoch,
}

/// Up to when checkpoints hold the partitions of a node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Coverage {
    least: Epoch,
    /// By the local index of the partition, which chooses the shard that logs it.
    parts: Vec<(u16, Epoch)>,
}

impl Coverage {
    /// All partitions alike.
    #[must_use]
    pub fn all(epoch: Epoch) -> Self {
        Self { least: epoch, parts: Vec::new() }
    }

    /// Each partition, by its local index.
    #[must_use]
    pub fn of_parts(parts: Vec<(u16, Epoch)>) -> Self {
        // Of nothing, everything is held.
        let least = parts.iter().map(|(_, epoch)| *epoch).min().unwrap_or(Epoch(u64::MAX));
        Self { least, parts }
    }

    /// Up to when all partitions are held.
    #[must_use]
    pub fn least(&self) -> Epoch {
        self.least
    }

    /// Up to when those are that this shard of so many logs.
    #[must_use]
    pub fn of_shard(&self, shard: ShardId, shards: u16) -> Epoch {
        let own = self.parts.iter().filter(|(index, _)| index % shards.max(1) == shard.0);
        own.map(|(_, epoch)| *epoch).min().unwrap_or(self.least)
    }
}

/// The end of a log that was being written when the node died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    /// The file.
    pub file: FileName,
    /// Where its whole part ends.
    pub offset: u64,
    /// Bytes behind it, which were never durable and do not count.
    pub bytes: u64,
}

/// What one incarnation wrote.
struct Life<'a> {
    incarnation: Incarnation,
    /// `None`: it ended before its first header was durable.
    identity: Option<LogIdentity>,
    logs: BTreeMap<ShardId, Log<'a>>,
    /// Up to where later lives and restart generations let it count.
    limit: Epoch,
}

impl<'a> Life<'a> {
    fn segments(&self) -> impl Iterator<Item = &Segment<'a>> {
        self.logs.values().flat_map(|log| &log.segments)
    }
}

/// See the module text.
pub struct RedoFiles<'a> {
    expected: Expected,
    /// In order of incarnation.
    lives: Vec<Life<'a>>,
    faults: Vec<FileFault>,
}

/// The logs of one life, to be replayed.
pub struct LifeLogs<'s, 'a> {
    /// How many shards the node had.
    pub shards: u16,
    /// Those that are there, with what was found in them.
    pub logs: Vec<(&'s Log<'a>, &'s Extent)>,
}

/// A life in which the node was copied to. Its log goes on from the checkpoints made in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinedLife {
    /// Which.
    pub incarnation: Incarnation,
    /// What earlier lives wrote leads up to here.
    pub base: Epoch,
    /// Up to where its log counts.
    pub limit: Epoch,
}

/// What a node has on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// The logs are whole up to this epoch: the node can be restored to it or to any one below, but
    /// not below that of the checkpoints it starts from. If this is less than `covered`, it must
    /// start from older checkpoints, or has no way back. `None` if there is no redo log, or if
    /// nothing can be said about what there is.
    pub reached: Option<Epoch>,
    /// What was durable and is not whole any more. The epoch reached is right all the same.
    pub faults: Vec<FileFault>,
    /// The disk has had more than what is reached.
    pub lost: bool,
    /// The ends that were cut off.
    pub torn: Vec<Torn>,
    extents: Vec<Extent>,
}

impl<'a> RedoFiles<'a> {
    /// Takes all redo segments of a node's directory.
    #[must_use]
    pub fn open(
        expected: Expected,
        files: impl IntoIterator<Item = (SegmentName, &'a [u8])>,
    ) -> Self {
        let mut all: BTreeMap<Incarnation, BTreeMap<ShardId, Vec<Segment<'a>>>> = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, bytes) in files {
            match open_segment(&expected, name, bytes) {
                Ok(segment) => {
                    let life = all.entry(name.incarnation).or_default();
                    life.entry(name.shard).or_default().push(segment);
                }
                Err(kind) => faults.push(FileFault::whole(FileName::Segment(name), kind)),
            }
        }
        let mut lives = Vec::new();
        for (incarnation, logs) in all {
            let identity = agreed_identity(logs.values().flatten(), &mut faults);
            let shards = identity.map_or(1, |identity| identity.shards);
            let log = |(shard, mut segments): (ShardId, Vec<Segment<'a>>)| {
                segments.sort_unstable_by_key(|segment| segment.name);
                (shard, Log::new(shard, segments, expected.covered.of_shard(shard, shards)))
            };
            let logs = logs.into_iter().map(log).collect();
            lives.push(Life { incarnation, identity, logs, limit: Epoch(u64::MAX) });
        }
        let mut files = Self { expected, lives, faults };
        files.set_limits();
        files
    }

    /// The logs there are, to be checked in any order or in parallel.
    pub fn logs(&self) -> impl Iterator<Item = &Log<'a>> {
        self.lives.iter().flat_map(|life| life.logs.values())
    }

    /// Checks all logs, one after the other.
    #[must_use]
    pub fn survey(&self) -> Survey {
        self.judge(self.logs().map(Log::check).collect())
    }

    /// What the node has, from what was found in the logs, in the order of `logs`.
    ///
    /// # Panics
    /// If there is not one extent for each log.
    #[must_use]
    pub fn judge(&self, extents: Vec<Extent>) -> Survey {
        assert_eq!(extents.len(), self.logs().count(), "one extent for each log");
        let mut judgement =
            Judgement { reached: None, faults: self.faults.clone(), lost: false, torn: Vec::new() };
        let mut rest = &extents[..];
        let (mut sound, mut begun) = (true, false);
        let last = self.lives.iter().rposition(|life| life.identity.is_some());
        for (at, life) in self.lives.iter().enumerate() {
            let (own, others) = rest.split_at(life.logs.len());
            rest = others;
            let is_last = last == Some(at);
            if life.identity.is_some() && !is_last && !self.contributes(life) {
                continue;
            }
            let Some(identity) = life.identity else {
                sound &= judgement.note_headless(life);
                continue;
            };
            judgement.note(own);
            if !std::mem::replace(&mut begun, true) {
                sound &= self.check_beginning(life, &identity, &mut judgement);
            }
            let aim = if is_last { None } else { Some(life.limit) };
            judgement.settle(life, &identity, own, aim, &self.expected.covered);
        }
        judgement.reached = judgement.reached.filter(|_| sound && self.faults.is_empty());
        judgement.keep_promise(self.expected.promised, self.lives.last());
        let Judgement { reached, faults, lost, torn } = judgement;
        Survey { reached, faults, lost, torn, extents }
    }

    /// The logs that have records to be replayed, life after life: those of one life hold different
    /// partitions and may be replayed in parallel, lives must follow each other.
    pub fn lives<'s>(&'s self, survey: &'s Survey) -> impl Iterator<Item = LifeLogs<'s, 'a>> {
        let mut rest = &survey.extents[..];
        let all = self.lives.iter().map(move |life| {
            let (own, others) = rest.split_at(life.logs.len());
            rest = others;
            (life, own)
        });
        all.filter(|(life, _)| self.contributes(life)).filter_map(|(life, own)| {
            let shards = life.identity?.shards;
            Some(LifeLogs { shards, logs: life.logs.values().zip(own).collect() })
        })
    }

    /// The lives in which the node was copied to and whose logs may have to be replayed.
    pub fn joined(&self) -> impl Iterator<Item = JoinedLife> {
        let joined = |life: &&Life<'a>| life.identity.is_some_and(|identity| identity.joined);
        let lives = self.lives.iter().filter(joined).filter(|life| self.contributes(life));
        lives.filter_map(|life| {
            let (incarnation, base) = (life.incarnation, life.identity?.base);
            Some(JoinedLife { incarnation, base, limit: life.limit })
        })
    }

    /// All segments of lives with this many shards, and of those that wrote nothing.
    pub fn segments(&self, shards: u16) -> impl Iterator<Item = SegmentName> {
        let same = move |life: &&Life<'a>| life.identity.is_none_or(|of| of.shards == shards);
        self.lives.iter().filter(same).flat_map(|life| life.logs.values()).flat_map(Log::names)
    }

    /// Files that nothing needs any more, given what checkpoints hold. What the newest life wrote
    /// last is always needed.
    #[must_use]
    pub fn superfluous(&self) -> Vec<FileName> {
        let mut names = Vec::new();
        for life in &self.lives {
            let done = match life.identity {
                Some(_) => life.limit <= self.expected.covered.least(),
                None => !life.segments().any(Segment::has_groups),
            };
            for log in life.logs.values() {
                names.extend(log.superfluous.iter().copied());
                names.extend(log.segments.iter().filter(|_| done).map(|segment| segment.name));
            }
        }
        names.into_iter().map(FileName::Segment).collect()
    }

    /// Whether any record of a life may have to be replayed.
    fn contributes(&self, life: &Life<'_>) -> bool {
        let base = life.identity.map_or(Epoch(0), |identity| identity.base);
        life.limit > base.max(self.expected.covered.least())
    }

    fn set_limits(&mut self) {
        let mut base_later = Epoch(u64::MAX);
        for life in self.lives.iter_mut().rev() {
            let Some(identity) = life.identity else { continue };
            let generation = self.expected.generations.limit(identity.generation);
            life.limit = base_later.min(generation.unwrap_or_default());
            base_later = base_later.min(identity.base);
            for log in life.logs.values_mut() {
                (log.base, log.limit) = (identity.base, life.limit);
            }
        }
    }

    /// The first life that contributes must go on from something.
    fn check_beginning(
        &self,
        life: &Life<'_>,
        identity: &LogIdentity,
        judgement: &mut Judgement,
    ) -> bool {
        let begun = identity.base <= self.expected.covered.least();
        let first = life.logs.values().find_map(|log| log.segments.first());
        if let Some(first) = first
            && !begun
        {
            judgement.faults.push(first.fault(FaultKind::NothingBefore(identity.base)));
        }
        begun
    }
}

/// What is being put together.
struct Judgement {
    reached: Option<Epoch>,
    faults: Vec<FileFault>,
    /// One of the faults is why no more is reached.
    lost: bool,
    torn: Vec<Torn>,
}

impl Judgement {
    fn note(&mut self, extents: &[Extent]) {
        self.faults.extend(extents.iter().filter_map(|extent| extent.fault.clone()));
        self.torn.extend(extents.iter().filter_map(|extent| extent.torn));
    }

    /// A life without any header: it ended before its first one was durable, or what is left of it
    /// was being removed. Groups without a header are damage, whatever the life was.
    fn note_headless(&mut self, life: &Life<'_>) -> bool {
        let faults = self.faults.len();
        for segment in life.segments() {
            if segment.has_groups() {
                self.faults.push(segment.damaged(0, HEADLESS));
            } else {
                let (file, bytes) = (segment.file(), segment.bytes.len() as u64);
                self.torn.push(Torn { file, offset: 0, bytes });
            }
        }
        self.faults.len() == faults
    }

    /// Takes a life into account. `aim`: the epoch it must reach, because a later life went on from
    /// there.
    fn settle(
        &mut self,
        life: &Life<'_>,
        identity: &LogIdentity,
        extents: &[Extent],
        aim: Option<Epoch>,
        covered: &Coverage,
    ) {
        let mut reached = self.reached.unwrap_or(Epoch(u64::MAX));
        if aim.is_none() {
            reached = reached.min(life.limit);
        }
        for shard in (0..identity.shards).map(ShardId) {
            let found = life.logs.keys().position(|there| *there == shard);
            let extent = found.map(|at| &extents[at]);
            let end = extent.map_or(identity.base, |extent| extent.reached);
            // Nothing is wanted of a log whose partitions are in checkpoints; it may be gone.
            let held = end.max(covered.of_shard(shard, identity.shards));
            if aim.is_some_and(|aim| held >= aim) {
                continue;
            }
            reached = reached.min(end);
            let damaged = extent.is_some_and(|extent| extent.fault.is_some());
            self.lost |= damaged || aim.is_some();
            if let Some(aim) = aim
                && !damaged
            {
                self.faults.push(short(life, shard, end, aim));
            }
        }
        self.reached = Some(reached);
    }

    /// What the node has told others to be durable must be there.
    fn keep_promise(&mut self, promised: Epoch, last: Option<&Life<'_>>) {
        let Some(reached) = self.reached.filter(|reached| *reached < promised) else { return };
        self.lost = true;
        let newest = last.and_then(|life| Some((life, *life.logs.keys().next()?)));
        if let Some((life, shard)) = newest
            && self.faults.is_empty()
        {
            self.faults.push(short(life, shard, reached, promised));
        }
    }
}

/// A log that ends too early: named by its last file, or the one that should be there.
fn short(life: &Life<'_>, shard: ShardId, reached: Epoch, promised: Epoch) -> FileFault {
    let log = life.logs.get(&shard);
    match log.and_then(|log| log.segments.last()) {
        Some(segment) => segment.fault(FaultKind::Short { reached, promised }),
        None => {
            let name = SegmentName { incarnation: life.incarnation, shard, segment: 1 };
            FileFault::whole(FileName::Segment(name), FaultKind::Missing)
        }
    }
}

/// Reads a segment's header and checks whose it is.
fn open_segment<'a>(
    expected: &Expected,
    name: SegmentName,
    bytes: &'a [u8],
) -> Result<Segment<'a>, FaultKind> {
    let header = SegmentHeader::decode(bytes)?;
    if let Some(header) = &header {
        let identity = &header.identity;
        if identity.cluster != expected.cluster {
            return Err(FaultKind::OtherCluster(identity.cluster));
        }
        if identity.node != expected.node {
            return Err(FaultKind::OtherNode(identity.node));
        }
        if header.name != name {
            return Err(FaultKind::Misnamed(FileName::Segment(header.name)));
        }
        if expected.generations.limit(identity.generation).is_none() {
            return Err(FaultKind::OtherGeneration(identity.generation));
        }
        if name.shard.0 >= identity.shards {
            return Err(FaultKind::Damaged("a shard that its life does not have"));
        }
    }
    let salt = salt(expected.cluster, expected.node, name);
    Ok(Segment { name, bytes, header, salt })
}

/// What the headers of one life say about it; all say the same.
fn agreed_identity<'s, 'a: 's>(
    segments: impl Iterator<Item = &'s Segment<'a>>,
    faults: &mut Vec<FileFault>,
) -> Option<LogIdentity> {
    let mut agreed: Option<LogIdentity> = None;
    for segment in segments {
        let Some(header) = segment.header else { continue };
        if *agreed.get_or_insert(header.identity) != header.identity {
            faults.push(segment.damaged(0, "another life than its neighbours tell of"));
        }
    }
    agreed
}
