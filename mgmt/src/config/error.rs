//! What is wrong with a configuration: where, what, why, and what to write instead.

use std::fmt;
use std::path::PathBuf;

/// Where a setting comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// A configuration file that cannot be read.
    Unread(PathBuf),
    /// An environment variable of this name.
    Environment(String),
    /// A flag of this name, with its dashes.
    Flag(String),
    /// Nowhere: it was left out.
    Absent,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Unread(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Absent => write!(f, "configuration"),
        }
    }
}

/// One mistake in a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong.
    pub what: String,
    /// Why it cannot be used.
    pub why: String,
    /// What to do now.
    pub then: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.origin, self.what, self.why, self.then)
    }
}

impl std::error::Error for ConfigError {}
