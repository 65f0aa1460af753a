//! What the files of a data node make together: up to which epoch they reach, and from which of
//! them each partition is restored.
//!
//! ```text
//!   checkpoints of p0   ──e10──e20──────e40            E: the epoch restored to
//!   checkpoints of p1   ──────e20────e30──────e50      chains as of an epoch not after E,
//!   redo of shard 0     ···════════════════════════┤   the records of each partition behind
//!   redo of shard 1     ···══════════════════════┤     its chain and not after E
//!                                          E ────┘
//! ```
//! A checkpoint may be on the disk before the redo that leads up to its epoch, and may be of an
//! epoch that is not to be restored: then an older chain and more of the redo log are taken.
//!
//! A node that comes back is copied to, and its log begins in the middle of that: it goes on from
//! the checkpoints that hold the copy, and from no others. To an epoch before them the node can
//! only be restored as far as the lives before it led.
//!
//! Invariant: what is restored is the state as of one closed epoch, or there are faults that name
//! file and offset. Nothing is skipped silently, but for partitions that are held elsewhere.

use std::collections::BTreeMap;

use lockstep_proto::canary::Canary;
use lockstep_proto::disk::{CheckpointName, FileName, SegmentName};
use lockstep_proto::generations::Generations;
use lockstep_proto::ids::{ClusterId, Epoch, GroupId, NodeId, PartitionId, ShardId};
use lockstep_proto::view::View;

use crate::checkpoint::{self, Chain, CheckpointFile, CheckpointHeader};
use crate::disk::FileFault;
use crate::redo::{Coverage, Expected, Extent, JoinedLife, Log, RedoFiles, Replay, Survey, Torn};

/// Whose files they must be, and what is known from elsewhere.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// The partitions of the node's group, each with its local index.
    pub held: Vec<(PartitionId, u16)>,
    /// What counts of which restart generation.
    pub generations: Generations,
    /// This epoch was durable on this disk, as the node has told others; 0 if that is not known.
    pub promised: Epoch,
    /// A bug to switch on.
    pub canary: Option<Canary>,
}

impl Owner {
    /// A node of this group; the view need not have it as a member.
    #[must_use]
    pub fn of(view: &View, node: NodeId, group: GroupId) -> Self {
        Self {
            cluster: view.cluster,
            node,
            partitions: view.config.partitions,
            held: view.held_by(group),
            generations: view.generations(),
            promised: Epoch(0),
            canary: None,
        }
    }
}

/// The contents of a node's data files, which may be memory-mapped.
#[derive(Clone, Default, Debug)]
pub struct Files<'a> {
    segments: Vec<(SegmentName, &'a [u8])>,
    checkpoints: Vec<(CheckpointName, &'a [u8])>,
    partial: Vec<FileName>,
}

impl<'a> FromIterator<(FileName, &'a [u8])> for Files<'a> {
    fn from_iter<I: IntoIterator<Item = (FileName, &'a [u8])>>(files: I) -> Self {
        let mut all = Self::default();
        for (name, bytes) in files {
            match name {
                FileName::Segment(name) => all.segments.push((name, bytes)),
                FileName::Checkpoint(name) => all.checkpoints.push((name, bytes)),
                FileName::Partial(_) => all.partial.push(name),
                // What a node has written of backups is nothing to restart from.
                FileName::Part(_)
                | FileName::Unfinished(_)
                | FileName::Manifest(_)
                | FileName::Draft(_) => {}
            }
        }
        all
    }
}

impl Files<'_> {
    /// Whether there are none: the node has written nothing, or everything is lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.checkpoints.is_empty()
    }
}

/// How far the files of a node reach.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reach {
    /// The node can be restored to this epoch, and to any one before it that was durable on all
    /// nodes when it was in sync. `None` if it cannot be restored at all.
    pub reached: Option<Epoch>,
    /// What was durable and is not whole any more. What is reached holds all the same.
    pub faults: Vec<FileFault>,
    /// Ends of logs that were being written when the node died.
    pub torn: Vec<Torn>,
    /// The disk has had more than what is reached, which the node may have told others: redo is
    /// damaged or missing, or checkpoints are that a log goes on from.
    pub lost: bool,
}

/// How far the files reach: looks at the headers of checkpoints and checks the redo log, but not
/// the rows.
#[must_use]
pub fn survey(owner: &Owner, files: &Files<'_>) -> Reach {
    match Restoration::open(owner, files, None) {
        Ok(restoration) => Reach { reached: Some(restoration.epoch), ..restoration.reach },
        Err(reach) => *reach,
    }
}

/// A partition, and what it is restored from.
#[derive(Debug)]
pub struct Source<'a> {
    /// Which.
    pub partition: PartitionId,
    /// Its place among those of the group.
    pub local_index: u16,
    /// The checkpoints, if any are needed.
    pub chain: Option<Chain>,
    /// The files of the chain, in its order.
    pub files: Vec<CheckpointFile<'a>>,
    /// All complete checkpoints of the partition on this disk.
    pub checkpoints: Vec<CheckpointHeader>,
    /// Their files.
    all: Vec<CheckpointFile<'a>>,
}

impl Source<'_> {
    /// As of when the checkpoints hold it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.chain.as_ref().map_or(Epoch(0), Chain::epoch)
    }

    /// Whether records are missing between its checkpoints and the log of a life in which the node
    /// was copied to: checkpoints of earlier lives know nothing of the copy.
    fn has_gap(&self, life: &JoinedLife, to: Epoch) -> bool {
        let made_in = self.chain.as_ref().map(|chain| chain.newest().incarnation);
        made_in < Some(life.incarnation) && self.epoch() < to.min(life.limit)
    }
}

/// Everything that is needed to restore a node to an epoch. Partitions are restored in *lanes*,
/// which have nothing to do with each other.
pub struct Restoration<'a> {
    epoch: Epoch,
    reach: Reach,
    sources: Vec<Source<'a>>,
    redo: RedoFiles<'a>,
    survey: Survey,
    lanes: u16,
    partial: Vec<FileName>,
    /// Checkpoints of partitions that are not wanted.
    elsewhere: Vec<CheckpointName>,
    generations: Generations,
}

impl<'a> Restoration<'a> {
    /// Chooses what to restore from, to `to` or as far as the files reach.
    ///
    /// # Errors
    /// How far they reach, if that is nowhere or not to `to`.
    pub fn open(owner: &Owner, files: &Files<'a>, to: Option<Epoch>) -> Result<Self, Box<Reach>> {
        Self::open_with(owner, files, to, |logs| logs.into_iter().map(Log::check).collect())
    }

    /// The same for those who can check logs in parallel: `check` calls [`Log::check`] of each, and
    /// gives what comes of it in the same order.
    ///
    /// # Errors
    /// As [`Restoration::open`].
    pub fn open_with(
        owner: &Owner,
        files: &Files<'a>,
        to: Option<Epoch>,
        check: impl Fn(Vec<&Log<'a>>) -> Vec<Extent>,
    ) -> Result<Self, Box<Reach>> {
        let (opened, faults) = open_checkpoints(owner, files);
        let mut bound = to.unwrap_or(Epoch(u64::MAX));
        let mut lost = false;
        loop {
            let sources = sources(owner, &opened, bound);
            let coverage = sources.iter().map(|source| (source.local_index, source.epoch()));
            let expected = Expected {
                cluster: owner.cluster,
                node: owner.node,
                generations: owner.generations.clone(),
                covered: Coverage::of_parts(coverage.collect()),
                promised: owner.promised,
            };
            let redo = RedoFiles::open(expected, files.segments.iter().copied());
            let survey = redo.judge(check(redo.logs().collect()));
            let mut reach = Reach { faults: faults.clone(), lost, ..Reach::default() };
            reach.lost |= survey.lost;
            reach.faults.extend(survey.faults.iter().cloned());
            reach.torn.clone_from(&survey.torn);
            let Some(reached) = survey.reached else { return Err(Box::new(reach)) };
            let epoch = match owner.canary {
                Some(Canary::IgnoreCopied) => bound.min(reached),
                _ => whole_up_to(&sources, &redo, bound.min(reached)),
            };
            if epoch < bound.min(reached) {
                // A life's log closes nothing before all that was copied in it is in checkpoints.
                lost |= to.is_none();
                bound = epoch;
                continue;
            }
            if sources.iter().any(|source| source.epoch() > epoch) {
                bound = epoch;
                continue;
            }
            reach.reached = Some(epoch);
            if to.is_some_and(|to| epoch < to) {
                return Err(Box::new(reach));
            }
            let lanes = redo.lives(&survey).map(|logs| logs.shards).fold(0, divisor);
            let (partial, generations) = (files.partial.clone(), owner.generations.clone());
            let lanes = lanes.max(1);
            let is_held =
                |name: &CheckpointName| owner.held.iter().any(|(p, _)| *p == name.partition);
            let names = files.checkpoints.iter().map(|(name, _)| *name);
            let elsewhere = names.filter(|name| !is_held(name)).collect();
            return Ok(Self {
                epoch,
                reach,
                sources,
                redo,
                survey,
                lanes,
                partial,
                elsewhere,
                generations,
            });
        }
    }

    /// The epoch it restores to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far the files reach, and what is wrong with them.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// How many parts it has that may be restored in parallel.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.lanes
    }

    /// The partitions of a lane.
    pub fn sources(&self, lane: u16) -> impl Iterator<Item = &Source<'a>> {
        let lanes = self.lanes;
        self.sources.iter().filter(move |source| source.local_index % lanes == lane)
    }

    /// Checks all blocks of all checkpoints, also those that a restore passes over.
    #[must_use]
    pub fn check_blocks(&self) -> Vec<FileFault> {
        let files = self.sources.iter().flat_map(|source| &source.all);
        let blocks = files.flat_map(CheckpointFile::blocks);
        blocks.filter_map(|block| block.items().err()).collect()
    }

    /// The complete checkpoints of a partition that are not of dropped epochs, oldest first.
    #[must_use]
    pub fn checkpoints_of(&self, source: &Source<'a>) -> Vec<CheckpointHeader> {
        let limit = |file: &CheckpointHeader| self.generations.limit(file.name.generation);
        let counts = |file: &&CheckpointHeader| limit(file).is_some_and(|l| file.name.epoch <= l);
        let mut files: Vec<_> = source.checkpoints.iter().filter(counts).copied().collect();
        files.sort_unstable_by_key(|file| file.name.epoch);
        files
    }

    /// The logs with records of a lane's partitions, in the order in which they are to be replayed.
    /// Records of a partition that are not after the epoch of its chain are to be passed over.
    pub fn replays(&self, lane: u16) -> impl Iterator<Item = Replay<'_>> {
        let after = self.sources(lane).map(Source::epoch).min().unwrap_or(self.epoch);
        let (lanes, epoch) = (self.lanes, self.epoch);
        let logs = self.redo.lives(&self.survey).flat_map(|life| life.logs);
        let own = logs.filter(move |(log, _)| log.shard().0 % lanes == lane);
        own.map(move |(log, extent)| log.replay(extent, after, epoch))
    }

    /// Files that nothing needs any more once the node is restored: checkpoints that were not
    /// finished, those of epochs that were dropped, and those of partitions held elsewhere.
    #[must_use]
    pub fn superfluous(&self) -> Vec<FileName> {
        let mut names = self.partial.clone();
        names.extend(self.elsewhere.iter().copied().map(FileName::Checkpoint));
        for source in &self.sources {
            let gone = Chain::superfluous(&source.checkpoints, &self.generations, Epoch(0));
            names.extend(gone.into_iter().map(FileName::Checkpoint));
        }
        names
    }

    /// The redo segments of earlier lives that hold what this shard of so many logs: needed until
    /// checkpoints hold its partitions as of the epoch restored to. Those of lives with another
    /// number of shards belong to none.
    #[must_use]
    pub fn segments_of(&self, shard: ShardId, shards: u16) -> Vec<SegmentName> {
        self.redo.segments(shards).filter(|name| name.shard == shard).collect()
    }
}

/// The greatest common divisor: with as many lanes, a shard of any life belongs to one of them.
fn divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// How far the logs go on from the checkpoints, at most `to`: a life in which the node was copied
/// to is passed over if the checkpoints that hold the copy are not there, or are of a later epoch.
fn whole_up_to(sources: &[Source<'_>], redo: &RedoFiles<'_>, to: Epoch) -> Epoch {
    let gap = redo
        .joined()
        .find(|life| life.base < to && sources.iter().any(|source| source.has_gap(life, to)));
    gap.map_or(to, |life| life.base)
}

type Opened<'a> = BTreeMap<PartitionId, Vec<CheckpointFile<'a>>>;

fn open_checkpoints<'a>(owner: &Owner, files: &Files<'a>) -> (Opened<'a>, Vec<FileFault>) {
    let expected = checkpoint::Expected {
        cluster: owner.cluster,
        node: owner.node,
        partitions: owner.partitions,
        generations: owner.generations.clone(),
    };
    let (mut opened, mut faults) = (Opened::new(), Vec::new());
    for (name, bytes) in &files.checkpoints {
        match CheckpointFile::open(&expected, *name, bytes) {
            Ok(file) if owner.canary == Some(Canary::TrustBadChecksum) => {
                opened.entry(name.partition).or_default().push(file.trusted());
            }
            Ok(file) => opened.entry(name.partition).or_default().push(file),
            Err(fault) => faults.push(fault),
        }
    }
    (opened, faults)
}

fn sources<'a>(owner: &Owner, opened: &Opened<'a>, to: Epoch) -> Vec<Source<'a>> {
    let source = |(partition, local_index): &(PartitionId, u16)| {
        let all = opened.get(partition).map_or(&[][..], Vec::as_slice);
        let checkpoints: Vec<CheckpointHeader> = all.iter().map(|file| *file.header()).collect();
        let chain = Chain::select(&checkpoints, &owner.generations, to);
        let links = chain.iter().flat_map(Chain::files);
        let files = links.filter_map(|link| all.iter().find(|file| file.header() == link));
        let files = files.copied().collect();
        let (partition, local_index) = (*partition, *local_index);
        Source { partition, local_index, chain, files, checkpoints, all: all.to_vec() }
    };
    owner.held.iter().map(source).collect()
}
