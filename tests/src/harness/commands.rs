//! The command line as a person uses it: commands of one user with a home of their own, and the
//! `dev` cluster they start in it.
//!
//! Invariant: a `dev` cluster outlives the command that starts it, but not its [`User`].

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Somebody who types commands.
#[derive(Debug)]
pub struct User {
    binary: PathBuf,
    home: TempDir,
}

impl User {
    /// A user of `binary` with an empty home.
    ///
    /// # Panics
    /// If there is no place for a home.
    #[must_use]
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned(), home: tempfile::tempdir().expect("temporary directory") }
    }

    /// Where this user's files are.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A command, not started yet: nothing of the environment names another cluster.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).stdin(Stdio::null()).current_dir(self.home());
        command.env("XDG_STATE_HOME", self.home().join("state")).env_remove("LOCKSTEP_URL");
        command
    }

    /// Runs the words of a command to its end. Returns only when nobody holds its pipes any more.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn runs(&self, words: &str) -> Ran {
        let output = self.command(words.split_whitespace()).output().expect("the command starts");
        Ran::from(output)
    }

    /// Runs a command that must succeed, and returns its stdout.
    ///
    /// # Panics
    /// If it fails, with what it said.
    #[track_caller]
    #[must_use]
    pub fn told(&self, words: &str) -> String {
        let ran = self.runs(words);
        assert_eq!(ran.code, Some(0), "`lockstep {words}` ended with {ran:?}");
        ran.stdout
    }

    /// Runs a command that must succeed, and reads the one JSON object it prints.
    ///
    /// # Panics
    /// If it fails or prints something else.
    #[track_caller]
    #[must_use]
    pub fn asked(&self, words: &str) -> Value {
        let text = self.told(&format!("{words} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words}: {error} in {text}"))
    }

    /// Starts a command and lets it run.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn starts(&self, words: &str) -> Child {
        let mut command = self.command(words.split_whitespace());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the command starts")
    }

    /// The address of the running `dev` cluster.
    ///
    /// # Panics
    /// If none runs.
    #[must_use]
    pub fn url(&self) -> String {
        // Exit code 4 says that processes are missing; the rest is told all the same.
        let ran = self.runs("dev status -o json");
        let status: Value = serde_json::from_str(&ran.stdout).expect("the state of the cluster");
        status["url"].as_str().expect("a URL").to_owned()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Fails if no cluster runs, which is as good.
        let _stopped = self.runs("dev stop");
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Its data.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("commands speak UTF-8");
        let code = output.status.code();
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
