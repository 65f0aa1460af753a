//! The files of a data node that was started again: how far they reach, and the rows in them.
//!
//! Invariant: what is handed to the shard cores was restored for the view the node goes on in.

use std::path::{Path, PathBuf};

use lockstep_cluster::Restored;
use lockstep_proto::disk::{Directory, FileName};
use lockstep_proto::ids::{Epoch, GroupId, NodeId};
use lockstep_proto::recovery::{Goal, Recovery};
use lockstep_proto::view::View;
use lockstep_runtime::{DataFiles, Recoverer};
use lockstep_storage::disk::FileFault;
use lockstep_storage::restore::{Files, Owner, survey};
use parking_lot::Mutex;

use super::restore::restore_in_parallel;
use crate::cli::error::{CliError, CliResult, Trouble};

/// Reads a node's directory when its core asks, and keeps what was restored last.
pub(super) struct FileRecoverer {
    dir: PathBuf,
    owner: Owner,
    shards: u16,
    /// The operator says that damaged redo is to be done without.
    force: bool,
    /// Held while the files are read: each wish has a thread of its own.
    newest: Mutex<Newest>,
}

/// The newest wish that was begun, and what has come of it.
#[derive(Default)]
struct Newest {
    token: u64,
    restored: Option<Restored>,
}

impl std::fmt::Debug for FileRecoverer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileRecoverer").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl FileRecoverer {
    /// For a node of this group, with so many shards.
    pub(super) fn new(dir: &Path, view: &View, seat: (NodeId, GroupId), shards: u16) -> Self {
        let owner = Owner::of(view, seat.0, seat.1);
        Self { dir: dir.to_owned(), owner, shards, force: false, newest: Mutex::default() }
    }

    /// A stopped cluster may be started with what damaged redo has left.
    pub(super) fn forced(self, force: bool) -> Self {
        Self { force, ..self }
    }

    /// What was restored last, for the shard cores; the view it was restored for is on the disk.
    /// Only now the files go that this view has no use for: another wish might have needed them.
    pub(super) fn take(&self) -> CliResult<Option<Restored>> {
        let restored = self.newest.lock().restored.take();
        for name in restored.iter().flat_map(|restored| &restored.superfluous) {
            let path = path_of(&self.dir, *name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(CliError::file("remove", &path, &error));
                }
                _ => {}
            }
        }
        Ok(restored)
    }
}

fn path_of(dir: &Path, name: FileName) -> PathBuf {
    dir.join(name.directory().name()).join(name.to_string())
}

fn in_words(faults: &[FileFault]) -> String {
    let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
    words.join("; ")
}

impl Recoverer for FileRecoverer {
    fn recover(&self, wish: &Recovery) -> Result<Epoch, String> {
        let trouble =
            |error: std::io::Error| format!("cannot read {}: {error}", self.dir.display());
        let mut newest = self.newest.lock();
        if wish.token < newest.token {
            return Err("it is not wanted any more".to_owned());
        }
        // Only the newest wish counts; what was restored for an earlier one makes room first.
        *newest = Newest { token: wish.token, restored: None };
        if wish.goal == Goal::Anew {
            forget(&self.dir).map_err(|error| error.to_string())?;
            return Ok(Epoch(0));
        }
        let mapped = DataFiles::open(&self.dir).map_err(trouble)?;
        for path in &mapped.others {
            tracing::warn!("{} is not a file of this program: left alone", path.display());
        }
        let files: Files<'_> = mapped.iter().collect();
        if files.is_empty() {
            return match wish.goal {
                // Whoever has nothing can be given everything, and can found nothing: a cluster
                // does not come back empty because its files are gone.
                Goal::Rejoin | Goal::Anew | Goal::Exactly(Epoch(0)) => Ok(Epoch(0)),
                Goal::Survey | Goal::Exactly(_) => Err("there are no files".to_owned()),
            };
        }
        let owner = Owner {
            generations: wish.generations.clone(),
            held: wish.held.clone(),
            ..self.owner.clone()
        };
        let to = match wish.goal {
            Goal::Survey => {
                let reach = survey(&owner, &files);
                for fault in &reach.faults {
                    tracing::warn!("{fault}");
                }
                let words = || in_words(&reach.faults);
                let reached = reach.reached.ok_or_else(|| match words() {
                    none if none.is_empty() => {
                        "they reach no epoch, because there is no redo log among them".to_owned()
                    }
                    words => words,
                })?;
                // The node would start its cluster without what it has told to be durable.
                if reach.lost && !self.force {
                    let words = match words() {
                        none if none.is_empty() => "checkpoints are missing".to_owned(),
                        words => words,
                    };
                    return Err(format!("{words}; --force-start goes back to epoch {reached}"));
                }
                return Ok(reached);
            }
            Goal::Rejoin | Goal::Anew => None,
            Goal::Exactly(epoch) => Some(epoch),
        };
        match restore_in_parallel(&owner, &files, to, self.shards) {
            Ok(restored) => {
                let epoch = restored.epoch;
                newest.restored = Some(restored);
                Ok(epoch)
            }
            Err(faults) if wish.goal == Goal::Rejoin => {
                let words = in_words(&faults);
                tracing::warn!("{words}: the files are set aside, everything comes from the group");
                set_aside(&self.dir).map_err(trouble)?;
                Ok(Epoch(0))
            }
            Err(faults) => Err(in_words(&faults)),
        }
    }
}

/// Where damaged files are kept until somebody has looked at them, or the next ones come.
const ASIDE: &str = "damaged";

/// Moves all data files out of the way.
fn set_aside(dir: &Path) -> std::io::Result<()> {
    let aside = dir.join(ASIDE);
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::create_dir(&aside)?,
    }
    for directory in [Directory::Redo, Directory::Checkpoint] {
        let from = dir.join(directory.name());
        match std::fs::rename(&from, aside.join(directory.name())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&from)?,
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

/// Removes all data files, because the operator said so.
pub(super) fn forget(dir: &Path) -> CliResult {
    for directory in [Directory::Redo, Directory::Checkpoint] {
        let path = dir.join(directory.name());
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::file("remove", &path, &error));
            }
            _ => {}
        }
    }
    make_directories(dir)
}

/// Makes the directories of data files, durably.
pub(super) fn make_directories(dir: &Path) -> CliResult {
    let make = || -> std::io::Result<()> {
        for directory in [Directory::Redo, Directory::Checkpoint] {
            std::fs::create_dir_all(dir.join(directory.name()))?;
        }
        std::fs::File::open(dir)?.sync_all()
    };
    make().map_err(|error| {
        CliError::new(Trouble::File, format!("cannot make directories in {}", dir.display()))
            .why(error.to_string())
            .then("check that the directory can be written and its disk has space")
    })
}

#[cfg(test)]
mod tests {
    use lockstep_proto::disk::CheckpointName;
    use lockstep_proto::generations::Generations;
    use lockstep_proto::ids::{
        ClusterId, Incarnation, PartitionId, RestartGeneration, Seq, ShardId,
    };
    use lockstep_storage::checkpoint::{CheckpointHeader, CheckpointWriter, Plan};
    use lockstep_storage::disk::SimulatedDisk;
    use lockstep_storage::redo::{LogIdentity, RedoWriter};

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);
    const NODE: NodeId = NodeId(2);
    const LIFE: Incarnation = Incarnation(1);
    const GENERATION: RestartGeneration = RestartGeneration(1);
    /// The checkpoint of a partition that others hold.
    const ELSEWHERE: CheckpointName =
        CheckpointName { partition: PartitionId(5), generation: GENERATION, epoch: Epoch(6) };

    /// A log up to epoch 10, and a checkpoint.
    fn write_files(dir: &Path) {
        make_directories(dir).expect("made");
        let mut disk = SimulatedDisk::default();
        let log = LogIdentity {
            cluster: CLUSTER,
            node: NODE,
            generation: GENERATION,
            shards: 1,
            base: Epoch(0),
            joined: false,
        };
        let mut redo = RedoWriter::new(log, LIFE, ShardId(0));
        redo.close(Epoch(10));
        redo.flush();
        while let Some(request) = redo.next_request() {
            redo.on_done(disk.execute(request));
        }
        let mut checkpoint = CheckpointWriter::new(CheckpointHeader {
            cluster: CLUSTER,
            node: NODE,
            incarnation: LIFE,
            name: ELSEWHERE,
            partitions: 8,
            plan: Plan::full(8),
            seq: Seq(6),
        });
        checkpoint.finish();
        while let Some(request) = checkpoint.next_request() {
            checkpoint.on_done(disk.execute(request));
        }
        for (name, bytes) in disk.files() {
            std::fs::write(path_of(dir, name), bytes).expect("written");
        }
    }

    #[test]
    fn files_that_a_view_has_no_use_for_go_when_it_is_on_the_disk() {
        let dir = tempfile::tempdir().expect("temporary directory");
        write_files(dir.path());
        let generations = Generations::new(GENERATION, Vec::new());
        let held = vec![(PartitionId(1), 0)];
        let owner = Owner {
            cluster: CLUSTER,
            node: NODE,
            partitions: 8,
            held: held.clone(),
            generations: generations.clone(),
            promised: Epoch(0),
            canary: None,
        };
        let newest = Mutex::default();
        let recoverer =
            FileRecoverer { dir: dir.path().to_owned(), owner, shards: 1, force: false, newest };
        let superfluous = path_of(dir.path(), FileName::Checkpoint(ELSEWHERE));
        for token in 1..=2 {
            let (generations, held) = (generations.clone(), held.clone());
            let wish = Recovery { token, goal: Goal::Rejoin, generations, held };
            assert_eq!(recoverer.recover(&wish), Ok(Epoch(10)));
            assert!(superfluous.exists(), "the next view may give the partition to this node");
        }
        let restored = recoverer.take().expect("removed").expect("restored");
        assert_eq!(restored.epoch, Epoch(10));
        assert!(!superfluous.exists());
    }
}
