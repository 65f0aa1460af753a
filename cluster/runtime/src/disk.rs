//! The threads that write a data node's redo and checkpoints: one per shard for its redo log, so
//! that a sync of one shard never waits for another's, and one for all checkpoints.
//!
//! Invariant: the steps of a request are taken in order up to the first that fails, and a thread
//! answers every request it was given; no thread that drives a core waits for one of these.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use lockstep_proto::disk::{Completion, Directory, DiskError, FileName, Lane, Op, Request};

use crate::clock;
use crate::counters::{Counters, DiskCounts};
use crate::files::is_full;
use crate::host::AbortOnPanic;
use crate::limits::EXIT_TIME_MAX;
use crate::ready::{Notice, ReadyQueue};

/// Files a thread keeps open: the one it writes, the one before it, and a few more where one
/// thread serves several writers.
const OPEN_FILES_MAX: usize = 8;

struct Job {
    lane: Lane,
    request: Request,
    answer_to: Arc<ReadyQueue>,
}

/// Where one core's requests go. A core without lanes gets failures for answers.
#[derive(Clone, Default)]
pub(crate) struct Lanes {
    redo: Option<Sender<Job>>,
    checkpoint: Option<Sender<Job>>,
}

impl Lanes {
    /// Passes a request to the lane's thread, which answers with [`Notice::Disk`].
    pub(crate) fn execute(&self, lane: Lane, request: Request, answer_to: Arc<ReadyQueue>) {
        let thread = match lane {
            Lane::Redo => &self.redo,
            Lane::Checkpoint => &self.checkpoint,
        };
        let job = Job { lane, request, answer_to };
        let refused = match thread {
            Some(thread) => thread.send(job).err().map(crossbeam::channel::SendError::into_inner),
            None => Some(job),
        };
        if let Some(Job { lane, request, answer_to }) = refused {
            let failed = Some((0, DiskError::Failed));
            let done = Completion { ops: request.ops, failed };
            answer_to.post(Notice::Disk { lane, done });
        }
    }
}

/// The threads of one process that wait for disks. Each ends when nobody can ask it any more.
pub(crate) struct DiskThreads {
    alive: Sender<()>,
    all_ended: Receiver<()>,
}

impl DiskThreads {
    pub(crate) fn new() -> Self {
        let (alive, all_ended) = bounded(0);
        Self { alive, all_ended }
    }

    /// Starts one.
    pub(crate) fn start(
        &mut self,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let alive = self.alive.clone();
        std::thread::Builder::new().name(name).spawn(move || {
            let _abort = AbortOnPanic;
            let _alive = alive;
            work();
        })?;
        Ok(())
    }

    /// Starts those that write data files in `dir`, and makes the directories for them; gives each
    /// shard its lanes.
    pub(crate) fn start_lanes(
        &mut self,
        dir: &Path,
        shards: usize,
        counters: &Arc<Counters>,
    ) -> io::Result<Vec<Lanes>> {
        for directory in [Directory::Redo, Directory::Checkpoint] {
            std::fs::create_dir_all(dir.join(directory.name()))?;
        }
        File::open(dir)?.sync_all()?;
        let mut start = |name: String| -> io::Result<Sender<Job>> {
            let (jobs, incoming) = unbounded();
            let (dir, counters) = (dir.to_owned(), Arc::clone(counters));
            self.start(name, move || serve(DataFiles::new(dir), &incoming, &counters))?;
            Ok(jobs)
        };
        let checkpoint = start("checkpoint".into())?;
        (0..shards)
            .map(|shard| {
                let redo = start(format!("redo {shard}"))?;
                Ok(Lanes { redo: Some(redo), checkpoint: Some(checkpoint.clone()) })
            })
            .collect()
    }

    /// Waits until all have ended; not for ever, because a disk may never answer.
    pub(crate) fn wait(self) {
        drop(self.alive);
        if self.all_ended.recv_timeout(EXIT_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the disk does not answer; the process ends without it");
        }
    }
}

fn serve(mut files: DataFiles, jobs: &Receiver<Job>, counters: &Counters) {
    for Job { lane, request, answer_to } in jobs {
        let done = files.execute(request, counters.disk(lane));
        answer_to.post(Notice::Disk { lane, done });
    }
}

/// The data files of a directory as one thread writes them.
struct DataFiles {
    dir: PathBuf,
    /// Most recently used last.
    open: Vec<(FileName, File)>,
}

impl DataFiles {
    fn new(dir: PathBuf) -> Self {
        Self { dir, open: Vec::new() }
    }

    fn execute(&mut self, request: Request, counts: &DiskCounts) -> Completion {
        let mut done = Completion { ops: request.ops, failed: None };
        for (at, op) in done.ops.iter().enumerate() {
            if let Err(error) = self.step(op, counts) {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                let what = op.file().map_or("a directory".into(), |file| file.to_string());
                let dir = self.dir.display();
                let error_kind = error_of(&error);
                match error_kind {
                    DiskError::Full => tracing::warn!("writing {what} in {dir}: {error}"),
                    DiskError::Failed => tracing::error!("writing {what} in {dir}: {error}"),
                }
                done.failed = Some((at, error_kind));
                break;
            }
        }
        done
    }

    fn step(&mut self, op: &Op, counts: &DiskCounts) -> io::Result<()> {
        match op {
            Op::Create(name) => {
                let path = self.path(*name);
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                self.keep(*name, file);
            }
            Op::Write { file, offset, bytes } => {
                self.file(*file)?.write_all_at(bytes, *offset)?;
                counts.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Op::Sync(name) => {
                let begun = clock::now();
                self.file(*name)?.sync_data()?;
                let took = clock::now().since(begun).as_micros();
                let took = u64::try_from(took).unwrap_or(u64::MAX);
                counts.sync_us.fetch_add(took, Ordering::Relaxed);
                counts.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Op::Rename { from, to } => {
                self.open.retain(|(open, _)| open != from && open != to);
                std::fs::rename(self.path(*from), self.path(*to))?;
            }
            Op::Remove(name) => {
                self.open.retain(|(open, _)| open != name);
                match std::fs::remove_file(self.path(*name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            Op::SyncDirectory(directory) => File::open(self.directory(*directory))?.sync_all()?,
        }
        Ok(())
    }

    fn directory(&self, directory: Directory) -> PathBuf {
        self.dir.join(directory.name())
    }

    fn path(&self, name: FileName) -> PathBuf {
        self.directory(name.directory()).join(name.to_string())
    }

    fn keep(&mut self, name: FileName, file: File) {
        if self.open.len() >= OPEN_FILES_MAX {
            self.open.remove(0);
        }
        self.open.push((name, file));
    }

    fn file(&mut self, name: FileName) -> io::Result<&File> {
        let at = self.open.iter().position(|(open, _)| *open == name);
        let (name, file) = match at {
            Some(at) => self.open.remove(at),
            None => (name, OpenOptions::new().write(true).open(self.path(name))?),
        };
        self.keep(name, file);
        Ok(&self.open[self.open.len() - 1].1)
    }
}

fn error_of(error: &io::Error) -> DiskError {
    if is_full(error) { DiskError::Full } else { DiskError::Failed }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn name(text: &str) -> FileName {
        FileName::parse(text).unwrap()
    }

    fn files(dir: &Path) -> DataFiles {
        for directory in [Directory::Redo, Directory::Checkpoint] {
            std::fs::create_dir(dir.join(directory.name())).unwrap();
        }
        DataFiles::new(dir.to_owned())
    }

    #[test]
    fn steps_are_taken_in_order_up_to_the_first_that_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, counts) = (files(dir.path()), DiskCounts::default());
        let (one, two) = (name("i1-s0-1.redo"), name("i1-s0-2.redo"));
        let write = |offset, bytes: &[u8]| Op::Write { file: one, offset, bytes: bytes.to_vec() };
        let ops = vec![
            Op::Create(one),
            write(0, b"one"),
            write(6, b"three"),
            Op::Sync(one),
            Op::SyncDirectory(Directory::Redo),
            Op::Sync(two),
            write(3, b"two"),
        ];
        let done = files.execute(Request { ops }, &counts);
        assert_eq!(done.failed, Some((5, DiskError::Failed)));
        assert_eq!(done.ops.len(), 7);
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        assert_eq!((count(&counts.written_bytes), count(&counts.syncs)), (8, 1));
        assert_eq!(count(&counts.failed), 1);
        let path = dir.path().join("redo/i1-s0-1.redo");
        assert_eq!(std::fs::read(&path).unwrap(), b"one\0\0\0three");
        let again = files.execute(Request { ops: vec![Op::Create(one)] }, &counts);
        assert_eq!(again.failed, Some((0, DiskError::Failed)));
    }

    #[test]
    fn a_renamed_file_is_the_other_and_a_missing_one_may_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, counts) = (files(dir.path()), DiskCounts::default());
        let (partial, whole) = (name("p1-r1-e7.partial"), name("p1-r1-e7.checkpoint"));
        let ops = vec![
            Op::Create(partial),
            Op::Write { file: partial, offset: 0, bytes: b"rows".to_vec() },
            Op::Sync(partial),
            Op::Rename { from: partial, to: whole },
            Op::SyncDirectory(Directory::Checkpoint),
            Op::Remove(partial),
            Op::Write { file: whole, offset: 4, bytes: b"!".to_vec() },
        ];
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        let path = dir.path().join("checkpoint/p1-r1-e7.checkpoint");
        assert_eq!(std::fs::read(path).unwrap(), b"rows!");
    }

    #[test]
    fn more_files_than_are_kept_open_are_written_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, counts) = (files(dir.path()), DiskCounts::default());
        let all: Vec<_> = (1..=3 * OPEN_FILES_MAX as u64)
            .map(|segment| name(&format!("i1-s0-{segment}.redo")))
            .collect();
        let ops = all.iter().map(|file| Op::Create(*file)).collect();
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        let write = |file: &FileName| Op::Write { file: *file, offset: 0, bytes: b"x".to_vec() };
        let ops = all.iter().map(write).collect();
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        assert!(files.open.len() <= OPEN_FILES_MAX);
    }
}
