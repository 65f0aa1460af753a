//! The directory of a process: one user at a time, and files that say whose it is.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lockstep_proto::process::StoredFile;
use lockstep_proto::stored::{Stored, StoredError, StoredIdentity};
use lockstep_runtime::files::{DirLock, load, lock_dir, path_of, store};

use crate::cli::error::{CliError, CliResult, Trouble};

/// A directory this process alone may use until it ends.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    _lock: DirLock,
}

impl Home {
    /// Creates the directory if it is not there, and takes its lock.
    pub(super) fn open(dir: &Path) -> CliResult<Self> {
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(dir);
        created.map_err(|error| CliError::file("create", dir, &error))?;
        let lock = lock_dir(dir).map_err(|error| CliError::file("lock", dir, &error))?;
        let Some(lock) = lock else {
            let what = format!("the directory {} is in use", dir.display());
            return Err(CliError::new(Trouble::Process, what)
                .why("another Lockstep process holds its lock")
                .then("stop that process, or give this one a directory of its own with --dir"));
        };
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// A file's content; `None` if it was never written.
    pub(super) fn read(&self, file: StoredFile) -> CliResult<Option<Vec<u8>>> {
        let path = path_of(&self.dir, file);
        load(&self.dir, file).map_err(|error| CliError::file("read", &path, &error))
    }

    /// A file's meaning; `None` if it was never written.
    pub(super) fn stored<T: Stored>(&self) -> CliResult<Option<T>> {
        let content = self.read(T::FILE)?;
        let content = content.map(|bytes| T::from_file(&bytes)).transpose();
        content.map_err(|error| self.unusable(T::FILE, error))
    }

    /// The error of a file that cannot be used.
    pub(super) fn unusable(&self, file: StoredFile, error: StoredError) -> CliError {
        let path = path_of(&self.dir, file);
        let then = match error {
            StoredError::Foreign | StoredError::WrongKind => {
                "check --dir: give this process a directory of its own"
            }
            StoredError::WrongVersion { .. } => "use the release of Lockstep that wrote it",
            StoredError::Damaged | StoredError::Unreadable => {
                "check the disk; restore the file from a copy, or start anew with an empty \
                 directory"
            }
        };
        CliError::new(Trouble::File, format!("the file {} {error}", path.display())).then(then)
    }

    /// Refuses a directory that is a management server's.
    pub(super) fn refuse_mgmts(&self) -> CliResult {
        match self.read(StoredFile::Register)? {
            Some(_) => Err(self.others("a management server")),
            None => Ok(()),
        }
    }

    /// Begins the next life of the data node whose directory this is: on disk before anybody hears
    /// of it.
    pub(super) fn next_life(&self) -> CliResult<StoredIdentity> {
        let mut identity = self.stored::<StoredIdentity>()?.ok_or_else(|| {
            CliError::new(Trouble::File, format!("{} has no identity", self.dir.display()))
        })?;
        identity.instance.incarnation.0 += 1;
        let path = path_of(&self.dir, StoredIdentity::FILE);
        store(&self.dir, StoredIdentity::FILE, &identity.to_file())
            .map_err(|error| CliError::file("write", &path, &error))?;
        Ok(identity)
    }

    /// Refuses a directory that is a data node's.
    pub(super) fn refuse_data_nodes(&self) -> CliResult {
        match self.read(StoredFile::Identity)? {
            Some(_) => Err(self.others("a data node")),
            None => Ok(()),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn others(&self, whose: &str) -> CliError {
        let what = format!("the directory {} belongs to {whose}", self.dir.display());
        CliError::new(Trouble::Process, what)
            .why("each process has a directory of its own")
            .then("give this one another with --dir")
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::ids::{ClusterId, NodeInstance};

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let home = Home::open(&dir.path().join("n1")).expect("created");
        (dir, home)
    }

    #[test]
    fn a_second_process_is_told_that_the_directory_is_in_use() {
        let (_dir, home) = home();
        let error = Home::open(home.dir()).expect_err("locked");
        assert!(error.what.ends_with("is in use"), "{error}");
    }

    #[test]
    fn a_used_directory_begins_another_life() {
        let (_dir, home) = home();
        let identity = StoredIdentity { cluster: ClusterId(7), instance: NodeInstance::default() };
        store(home.dir(), StoredFile::Identity, &identity.to_file()).expect("stored");
        assert_eq!(home.next_life().expect("first").instance.incarnation.0, 1);
        assert_eq!(home.next_life().expect("second").instance.incarnation.0, 2);
        assert!(home.refuse_data_nodes().is_err());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let (_dir, home) = home();
        store(home.dir(), StoredFile::Identity, b"LKSF?").expect("stored");
        let error = home.next_life().expect_err("damaged");
        assert!(error.what.contains("n1/identity is damaged"), "{error}");
        store(home.dir(), StoredFile::Identity, b"hello, world").expect("stored");
        let error = home.next_life().expect_err("foreign");
        assert!(error.what.ends_with("is not a Lockstep file"), "{error}");
    }

    #[test]
    fn a_management_servers_directory_is_not_a_data_nodes() {
        let (_dir, home) = home();
        store(home.dir(), StoredFile::Register, b"any").expect("stored");
        let error = home.refuse_mgmts().expect_err("not its own");
        assert!(error.what.contains("belongs to a management server"), "{error}");
    }
}
