//! Histories: the order in which clients began operations and were told their results.
//!
//! The order of the events is the order of real time; the `time` field is for people. A *process*
//! does one operation at a time; after an `info` (nobody knows what became of it) its id is never
//! used again, because the lost operation may take effect at any later moment.
//!
//! As JSON lines, one event each:
//! `{"process":0,"type":"invoke","time":17,"value":[["append",5,1],["r",6,null]]}`

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What an event says about its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The client began it.
    Invoke,
    /// It took effect; reads carry what they saw.
    Ok,
    /// It certainly had no effect.
    Fail,
    /// It may have taken effect, or may still.
    Info,
}

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Micro {
    /// Adds an element at the end of a list. Each (key, element) is appended by one invocation.
    Append {
        /// Which list.
        key: u64,
        /// What is added.
        element: u64,
    },
    /// Reads a whole list.
    Read {
        /// Which list.
        key: u64,
        /// What was seen; `None` where the client was not told.
        list: Option<Vec<u64>>,
    },
}

/// One line of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Who; one operation at a time.
    pub process: u64,
    /// What the line says.
    pub kind: EventKind,
    /// Nanoseconds since the start of the run.
    pub time: u64,
    /// The transaction's steps in order.
    pub value: Vec<Micro>,
}

/// What became of a transaction, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It took effect.
    Committed,
    /// It had no effect.
    Aborted,
    /// Nobody told.
    Unknown,
}

/// An invocation and its completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Who ran it.
    pub process: u64,
    /// Index of its invocation in the history.
    pub begin: usize,
    /// Index of its completion; `None` if it has none, or one that tells nothing.
    pub end: Option<usize>,
    /// What its client knows.
    pub fate: Fate,
    /// Its steps; only committed ones carry what reads saw.
    pub steps: Vec<Micro>,
}

impl fmt::Display for Micro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { key, element } => write!(f, "append({key}, {element})"),
            Self::Read { key, list: None } => write!(f, "read({key})"),
            Self::Read { key, list: Some(list) } => write!(f, "read({key}) = {}", shown(list)),
        }
    }
}

/// A list as a person wants to see it: the tail is what matters.
fn shown(list: &[u64]) -> String {
    const TAIL: usize = 8;
    match list.len().checked_sub(TAIL) {
        None | Some(0) => format!("{list:?}"),
        Some(hidden) => format!("[{hidden} more, {}", &format!("{:?}", &list[hidden..])[1..]),
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{} (process {}", self.begin, self.process)?;
        match self.fate {
            Fate::Committed => write!(f, "): ")?,
            Fate::Aborted => write!(f, ", aborted): ")?,
            Fate::Unknown => write!(f, ", outcome unknown): ")?,
        }
        for (index, step) in self.steps.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{step}")?;
        }
        Ok(())
    }
}

/// A history that is not one: the recorder is at fault, not the system under test.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("cannot read the history: {0}")]
    Io(#[from] io::Error),
    /// A line is not an event.
    #[error("line {line}: {source}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Events that do not fit together.
    #[error("event {index}: {what}")]
    Order {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    process: u64,
    #[serde(rename = "type")]
    kind: EventKind,
    time: u64,
    value: Vec<Step>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Step {
    Append(AppendTag, u64, u64),
    Read(ReadTag, u64, Option<Vec<u64>>),
}

#[derive(Serialize, Deserialize)]
enum AppendTag {
    #[serde(rename = "append")]
    Append,
}

#[derive(Serialize, Deserialize)]
enum ReadTag {
    #[serde(rename = "r")]
    Read,
}

/// Reads a history of JSON lines.
///
/// # Errors
/// When the file cannot be read or a line is not an event.
pub fn read_history(path: &Path) -> Result<Vec<Event>, HistoryError> {
    let mut history = Vec::new();
    for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = line?;
        if !line.trim().is_empty() {
            let event = parse_event(&line)
                .map_err(|source| HistoryError::Line { line: index + 1, source })?;
            history.push(event);
        }
    }
    Ok(history)
}

/// Reads one line.
///
/// # Errors
/// When it is not an event.
pub fn parse_event(line: &str) -> Result<Event, serde_json::Error> {
    let line: Line = serde_json::from_str(line)?;
    let value = line.value.into_iter().map(|step| match step {
        Step::Append(AppendTag::Append, key, element) => Micro::Append { key, element },
        Step::Read(ReadTag::Read, key, list) => Micro::Read { key, list },
    });
    Ok(Event { process: line.process, kind: line.kind, time: line.time, value: value.collect() })
}

/// Writes a history as JSON lines.
///
/// # Errors
/// When the output does not take them.
pub fn write_history(history: &[Event], out: &mut impl Write) -> io::Result<()> {
    for event in history {
        let value = event.value.iter().map(|step| match step {
            Micro::Append { key, element } => Step::Append(AppendTag::Append, *key, *element),
            Micro::Read { key, list } => Step::Read(ReadTag::Read, *key, list.clone()),
        });
        let line = Line {
            process: event.process,
            kind: event.kind,
            time: event.time,
            value: value.collect(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Joins invocations with their completions, in order of invocation.
///
/// # Errors
/// [`HistoryError::Order`] when events do not fit together.
pub fn transactions(history: &[Event]) -> Result<Vec<Transaction>, HistoryError> {
    let mut list: Vec<Transaction> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mut retired: HashSet<u64> = HashSet::new();
    let mut time = 0;
    for (index, event) in history.iter().enumerate() {
        let wrong = |what| HistoryError::Order { index, what };
        if event.time < time {
            return Err(wrong("time goes back"));
        }
        time = event.time;
        if event.kind == EventKind::Invoke {
            if retired.contains(&event.process) {
                return Err(wrong("the process id was retired by an unknown outcome"));
            }
            if open.insert(event.process, list.len()).is_some() {
                return Err(wrong("the process has an operation open already"));
            }
            list.push(begun(index, event));
            continue;
        }
        let position = open.remove(&event.process);
        let position = position.ok_or_else(|| wrong("a completion without an invocation"))?;
        complete(&mut list[position], index, event).map_err(wrong)?;
        if event.kind == EventKind::Info {
            retired.insert(event.process);
        }
    }
    Ok(list)
}

fn begun(index: usize, event: &Event) -> Transaction {
    Transaction {
        process: event.process,
        begin: index,
        end: None,
        fate: Fate::Unknown,
        steps: event.value.clone(),
    }
}

fn complete(tx: &mut Transaction, index: usize, event: &Event) -> Result<(), &'static str> {
    match event.kind {
        EventKind::Invoke => return Err("an invocation is no completion"),
        EventKind::Ok => {
            if !same_shape(&tx.steps, &event.value) {
                return Err("the completion has other steps than the invocation");
            }
            tx.fate = Fate::Committed;
            tx.end = Some(index);
            tx.steps.clone_from(&event.value);
        }
        EventKind::Fail => {
            tx.fate = Fate::Aborted;
            tx.end = Some(index);
        }
        EventKind::Info => {}
    }
    Ok(())
}

fn same_shape(invoked: &[Micro], completed: &[Micro]) -> bool {
    invoked.len() == completed.len()
        && invoked.iter().zip(completed).all(|(a, b)| match (a, b) {
            (Micro::Append { .. }, Micro::Append { .. }) => a == b,
            (Micro::Read { key: a, .. }, Micro::Read { key: b, list }) => a == b && list.is_some(),
            (Micro::Append { .. }, Micro::Read { .. })
            | (Micro::Read { .. }, Micro::Append { .. }) => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(process: u64, kind: EventKind, time: u64, value: Vec<Micro>) -> Event {
        Event { process, kind, time, value }
    }

    #[test]
    fn lines_survive_a_round_trip() {
        let history = vec![
            event(
                3,
                EventKind::Invoke,
                10,
                vec![Micro::Append { key: 1, element: 2 }, Micro::Read { key: 5, list: None }],
            ),
            event(
                3,
                EventKind::Ok,
                20,
                vec![
                    Micro::Append { key: 1, element: 2 },
                    Micro::Read { key: 5, list: Some(vec![7, 8]) },
                ],
            ),
        ];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        write_history(&history, &mut File::create(&path).unwrap()).unwrap();
        assert_eq!(read_history(&path).unwrap(), history);
        let first = std::fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(
            first,
            r#"{"process":3,"type":"invoke","time":10,"value":[["append",1,2],["r",5,null]]}"#
        );
    }

    #[test]
    fn a_line_that_is_no_event_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let bad = r#"{"process":3,"type":"invoke","time":10,"value":[["add",1,2]]}"#;
        std::fs::write(&path, format!("\n{bad}\n")).unwrap();
        let error = read_history(&path).unwrap_err().to_string();
        assert!(error.starts_with("line 2: "), "{error}");
    }

    #[test]
    fn events_that_do_not_fit_are_refused() {
        let invoke = |process, time| event(process, EventKind::Invoke, time, vec![]);
        let ok = |process, time| event(process, EventKind::Ok, time, vec![]);
        let info = |process, time| event(process, EventKind::Info, time, vec![]);
        let cases: [(Vec<Event>, &str); 5] = [
            (vec![invoke(1, 5), invoke(2, 4)], "time goes back"),
            (vec![invoke(1, 1), invoke(1, 2)], "open already"),
            (vec![ok(1, 1)], "without an invocation"),
            (vec![invoke(1, 1), info(1, 2), invoke(1, 3)], "retired"),
            (
                vec![
                    event(1, EventKind::Invoke, 1, vec![Micro::Read { key: 1, list: None }]),
                    event(1, EventKind::Ok, 2, vec![Micro::Read { key: 1, list: None }]),
                ],
                "other steps",
            ),
        ];
        for (history, expected) in cases {
            let error = transactions(&history).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} should contain {expected}");
        }
    }
}
