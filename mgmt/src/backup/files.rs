//! The files of a finished backup: found, opened, verified. They are mapped into memory, so that
//! nothing is copied and many threads may read them.
//!
//! Invariant: nobody is handed rows of a backup that is not whole: one manifest, every part it
//! names, each the file it says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use lockstep_proto::disk::FileName;
use lockstep_proto::ids::{BackupId, PartitionId, TableId};
use lockstep_proto::schema::{CATALOG, TableDef, catalog_row};
use lockstep_proto::wire::backup::{Manifest, ManifestPart};
use lockstep_storage::backup::{PartFile, Unpacked};
use memmap2::Mmap;

use crate::cli::error::{CliError, CliResult, Trouble};

/// A backup whose files are there.
pub struct Backup {
    /// What makes it one.
    pub manifest: Manifest,
    /// The definitions of its tables, in order of id.
    pub tables: Vec<TableDef>,
    maps: Vec<Mmap>,
}

/// How much of a table there is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TableSize {
    /// Rows.
    pub rows: u64,
    /// Bytes of their keys and values, and six for each row.
    pub bytes: u64,
}

fn bad(path: &Path, why: impl Into<String>) -> CliError {
    CliError::new(Trouble::NotVerified, format!("{} is no whole backup", path.display())).why(why)
}

impl Backup {
    /// Opens the backup in a directory, or one in a directory of backups, the only one unless it
    /// is said which; parts that are
    /// not there are looked for in the others. Headers, trailers and indexes are checked, and the
    /// catalog is read; the rows are not looked at.
    ///
    /// # Errors
    /// What is missing or not as it was written.
    pub fn open(dir: &Path, others: &[PathBuf], which: Option<BackupId>) -> CliResult<Self> {
        let (home, path) = find_manifest(dir, which)?;
        let bytes = std::fs::read(&path).map_err(|e| CliError::file("read", &path, &e))?;
        let manifest = Manifest::from_file(&bytes)
            .map_err(|error| bad(dir, format!("the file {} {error}", path.display())))?;
        if FileName::parse(&file_name(&path)) != Some(FileName::Manifest(manifest.backup)) {
            let why = format!("{} is the manifest of {}", path.display(), manifest.backup);
            return Err(bad(dir, why));
        }
        if manifest.base.is_some() {
            let why = "it supplements another backup, and this version reads whole ones only";
            return Err(bad(dir, why));
        }
        let places: Vec<&Path> =
            std::iter::once(&*home).chain(others.iter().map(PathBuf::as_path)).collect();
        let maps = manifest.parts.iter().map(|part| find_part(&manifest, part, &places, dir));
        let maps = maps.collect::<CliResult<Vec<Mmap>>>()?;
        let mut backup = Self { manifest, tables: Vec::new(), maps };
        for at in 0..backup.maps.len() {
            backup.check_part(at).map_err(|why| bad(dir, why))?;
        }
        backup.tables = backup.read_catalog().map_err(|why| bad(dir, why))?;
        Ok(backup)
    }

    /// The parts, in the order of the manifest.
    ///
    /// # Errors
    /// None, once it has been opened without one.
    pub fn part(&self, at: usize) -> Result<PartFile<'_>, String> {
        let name = self.manifest.parts[at].name(self.manifest.backup);
        PartFile::open(name, &self.maps[at]).map_err(|fault| fault.to_string())
    }

    /// How many parts there are.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.maps.len()
    }

    fn check_part(&self, at: usize) -> Result<(), String> {
        let (manifest, entry) = (&self.manifest, &self.manifest.parts[at]);
        let part = self.part(at)?;
        let (header, name) = (part.header(), entry.name(manifest.backup));
        if header.cluster != manifest.cluster {
            return Err(format!("{name} is of cluster {}", header.cluster));
        }
        let same = (header.epoch, header.generation, header.partitions, header.base)
            == (manifest.epoch, manifest.generation, manifest.partitions, manifest.base);
        if !same || part.sum() != entry.sum {
            return Err(format!("{name} is not the file that the manifest names"));
        }
        let foreign = part.blocks().find(|block| !entry.partitions.contains(&block.partition()));
        match foreign {
            Some(block) => Err(format!("{name} has rows of {}", block.partition())),
            None => Ok(()),
        }
    }

    fn read_catalog(&self) -> Result<Vec<TableDef>, String> {
        let (mut tables, mut room) = (Vec::new(), Unpacked::default());
        for at in 0..self.maps.len() {
            for block in self.part(at)?.blocks().filter(|block| block.table() == CATALOG) {
                for row in block.rows(&mut room).map_err(|fault| fault.to_string())? {
                    let (_, definition) =
                        catalog_row(row.value).map_err(|_| "a row of the catalog is none")?;
                    if definition.is_empty() {
                        continue;
                    }
                    let def = TableDef::decode(definition).map_err(|error| error.to_string())?;
                    if !def.is_loading() {
                        tables.push(def);
                    }
                }
            }
        }
        tables.sort_unstable_by_key(|def| def.id);
        Ok(tables)
    }

    /// How much there is of each table, as the indexes say.
    ///
    /// # Errors
    /// None, once it has been opened without one.
    pub fn sizes(&self) -> Result<BTreeMap<TableId, TableSize>, String> {
        let mut sizes: BTreeMap<TableId, TableSize> = BTreeMap::new();
        for at in 0..self.maps.len() {
            for block in self.part(at)?.blocks() {
                let size = sizes.entry(block.table()).or_default();
                size.rows += u64::from(block.row_count());
                size.bytes += u64::from(block.unpacked_bytes());
            }
        }
        Ok(sizes)
    }

    /// Reads every row and compares it with its checksum, on so many threads; gives how many there
    /// are, the catalog's among them. `told` hears of the rows of every block that is good.
    ///
    /// # Errors
    /// The first fault found.
    pub fn verify(&self, threads: usize, told: impl Fn(u64) + Sync) -> CliResult<u64> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<u64, String> {
            let (mut rows, mut room) = (0, Unpacked::default());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= self.maps.len() {
                    return Ok(rows);
                }
                let part = self.part(at)?;
                let (mut row_bytes, mut own) = (0, 0);
                for block in part.blocks() {
                    let rows = block.rows(&mut room).map_err(|fault| fault.to_string())?;
                    for row in rows {
                        row_bytes += (row.key.len() + row.value.len()) as u64;
                        own += 1;
                    }
                    told(u64::from(block.row_count()));
                }
                if (own, row_bytes) != (part.sum().rows, part.sum().row_bytes) {
                    return Err(format!("{} has other rows than it says", part.header().name));
                }
                rows += own;
            }
        };
        let counts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err("a thread ended".to_owned()),
            });
            ended.collect::<Result<Vec<u64>, String>>()
        });
        let backup = self.manifest.backup;
        let failed = |why: String| {
            CliError::new(Trouble::NotVerified, format!("backup {backup} is damaged")).why(why)
        };
        Ok(counts.map_err(failed)?.iter().sum())
    }

    /// The blocks with rows of some tables, those of different partitions in turn, so that whoever
    /// loads them does not load one partition at a time.
    ///
    /// # Errors
    /// None, once it has been opened without one.
    pub fn blocks_of(
        &self,
        wanted: impl Fn(TableId) -> bool,
    ) -> Result<Vec<(usize, usize)>, String> {
        let mut seen: BTreeMap<PartitionId, usize> = BTreeMap::new();
        let mut blocks = Vec::new();
        for at in 0..self.maps.len() {
            for (number, block) in self.part(at)?.blocks().enumerate() {
                if wanted(block.table()) {
                    let round = seen.entry(block.partition()).or_default();
                    blocks.push((*round, block.partition(), at, number));
                    *round += 1;
                }
            }
        }
        blocks.sort_unstable();
        Ok(blocks.into_iter().map(|(_, _, at, number)| (at, number)).collect())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The backup that a manifest is of, by its name.
fn backup_of(path: &Path) -> Option<BackupId> {
    match FileName::parse(&file_name(path)) {
        Some(FileName::Manifest(backup)) => Some(backup),
        _ => None,
    }
}

/// The manifest in a directory, or in those of backups below it: the only one, or which.
fn find_manifest(dir: &Path, which: Option<BackupId>) -> CliResult<(PathBuf, PathBuf)> {
    let here = manifests(dir).map_err(|e| CliError::file("read", dir, &e))?;
    let mut found: Vec<(PathBuf, PathBuf)> =
        here.into_iter().map(|path| (dir.to_owned(), path)).collect();
    let is_wanted = |path: &Path| which.is_none_or(|which| backup_of(path) == Some(which));
    found.retain(|(_, path)| is_wanted(path));
    if found.is_empty() {
        let entries = std::fs::read_dir(dir).map_err(|e| CliError::file("read", dir, &e))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if file_name(&path).starts_with("lockstep-b") && path.is_dir() {
                let below = manifests(&path).map_err(|e| CliError::file("read", &path, &e))?;
                found.extend(below.into_iter().map(|file| (path.clone(), file)));
            }
        }
        found.retain(|(_, path)| is_wanted(path));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(CliError::new(Trouble::NotVerified, none(dir, which))
            .why("there is no manifest: it was written elsewhere, or the backup was never finished")
            .then("`lockstep backup list` tells what became of it")),
        _ => {
            let mut ids: Vec<BackupId> =
                found.iter().filter_map(|(_, path)| backup_of(path)).collect();
            ids.sort_unstable();
            let names: Vec<String> = ids.iter().map(BackupId::to_string).collect();
            let what = format!("there are {} backups in {}", names.len(), dir.display());
            let last = names.last().map_or("", String::as_str);
            let then = format!("say which with --backup, such as `--backup {last}` for the last");
            Err(CliError::usage(what).why(names.join(", ")).then(then))
        }
    }
}

fn none(dir: &Path, which: Option<BackupId>) -> String {
    match which {
        Some(which) => format!("no backup {which} in {}", dir.display()),
        None => format!("no backup in {}", dir.display()),
    }
}

fn manifests(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if backup_of(&path).is_some() {
            found.push(path);
        }
    }
    Ok(found)
}

fn find_part(
    manifest: &Manifest,
    part: &ManifestPart,
    places: &[&Path],
    dir: &Path,
) -> CliResult<Mmap> {
    let name = FileName::Part(part.name(manifest.backup)).to_string();
    let below = format!("lockstep-{}", manifest.backup);
    let paths = places.iter().flat_map(|place| [place.join(&name), place.join(&below).join(&name)]);
    for path in paths {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CliError::file("read", &path, &error)),
        };
        // SAFETY: the bytes must not change while they are mapped. A finished backup is changed by
        // nobody but who deletes it, and a file that is removed keeps its bytes. Whoever else
        // changes them gets what all readers here are made for: bytes that are not what they
        // should be.
        let map = unsafe { Mmap::map(&file) };
        return map.map_err(|error| CliError::file("read", &path, &error));
    }
    let why = format!("{name} is not there; data node {} wrote it", part.node);
    Err(bad(dir, why).then("copy it here from that machine, or name its directory: `--also DIR`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_backups_is_chosen_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let place = |id| dir.path().join(FileName::Manifest(BackupId(id)).to_string());
        assert!(find_manifest(dir.path(), None).unwrap_err().what.contains("no backup in"));
        for id in [7, 12] {
            std::fs::write(place(id), "").unwrap();
        }
        let several = find_manifest(dir.path(), None).unwrap_err();
        assert_eq!(several.why, "b7, b12");
        assert!(several.then.contains("--backup b12"), "{several}");
        assert_eq!(find_manifest(dir.path(), Some(BackupId(7))).unwrap().1, place(7));
        let absent = find_manifest(dir.path(), Some(BackupId(8))).unwrap_err();
        assert!(absent.what.contains("no backup b8 in"), "{absent}");
    }
}
