//! The data files of a directory, for reading: mapped into memory, so that nothing is read that is
//! not looked at, and nothing is copied.
//!
//! Only files that nobody writes any more may be mapped: those of a node that is not running. If
//! the disk cannot give a page, the process ends (`SIGBUS`); what has been written until then is
//! not touched by that.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use lockstep_proto::disk::{Directory, FileName};
use memmap2::{Advice, Mmap};

/// See the module text.
#[derive(Debug)]
pub struct DataFiles {
    /// Empty files are not mapped.
    files: Vec<(FileName, Option<Mmap>)>,
    /// What lies beside them and has no name of ours.
    pub others: Vec<PathBuf>,
}

impl DataFiles {
    /// Maps all data files of a node that is not running.
    ///
    /// # Errors
    /// If a directory or a file cannot be read. A directory that is not there has no files.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for directory in [Directory::Redo, Directory::Checkpoint] {
            let entries = match std::fs::read_dir(dir.join(directory.name())) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let name = name.and_then(FileName::parse);
                match name.filter(|name| name.directory() == directory) {
                    Some(name) => files.push((name, map(&path)?)),
                    None => others.push(path),
                }
            }
        }
        files.sort_unstable_by_key(|(name, _)| *name);
        Ok(Self { files, others })
    }

    /// The files by name.
    pub fn iter(&self) -> impl Iterator<Item = (FileName, &[u8])> {
        self.files.iter().map(|(name, map)| (*name, map.as_deref().unwrap_or_default()))
    }

    /// How long they are together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

fn map(path: &Path) -> io::Result<Option<Mmap>> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the bytes must not change while they are mapped. Nobody but the node writes its data
    // files, it holds a lock on its directory while it runs, and it starts only after this; files
    // that are removed meanwhile keep their bytes. Whoever else changes them gets what all readers
    // here are made for: bytes that are not what they should be.
    let map = unsafe { Mmap::map(&file)? };
    // Each is read from its beginning to its end, once. If that cannot be said, it is only slower.
    drop(map.advise(Advice::Sequential));
    drop(map.advise(Advice::WillNeed));
    Ok(Some(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_their_names() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(DataFiles::open(dir.path()).expect("no files").iter().count(), 0);
        std::fs::create_dir(dir.path().join("redo")).expect("made");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join("redo").join(name), bytes).expect("written");
        };
        write("i1-s0-1.redo", b"bytes");
        write("i1-s0-2.redo", b"");
        write("p1-r1-e1.checkpoint", b"in the wrong directory");
        write("notes.txt", b"");
        let files = DataFiles::open(dir.path()).expect("readable");
        let found: Vec<(String, &[u8])> =
            files.iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let expected: [(String, &[u8]); 2] =
            [("i1-s0-1.redo".into(), b"bytes"), ("i1-s0-2.redo".into(), b"")];
        assert_eq!(found, expected);
        assert_eq!((files.others.len(), files.bytes()), (2, 5));
    }
}
