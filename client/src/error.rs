//! The one error of the library: what went wrong, whether anything was applied, what to do now.

use std::fmt;
use std::sync::Arc;

use lockstep_proto::error::Code;
use lockstep_proto::ids::{StartOrder, TxId};

use crate::core::{CallError, Outcome};

/// A result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation, batch or transaction failed.
///
/// ```
/// # use lockstep_client::{Error, ErrorKind, Outcome};
/// # fn react(error: &Error) {
/// match error.outcome() {
///     Outcome::NotApplied => println!("nothing happened: {error}"),
///     Outcome::Applied => println!("committed, only the results are missing"),
///     Outcome::Unknown => println!("nobody could be asked in time: read before trying again"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Box<Cause>);

#[derive(Clone)]
struct Cause {
    call: CallError,
    table: Option<Arc<str>>,
    key: Option<String>,
}

/// What an application does about an error, in a few kinds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An insert met a row with the same key.
    DuplicateKey,
    /// An update or delete met no row.
    NotFound,
    /// The row did not meet the condition of an update or delete.
    ConditionFailed,
    /// A value, key, row or batch that cannot be stored as it is.
    InvalidData,
    /// A table or column that is not there, is there already, or is not what the caller thinks.
    Schema,
    /// The transaction was aborted and may be tried again, or is over.
    Aborted,
    /// A node cannot serve now, or none can be reached.
    Unavailable,
    /// The memory or a disk of the nodes is used up for this data.
    OutOfMemory,
    /// The deadline passed.
    Deadline,
    /// Committed, but the rows it was to return are lost.
    ResultsLost,
    /// Durability on disk cannot be had, or could not after the commit.
    NotDurable,
    /// The address of the cluster, or an option, makes no sense.
    Configuration,
}

impl Error {
    pub(crate) fn new(code: Code, detail: impl Into<Box<str>>) -> Self {
        CallError::refused(code, detail).into()
    }

    /// Names the table, if none is named yet.
    pub(crate) fn on_table(mut self, table: &Arc<str>) -> Self {
        self.0.table.get_or_insert_with(|| Arc::clone(table));
        self
    }

    /// Names the key, if none is named yet.
    pub(crate) fn on_key(mut self, key: impl FnOnce() -> String) -> Self {
        self.0.key.get_or_insert_with(key);
        self
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        kind_of(self.0.call.code)
    }

    /// The stable code, as in `LS-2005`.
    #[must_use]
    pub fn code(&self) -> String {
        format!("LS-{}", self.error_code() as u16)
    }

    /// The stable code as a value.
    #[must_use]
    pub fn error_code(&self) -> Code {
        self.0.call.code
    }

    /// Whether nothing was applied and the same work may simply be tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.call.is_retryable()
    }

    /// Whether anything was applied.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.call.outcome
    }

    /// The transaction that failed, if it had got as far as a name.
    #[must_use]
    pub fn transaction(&self) -> Option<TxId> {
        self.0.call.tx
    }

    /// Which operation of the batch failed, if one did.
    #[must_use]
    pub fn operation(&self) -> Option<usize> {
        self.0.call.op.map(usize::from)
    }

    /// The table the error is about, where that is known.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.0.table.as_deref()
    }

    /// What to do now, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        hint_of(self.0.call.code)
    }

    pub(crate) fn order(&self) -> StartOrder {
        self.0.call.order
    }
}

impl From<CallError> for Error {
    fn from(call: CallError) -> Self {
        Self(Box::new(Cause { call, table: None, key: None }))
    }
}

impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Self::new(code, "")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause { call, table, key } = &*self.0;
        write!(f, "{}", call.code)?;
        let place = match (table, key) {
            (Some(table), Some(key)) => format!("table {table}, key {key}"),
            (Some(table), None) => format!("table {table}"),
            (None, Some(key)) => format!("key {key}"),
            (None, None) => String::new(),
        };
        let outcome = match call.outcome {
            Outcome::NotApplied => "",
            Outcome::Applied => "it is committed",
            Outcome::Unknown => "whether it is committed is not known",
        };
        let notes = [place.as_str(), &call.detail, outcome];
        let notes: Vec<&str> = notes.into_iter().filter(|note| !note.is_empty()).collect();
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join("; ")) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::DuplicateKey => ErrorKind::DuplicateKey,
        Code::NotFound => ErrorKind::NotFound,
        Code::ConditionFailed => ErrorKind::ConditionFailed,
        Code::WrongType
        | Code::NullViolation
        | Code::OutOfRange
        | Code::RowTooLarge
        | Code::KeyTooLong
        | Code::Malformed
        | Code::BatchTooLarge
        | Code::TransactionTooLarge
        | Code::AnswerTooLarge
        | Code::KeyImmutable => ErrorKind::InvalidData,
        Code::NoSuchTable
        | Code::NoSuchColumn
        | Code::TableExists
        | Code::BadSchema
        | Code::WrongSchema => ErrorKind::Schema,
        Code::NoSuchTransaction
        | Code::Wounded
        | Code::LocksLost
        | Code::TransactionKnown
        | Code::TransactionExpired
        | Code::TransactionGone
        | Code::IdleAborted
        | Code::AbortedByTakeover
        | Code::AbortedByClient => ErrorKind::Aborted,
        Code::NotPrimary
        | Code::NotReplica
        | Code::ViewChanged
        | Code::Busy
        | Code::DiskSlow
        | Code::SnapshotTooOld
        | Code::Leaving
        | Code::NotServing
        | Code::NoLease
        | Code::EpochAhead
        | Code::Unreachable => ErrorKind::Unavailable,
        Code::OutOfMemory | Code::DiskFull => ErrorKind::OutOfMemory,
        Code::NotDurable | Code::DurabilityLost => ErrorKind::NotDurable,
        Code::DeadlineExceeded => ErrorKind::Deadline,
        Code::ResultsLost => ErrorKind::ResultsLost,
        Code::BadAddress | Code::BadConfiguration | Code::ConfigOutdated => {
            ErrorKind::Configuration
        }
    }
}

fn hint_of(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::DuplicateKey => "use upsert to write a row whether or not it is there",
        Code::NotFound => "use upsert or insert to write a row that is not there",
        Code::NoSuchTable => "create the table first, or check its name in `lockstep table list`",
        Code::RowTooLarge => "keep large objects in an object store and their names in the row",
        Code::BatchTooLarge => "split the work into several batches",
        Code::OutOfMemory => "raise data_memory, add nodes, or delete rows; reads go on",
        Code::BadConfiguration => "`lockstep config show` has the settings and their bounds",
        Code::ConfigOutdated => "look at `lockstep config history`, and make the change again",
        Code::Busy => "fewer calls at a time, or more nodes",
        Code::SnapshotTooOld => "open a new one; a scan of it keeps what it needs",
        Code::DiskFull => "make room on the disks of the nodes, or delete rows; reads go on",
        Code::DiskSlow => "fewer writes at a time, or faster disks",
        Code::NotDurable => "see `lockstep status`: replace the disk; commits in memory go on",
        Code::DurabilityLost => "it is committed and replicated: replace the disks",
        Code::Unreachable => "check the address, and `lockstep status` on a machine of the cluster",
        Code::DeadlineExceeded => "read the rows before trying again, or raise the deadline",
        Code::ResultsLost => "it is committed: read the rows to see them",
        Code::BadAddress => "lockstep://host:port,host2:port?zone=a",
        Code::EpochAhead => "is this the cluster this client spoke with before?",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_code_table_key_and_outcome() {
        let error = Error::new(Code::DuplicateKey, "").on_table(&"accounts".into());
        let error = error.on_key(|| "7".into());
        let text = error.to_string();
        assert_eq!(text, "LS-1001: a row with this key exists already (table accounts, key 7)");
        assert_eq!((error.code().as_str(), error.kind()), ("LS-1001", ErrorKind::DuplicateKey));
        assert!(!error.is_retryable());
        let call = CallError {
            outcome: Outcome::Unknown,
            ..CallError::refused(Code::DeadlineExceeded, "no link")
        };
        let text = Error::from(call).to_string();
        assert!(text.ends_with("(no link; whether it is committed is not known)"), "{text}");
    }

    #[test]
    fn every_code_has_a_kind_and_retryable_means_not_applied() {
        for code in Code::ALL {
            let error = Error::new(*code, "");
            let aborted_or_unavailable =
                matches!(error.kind(), ErrorKind::Aborted | ErrorKind::Unavailable)
                    || *code == Code::WrongSchema;
            assert!(aborted_or_unavailable || !error.is_retryable(), "{code}");
        }
    }
}
