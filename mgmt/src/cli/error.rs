//! What a command says when it cannot do its work: what, why, what to do now; and the exit code
//! scripts branch on.
//!
//! Codes 4000–4999 are the command line's own; those of the cluster (1000–3999) come with the
//! library's errors and keep their number.

use std::fmt;

use lockstep_proto::error::{Code, ErrorClass};
use serde_json::json;

use super::output::Format;

/// How a command ended, for scripts. The numbers are stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExitKind {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong arguments.
    Usage = 2,
    /// The cluster cannot be reached.
    Unreachable = 3,
    /// The cluster is not healthy.
    NotHealthy = 4,
    /// Refused as unsafe or not allowed now.
    Refused = 5,
    /// Timed out waiting.
    Timeout = 6,
    /// A part of the work was done.
    Partly = 7,
    /// Replicas of the same rows are not the same.
    Different = 8,
}

/// What kind of trouble the command line itself found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Trouble {
    /// Arguments that make no sense.
    Usage = 4001,
    /// No cluster was named and none runs under `dev`.
    NoCluster = 4002,
    /// A file or directory cannot be read or written.
    File = 4003,
    /// A text file does not hold what it should.
    BadText = 4004,
    /// A child process did not come up.
    Start = 4005,
    /// Something did not happen in time.
    TimedOut = 4006,
    /// A dev cluster runs already.
    DevRuns = 4007,
    /// There is no such node.
    NoSuchNode = 4008,
    /// The cluster is not healthy.
    NotHealthy = 4009,
    /// Only a part of the work was done.
    Partly = 4010,
    /// A check of the data failed.
    NotVerified = 4011,
    /// The configuration is wrong.
    Config = 4012,
    /// The user interrupted.
    Interrupted = 4013,
    /// The process ended with an error of its own.
    Process = 4014,
    /// It needs a yes.
    Refused = 4015,
    /// No management server answers, and it needs one.
    NoServer = 4016,
    /// There is no such node group.
    NoSuchGroup = 4017,
    /// It would cost the cluster its last replica of something, or more than it should.
    Unsafe = 5002,
}

impl Trouble {
    /// Every kind, by number.
    pub const ALL: &'static [Self] = &[
        Self::Usage,
        Self::NoCluster,
        Self::File,
        Self::BadText,
        Self::Start,
        Self::TimedOut,
        Self::DevRuns,
        Self::NoSuchNode,
        Self::NotHealthy,
        Self::Partly,
        Self::NotVerified,
        Self::Config,
        Self::Interrupted,
        Self::Process,
        Self::Refused,
        Self::NoServer,
        Self::NoSuchGroup,
        Self::Unsafe,
    ];

    fn exit(self) -> ExitKind {
        match self {
            Self::Usage | Self::Config => ExitKind::Usage,
            Self::NoCluster | Self::NoServer => ExitKind::Unreachable,
            Self::File
            | Self::BadText
            | Self::Start
            | Self::NotVerified
            | Self::Interrupted
            | Self::Process => ExitKind::Failed,
            Self::TimedOut => ExitKind::Timeout,
            Self::DevRuns | Self::NoSuchNode | Self::NoSuchGroup | Self::Refused | Self::Unsafe => {
                ExitKind::Refused
            }
            Self::NotHealthy => ExitKind::NotHealthy,
            Self::Partly => ExitKind::Partly,
        }
    }
}

/// Why a command failed. Shown as `error LS-…: what`, `why`, `then`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CliError {
    /// The number after `LS-`.
    pub number: u16,
    /// What happened, one sentence without a final stop.
    pub what: String,
    /// Why; may be empty.
    pub why: String,
    /// What to do now; may be empty.
    pub then: String,
    /// Whether the same command may work when tried again.
    pub retryable: bool,
    /// The exit code.
    pub exit: ExitKind,
}

/// What every command returns.
pub type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// An error of the command line itself.
    #[must_use]
    pub fn new(trouble: Trouble, what: impl Into<String>) -> Self {
        Self {
            number: trouble as u16,
            what: what.into(),
            why: String::new(),
            then: String::new(),
            retryable: trouble == Trouble::TimedOut,
            exit: trouble.exit(),
        }
    }

    /// Wrong arguments.
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Trouble::Usage, what)
    }

    /// A file that cannot be read or written.
    #[must_use]
    pub fn file(verb: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(Trouble::File, format!("cannot {verb} {}", path.display())).why(error.to_string())
    }

    /// An error the cluster or the client library named.
    #[must_use]
    pub fn from_code(code: Code, what: impl Into<String>) -> Self {
        let exit = match code {
            Code::Unreachable => ExitKind::Unreachable,
            Code::DeadlineExceeded => ExitKind::Timeout,
            _ => ExitKind::Failed,
        };
        Self {
            number: code as u16,
            what: what.into(),
            why: String::new(),
            then: String::new(),
            retryable: code.class() == ErrorClass::Retry,
            exit,
        }
    }

    /// Adds the reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Adds what to do now.
    #[must_use]
    pub fn then(mut self, then: impl Into<String>) -> Self {
        self.then = then.into();
        self
    }

    /// Puts the place before what happened: `airports.csv, line 3: …`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// The text for stderr, in the wanted form, with a final line end.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Json | Format::Jsonl => {
                let object = json!({
                    "schema": "lockstep.error/v1",
                    "code": format!("LS-{}", self.number),
                    "message": self.what,
                    "why": self.why,
                    "hint": self.then,
                    "retryable": self.retryable,
                });
                format!("{object}\n")
            }
            Format::Table | Format::Csv => format!("{self}\n"),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error LS-{}: {}", self.number, self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why   {}", self.why)?;
        }
        if !self.then.is_empty() {
            write!(f, "\n  then  {}", self.then)?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> CliError {
        CliError::new(Trouble::DevRuns, "a dev cluster is running already")
            .why("4 data nodes since 12:00")
            .then("`lockstep dev stop`")
    }

    #[test]
    fn says_what_why_and_then() {
        assert_eq!(
            example().render(Format::Table),
            "error LS-4007: a dev cluster is running already\n  why   4 data nodes since 12:00\n  \
             then  `lockstep dev stop`\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&example().render(Format::Json)).unwrap();
        assert_eq!(json["code"], "LS-4007");
        assert_eq!(json["hint"], "`lockstep dev stop`");
        assert_eq!(json["retryable"], false);
        assert_eq!(example().exit, ExitKind::Refused);
    }

    #[test]
    fn cluster_codes_choose_the_exit_code() {
        assert_eq!(CliError::from_code(Code::Unreachable, "x").exit, ExitKind::Unreachable);
        assert_eq!(CliError::from_code(Code::DeadlineExceeded, "x").exit, ExitKind::Timeout);
        assert_eq!(CliError::from_code(Code::NoSuchTable, "x").exit, ExitKind::Failed);
        assert!(CliError::from_code(Code::Busy, "x").retryable);
    }
}
