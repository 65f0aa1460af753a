//! A disk in memory that does what disks do when the power goes or they fail, for tests and for
//! the simulator.
//!
//! A file has a durable image and the writes since its last sync, cut into sectors; a directory has
//! durable names and the changes since its last sync. A power loss keeps none of what is not
//! synced, all, a prefix, or any part of it. A sync that fails loses what it should have made
//! durable, though reads still see it and the next sync succeeds, as Linux does.
//!
//! Invariant: what was synced without an error survives every power loss, unless the disk lies.

use std::collections::BTreeMap;

use super::{Completion, Directory, DiskError, FileName, Op, Request};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What a power loss leaves of that which was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing.
    Nothing,
    /// Everything: the disk was just fast.
    Everything,
    /// The first writes, the last of them cut at any byte.
    Prefix,
    /// Any sectors, any names.
    Any,
}

/// A file's content.
#[derive(Clone, Default, Debug)]
struct Content {
    durable: Vec<u8>,
    /// Writes since the last sync; a loss of power cuts them into sectors.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// What reads see.
    seen: Vec<u8>,
}

/// A change of names.
#[derive(Clone, Copy, Debug)]
enum Change {
    Put(FileName, usize),
    Remove(FileName),
    Rename(FileName, FileName),
}

impl Change {
    fn directory(self) -> Directory {
        match self {
            Self::Put(name, _) | Self::Remove(name) | Self::Rename(_, name) => name.directory(),
        }
    }

    fn apply(self, names: &mut BTreeMap<FileName, usize>) {
        match self {
            Self::Put(name, content) => {
                names.insert(name, content);
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
            Self::Rename(from, to) => {
                if let Some(content) = names.remove(&from) {
                    names.insert(to, content);
                }
            }
        }
    }
}

/// See the module text.
#[derive(Clone, Default, Debug)]
pub struct SimulatedDisk {
    contents: Vec<Content>,
    seen: BTreeMap<FileName, usize>,
    durable: BTreeMap<FileName, usize>,
    changes: Vec<Change>,
    steps: u64,
    fault: Option<(u64, DiskError)>,
    capacity: Option<usize>,
    lies: bool,
    keeps_checkpoints: bool,
}

fn write_at(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

/// The parts of a write that lie in one sector each.
fn sectors(offset: usize, bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let room = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
        let end = bytes.len().min(at + room);
        parts.push((offset + at, bytes[at..end].to_vec()));
        at = end;
    }
    parts
}

impl SimulatedDisk {
    /// Lets the step with this number, counted from 0, fail once.
    pub fn fail_at(&mut self, step: u64, error: DiskError) {
        self.fault = Some((step, error));
    }

    /// Limits the bytes of all files together; `None` for no limit.
    pub fn set_capacity(&mut self, bytes: Option<usize>) {
        self.capacity = bytes;
    }

    /// From now on a sync succeeds and makes nothing durable: a cache that forgets.
    pub fn lie(&mut self) {
        self.lies = true;
    }

    /// Whether no checkpoint can be removed.
    pub fn keep_checkpoints(&mut self, keeps: bool) {
        self.keeps_checkpoints = keeps;
    }

    /// The bytes of all files together.
    #[must_use]
    pub fn used(&self) -> usize {
        self.seen.values().map(|at| self.contents[*at].seen.len()).sum()
    }

    /// How many steps were tried.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Executes a request.
    pub fn execute(&mut self, request: Request) -> Completion {
        self.execute_some(request, u64::MAX).1
    }

    /// Executes a request until `steps` steps have been tried in the life of the disk; tells
    /// whether that was enough for the whole.
    pub fn execute_some(&mut self, request: Request, steps: u64) -> (bool, Completion) {
        let mut completion = Completion { ops: request.ops, failed: None };
        for (at, op) in completion.ops.iter().enumerate() {
            if self.steps >= steps {
                return (false, completion);
            }
            let failing = self.fault.filter(|(step, _)| *step == self.steps).map(|(_, e)| e);
            self.steps += 1;
            if let Err(error) = self.step(op, failing) {
                completion.failed = Some((at, error));
                break;
            }
        }
        (true, completion)
    }

    fn step(&mut self, op: &Op, failing: Option<DiskError>) -> Result<(), DiskError> {
        match op {
            Op::Create(name) => {
                failing.map_or(Ok(()), Err)?;
                if self.seen.contains_key(name) {
                    return Err(DiskError::Failed);
                }
                self.contents.push(Content::default());
                self.change(Change::Put(*name, self.contents.len() - 1));
            }
            Op::Write { file, offset, bytes } => {
                return self.write(*file, *offset, bytes, failing);
            }
            Op::Sync(name) => return self.sync(*name, failing),
            Op::Rename { from, to } => {
                failing.map_or(Ok(()), Err)?;
                if !self.seen.contains_key(from) {
                    return Err(DiskError::Failed);
                }
                self.change(Change::Rename(*from, *to));
            }
            Op::Remove(name) => {
                failing.map_or(Ok(()), Err)?;
                if self.keeps_checkpoints && matches!(name, FileName::Checkpoint(_)) {
                    return Err(DiskError::Failed);
                }
                self.change(Change::Remove(*name));
            }
            // The operator's directory is always there.
            Op::Locate { .. } | Op::RemoveEmpty(_) => failing.map_or(Ok(()), Err)?,
            Op::Clear { backup, node, shard } => {
                failing.map_or(Ok(()), Err)?;
                let own = |name: &FileName| match name {
                    FileName::Part(part) | FileName::Unfinished(part) => {
                        part.backup == *backup
                            && part.node == *node
                            && shard.is_none_or(|shard| part.shard == shard)
                    }
                    _ => false,
                };
                let names: Vec<FileName> = self.seen.keys().copied().filter(own).collect();
                names.into_iter().for_each(|name| self.change(Change::Remove(name)));
            }
            Op::SyncDirectory(directory) => {
                failing.map_or(Ok(()), Err)?;
                if self.lies {
                    return Ok(());
                }
                let all = std::mem::take(&mut self.changes);
                for change in all {
                    if change.directory() == *directory {
                        change.apply(&mut self.durable);
                    } else {
                        self.changes.push(change);
                    }
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.changes.push(change);
    }

    fn write(
        &mut self,
        file: FileName,
        offset: u64,
        bytes: &[u8],
        failing: Option<DiskError>,
    ) -> Result<(), DiskError> {
        let Some(content) = self.seen.get(&file).copied() else { return Err(DiskError::Failed) };
        let offset = usize::try_from(offset).map_err(|_| DiskError::Failed)?;
        let room = match self.capacity {
            None => usize::MAX,
            Some(all) => {
                let others = self.seen.values().filter(|at| **at != content);
                let used: usize = others.map(|at| self.contents[*at].seen.len()).sum();
                all.saturating_sub(used + offset)
            }
        };
        // Part of a write that fails may have been done.
        let done = if failing.is_some() { bytes.len() / 2 } else { bytes.len().min(room) };
        let content = &mut self.contents[content];
        write_at(&mut content.seen, offset, &bytes[..done]);
        content.unsynced.push((offset, bytes[..done].to_vec()));
        match failing {
            Some(error) => Err(error),
            None if done < bytes.len() => Err(DiskError::Full),
            None => Ok(()),
        }
    }

    fn sync(&mut self, file: FileName, failing: Option<DiskError>) -> Result<(), DiskError> {
        let Some(content) = self.seen.get(&file) else { return Err(DiskError::Failed) };
        let content = &mut self.contents[*content];
        if self.lies && failing.is_none() {
            return Ok(());
        }
        let unsynced = std::mem::take(&mut content.unsynced);
        if let Some(error) = failing {
            return Err(error);
        }
        for (offset, bytes) in unsynced {
            write_at(&mut content.durable, offset, &bytes);
        }
        Ok(())
    }

    /// The power goes and comes back. `choose(n)` draws a number below `n`.
    pub fn lose_power(&mut self, fate: Fate, choose: &mut dyn FnMut(usize) -> usize) {
        for content in &mut self.contents {
            let writes = std::mem::take(&mut content.unsynced);
            let unsynced = writes.iter().flat_map(|(at, bytes)| sectors(*at, bytes)).collect();
            for (offset, bytes) in kept(unsynced, fate, choose) {
                write_at(&mut content.durable, offset, &bytes);
            }
            content.seen = content.durable.clone();
        }
        let changes = std::mem::take(&mut self.changes);
        let count = match fate {
            Fate::Nothing => 0,
            Fate::Everything => changes.len(),
            Fate::Prefix | Fate::Any => choose(changes.len() + 1),
        };
        changes.into_iter().take(count).for_each(|change| change.apply(&mut self.durable));
        self.seen = self.durable.clone();
        self.fault = None;
    }

    /// The files there are, with what a read sees.
    pub fn files(&self) -> impl Iterator<Item = (FileName, &[u8])> {
        self.seen.iter().map(|(name, content)| (*name, &*self.contents[*content].seen))
    }

    /// Replaces what is in a file, on the disk itself: rot, or somebody's hand.
    pub fn overwrite(&mut self, file: FileName, bytes: Vec<u8>) {
        let content = Content { durable: bytes.clone(), unsynced: Vec::new(), seen: bytes };
        self.contents.push(content);
        self.seen.insert(file, self.contents.len() - 1);
        self.durable.insert(file, self.contents.len() - 1);
    }

    /// Takes the data files of a node away, from the disk itself. Backups stay: they do not lie
    /// among them.
    pub fn set_data_aside(&mut self) {
        let stays = |directory| matches!(directory, Directory::Backup(_));
        self.seen.retain(|name, _| stays(name.directory()));
        self.durable.retain(|name, _| stays(name.directory()));
        self.changes.retain(|change| stays(change.directory()));
        self.fault = None;
        self.capacity = None;
        self.lies = false;
    }

    /// Takes a file away, from the disk itself.
    pub fn lose(&mut self, file: FileName) {
        self.seen.remove(&file);
        self.durable.remove(&file);
    }
}

/// What of the unsynced writes of one file survives.
fn kept(
    mut unsynced: Vec<(usize, Vec<u8>)>,
    fate: Fate,
    choose: &mut dyn FnMut(usize) -> usize,
) -> Vec<(usize, Vec<u8>)> {
    match fate {
        Fate::Nothing => unsynced.clear(),
        Fate::Everything => {}
        Fate::Prefix => {
            unsynced.truncate(choose(unsynced.len() + 1));
            if let Some((_, last)) = unsynced.last_mut() {
                let length = choose(last.len() + 1);
                last.truncate(length);
            }
        }
        Fate::Any => unsynced.retain(|_| choose(2) == 0),
    }
    unsynced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(segment: u64) -> FileName {
        FileName::parse(&format!("i1-s0-{segment}.redo")).unwrap()
    }

    fn write(file: FileName, offset: u64, bytes: &[u8]) -> Op {
        Op::Write { file, offset, bytes: bytes.to_vec() }
    }

    fn run(disk: &mut SimulatedDisk, ops: Vec<Op>) -> Option<(usize, DiskError)> {
        disk.execute(Request { ops }).failed
    }

    fn read(disk: &SimulatedDisk, file: FileName) -> Option<Vec<u8>> {
        disk.files().find(|(name, _)| *name == file).map(|(_, bytes)| bytes.to_vec())
    }

    #[test]
    fn only_what_was_synced_survives_for_certain() {
        let mut disk = SimulatedDisk::default();
        let durable = vec![
            Op::Create(name(1)),
            write(name(1), 0, b"kept"),
            Op::Sync(name(1)),
            Op::SyncDirectory(Directory::Redo),
        ];
        assert_eq!(run(&mut disk, durable), None);
        assert_eq!(run(&mut disk, vec![write(name(1), 4, b"lost"), Op::Create(name(2))]), None);
        assert_eq!(read(&disk, name(1)).unwrap(), b"keptlost");
        disk.lose_power(Fate::Nothing, &mut |_| 0);
        assert_eq!(read(&disk, name(1)).unwrap(), b"kept");
        assert_eq!(read(&disk, name(2)), None);
    }

    #[test]
    fn a_disk_that_lies_keeps_what_was_synced_before() {
        let mut disk = SimulatedDisk::default();
        let sync = [Op::Sync(name(1)), Op::SyncDirectory(Directory::Redo)];
        let begin = [Op::Create(name(1)), write(name(1), 0, b"kept")];
        assert_eq!(run(&mut disk, [begin, sync.clone()].concat()), None);
        disk.lie();
        let more = [write(name(1), 4, b"lost"), Op::Create(name(2))];
        assert_eq!(run(&mut disk, [more, sync].concat()), None);
        assert_eq!(read(&disk, name(1)).unwrap(), b"keptlost");
        disk.lose_power(Fate::Nothing, &mut |_| 0);
        assert_eq!(read(&disk, name(1)).unwrap(), b"kept");
        assert_eq!(read(&disk, name(2)), None);
    }

    #[test]
    fn a_failed_sync_loses_what_reads_still_see() {
        let mut disk = SimulatedDisk::default();
        let begin = vec![Op::Create(name(1)), Op::SyncDirectory(Directory::Redo)];
        assert_eq!(run(&mut disk, begin), None);
        disk.fail_at(3, DiskError::Failed);
        let ops = vec![write(name(1), 0, b"gone"), Op::Sync(name(1))];
        assert_eq!(run(&mut disk, ops), Some((1, DiskError::Failed)));
        assert_eq!(run(&mut disk, vec![Op::Sync(name(1))]), None);
        assert_eq!(read(&disk, name(1)).unwrap(), b"gone");
        disk.lose_power(Fate::Everything, &mut |_| 0);
        assert_eq!(read(&disk, name(1)).unwrap(), b"");
    }

    #[test]
    fn a_full_disk_takes_a_part_and_the_same_write_again_later() {
        let mut disk = SimulatedDisk::default();
        disk.set_capacity(Some(6));
        let ops = vec![Op::Create(name(1)), write(name(1), 0, b"12345678")];
        assert_eq!(run(&mut disk, ops), Some((1, DiskError::Full)));
        assert_eq!(read(&disk, name(1)).unwrap(), b"123456");
        disk.set_capacity(None);
        assert_eq!(run(&mut disk, vec![write(name(1), 0, b"12345678")]), None);
        assert_eq!(read(&disk, name(1)).unwrap(), b"12345678");
    }

    #[test]
    fn any_sector_may_be_missing_after_a_power_loss() {
        let mut disk = SimulatedDisk::default();
        let long = vec![7; 3 * SECTOR_BYTES];
        let ops = vec![Op::Create(name(1)), Op::SyncDirectory(Directory::Redo)];
        assert_eq!(run(&mut disk, ops), None);
        assert_eq!(run(&mut disk, vec![write(name(1), 0, &long)]), None);
        let mut draws = [1, 0, 0].into_iter();
        disk.lose_power(Fate::Any, &mut |_| draws.next().unwrap_or(0));
        let left = read(&disk, name(1)).unwrap();
        assert_eq!(left.len(), long.len());
        assert!(left[..SECTOR_BYTES].iter().all(|byte| *byte == 0));
        assert!(left[SECTOR_BYTES..].iter().all(|byte| *byte == 7));
    }
}
