//! Tidy: a test that reads the tree and enforces what no compiler does: the size of files, what
//! pure crates may not touch, the words of the glossary, and that every promise of
//! docs/PROTOCOL.md names a test that exists.
//!
//! `cargo test -p lockstep-tests tidy` runs it; so does the gate. Each rule is a function from
//! the [`Tree`] to complaints, tried on bad samples of its own.
//!
//! Invariant: an exception stands in a table beside its rule, with the reason.

mod calls;
mod manifests;
mod promises;
mod rust;
mod shape;
mod tree;
mod words;

#[cfg(test)]
mod samples;

use std::fmt;
use std::path::{Path, PathBuf};

pub use tree::{SourceFile, Tree};

/// One place that breaks a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Complaint {
    /// Relative to the root of the tree.
    pub path: String,
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub what: String,
}

impl Complaint {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// The checkout this crate was built from.
#[must_use]
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests crate is a directory of the workspace").to_path_buf()
}

/// Applies every rule; the complaints are in order of path and line.
#[must_use]
pub fn check(tree: &Tree) -> Vec<Complaint> {
    let rules = [
        shape::check,
        calls::check,
        words::check,
        manifests::check,
        promises::check_promises,
        promises::check_scenarios,
        promises::check_links,
    ];
    let mut complaints: Vec<Complaint> = rules.iter().flat_map(|rule| rule(tree)).collect();
    complaints.sort();
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let tree = Tree::load(&root()).expect("the tree can be read");
        assert!(tree.files().count() > 30, "the tree was not found");
        let complaints: Vec<String> = check(&tree).iter().map(Complaint::to_string).collect();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }
}
