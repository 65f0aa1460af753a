//! The threads that write a data node's redo and checkpoints: one per shard for its redo log, so
//! that a sync of one shard never waits for another's, one for all checkpoints, and one for
//! backups, which lie where the operator says.
//!
//! Invariant: the steps of a request are taken in order up to the first that fails, and a thread
//! answers every request it was given; no thread that drives a core waits for one of these.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use lockstep_proto::disk::{
    Completion, Directory, DiskError, FileName, Lane, Op, PartName, Request,
};
use lockstep_proto::ids::BackupId;

use crate::clock;
use crate::counters::{Counters, DiskCounts};
use crate::files::is_full;
use crate::host::AbortOnPanic;
use crate::limits::EXIT_TIME_MAX;
use crate::ready::{Notice, ReadyQueue};

/// Files a thread keeps open: the one it writes, the one before it, and a few more where one
/// thread serves several writers.
const OPEN_FILES_MAX: usize = 8;

/// What is on the disk of a redo log is taken out of the page cache in pieces of this size.
const FORGET_BYTES: u64 = 1 << 20;

/// Backups whose place a thread remembers: the one that is made, and a few that are removed.
const BACKUPS_LOCATED_MAX: usize = 8;

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
    backup: Option<Sender<Job>>,
}

impl Lanes {
    /// Passes a request to the lane's thread, which answers with [`Notice::Disk`].
    pub(crate) fn execute(&self, lane: Lane, request: Request, answer_to: Arc<ReadyQueue>) {
        let thread = match lane {
            Lane::Redo => &self.redo,
            Lane::Checkpoint => &self.checkpoint,
            Lane::Backup => &self.backup,
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
        let checkpoint = self.start_lane("checkpoint".into(), dir, counters)?;
        let backup = self.start_lane("backup".into(), dir, counters)?;
        (0..shards)
            .map(|shard| {
                let redo = self.start_lane(format!("redo {shard}"), dir, counters)?;
                Ok(Lanes {
                    redo: Some(redo),
                    checkpoint: Some(checkpoint.clone()),
                    backup: Some(backup.clone()),
                })
            })
            .collect()
    }

    /// Starts what a process without data files of its own writes: manifests of backups.
    pub(crate) fn start_backup_lane(
        &mut self,
        dir: &Path,
        counters: &Arc<Counters>,
    ) -> io::Result<Lanes> {
        let backup = self.start_lane("backup".into(), dir, counters)?;
        Ok(Lanes { backup: Some(backup), ..Lanes::default() })
    }

    fn start_lane(
        &mut self,
        name: String,
        dir: &Path,
        counters: &Arc<Counters>,
    ) -> io::Result<Sender<Job>> {
        let (jobs, incoming) = unbounded();
        let (dir, counters) = (dir.to_owned(), Arc::clone(counters));
        self.start(name, move || serve(DataFiles::new(dir), &incoming, &counters))?;
        Ok(jobs)
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
    open: Vec<(FileName, OpenFile)>,
    /// Where backups lie, the newest last.
    backups: Vec<(BackupId, PathBuf)>,
}

/// One of them.
struct OpenFile {
    file: File,
    /// The end of what was written here, and of what was there when it was synced last.
    end: u64,
    synced: u64,
    /// Up to where the page cache has been told to forget it.
    forgotten: u64,
}

impl OpenFile {
    fn new(file: File) -> Self {
        Self { file, end: 0, synced: 0, forgotten: 0 }
    }

    /// Notes a sync. Nobody reads the file before the process ends: the page cache is to keep none
    /// of it, as it would take the machine's memory from the rows. Of a file that `grows`, what was
    /// synced just now is left for the next time, because the kernel may not have let go of it yet.
    fn synced(&mut self, grows: bool) {
        // The kernel forgets whole pages only.
        let whole_pages = self.synced - self.synced % 4096;
        let (until, least) = if grows { (whole_pages, FORGET_BYTES) } else { (self.end, 1) };
        if until.saturating_sub(self.forgotten) >= least {
            forget(&self.file, self.forgotten, until);
            self.forgotten = until;
        }
        self.synced = self.end;
    }
}

/// Tells the kernel that it need not keep a part of a file in memory. It may keep it all the same.
fn forget(file: &File, from: u64, to: u64) {
    let offset = |at: u64| libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
    // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is passed.
    let refused = unsafe {
        let (from, length) = (offset(from), offset(to - from));
        libc::posix_fadvise(file.as_raw_fd(), from, length, libc::POSIX_FADV_DONTNEED)
    };
    if refused != 0 {
        tracing::debug!("posix_fadvise: {}", io::Error::from_raw_os_error(refused));
    }
}

impl DataFiles {
    fn new(dir: PathBuf) -> Self {
        Self { dir, open: Vec::new(), backups: Vec::new() }
    }

    fn execute(&mut self, request: Request, counts: &DiskCounts) -> Completion {
        let mut done = Completion { ops: request.ops, failed: None };
        for (at, op) in done.ops.iter().enumerate() {
            if let Err(error) = self.step(op, counts) {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                let what = op.file().map_or("a directory".into(), |file| file.to_string());
                let dir = self.place_of(op);
                let dir = dir.display();
                let error_kind = error_of(&error);
                match error_kind {
                    DiskError::Full => tracing::warn!("writing {what} in {dir}: {error}"),
                    _ => tracing::error!("writing {what} in {dir}: {error}"),
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
                let path = self.path(*name)?;
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                self.keep(*name, OpenFile::new(file));
            }
            Op::Write { file, offset, bytes } => {
                let open = self.file(*file)?;
                open.file.write_all_at(bytes, *offset)?;
                open.end = open.end.max(offset + bytes.len() as u64);
                counts.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Op::Sync(name) => {
                let begun = clock::now();
                let open = self.file(*name)?;
                open.file.sync_data()?;
                let took = clock::now().since(begun).as_micros();
                open.synced(matches!(name, FileName::Segment(_)));
                let took = u64::try_from(took).unwrap_or(u64::MAX);
                counts.sync_us.fetch_add(took, Ordering::Relaxed);
                counts.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Op::Rename { from, to } => {
                self.open.retain(|(open, _)| open != from && open != to);
                std::fs::rename(self.path(*from)?, self.path(*to)?)?;
            }
            Op::Remove(name) => {
                self.open.retain(|(open, _)| open != name);
                match std::fs::remove_file(self.path(*name)?) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            Op::SyncDirectory(directory) => File::open(self.directory(*directory)?)?.sync_all()?,
            Op::Locate { backup, at } => self.locate(*backup, at.as_deref())?,
            Op::Clear { backup, node, shard } => {
                let own = |part: PartName| {
                    (part.backup, part.node) == (*backup, *node)
                        && shard.is_none_or(|shard| part.shard == shard)
                };
                self.clear(*backup, own)?;
            }
            Op::RemoveEmpty(backup) => {
                // What others have in it stays, and with it the directory.
                match std::fs::remove_dir(self.directory(Directory::Backup(*backup))?) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// For the log: where a step has to do with.
    fn place_of(&self, op: &Op) -> PathBuf {
        let directory = match op {
            Op::Locate { at: Some(at), .. } => return PathBuf::from(at),
            Op::Clear { backup, .. } | Op::RemoveEmpty(backup) => Directory::Backup(*backup),
            Op::SyncDirectory(directory) => *directory,
            _ => match op.file() {
                Some(file) => file.directory(),
                None => return self.dir.clone(),
            },
        };
        self.directory(directory).unwrap_or_else(|_| self.dir.clone())
    }

    /// Finds the place of a backup, and makes its directory there.
    fn locate(&mut self, backup: BackupId, at: Option<&str>) -> io::Result<()> {
        let place = match at {
            Some(at) if !Path::new(at).is_absolute() => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "not an absolute path"));
            }
            Some(at) => PathBuf::from(at),
            None => {
                let own = self.dir.join(Directory::Backup(backup).name());
                std::fs::create_dir_all(&own)?;
                own
            }
        };
        let dir = place.join(format!("lockstep-{backup}"));
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        File::open(&place)?.sync_all()?;
        self.backups.retain(|(other, _)| *other != backup);
        if self.backups.len() >= BACKUPS_LOCATED_MAX {
            self.backups.remove(0);
        }
        self.backups.push((backup, dir));
        Ok(())
    }

    fn clear(&mut self, backup: BackupId, own: impl Fn(PartName) -> bool) -> io::Result<()> {
        let directory = Directory::Backup(backup);
        self.open.retain(|(open, _)| open.directory() != directory);
        for entry in std::fs::read_dir(self.directory(directory)?)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse);
            match name {
                Some(FileName::Part(part) | FileName::Unfinished(part)) if own(part) => {
                    match std::fs::remove_file(&path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn directory(&self, directory: Directory) -> io::Result<PathBuf> {
        let Directory::Backup(backup) = directory else {
            return Ok(self.dir.join(directory.name()));
        };
        let place = self.backups.iter().find(|(other, _)| *other == backup);
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "a backup without a place");
        place.map(|(_, dir)| dir.clone()).ok_or_else(unknown)
    }

    fn path(&self, name: FileName) -> io::Result<PathBuf> {
        Ok(self.directory(name.directory())?.join(name.to_string()))
    }

    fn keep(&mut self, name: FileName, file: OpenFile) -> &mut OpenFile {
        if self.open.len() >= OPEN_FILES_MAX {
            self.open.remove(0);
        }
        self.open.push((name, file));
        let last = self.open.len() - 1;
        &mut self.open[last].1
    }

    fn file(&mut self, name: FileName) -> io::Result<&mut OpenFile> {
        let at = self.open.iter().position(|(open, _)| *open == name);
        let (name, file) = match at {
            Some(at) => self.open.remove(at),
            None => {
                let file = OpenOptions::new().write(true).open(self.path(name)?)?;
                (name, OpenFile::new(file))
            }
        };
        Ok(self.keep(name, file))
    }
}

fn error_of(error: &io::Error) -> DiskError {
    use io::ErrorKind;
    match error.kind() {
        _ if is_full(error) => DiskError::Full,
        ErrorKind::NotFound | ErrorKind::NotADirectory => DiskError::Missing,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => DiskError::Denied,
        _ => DiskError::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use lockstep_proto::ids::{NodeId, ShardId};

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
        assert_eq!(done.failed, Some((5, DiskError::Missing)));
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

    #[test]
    fn a_log_is_forgotten_up_to_the_sync_before_and_another_file_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, counts) = (files(dir.path()), DiskCounts::default());
        let (log, rows) = (name("i1-s0-1.redo"), name("p1-r1-e7.partial"));
        let piece = |at: u64| vec![u8::try_from(at % 251).unwrap(); 700_000];
        let mut forgotten = Vec::new();
        for (at, offset) in (0..6).map(|at| (at, at * 700_000)) {
            let create = (at == 0).then_some(Op::Create(log));
            let write = Op::Write { file: log, offset, bytes: piece(at) };
            let ops = create.into_iter().chain([write, Op::Sync(log)]).collect();
            assert_eq!(files.execute(Request { ops }, &counts).failed, None);
            forgotten.push(files.file(log).unwrap().forgotten);
        }
        assert_eq!(forgotten, [0, 0, 1_396_736, 1_396_736, 2_797_568, 2_797_568]);
        let write = Op::Write { file: rows, offset: 0, bytes: b"rows".to_vec() };
        let ops = vec![Op::Create(rows), write, Op::Sync(rows)];
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        assert_eq!(files.file(rows).unwrap().forgotten, 4);
        let whole: Vec<u8> = (0..6).flat_map(piece).collect();
        assert!(std::fs::read(dir.path().join("redo/i1-s0-1.redo")).unwrap() == whole);
    }

    #[test]
    fn a_backup_lies_where_it_was_said_and_only_its_own_files_are_removed() {
        let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut files = DataFiles::new(dir.path().to_owned());
        let counts = DiskCounts::default();
        let backup = BackupId(7);
        let at = |path: &Path| Some(path.to_str().unwrap().to_owned());
        let part = |text: &str| Op::Create(name(text));
        let gone = Op::Locate { backup, at: at(&place.path().join("not mounted")) };
        let failed = files.execute(Request { ops: vec![gone] }, &counts).failed;
        assert_eq!(failed, Some((0, DiskError::Missing)));
        let relative = Op::Locate { backup, at: Some("here".into()) };
        let failed = files.execute(Request { ops: vec![relative] }, &counts).failed;
        assert_eq!(failed, Some((0, DiskError::Missing)));
        let failed = files.execute(Request { ops: vec![part("b7-n1-s0-1.part")] }, &counts).failed;
        assert_eq!(failed, Some((0, DiskError::Missing)), "nobody has said where");
        let ops = vec![
            Op::Locate { backup, at: at(place.path()) },
            part("b7-n1-s0-1.unfinished"),
            part("b7-n1-s0-2.part"),
            part("b7-n1-s1-3.part"),
            part("b7-n2-s0-4.part"),
            Op::SyncDirectory(Directory::Backup(backup)),
        ];
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        let all = place.path().join("lockstep-b7");
        std::fs::write(all.join("notes.txt"), b"somebody else's").unwrap();
        let left = || {
            let names = std::fs::read_dir(&all).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let clear = |shard| Op::Clear { backup, node: NodeId(1), shard };
        let ops = vec![clear(Some(ShardId(0))), Op::RemoveEmpty(backup)];
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        assert_eq!(left(), ["b7-n1-s1-3.part", "b7-n2-s0-4.part", "notes.txt"]);
        assert_eq!(files.execute(Request { ops: vec![clear(None)] }, &counts).failed, None);
        assert_eq!(left(), ["b7-n2-s0-4.part", "notes.txt"]);
        let own = Op::Locate { backup: BackupId(8), at: None };
        let ops = vec![own, part("b8-n1-s0-1.part")];
        assert_eq!(files.execute(Request { ops }, &counts).failed, None);
        assert!(dir.path().join("backup/lockstep-b8/b8-n1-s0-1.part").exists());
    }
}
