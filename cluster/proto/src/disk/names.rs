//! Names of the files of a data node. A name says which file it must be; the file's own header says
//! so too, and a reader compares the two, so that swapped or renamed files are noticed.
//!
//! Invariant: a name has one spelling. `FileName::parse` refuses every other.

use std::fmt;

use crate::ids::{BackupId, Epoch, Incarnation, NodeId, PartitionId, RestartGeneration, ShardId};

/// The directories a process writes to; all but those of backups are inside its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Directory {
    /// Redo segments.
    Redo,
    /// Checkpoints.
    Checkpoint,
    /// What this process writes of a backup: where [`super::Op::Locate`] has said.
    Backup(BackupId),
}

impl Directory {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redo => "redo",
            Self::Checkpoint => "checkpoint",
            // Below it, one for each.
            Self::Backup(_) => "backup",
        }
    }
}

/// A redo segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentName {
    /// The life of the node that wrote it.
    pub incarnation: Incarnation,
    /// The shard.
    pub shard: ShardId,
    /// Counts from 1 in each life.
    pub segment: u64,
}

/// A checkpoint of a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CheckpointName {
    /// The partition.
    pub partition: PartitionId,
    /// The restart generation its epoch belongs to.
    pub generation: RestartGeneration,
    /// As of which epoch.
    pub epoch: Epoch,
}

/// A part of a backup: what one shard wrote in one go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartName {
    /// The backup.
    pub backup: BackupId,
    /// Who wrote it.
    pub node: NodeId,
    /// Which of its shards.
    pub shard: ShardId,
    /// Counts all parts of the backup that were ever begun.
    pub piece: u32,
}

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileName {
    /// `i7-s3-12.redo`
    Segment(SegmentName),
    /// `p17-r2-e1009.checkpoint`
    Checkpoint(CheckpointName),
    /// `p17-r2-e1009.partial`: a checkpoint that is not finished; worth nothing after a restart.
    Partial(CheckpointName),
    /// `b1795-n1-s0-3.part`: a part of a backup.
    Part(PartName),
    /// `b1795-n1-s0-3.unfinished`: a part that is being written.
    Unfinished(PartName),
    /// `b1795.manifest`: what makes the parts of a backup one.
    Manifest(BackupId),
    /// `b1795.draft`: a manifest that is being written.
    Draft(BackupId),
}

impl FileName {
    /// The directory it lies in.
    #[must_use]
    pub fn directory(self) -> Directory {
        match self {
            Self::Segment(_) => Directory::Redo,
            Self::Checkpoint(_) | Self::Partial(_) => Directory::Checkpoint,
            Self::Part(name) | Self::Unfinished(name) => Directory::Backup(name.backup),
            Self::Manifest(backup) | Self::Draft(backup) => Directory::Backup(backup),
        }
    }

    /// The file of this name, if it is a name of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (stem, ending) = text.rsplit_once('.')?;
        let name = match ending {
            "redo" => Self::Segment(segment(stem)?),
            "checkpoint" => Self::Checkpoint(checkpoint(stem)?),
            "partial" => Self::Partial(checkpoint(stem)?),
            "part" => Self::Part(part(stem)?),
            "unfinished" => Self::Unfinished(part(stem)?),
            "manifest" => Self::Manifest(backup(stem)?),
            "draft" => Self::Draft(backup(stem)?),
            _ => return None,
        };
        (name.to_string() == text).then_some(name)
    }
}

fn three(stem: &str) -> Option<[&str; 3]> {
    let mut parts = stem.split('-');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(three)
}

fn segment(stem: &str) -> Option<SegmentName> {
    let [incarnation, shard, segment] = three(stem)?;
    Some(SegmentName {
        incarnation: Incarnation(incarnation.strip_prefix('i')?.parse().ok()?),
        shard: ShardId(shard.strip_prefix('s')?.parse().ok()?),
        segment: segment.parse().ok()?,
    })
}

fn backup(text: &str) -> Option<BackupId> {
    Some(BackupId(text.strip_prefix('b')?.parse().ok()?))
}

fn part(stem: &str) -> Option<PartName> {
    let (first, rest) = stem.split_once('-')?;
    let [node, shard, piece] = three(rest)?;
    Some(PartName {
        backup: backup(first)?,
        node: NodeId(node.strip_prefix('n')?.parse().ok()?),
        shard: ShardId(shard.strip_prefix('s')?.parse().ok()?),
        piece: piece.parse().ok()?,
    })
}

fn checkpoint(stem: &str) -> Option<CheckpointName> {
    let [partition, generation, epoch] = three(stem)?;
    Some(CheckpointName {
        partition: PartitionId(partition.strip_prefix('p')?.parse().ok()?),
        generation: RestartGeneration(generation.strip_prefix('r')?.parse().ok()?),
        epoch: Epoch(epoch.strip_prefix('e')?.parse().ok()?),
    })
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}-{}-{}.redo", self.incarnation.0, self.shard, self.segment)
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.partition, self.generation, self.epoch)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.backup, self.node, self.shard, self.piece)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::Checkpoint(name) => write!(f, "{name}.checkpoint"),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::Part(name) => write!(f, "{name}.part"),
            Self::Unfinished(name) => write!(f, "{name}.unfinished"),
            Self::Manifest(backup) => write!(f, "{backup}.manifest"),
            Self::Draft(backup) => write!(f, "{backup}.draft"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_has_one_spelling() {
        for text in [
            "i7-s3-12.redo",
            "p17-r2-e1009.checkpoint",
            "p17-r2-e1009.partial",
            "b1795-n1-s0-3.part",
            "b1795-n1-s0-3.unfinished",
            "b1795.manifest",
            "b1795.draft",
        ] {
            assert_eq!(FileName::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "i07-s3-12.redo",
            "i7-s3-+12.redo",
            "i7-s3-12-4.redo",
            "i7-s3.redo",
            "i7-s99999-12.redo",
            "7-s3-12.redo",
            "p17-r2-e1009.redo",
            "p17-r2-e1009.checkpoint~",
            "b1795.part",
            "b01795-n1-s0-3.part",
            "b1795-n1-s0.part",
            "1795.manifest",
            "",
        ] {
            assert_eq!(FileName::parse(text), None, "{text}");
        }
    }
}
