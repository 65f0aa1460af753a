//! Autocommit: at most once, whatever is lost.

use super::rig::*;
use crate::core::*;
use lockstep_proto::durability::Durability;
use lockstep_proto::ids::{Epoch, PartitionId};
use lockstep_proto::wire::data::OutcomeTold;

fn ask(rig: &mut Rig, node: u16) -> (u64, lockstep_proto::ids::TxId, PartitionId) {
    match rig.sent_one(node).message() {
        Message::AskOutcome { request, tx, anchor, .. } => (request, tx, anchor),
        other => panic!("not a question: {other:?}"),
    }
}

fn tell(rig: &mut Rig, node: u16, request: u64, outcome: OutcomeTold) {
    rig.answer(node, &Message::OutcomeIs { request, outcome });
}

#[test]
fn a_batch_goes_to_the_primary_of_the_first_key_and_is_done() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[1, 0]), durability: Durability::Memory });
    let sent = rig.sent_one(2);
    let execute = sent.execute();
    assert_eq!((execute.anchor, execute.step, execute.finish), (PartitionId(1), 0, Finish::Commit));
    assert_eq!((execute.tx.sequence, execute.low), (1, 1));
    assert_eq!(execute.tx.expiry.0, 7 + lockstep_proto::limits::TX_EXPIRY_EPOCHS);
    let tx = execute.tx;
    rig.answer_done(2, execute.request);
    let expected = Reply::Done { results: ResultList::all_done(2), epoch: Epoch(9), tx: Some(tx) };
    assert_eq!(rig.completed_one(id), Ok(expected));
}

#[test]
fn the_anchor_is_the_first_key_written() {
    let mut rig = Rig::new();
    let mut ops = reads(&[0]);
    writes(&[3]).as_ops().iter().for_each(|op| ops.push(&op));
    rig.submit(Call::Batch { ops, durability: Durability::Memory });
    assert_eq!(rig.sent_one(1).execute().anchor, PartitionId(3));
}

#[test]
fn a_retryable_refusal_leads_to_a_new_id_of_the_same_age() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    let first = rig.sent_one(1);
    rig.refuse(1, first.execute().request, Code::Wounded);
    assert!(rig.sent(1).is_empty(), "it backs off");
    rig.pass(Duration::from_millis(1));
    let second = rig.sent_one(1);
    let (first, second) = (first.execute(), second.execute());
    assert_eq!((second.tx.sequence, second.low), (2, 2));
    assert_eq!(second.order, order());
    assert_ne!(second.request, first.request);
    rig.answer_done(1, first.request);
    assert!(rig.completed().is_empty(), "the first attempt is over");
    rig.answer_done(1, second.request);
    assert!(rig.completed_one(id).is_ok());
}

#[test]
fn a_permanent_refusal_is_the_answer() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    let request = rig.sent_one(1).execute().request;
    rig.refuse(1, request, Code::DuplicateKey);
    let error = rig.completed_one(id).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::DuplicateKey, Outcome::NotApplied));
    assert_eq!(&*error.detail, "because");
}

#[test]
fn a_lost_answer_is_asked_for_and_committed_means_done() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    let lost = rig.sent_one(1).execute().tx;
    rig.unlink(1);
    assert!(rig.completed().is_empty());
    rig.next_view(2, 2, &[2]);
    let (request, tx, anchor) = ask(&mut rig, 2);
    assert_eq!((tx, anchor), (lost, PartitionId(0)));
    tell(&mut rig, 2, request, OutcomeTold::Committed(Epoch(12)));
    let expected =
        Reply::Done { results: ResultList::all_done(1), epoch: Epoch(12), tx: Some(lost) };
    assert_eq!(rig.completed_one(id), Ok(expected));
}

#[test]
fn lost_results_are_told_as_such() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: returning(&[0]), durability: Durability::Memory });
    rig.sent_one(1);
    rig.unlink(1);
    rig.next_view(2, 2, &[2]);
    let (request, ..) = ask(&mut rig, 2);
    tell(&mut rig, 2, request, OutcomeTold::Committed(Epoch(12)));
    let error = rig.completed_one(id).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::ResultsLost, Outcome::Applied));
}

#[test]
fn an_abort_told_by_the_anchor_leads_to_a_new_id() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    let lost = rig.sent_one(1).execute().tx;
    rig.unlink(1);
    rig.next_view(2, 2, &[2]);
    let (request, ..) = ask(&mut rig, 2);
    tell(&mut rig, 2, request, OutcomeTold::Aborted);
    rig.pass(Duration::from_millis(2));
    let again = rig.sent_one(2);
    assert_eq!(again.execute().tx.sequence, lost.sequence + 1);
    rig.answer_done(2, again.execute().request);
    assert!(rig.completed_one(id).is_ok());
}

#[test]
fn a_question_that_came_when_the_name_had_expired_is_not_asked_again() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    rig.sent_one(1);
    rig.unlink(1);
    rig.next_view(2, 2, &[2]);
    let (request, ..) = ask(&mut rig, 2);
    rig.refuse(2, request, Code::TransactionExpired);
    let error = rig.completed_one(id).unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
    assert!(rig.sent(2).is_empty());
    assert!(rig.marks().contains(&"client_outcome_forgotten"));
}

#[test]
fn a_question_follows_the_anchor_and_survives_refusal_and_loss() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[1]), durability: Durability::Memory });
    rig.sent_one(2);
    rig.unlink(2);
    rig.link(2);
    rig.pass(Duration::from_millis(1));
    let (request, ..) = ask(&mut rig, 2);
    rig.refuse(2, request, Code::NotPrimary);
    rig.pass(Duration::from_millis(5));
    ask(&mut rig, 2);
    rig.next_view(1, 2, &[1]);
    rig.links.remove(&2);
    let (request, ..) = ask(&mut rig, 1);
    rig.pass(Duration::from_millis(250));
    assert_eq!(ask(&mut rig, 1).0, request, "asked again");
    tell(&mut rig, 1, request, OutcomeTold::Committed(Epoch(8)));
    assert!(rig.completed_one(id).is_ok());
    assert!(rig.marks().contains(&"client_asked_outcome"));
}

#[test]
fn nobody_answers_in_time_means_unknown() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[1]), durability: Durability::Memory });
    rig.sent_one(2);
    rig.unlink(2);
    rig.pass(Duration::from_secs(11));
    assert!(rig.completed().is_empty(), "the time of grace");
    rig.pass(Duration::from_secs(2));
    let error = rig.completed_one(id).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::DeadlineExceeded, Outcome::Unknown));
    let next = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    let sent = rig.sent_one(1);
    assert_eq!(sent.execute().low, sent.execute().tx.sequence, "the mark is not held back");
    rig.answer_done(1, sent.execute().request);
    assert!(rig.completed_one(next).is_ok());
}

#[test]
fn what_was_never_sent_was_not_applied() {
    let mut rig = Rig::unlinked();
    let id = rig.submit(Call::Batch { ops: writes(&[1]), durability: Durability::Memory });
    rig.pass(Duration::from_secs(11));
    let error = rig.completed_one(id).unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::Unreachable, Outcome::NotApplied));
}

#[test]
fn a_silent_link_is_probed_and_then_given_up() {
    let mut rig = Rig::new();
    rig.submit(Call::Batch { ops: writes(&[1]), durability: Durability::Memory });
    rig.sent_one(2);
    rig.pass(Duration::from_millis(1500));
    assert!(rig.marks().contains(&"client_link_probed"));
    rig.pass(Duration::from_millis(1000));
    assert!(rig.marks().contains(&"client_link_silent"));
}

#[test]
fn calls_wait_for_the_first_view_and_the_first_session() {
    let mut rig = Rig::unlinked();
    let id = rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    let view_call = rig.submit(Call::View);
    rig.link(1);
    rig.next_view(1, 1, &[1, 2]);
    assert!(matches!(rig.completed_one(view_call), Ok(Reply::View(_))));
    assert!(rig.sent(1).is_empty());
    rig.open_sessions(1);
    let request = rig.sent_one(1).execute().request;
    rig.answer_done(1, request);
    assert!(rig.completed_one(id).is_ok());
}

#[test]
fn a_partition_that_does_not_exist_and_an_empty_batch_are_refused() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Batch { ops: writes(&[4]), durability: Durability::Memory });
    assert_eq!(rig.completed_one(id).unwrap_err().code, Code::Malformed);
    let id = rig.submit(Call::Batch { ops: OpList::default(), durability: Durability::Memory });
    assert_eq!(rig.completed_one(id).unwrap_err().code, Code::Malformed);
}

#[test]
fn too_many_bytes_are_refused_as_busy_until_some_are_done() {
    let mut rig = Rig::unlinked();
    let large = || {
        let mut ops = OpList::default();
        writes(&[0]).as_ops().iter().for_each(|op| {
            ops.push(&lockstep_proto::wire::op::Op { body: &[7; 1 << 20], ..op });
        });
        Call::Batch { ops, durability: Durability::Memory }
    };
    let ids: Vec<CallId> = (0..256).map(|_| rig.submit(large())).collect();
    let refused = rig.completed();
    let (last, error) = &refused[0];
    assert_eq!((refused.len(), *last), (1, ids[255]));
    assert_eq!(error.as_ref().unwrap_err().code, Code::Busy);
    assert_eq!(last.slot(), None);
    rig.pass(Duration::from_secs(11));
    assert_eq!(rig.completed().len(), 255);
    rig.submit(large());
    assert!(rig.completed().is_empty());
}

#[test]
fn garbage_ends_the_link_and_the_question_goes_on() {
    let mut rig = Rig::new();
    rig.submit(Call::Batch { ops: writes(&[0]), durability: Durability::Memory });
    rig.sent_one(1);
    rig.hear(1, &[255, 1, 2]);
    let effects = rig.out.take_effects();
    let closes = |e: &lockstep_proto::process::Effect| {
        matches!(e, lockstep_proto::process::Effect::Close { .. })
    };
    assert!(effects.iter().any(closes));
}
