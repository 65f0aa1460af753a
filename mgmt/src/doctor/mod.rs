//! Checks of a machine and of a cluster: what is wrong, why it matters, what to do.
//!
//! * [`machine`]: clock, memory, file descriptors, directories;
//! * [`cluster`]: redundancy, zones, arbitrator, disks, releases.
//!
//! Invariant: a check changes nothing but a file of its own, which it removes.

pub mod cluster;
pub mod machine;

use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// As it should be.
    Well,
    /// Worth knowing.
    Note,
    /// It may hurt some day.
    Warn,
    /// It hurts.
    Bad,
}

impl Level {
    /// The word for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// What one check has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which check, one word.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// Why it matters; empty if all is well.
    pub why: String,
    /// What to do; empty if nothing.
    pub then: String,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn well(check: &'static str, what: impl Into<String>) -> Self {
        let (why, then) = (String::new(), String::new());
        Self { check, level: Level::Well, what: what.into(), why, then }
    }

    /// It is not.
    #[must_use]
    pub fn of(check: &'static str, level: Level, what: impl Into<String>) -> Self {
        Self { level, ..Self::well(check, what) }
    }

    /// Adds why it matters.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn then(mut self, then: impl Into<String>) -> Self {
        self.then = then.into();
        self
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "check": self.check,
            "level": self.level.name(),
            "what": self.what,
            "why": self.why,
            "then": self.then,
        })
    }

    /// For people: a line, and below it why and what to do.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { check, level, what, why, then } = self;
        let mut text = format!("{:4}  {check:12}  {what}\n", level.name());
        for (name, words) in [("why", why), ("then", then)] {
            if !words.is_empty() {
                text += &format!("                    {name:4}  {words}\n");
            }
        }
        text
    }
}
