//! The text files of a checkout, in order of path.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use super::rust::{self, Line};

/// Directories that are not ours to judge.
const SKIPPED: &[&str] = &["target", ".git", "proptest-regressions"];

/// Endings of the files that rules look at.
const ENDINGS: &[&str] = &["rs", "md", "toml", "txt", "sh"];

/// One text file.
#[derive(Debug)]
pub struct SourceFile {
    /// Relative to the root, with `/` between parts.
    pub path: String,
    /// Its content.
    pub text: String,
    /// Rust files only: the lines without what is in strings and comments.
    pub(super) rust: Vec<Line>,
}

impl SourceFile {
    /// A file from its text.
    #[must_use]
    pub fn new(path: &str, text: &str) -> Self {
        let rust = if path.ends_with(".rs") { rust::lines(text) } else { Vec::new() };
        Self { path: path.to_owned(), text: text.to_owned(), rust }
    }

    /// Lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// A checkout.
#[derive(Default, Debug)]
pub struct Tree {
    files: BTreeMap<String, SourceFile>,
}

impl Tree {
    /// Reads a checkout.
    ///
    /// # Errors
    /// When a directory or file cannot be read.
    pub fn load(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.load_directory(root, "")?;
        Ok(tree)
    }

    /// A tree from paths and texts.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.files.insert((*path).to_owned(), SourceFile::new(path, text));
        }
        tree
    }

    /// All files, in order of path.
    pub fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.values()
    }

    /// The files with an ending.
    pub(super) fn ending(&self, ending: &'static str) -> impl Iterator<Item = &SourceFile> {
        self.files().filter(move |file| file.path.ends_with(ending))
    }

    /// One file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.get(path)
    }

    /// Whether a file or a directory of files is there.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        self.files.contains_key(path)
            || self
                .files
                .range(inside.clone()..)
                .next()
                .is_some_and(|(p, _)| p.starts_with(&inside))
    }

    fn load_directory(&mut self, root: &Path, relative: &str) -> io::Result<()> {
        for entry in fs::read_dir(root.join(relative))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path =
                if relative.is_empty() { name.clone() } else { format!("{relative}/{name}") };
            if entry.file_type()?.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.load_directory(root, &path)?;
                }
            } else if is_text(&name, relative) {
                let text = fs::read_to_string(entry.path())?;
                self.files.insert(path.clone(), SourceFile::new(&path, &text));
            }
        }
        Ok(())
    }
}

fn is_text(name: &str, directory: &str) -> bool {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| ENDINGS.contains(&ending))
        || name == "LICENSE"
        || directory == ".ci"
}
