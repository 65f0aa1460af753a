//! `lockstep explain`: what each error code means, why it happens, and what to do.
//!
//! Invariant: every code has its words, because the tables are matches without a rest.

use lockstep_proto::error::{Code, ErrorClass};
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::table;
use super::{Global, stdout_error};

/// Arguments of `lockstep explain`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ExplainArgs {
    /// An error code as it was shown, LS-2009 or 2009; without it, all of them
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

/// Everything there is to say about one code.
struct Explanation {
    number: u16,
    what: &'static str,
    why: &'static str,
    then: &'static str,
    retryable: bool,
    /// What is known about the transaction; empty for codes of the command line.
    outcome: &'static str,
}

impl Explanation {
    fn of_code(code: Code) -> Self {
        let (why, then) = cluster(code);
        let (retryable, outcome) = match code.class() {
            ErrorClass::Retry => (true, "nothing was applied"),
            ErrorClass::Permanent => (false, "nothing was applied"),
            ErrorClass::Unknown => (false, "unknown, or committed: read before trying again"),
        };
        Self { number: code as u16, what: code.text(), why, then, retryable, outcome }
    }

    fn of_trouble(trouble: Trouble) -> Self {
        let (what, why, then) = command_line(trouble);
        let retryable = trouble == Trouble::TimedOut;
        Self { number: trouble as u16, what, why, then, retryable, outcome: "" }
    }

    /// All, by number.
    fn all() -> Vec<Self> {
        let codes = Code::ALL.iter().map(|code| Self::of_code(*code));
        let troubles = Trouble::ALL.iter().map(|trouble| Self::of_trouble(*trouble));
        let mut all: Vec<Self> = codes.chain(troubles).collect();
        all.sort_by_key(|one| one.number);
        all
    }

    fn json(&self) -> Value {
        json!({
            "code": format!("LS-{}", self.number),
            "what": self.what,
            "why": self.why,
            "then": self.then,
            "retryable": self.retryable,
            "outcome": (!self.outcome.is_empty()).then_some(self.outcome),
        })
    }

    fn text(&self) -> String {
        let Self { number, what, why, then, .. } = self;
        let mut text = format!("LS-{number}: {what}\n  why      {why}\n  then     {then}\n");
        if !self.outcome.is_empty() {
            let again = if self.retryable { "; the library tries again by itself" } else { "" };
            text += &format!("  outcome  {}{again}\n", self.outcome);
        }
        text
    }
}

pub(super) fn run(global: &Global, args: &ExplainArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let all = Explanation::all();
    let Some(wanted) = &args.code else {
        let rows: Vec<Value> = all.iter().map(Explanation::json).collect();
        let text = || {
            let rows = all.iter().map(|one| vec![format!("LS-{}", one.number), one.what.into()]);
            table(&["code", "what"], &rows.collect::<Vec<_>>())
        };
        voice.list("lockstep.codes/v1", "codes", &rows, text).map_err(stdout_error)?;
        return Ok(ExitKind::Done);
    };
    let digits = wanted.trim_start_matches(|c: char| !c.is_ascii_digit());
    let number = digits.parse::<u16>().ok();
    let found = all.iter().find(|one| Some(one.number) == number).ok_or_else(|| {
        CliError::usage(format!("{wanted:?} is not an error code of this release"))
            .then("`lockstep explain` lists all of them")
    })?;
    let mut json = found.json();
    json["schema"] = "lockstep.code/v1".into();
    voice.data(&json, || found.text()).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// Why the cluster or the library says it, and what to do.
#[expect(clippy::too_many_lines, reason = "a table: one row for each code")]
fn cluster(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::DuplicateKey => (
            "an insert found a row with its key",
            "update the row, use upsert, or choose another key",
        ),
        Code::NotFound => (
            "an update, a delete or a read that must find a row found none",
            "insert it first, or use upsert",
        ),
        Code::ConditionFailed => (
            "the condition that came with the update or delete was evaluated in the data node \
             and does not hold",
            "read the row and decide anew",
        ),
        Code::WrongType => (
            "the value has another type than the column, or does not fit it",
            "compare with `lockstep table show NAME`",
        ),
        Code::NullViolation => (
            "a column without a value was written that must have one",
            "give it a value; columns are made nullable when the table is made",
        ),
        Code::OutOfRange => (
            "an increment would leave the range of the column's type",
            "check the increment, or use a wider type in a new table",
        ),
        Code::RowTooLarge => (
            "all columns of the row together are too long",
            "keep large values elsewhere, or in several rows",
        ),
        Code::KeyTooLong => ("the key columns together are too long", "use a shorter key"),
        Code::NoSuchTable => (
            "there is no table of that name, or it was dropped",
            "`lockstep table list` shows the tables",
        ),
        Code::NoSuchColumn => {
            ("the table has no such column", "`lockstep table show NAME` shows its columns")
        }
        Code::TableExists => (
            "a table of this name was made before",
            "use it, or drop it first: `lockstep table drop NAME`",
        ),
        Code::Malformed => (
            "bytes came that are no request of this wire language: another release, or damage",
            "compare `lockstep version` on both sides",
        ),
        Code::BatchTooLarge => (
            "a batch may have 4096 operations",
            "send several batches; in one transaction if they belong together",
        ),
        Code::NoSuchTransaction => (
            "the transaction was aborted meanwhile: it was idle, or its coordinator died",
            "run the transaction again; `Client::transaction` does",
        ),
        Code::KeyImmutable => (
            "a key says where a row lives: an update cannot change it",
            "delete the row and insert another in one transaction",
        ),
        Code::BadSchema => (
            "the definition has no key, a column twice, or a name or type that is none",
            "read the message: it names the column",
        ),
        Code::BadAddress => (
            "the URL is not lockstep://HOST:PORT[,HOST:PORT…][/DB][?zone=Z]",
            "correct --url, LOCKSTEP_URL or the address in the application",
        ),
        Code::TransactionTooLarge => (
            "one record of a partition's log holds a bounded number of writes and bytes",
            "split it into several transactions",
        ),
        Code::AnswerTooLarge => {
            ("the rows asked for do not fit one frame", "ask for fewer rows at a time, or scan")
        }
        Code::BadConfiguration => (
            "a setting is out of its bounds, or does not go with another one",
            "`lockstep config show` has the bounds",
        ),
        Code::ConfigOutdated => (
            "somebody changed the settings since the version that the change was made for",
            "look at `lockstep config history`, then apply it again",
        ),
        Code::WrongSchema => (
            "the table was dropped and made anew since the handle was made",
            "the library looks at the catalog again by itself",
        ),
        Code::NotPrimary => (
            "the partition is led by another node since a change of view",
            "nothing: the library asks the other node",
        ),
        Code::NotReplica => (
            "the node has no replica in sync of that partition",
            "nothing: the library asks another node",
        ),
        Code::ViewChanged => (
            "a node died, left or came back while the request was under way",
            "nothing, unless it does not end: then see `lockstep status`",
        ),
        Code::Wounded => (
            "two transactions wanted the same rows; the older one goes first",
            "nothing; if it is frequent, lock rows in one order, or make transactions shorter",
        ),
        Code::LocksLost => {
            ("a participant died, and its locks with it", "nothing: the transaction runs again")
        }
        Code::TransactionKnown => (
            "an id of a transaction is used once, and this one was",
            "nothing: the library takes another id",
        ),
        Code::TransactionExpired => (
            "the request was under way for so long that its id may not be used any more",
            "nothing; if it is frequent, look at the network between client and cluster",
        ),
        Code::Busy => (
            "a bounded queue of the node is full",
            "send less at the same time; `lockstep top` shows which node is busy",
        ),
        Code::OutOfMemory => (
            "the rows of a node reached `cluster.data_memory`",
            "delete rows, which always works; `lockstep status` shows how full each node is",
        ),
        Code::Leaving => (
            "the node is on its way out in good order",
            "nothing: others take over within milliseconds",
        ),
        Code::NotServing => (
            "the node is starting, coming back or between two views",
            "nothing, unless it does not end: then see `lockstep status`",
        ),
        Code::NoLease => (
            "the node has not heard from the others, so somebody may have taken over from it",
            "nothing, unless it does not end: then look at the network between data nodes",
        ),
        Code::IdleAborted => (
            "an open transaction holds locks; one whose client says nothing for \
             `cluster.transaction_idle` is aborted",
            "do not wait for people inside a transaction",
        ),
        Code::EpochAhead => (
            "the client has seen an epoch of another cluster, or of one that was set back",
            "make the client anew; check its address",
        ),
        Code::AbortedByTakeover => (
            "the coordinator died before the transaction was decided",
            "nothing: the transaction runs again",
        ),
        Code::AbortedByClient => ("the application said so", "nothing"),
        Code::TransactionGone => (
            "an older transaction needed its locks, or the view changed",
            "nothing: the transaction runs again",
        ),
        Code::DiskSlow => (
            "redo that waits for a disk has reached its bound",
            "write less, or get a faster disk; `lockstep status` names the node",
        ),
        Code::DiskFull => (
            "a replica cannot write its redo, so rows may not grow; reads and deletes go on",
            "make room on that disk: it is noticed within a second",
        ),
        Code::NotDurable => (
            "every disk of a node group has failed, and the commit asked for a disk",
            "bring nodes with a disk back; commits in memory go on meanwhile",
        ),
        Code::SnapshotTooOld => (
            "versions of that epoch are not kept any more: too much was written since",
            "open another snapshot, and read it faster",
        ),
        Code::Unreachable => (
            "nobody answered at any address for the configured time",
            "check the address and the network; `lockstep dev status` for a dev cluster",
        ),
        Code::DeadlineExceeded => (
            "the answer did not come before the deadline of the call",
            "find out by reading; give calls more time if the cluster is healthy",
        ),
        Code::ResultsLost => (
            "the transaction is committed; what it returned died with its coordinator",
            "read what is needed; do not run it again",
        ),
        Code::DurabilityLost => (
            "the transaction is committed in memory, and meanwhile the disks failed",
            "do not run it again; bring nodes with a disk back",
        ),
    }
}

/// What the command line says, why, and what to do.
#[expect(clippy::too_many_lines, reason = "a table: one row for each code")]
fn command_line(trouble: Trouble) -> (&'static str, &'static str, &'static str) {
    match trouble {
        Trouble::Usage => (
            "the arguments make no sense",
            "a flag or a value is unknown, missing or contradicts another",
            "`lockstep help COMMAND`",
        ),
        Trouble::NoCluster => (
            "no cluster is named",
            "there is no --url, no LOCKSTEP_URL and no running dev cluster",
            "`lockstep dev start`, or name a cluster",
        ),
        Trouble::File => (
            "a file or directory cannot be used",
            "the system refuses it, or it holds something else than it should",
            "the message names it and says why",
        ),
        Trouble::BadText => (
            "a text file does not hold what it should",
            "a line has too many or too few columns, or a value of another type",
            "the message names the line",
        ),
        Trouble::Start => (
            "a process did not come up",
            "it ended, or did not listen in time",
            "its log says why; the message names it",
        ),
        Trouble::TimedOut => (
            "it did not happen in time",
            "the cluster takes longer than --timeout, or cannot do it now",
            "`lockstep status` and `lockstep doctor`; wait longer with --timeout",
        ),
        Trouble::DevRuns => (
            "a dev cluster is running, or its directory is in use",
            "a user has one dev cluster at a time",
            "use it, or `lockstep dev stop`",
        ),
        Trouble::NoSuchNode => (
            "there is no such node, or it is gone",
            "the number is another one, or the node left the cluster",
            "`lockstep status` shows the nodes",
        ),
        Trouble::NotHealthy => (
            "the cluster is not healthy",
            "nodes are gone, silent or coming back",
            "`lockstep doctor` says what to do",
        ),
        Trouble::Partly => (
            "only a part was done",
            "the rest failed; what was done stays done",
            "the message says where to go on",
        ),
        Trouble::NotVerified => (
            "a check of the data failed",
            "what was read is not what was written",
            "keep logs and directories, and report it",
        ),
        Trouble::Config => (
            "the configuration is wrong",
            "a setting is unknown, missing or out of its range",
            "the message names the place and what to write; see docs/CONFIGURATION.md",
        ),
        Trouble::Interrupted => (
            "it was interrupted",
            "Ctrl-C or SIGTERM came",
            "run it again; nothing of it is left running",
        ),
        Trouble::Process => (
            "the process gave up",
            "it cannot go on: its disk failed, it is in the smaller part of a split cluster, or \
             it was refused by its cluster",
            "the message says what to do; a service manager should start a data node again",
        ),
        Trouble::Refused => (
            "it was not done because it is unsafe or needs a yes",
            "it would cost data or service",
            "read why; then --yes or --force",
        ),
        Trouble::NoServer => (
            "no management server answers",
            "all of them are dead or cut off; reads and writes go on, and so does the return of \
             data nodes, but this needs one",
            "start one again, on its directory; `lockstep status` names them",
        ),
        Trouble::NoSuchGroup => (
            "there is no such node group, or it is gone",
            "the number is another one, or the group was dropped",
            "`lockstep group list` shows the node groups",
        ),
        Trouble::Unsafe => (
            "it was not done: too few replicas in sync would be left, or nodes are elsewhere",
            "the node is the last, or the last but one, with all rows; or it is no spare, or away",
            "wait for others, or add a node first; `lockstep node list` shows who is how far",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_words_of_its_own() {
        let all = Explanation::all();
        assert_eq!(all.len(), Code::ALL.len() + Trouble::ALL.len());
        assert!(all.windows(2).all(|pair| pair[0].number < pair[1].number), "numbers are unique");
        for Explanation { number, what, why, then, .. } in &all {
            for words in [what, why, then] {
                assert!(!words.is_empty() && !words.ends_with('.'), "LS-{number}: {words:?}");
            }
        }
    }

    #[test]
    fn commands_in_the_words_exist() {
        use clap::CommandFactory;
        let command = super::super::Cli::command();
        for one in Explanation::all() {
            let quoted = one.then.split('`').skip(1).step_by(2);
            for words in quoted.filter_map(|quoted| quoted.strip_prefix("lockstep ")) {
                let mut at = &command;
                for word in words
                    .split(' ')
                    .filter(|word| *word != "help")
                    .take_while(|word| word.starts_with(|c: char| c.is_lowercase()))
                {
                    at = at.find_subcommand(word).unwrap_or_else(|| {
                        panic!("LS-{}: there is no `lockstep {words}`", one.number)
                    });
                }
            }
        }
    }
}
