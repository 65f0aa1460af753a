//! The small files of a directory: identity, newest view, arbitrator register. Each is replaced as
//! a whole: written beside, synced, renamed, and the directory synced, so that a crash leaves the
//! old content or the new one. What the bytes mean, and their checksum, is the caller's.
//!
//! Invariant: a thread that drives a core never waits for the disk; [`Disk`] has one of its own.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use lockstep_proto::limits::FRAME_BYTES_MAX;
use lockstep_proto::process::StoredFile;

use crate::disk::DiskThreads;
use crate::limits::{RESERVE_BYTES, STORES_WAITING_MAX};
use crate::ready::{Notice, ReadyQueue};

/// Where a small file lives.
#[must_use]
pub fn path_of(dir: &Path, file: StoredFile) -> PathBuf {
    dir.join(match file {
        StoredFile::Identity => "identity",
        StoredFile::View => "view",
        StoredFile::Register => "register",
        StoredFile::Backups => "backups",
        StoredFile::Events => "events",
    })
}

/// Reads a small file; `None` if it was never written.
///
/// # Errors
/// What the system says, or `InvalidData` if the file is larger than any that is ever stored.
pub fn load(dir: &Path, file: StoredFile) -> io::Result<Option<Vec<u8>>> {
    let opened = match File::open(path_of(dir, file)) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    opened.take(FRAME_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large to be ours"));
    }
    Ok(Some(bytes))
}

/// Replaces a small file, durably.
///
/// # Errors
/// What the system says; the old content is still there then.
pub fn store(dir: &Path, file: StoredFile, bytes: &[u8]) -> io::Result<()> {
    let path = path_of(dir, file);
    let beside = path.with_extension("new");
    let mut new = File::create(&beside)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    drop(new);
    std::fs::rename(&beside, &path)?;
    File::open(dir)?.sync_all()
}

/// The right to use a directory, held until dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Takes the right to use a directory; `None` if another process has it.
///
/// # Errors
/// What the system says about the lock file.
pub fn lock_dir(dir: &Path) -> io::Result<Option<DirLock>> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(DirLock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

struct StoreRequest {
    token: u64,
    file: StoredFile,
    bytes: Vec<u8>,
    answer_to: Arc<ReadyQueue>,
}

/// The thread that stores files, as the reactors of one process see it.
#[derive(Clone)]
pub(crate) struct Disk {
    requests: Sender<StoreRequest>,
}

impl Disk {
    /// Starts the thread. It ends, all requests done, when the last handle is dropped.
    pub(crate) fn start(dir: PathBuf, threads: &mut DiskThreads) -> io::Result<Self> {
        let (requests, incoming) = bounded(STORES_WAITING_MAX);
        threads.start("disk".into(), move || serve(&dir, &incoming))?;
        Ok(Self { requests })
    }

    /// Stores a file and answers with [`Notice::Stored`].
    pub(crate) fn store(
        &self,
        token: u64,
        file: StoredFile,
        bytes: Vec<u8>,
        answer_to: Arc<ReadyQueue>,
    ) {
        let request = StoreRequest { token, file, bytes, answer_to };
        if let Err(refused) = self.requests.try_send(request) {
            let StoreRequest { token, answer_to, .. } = refused.into_inner();
            answer_to.post(Notice::Stored { token, ok: false });
        }
    }
}

/// Room kept for the small files, so that a disk full of data does not keep a node from storing the
/// view it must act in.
struct Reserve {
    path: PathBuf,
}

impl Reserve {
    fn new(dir: &Path) -> Self {
        let reserve = Self { path: dir.join("reserve") };
        reserve.keep();
        reserve
    }

    /// Takes the room, if it is to be had and not taken yet.
    fn keep(&self) {
        let there = std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= RESERVE_BYTES);
        let taken = || std::fs::write(&self.path, vec![0; RESERVE_BYTES as usize]);
        if !there && let Err(error) = taken() {
            tracing::debug!("no room is kept in {}: {error}", self.path.display());
        }
    }

    /// Stores a file, if need be in the room kept for it.
    fn store(&self, dir: &Path, file: StoredFile, bytes: &[u8]) -> io::Result<()> {
        match store(dir, file, bytes) {
            Err(error) if is_full(&error) => {
                std::fs::remove_file(&self.path)?;
                store(dir, file, bytes)
            }
            other => other,
        }
    }
}

/// Whether an error means that there is no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn serve(dir: &Path, requests: &Receiver<StoreRequest>) {
    let reserve = Reserve::new(dir);
    for StoreRequest { token, file, bytes, answer_to } in requests {
        let result = reserve.store(dir, file, &bytes);
        reserve.keep();
        if let Err(error) = &result {
            let path = path_of(dir, file);
            tracing::error!("cannot store {}: {error}", path.display());
        }
        answer_to.post(Notice::Stored { token, ok: result.is_ok() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), StoredFile::View).unwrap(), None);
        store(dir.path(), StoredFile::View, b"one").unwrap();
        store(dir.path(), StoredFile::View, b"2").unwrap();
        assert_eq!(load(dir.path(), StoredFile::View).unwrap(), Some(b"2".to_vec()));
        assert_eq!(load(dir.path(), StoredFile::Identity).unwrap(), None);
    }

    #[test]
    fn a_failed_store_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), StoredFile::Register, b"old").unwrap();
        std::fs::create_dir(dir.path().join("register.new")).unwrap();
        store(dir.path(), StoredFile::Register, b"new").unwrap_err();
        assert_eq!(load(dir.path(), StoredFile::Register).unwrap(), Some(b"old".to_vec()));
    }

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_dir(dir.path()).unwrap();
        assert!(held.is_some());
        assert!(lock_dir(dir.path()).unwrap().is_none());
        drop(held);
        assert!(lock_dir(dir.path()).unwrap().is_some());
    }
}
