//! Error codes that travel: what a server tells a client, and what the client may do about it.

use std::fmt;

/// What the caller may do after an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// Nothing was applied; the same work may be tried again under a new transaction id.
    Retry,
    /// Nothing was applied; trying again without a change gives the same answer.
    Permanent,
    /// Whether it was applied is not known.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident, $text:literal;)*) => {
        /// Why something was refused. The number is stable for ever and shown as `LS-<number>`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[repr(u16)]
        pub enum Code {
            $($(#[$doc])* $name = $code,)*
        }

        impl Code {
            /// Every code, in order of number.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code with this number.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// What the caller may do.
            #[must_use]
            pub fn class(self) -> ErrorClass {
                match self {
                    $(Self::$name => ErrorClass::$class,)*
                }
            }

            /// One sentence for people.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The row is there already.
    DuplicateKey = 1001, Permanent, "a row with this key exists already";
    /// The row is not there.
    NotFound = 1002, Permanent, "there is no row with this key";
    /// The condition of an update or delete does not hold.
    ConditionFailed = 1003, Permanent, "the row does not meet the condition";
    /// A value does not fit its column.
    WrongType = 1004, Permanent, "a value does not fit the type of its column";
    /// NULL in a column that does not allow it.
    NullViolation = 1005, Permanent, "NULL in a column that is not nullable";
    /// An increment leaves the range of the column.
    OutOfRange = 1006, Permanent, "the result is outside the range of the column";
    /// The row is larger than the limit.
    RowTooLarge = 1007, Permanent, "the row is larger than 1 MiB";
    /// The key is longer than the limit.
    KeyTooLong = 1008, Permanent, "the key is longer than 4096 bytes";
    /// No table of that name or number.
    NoSuchTable = 1009, Permanent, "there is no such table";
    /// No column of that name or position.
    NoSuchColumn = 1010, Permanent, "there is no such column";
    /// A table of that name exists.
    TableExists = 1011, Permanent, "a table of this name exists already";
    /// Bytes that are not what the protocol says.
    Malformed = 1012, Permanent, "the request cannot be decoded";
    /// A batch of too many operations.
    BatchTooLarge = 1013, Permanent, "the batch has more operations than allowed";
    /// The transaction is not open here.
    NoSuchTransaction = 1014, Retry, "the transaction is not open any more: it was aborted";
    /// A key column may not be changed.
    KeyImmutable = 1015, Permanent, "a key column cannot be changed by an update";
    /// A definition that cannot be a table.
    BadSchema = 1016, Permanent, "the table definition is not valid";
    /// Where the cluster is to be found makes no sense.
    BadAddress = 1017, Permanent, "the address of the cluster cannot be understood";
    /// More writes or bytes in one partition than one record of its log holds.
    TransactionTooLarge = 1018, Permanent, "the transaction writes more than allowed: split it";
    /// The rows asked for do not fit one answer.
    AnswerTooLarge = 1019, Permanent, "the answer would be larger than allowed: ask for fewer rows";

    /// Settings of the cluster that make no sense.
    BadConfiguration = 1020, Permanent, "the cluster cannot be configured like that";
    /// Another change of the configuration came first.
    ConfigOutdated = 1021, Permanent, "the configuration has changed since the change was made";

    /// The schema changed under the request.
    WrongSchema = 2001, Retry, "the table has changed since the request was made";
    /// The node does not lead the partition (any more).
    NotPrimary = 2002, Retry, "this node is not the primary of the partition";
    /// The node holds no in-sync replica of the partition.
    NotReplica = 2003, Retry, "this node has no in-sync replica of the partition";
    /// The view changed while the request was under way.
    ViewChanged = 2004, Retry, "the view changed while the request was under way";
    /// An older transaction needed the lock.
    Wounded = 2005, Retry, "an older transaction needed a lock this one held";
    /// A participant no longer holds the transaction's locks.
    LocksLost = 2006, Retry, "a participant lost the transaction's locks in a node failure";
    /// The transaction id is known already.
    TransactionKnown = 2007, Retry, "this transaction id has been used already";
    /// The transaction id is below the session's low mark or expired.
    TransactionExpired = 2008, Retry, "this transaction id is no longer valid";
    /// Too much work is queued.
    Busy = 2009, Retry, "the node has too much queued work";
    /// No memory for new data.
    OutOfMemory = 2010, Permanent, "data_memory of the node is used up";
    /// The node is leaving.
    Leaving = 2011, Retry, "the node is leaving the cluster";
    /// The node does not serve yet, or not any more.
    NotServing = 2012, Retry, "the node is not serving";
    /// A read lease could not be had.
    NoLease = 2013, Retry, "the node cannot prove that it is up to date";
    /// The client was away or idle for too long.
    IdleAborted = 2014, Retry, "the transaction was idle for too long and was aborted";
    /// The client's epoch is impossible.
    EpochAhead = 2015, Permanent, "the client's epoch is far ahead of the cluster's";
    /// Take-over or an outcome question aborted it.
    AbortedByTakeover = 2016, Retry, "the coordinator died and the transaction was aborted";
    /// The application rolled it back.
    AbortedByClient = 2017, Permanent, "the transaction was rolled back";
    /// The cluster ended the transaction between two of its steps: wounded, or a view change.
    TransactionGone = 2018, Retry, "the cluster aborted the transaction before this step";
    /// The disk of a replica cannot keep up.
    DiskSlow = 2020, Retry, "the disk of a replica cannot keep up";
    /// The disk of a replica has no space.
    DiskFull = 2021, Permanent, "the disk of a replica is full";
    /// Durability on disk was asked for and cannot be had.
    NotDurable = 2022, Permanent, "no disk of a node group works: nothing can be made durable";
    /// Versions of that epoch are not kept any more, or were never here.
    SnapshotTooOld = 2023, Retry, "the snapshot is too old: open a new one";

    /// The cluster could not be reached for the configured time.
    Unreachable = 3001, Unknown, "the cluster could not be reached";
    /// The deadline passed while the outcome was open.
    DeadlineExceeded = 3002, Unknown, "the deadline passed";
    /// The transaction is committed but its results were lost with its coordinator.
    ResultsLost = 3003, Unknown, "committed, but its results were lost with the node that had them";
    /// The transaction is committed, and then no disk of a node group worked any more.
    DurabilityLost = 3004, Unknown, "committed, but not on disk: no disk of a node group works";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LS-{}: {}", *self as u16, self.text())
    }
}
