//! Interactive transactions: steps, ends, and what is known when the link is lost in between.

use super::rig::*;
use crate::core::*;
use lockstep_proto::durability::Durability;
use lockstep_proto::ids::{Epoch, PartitionId, StartOrder};
use lockstep_proto::wire::data::OutcomeTold;

fn begin(rig: &mut Rig) -> TxHandle {
    let id = rig.submit(Call::Begin { order: StartOrder::default() });
    match rig.completed_one(id) {
        Ok(Reply::Begun(tx)) => tx,
        other => panic!("not begun: {other:?}"),
    }
}

fn finish(rig: &mut Rig, tx: TxHandle, commit: bool) -> CallId {
    rig.submit(Call::Finish { tx, commit, ops: OpList::default(), durability: Durability::Memory })
}

#[test]
fn steps_go_to_the_first_coordinator_and_the_anchor_is_the_first_write() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let id = rig.submit(Call::Step { tx, ops: reads(&[1]) });
    let first = rig.sent_one(2);
    assert_eq!((first.execute().step, first.execute().anchor), (0, PartitionId(1)));
    rig.answer_rows(2, first.execute().request, &[b"x"]);
    assert!(rig.completed_one(id).is_ok());
    let id = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    let second = rig.sent_one(2);
    assert_eq!((second.execute().step, second.execute().anchor), (1, PartitionId(0)));
    assert_eq!(second.execute().finish, Finish::No);
    rig.answer_done(2, second.execute().request);
    assert!(rig.completed_one(id).is_ok());
    let id = finish(&mut rig, tx, true);
    let third = rig.sent_one(2);
    assert_eq!((third.execute().step, third.execute().finish), (2, Finish::Commit));
    assert_eq!(third.execute().order, order());
    assert_eq!(third.execute().tx, first.execute().tx);
    rig.answer_done(2, third.execute().request);
    assert!(rig.completed_one(id).is_ok());
    let id = rig.submit(Call::Step { tx, ops: reads(&[1]) });
    assert_eq!(rig.completed_one(id).unwrap_err().code, Code::NoSuchTransaction);
}

#[test]
fn an_open_transaction_does_not_hold_back_the_others_mark() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    rig.submit(Call::Step { tx, ops: writes(&[0]) });
    let own = rig.sent_one(1);
    for sequence in 1..4 {
        let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
        let sent = rig.sent_one(1);
        assert_eq!((sent.execute().tx.sequence, sent.execute().low), (sequence, sequence));
        assert_ne!(sent.execute().tx.session, own.execute().tx.session);
        rig.answer_done(1, sent.execute().request);
        assert!(rig.completed_one(id).is_ok());
    }
}

#[test]
fn a_refused_step_ends_the_transaction_with_its_code() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let step = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    let request = rig.sent_one(1).execute().request;
    rig.refuse(1, request, Code::Wounded);
    let error = rig.completed_one(step).unwrap_err();
    assert_eq!((error.code, error.order), (Code::Wounded, order()));
    let again = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    assert_eq!(rig.completed_one(again).unwrap_err().code, Code::Wounded);
    let end = finish(&mut rig, tx, true);
    assert_eq!(rig.completed_one(end).unwrap_err().code, Code::Wounded);
    let end = finish(&mut rig, tx, true);
    assert_eq!(rig.completed_one(end).unwrap_err().code, Code::NoSuchTransaction);
    assert!(rig.sent(1).is_empty());
}

#[test]
fn a_first_step_that_went_to_the_wrong_node_is_sent_again_under_a_new_id() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let step = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    let first = rig.sent_one(1);
    rig.refuse(1, first.execute().request, Code::NotPrimary);
    rig.next_view(2, 2, &[2]);
    let second = rig.sent_one(2);
    assert_eq!(second.execute().tx.sequence, first.execute().tx.sequence + 1);
    assert_eq!(second.execute().step, 0);
    rig.answer_done(2, second.execute().request);
    assert!(rig.completed_one(step).is_ok());
}

#[test]
fn a_link_lost_between_steps_aborts() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let step = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    let request = rig.sent_one(1).execute().request;
    rig.answer_done(1, request);
    assert!(rig.completed_one(step).is_ok());
    rig.unlink(1);
    let step = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    let error = rig.completed_one(step).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::AbortedByTakeover, Outcome::NotApplied));
    assert_eq!(error.order, order());
    assert!(error.is_retryable());
    let end = finish(&mut rig, tx, false);
    assert!(rig.completed_one(end).is_ok());
}

#[test]
fn a_lost_commit_is_asked_for() {
    for outcome in [OutcomeTold::Committed(Epoch(20)), OutcomeTold::Aborted] {
        let mut rig = Rig::new();
        let tx = begin(&mut rig);
        let end = rig.submit(Call::Finish {
            tx,
            commit: true,
            ops: writes(&[0]),
            durability: Durability::Memory,
        });
        let lost = rig.sent_one(1).execute().tx;
        rig.unlink(1);
        rig.next_view(2, 2, &[2]);
        let sent = rig.sent_one(2);
        let Message::AskOutcome { request, tx, anchor, .. } = sent.message() else { panic!() };
        assert_eq!((tx, anchor), (lost, PartitionId(0)));
        rig.answer(2, &Message::OutcomeIs { request, outcome });
        let completion = rig.completed_one(end);
        match outcome {
            OutcomeTold::Committed(_) => assert!(completion.is_ok()),
            OutcomeTold::Aborted => assert!(completion.unwrap_err().is_retryable()),
        }
    }
}

#[test]
fn a_lost_commit_without_writes_is_an_abort() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let end = rig.submit(Call::Finish {
        tx,
        commit: true,
        ops: reads(&[0]),
        durability: Durability::Memory,
    });
    rig.sent_one(1);
    rig.unlink(1);
    assert_eq!(rig.completed_one(end).unwrap_err().code, Code::AbortedByTakeover);
}

#[test]
fn an_abort_interrupts_a_step() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let step = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    rig.sent_one(1);
    let busy = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    assert_eq!(rig.completed_one(busy).unwrap_err().code, Code::Busy);
    let end = finish(&mut rig, tx, false);
    assert_eq!(rig.completed_one(step).unwrap_err().code, Code::AbortedByClient);
    let sent = rig.sent_one(1);
    assert_eq!(sent.execute().finish, Finish::Abort);
    rig.answer_done(1, sent.execute().request);
    assert!(rig.completed_one(end).is_ok());
}

#[test]
fn a_transaction_that_did_nothing_ends_without_a_word() {
    let mut rig = Rig::new();
    for commit in [true, false] {
        let tx = begin(&mut rig);
        let end = finish(&mut rig, tx, commit);
        assert!(rig.completed_one(end).is_ok());
        assert!(rig.sent(1).is_empty() && rig.sent(2).is_empty());
    }
}

#[test]
fn a_step_that_nobody_answers_is_aborted_at_its_deadline() {
    let mut rig = Rig::new();
    let tx = begin(&mut rig);
    let step = rig.submit(Call::Step { tx, ops: writes(&[0]) });
    rig.sent_one(1);
    for _ in 0..21 {
        rig.pass(Duration::from_millis(500));
        rig.next_view(1, 1, &[1, 2]);
    }
    let error = rig.completed_one(step).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::DeadlineExceeded, Outcome::NotApplied));
    assert_eq!(rig.sent_one(1).execute().finish, Finish::Abort);
}
