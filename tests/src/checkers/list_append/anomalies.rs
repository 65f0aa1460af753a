//! One hand-made history per kind of anomaly: the checker must find each and name it rightly; and
//! their harmless neighbours, which it must accept.
//!
//! A transaction is written as `(begin, end, fate, steps)`; `x+1` appends 1 to list x, `x=1,2`
//! reads it, `x=` reads it empty. Transactions overlap as their times do.

use super::{Anomaly, check_list_append};
use crate::checkers::history::{Event, EventKind, Micro};

type Line = (u64, u64, &'static str, &'static str);

/// The events of some transactions, each in a process of its own.
pub(super) fn history(lines: &[Line]) -> Vec<Event> {
    let mut events = Vec::new();
    for (process, &(begin, end, fate, steps)) in (0..).zip(lines) {
        let kind = match fate {
            "ok" => EventKind::Ok,
            "fail" => EventKind::Fail,
            "info" => EventKind::Info,
            other => panic!("no such fate: {other}"),
        };
        let value: Vec<Micro> = steps.split_whitespace().map(step).collect();
        let asked = value.iter().map(|step| match step {
            Micro::Append { .. } => step.clone(),
            Micro::Read { key, .. } => Micro::Read { key: *key, list: None },
        });
        let invoke = EventKind::Invoke;
        events.push(Event { process, kind: invoke, time: begin, value: asked.collect() });
        events.push(Event { process, kind, time: end, value });
    }
    events.sort_by_key(|event| event.time);
    events
}

fn step(text: &str) -> Micro {
    let key = u64::from(text.as_bytes()[0] - b'a');
    let rest = &text[2..];
    match &text[1..2] {
        "+" => Micro::Append { key, element: rest.parse().unwrap() },
        "=" => {
            let numbers = rest.split(',').filter(|number| !number.is_empty());
            Micro::Read { key, list: Some(numbers.map(|n| n.parse().unwrap()).collect()) }
        }
        other => panic!("no such step: {other}"),
    }
}

fn found(lines: &[Line]) -> Anomaly {
    let violation = check_list_append(&history(lines)).expect_err("a violation");
    assert!(!violation.witness.is_empty());
    violation.anomaly
}

fn accepted(lines: &[Line]) {
    if let Err(violation) = check_list_append(&history(lines)) {
        panic!("a false alarm: {violation}");
    }
}

#[test]
fn nothing_and_a_simple_story_are_fine() {
    accepted(&[]);
    accepted(&[(0, 1, "ok", "x+1 y+1"), (2, 3, "ok", "x=1 x+2 x=1,2"), (4, 5, "ok", "x=1,2 y=1")]);
}

#[test]
fn g0_writes_interleave() {
    let lines = [
        (0, 10, "ok", "x+1 y+1"),
        (0, 10, "ok", "x+2 y+2"),
        (11, 12, "ok", "x=1,2"),
        (11, 12, "ok", "y=2,1"),
    ];
    assert_eq!(found(&lines), Anomaly::G0);
}

#[test]
fn g1a_a_read_of_an_aborted_append() {
    let lines = [(0, 1, "fail", "x+1"), (2, 3, "ok", "x=1")];
    assert_eq!(found(&lines), Anomaly::AbortedRead);
    let vanished =
        [(0, 9, "fail", "x+9"), (0, 1, "ok", "x+1"), (1, 2, "ok", "x=9"), (3, 4, "ok", "x=1")];
    assert_eq!(found(&vanished), Anomaly::AbortedRead);
}

#[test]
fn g1b_a_read_between_two_appends_of_one_transaction() {
    let lines = [(0, 5, "ok", "x+1 x+2"), (1, 2, "ok", "x=1")];
    assert_eq!(found(&lines), Anomaly::IntermediateRead);
    let unknown = [(0, 5, "info", "x+1 x+2"), (1, 2, "ok", "x=1")];
    assert_eq!(found(&unknown), Anomaly::IntermediateRead);
}

#[test]
fn g1c_two_transactions_read_each_other() {
    let lines = [(0, 10, "ok", "x+1 y=1"), (0, 10, "ok", "y+1 x=1")];
    assert_eq!(found(&lines), Anomaly::G1c);
}

#[test]
fn g_single_lost_update_and_read_skew() {
    let lost_update = [
        (0, 1, "ok", "x+1"),
        (2, 9, "ok", "x=1 x+2"),
        (2, 9, "ok", "x=1 x+3"),
        (10, 11, "ok", "x=1,2,3"),
    ];
    assert_eq!(found(&lost_update), Anomaly::GSingle);
    let read_skew = [(0, 9, "ok", "x+1 y+1"), (0, 9, "ok", "x= y=1"), (10, 11, "ok", "x=1")];
    assert_eq!(found(&read_skew), Anomaly::GSingle);
}

#[test]
fn g_single_half_of_an_unknown_commit_is_seen() {
    let lines = [(0, 1, "info", "x+1 y+1"), (2, 3, "ok", "x=1 y="), (4, 5, "ok", "x=1 y=")];
    assert_eq!(found(&lines), Anomaly::GSingle);
}

#[test]
fn g2_write_skew() {
    let lines = [(0, 9, "ok", "x= y+1"), (0, 9, "ok", "y= x+1"), (10, 11, "ok", "x=1 y=1")];
    assert_eq!(found(&lines), Anomaly::G2);
}

#[test]
fn g2_write_skew_that_nobody_read_afterwards() {
    let lines = [(0, 9, "ok", "x= y+1"), (0, 9, "ok", "y= x+1")];
    assert_eq!(found(&lines), Anomaly::G2);
    let same_key = [(0, 9, "ok", "x= x+1"), (0, 9, "ok", "x= x+2")];
    assert_eq!(found(&same_key), Anomaly::G2);
}

#[test]
fn a_transaction_alone_at_the_end_of_a_list_is_fine() {
    accepted(&[(0, 1, "ok", "x= x+1"), (0, 1, "ok", "y= y+1 y+2")]);
    accepted(&[(0, 1, "ok", "x+1"), (2, 3, "ok", "x=1 x+2"), (2, 3, "ok", "x=1")]);
}

#[test]
fn real_time_a_stale_read() {
    let lines = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x="), (4, 5, "ok", "x=1")];
    assert_eq!(found(&lines), Anomaly::GSingleRealTime);
    accepted(&[(0, 3, "ok", "x+1"), (2, 4, "ok", "x="), (4, 5, "ok", "x=1")]);
}

#[test]
fn real_time_a_lost_append() {
    let lines = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x+2"), (4, 5, "ok", "x=2")];
    assert_eq!(found(&lines), Anomaly::G0RealTime);
    let no_successor = [(0, 1, "ok", "x+1 y+1"), (2, 3, "ok", "x="), (4, 5, "ok", "y=1")];
    assert_eq!(found(&no_successor), Anomaly::GSingleRealTime);
}

#[test]
fn real_time_reads_go_back() {
    let lines = [(0, 9, "ok", "x+1"), (1, 2, "ok", "x=1"), (3, 4, "ok", "x=")];
    assert_eq!(found(&lines), Anomaly::GSingleRealTime);
}

#[test]
fn real_time_writes_in_the_wrong_order() {
    let lines = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x+2"), (4, 5, "ok", "x=2,1")];
    assert_eq!(found(&lines), Anomaly::G0RealTime);
}

#[test]
fn real_time_a_read_of_the_future() {
    let lines = [(0, 1, "ok", "x=1"), (2, 3, "ok", "x+1")];
    assert_eq!(found(&lines), Anomaly::G1cRealTime);
}

#[test]
fn real_time_a_long_fork() {
    let lines = [
        (0, 99, "ok", "x+1"),
        (0, 99, "ok", "y+1"),
        (1, 2, "ok", "x=1"),
        (3, 4, "ok", "y="),
        (1, 2, "ok", "y=1"),
        (3, 4, "ok", "x="),
    ];
    assert!(matches!(found(&lines), Anomaly::G2RealTime | Anomaly::GSingleRealTime));
}

#[test]
fn duplicates_phantoms_and_disagreement() {
    let twice = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x=1,1")];
    assert_eq!(found(&twice), Anomaly::Duplicate);
    let phantom = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x=1,7")];
    assert_eq!(found(&phantom), Anomaly::Phantom);
    let disagree =
        [(0, 9, "ok", "x+1"), (0, 9, "ok", "x+2"), (0, 9, "ok", "x=1,2"), (0, 9, "ok", "x=2,1")];
    assert_eq!(found(&disagree), Anomaly::IncompatibleOrder);
    let two_writers = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x+1")];
    assert_eq!(found(&two_writers), Anomaly::Malformed);
}

#[test]
fn a_transaction_must_see_itself() {
    let blind = [(0, 1, "ok", "x+1 x=")];
    assert_eq!(found(&blind), Anomaly::Internal);
    let changed = [(0, 9, "ok", "x= x=1"), (0, 9, "ok", "x+1")];
    assert_eq!(found(&changed), Anomaly::Internal);
    let clairvoyant = [(0, 9, "ok", "x=1 x+1")];
    assert_eq!(found(&clairvoyant), Anomaly::Internal);
}

#[test]
fn unknown_outcomes_may_go_either_way_at_any_later_time() {
    let open = (0, 1, "info", "x+1");
    accepted(&[open, (2, 3, "ok", "x="), (4, 5, "ok", "x=1")]);
    accepted(&[open, (2, 3, "ok", "x="), (4, 5, "ok", "x=")]);
    accepted(&[open, (2, 3, "ok", "x=1"), (4, 5, "ok", "x=1")]);
    assert_eq!(found(&[open, (2, 3, "ok", "x=1"), (4, 5, "ok", "x=")]), Anomaly::GSingleRealTime);
    let too_early = [(2, 3, "info", "x+1"), (0, 1, "ok", "x=1")];
    assert_eq!(found(&too_early), Anomaly::G1cRealTime);
}

#[test]
fn the_witness_names_the_transactions() {
    let lines = [(0, 1, "ok", "x+1"), (2, 3, "ok", "x="), (4, 5, "ok", "x=1")];
    let violation = check_list_append(&history(&lines)).expect_err("a stale read");
    let expected = "G-single-realtime: no order explains these transactions\n  \
                    T2 (process 1): read(23) = []\n    \
                    it read key 23 without the append of (next)\n  \
                    T0 (process 0): append(23, 1)\n    \
                    it ended before the beginning of (next)\n  \
                    (back to the first)";
    assert_eq!(violation.to_string(), expected);
}
