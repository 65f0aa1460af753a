//! Names of the files of a data node. A name says which file it must be; the file's own header says
//! so too, and a reader compares the two, so that swapped or renamed files are noticed.
//!
//! Invariant: a name has one spelling. `FileName::parse` refuses every other.

use std::fmt;

use crate::ids::{Epoch, Incarnation, PartitionId, RestartGeneration, ShardId};

/// The directories a data node writes to, inside its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Directory {
    /// Redo segments.
    Redo,
    /// Checkpoints.
    Checkpoint,
}

impl Directory {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Redo => "redo",
            Self::Checkpoint => "checkpoint",
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

/// A file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileName {
    /// `i7-s3-12.redo`
    Segment(SegmentName),
    /// `p17-r2-e1009.checkpoint`
    Checkpoint(CheckpointName),
    /// `p17-r2-e1009.partial`: a checkpoint that is not finished; worth nothing after a restart.
    Partial(CheckpointName),
}

impl FileName {
    /// The directory it lies in.
    #[must_use]
    pub fn directory(self) -> Directory {
        match self {
            Self::Segment(_) => Directory::Redo,
            Self::Checkpoint(_) | Self::Partial(_) => Directory::Checkpoint,
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

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::Checkpoint(name) => write!(f, "{name}.checkpoint"),
            Self::Partial(name) => write!(f, "{name}.partial"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_has_one_spelling() {
        for text in ["i7-s3-12.redo", "p17-r2-e1009.checkpoint", "p17-r2-e1009.partial"] {
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
            "",
        ] {
            assert_eq!(FileName::parse(text), None, "{text}");
        }
    }
}
