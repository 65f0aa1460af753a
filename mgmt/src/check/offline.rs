//! Checks the directory of a data node that is not running: checksums of everything, whose files
//! they are, whether checkpoints and redo fit together, and which epoch the node can come back at.
//!
//! Invariant: nothing in the directory is changed.

use std::path::{Path, PathBuf};

use lockstep_proto::ids::{Epoch, GroupId};
use lockstep_proto::process::StoredFile;
use lockstep_proto::stored::{Stored, StoredIdentity};
use lockstep_proto::view::View;
use lockstep_runtime::DataFiles;
use lockstep_runtime::files::{load, lock_dir, path_of};
use lockstep_storage::restore::{Files, Owner, Restoration};
use serde_json::json;

use crate::cli::error::{CliError, CliResult, Trouble};
use crate::run::restore;

/// What was found.
#[derive(Debug)]
pub struct Report {
    dir: PathBuf,
    identity: StoredIdentity,
    view: View,
    files: usize,
    bytes: u64,
    /// The epoch the node can be restored to by itself.
    pub recovered: Option<Epoch>,
    rows: u64,
    partitions: usize,
    /// What is damaged, missing or of somebody else, each in words.
    pub faults: Vec<String>,
    torn: Vec<String>,
    others: Vec<PathBuf>,
}

/// Checks everything in the directory of a data node.
///
/// # Errors
/// If a process runs on it, if it is not a data node's, or if it cannot be read.
pub fn check(dir: &Path) -> CliResult<Report> {
    if !dir.is_dir() {
        let what = format!("there is no directory {}", dir.display());
        return Err(CliError::new(Trouble::File, what));
    }
    let lock = lock_dir(dir).map_err(|error| CliError::file("lock", dir, &error))?;
    if lock.is_none() {
        let what = format!("the directory {} is in use", dir.display());
        return Err(CliError::new(Trouble::Process, what)
            .why("a Lockstep process runs on it")
            .then("stop that process first, or check the running cluster without a directory"));
    }
    let identity: StoredIdentity = stored(dir)?;
    let view: View = stored(dir)?;
    let Some(group) = group_of(&view, &identity) else {
        let what =
            format!("the view in {} does not have {}", dir.display(), identity.instance.node);
        return Err(CliError::new(Trouble::File, what));
    };
    let mapped = DataFiles::open(dir).map_err(|error| CliError::file("read", dir, &error))?;
    let files: Files<'_> = mapped.iter().collect();
    let owner = Owner::of(&view, identity.instance.node, group);
    let mut report = Report {
        dir: dir.to_owned(),
        identity,
        view,
        files: mapped.iter().count(),
        bytes: mapped.bytes(),
        recovered: None,
        rows: 0,
        partitions: owner.held.len(),
        faults: Vec::new(),
        torn: Vec::new(),
        others: mapped.others.clone(),
    };
    if files.is_empty() {
        return Ok(report);
    }
    report.read(&owner, &files);
    Ok(report)
}

fn group_of(view: &View, identity: &StoredIdentity) -> Option<GroupId> {
    view.member(identity.instance.node).map(|member| member.group)
}

fn stored<T: Stored>(dir: &Path) -> CliResult<T> {
    let file: StoredFile = T::FILE;
    let path = path_of(dir, file);
    let content = load(dir, file).map_err(|error| CliError::file("read", &path, &error))?;
    let Some(content) = content else {
        let what = format!("{} is not the directory of a data node", dir.display());
        return Err(
            CliError::new(Trouble::File, what).why(format!("there is no file {}", path.display()))
        );
    };
    T::from_file(&content).map_err(|error| {
        CliError::new(Trouble::File, format!("the file {} {error}", path.display()))
    })
}

impl Report {
    /// Reads every byte: all blocks of all checkpoints, all logs, and restores as a start would.
    fn read(&mut self, owner: &Owner, files: &Files<'_>) {
        let reach = match restore::open(owner, files, None) {
            Ok(restoration) => {
                self.check_blocks(&restoration);
                match restore::load(&restoration, 1) {
                    Ok(restored) => {
                        self.recovered = Some(restored.epoch);
                        self.rows = restored.rows();
                    }
                    Err(faults) => self.note(faults.iter().map(ToString::to_string)),
                }
                restoration.reach().clone()
            }
            Err(reach) => *reach,
        };
        self.note(reach.faults.iter().map(ToString::to_string));
        self.torn = reach
            .torn
            .iter()
            .map(|torn| format!("{} at byte {}: {} bytes", torn.file, torn.offset, torn.bytes))
            .collect();
    }

    /// Also blocks that a restore passes over.
    fn check_blocks(&mut self, restoration: &Restoration<'_>) {
        let faults = restoration.check_blocks();
        self.note(faults.iter().map(ToString::to_string));
    }

    fn note(&mut self, faults: impl Iterator<Item = String>) {
        for fault in faults {
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }

    /// Whether the node can start from these files, with nothing missing that was durable.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty() && (self.files == 0 || self.recovered.is_some())
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let others: Vec<String> = self.others.iter().map(|p| p.display().to_string()).collect();
        json!({
            "schema": "lockstep.check-directory/v1",
            "directory": self.dir.display().to_string(),
            "cluster": self.identity.cluster.to_string(),
            "node": self.identity.instance.node.0,
            "incarnation": self.identity.instance.incarnation.0,
            "view": self.view.number.0,
            "restart_generation": self.view.restart_generation.0,
            "sound": self.is_sound(),
            "recovered_epoch": self.recovered.map(|epoch| epoch.0),
            "files": self.files,
            "bytes": self.bytes,
            "partitions": self.partitions,
            "rows": self.rows,
            "faults": self.faults,
            "torn": self.torn,
            "other_files": others,
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} of cluster {}, view {}: {} files, {} bytes\n",
            self.identity.instance, self.identity.cluster, self.view.number, self.files, self.bytes
        );
        match self.recovered {
            Some(epoch) => {
                let (rows, partitions) = (self.rows, self.partitions);
                text +=
                    &format!("comes back at {epoch} with {rows} rows in {partitions} partitions\n");
            }
            None if self.files == 0 => text += "nothing has been written\n",
            None => text += "cannot be restored from these files\n",
        }
        let mut list = |title: &str, lines: &[String]| {
            lines.iter().for_each(|line| text += &format!("{title}: {line}\n"));
        };
        list("damaged", &self.faults);
        list("cut off, never durable", &self.torn);
        let others: Vec<String> = self.others.iter().map(|p| p.display().to_string()).collect();
        list("not a file of Lockstep", &others);
        text += if self.is_sound() { "sound\n" } else { "NOT SOUND\n" };
        text
    }
}
