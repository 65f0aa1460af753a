//! Shard cores among themselves: commit, take-over at every step, reads, locks.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must fail")]

mod net;

use lockstep_proto::durability::{DiskState, Pulse};
use lockstep_proto::error::{Code, ErrorClass};
use lockstep_proto::ids::*;
use lockstep_proto::schema::TableDef;
use lockstep_proto::wire::bytes::Reader;
use lockstep_proto::wire::data::{Finish, Message, OutcomeTold};
use lockstep_proto::wire::op::{OpKind, OpResult};
use lockstep_proto::wire::shard_control::{ProposalId, ShardControl};
use net::*;

fn read(net: &mut Net, node: u16, id: u64) -> Option<Vec<u8>> {
    let list = ops(&[op(OpKind::Read, id, 0)]);
    net.answers.clear();
    net.ask(node, &Message::Read { request: 1, epoch: Epoch(0), ops: list.as_ops() });
    net.run();
    let Some(Message::Answer { results, .. }) = net.answer() else {
        panic!("no answer: {:?}", net.answer())
    };
    match OpResult::read(&mut Reader::new(&results.0[2..])).unwrap() {
        OpResult::Row(row) => Some(row.to_vec()),
        OpResult::Absent => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_row_is_acknowledged_when_the_backup_has_it_and_read_from_both() {
    let mut net = Net::new(&view(1, 2));
    let id = id_in(0, 1);
    net.execute(1, &ops(&[op(OpKind::Insert, id, 5)]));
    assert!(net.answer().is_none(), "the backup has not acknowledged");
    net.run();
    assert!(net.committed());
    let row = read(&mut net, 1, id);
    assert!(row.is_some());
    assert_eq!(row, read(&mut net, 2, id));
    net.assert_at_rest();
}

/// By the time an answer that rests on what was read could leave, others may act without this node.
#[test]
fn a_refusal_that_rests_on_a_row_waits_for_the_lease() {
    let first = view(1, 2);
    let mut net = Net::new(&first);
    let id = id_in(0, 1);
    net.execute(1, &ops(&[op(OpKind::Insert, id, 5)]));
    net.execute(1, &ops(&[op(OpKind::Insert, id, 6)]));
    assert_eq!(net.answers.len(), 0, "the row is not stable");
    net.now = net.now + std::time::Duration::from_secs(2);
    net.run();
    assert_eq!(net.answers.len(), 1, "the commit needs no lease");
    assert!(net.committed());
    let (_, out) = net.nodes.get_mut(&NodeId(1)).unwrap();
    assert!(out.take_marks().contains(&"answer_waits_for_lease"));
    net.answers.clear();
    net.lease(&first);
    net.run();
    let Some(Message::Refused { code, .. }) = net.answer() else { panic!() };
    assert_eq!(code, Code::DuplicateKey);
}

#[test]
fn a_batch_on_two_groups_commits_as_a_whole_or_not_at_all() {
    let mut net = Net::new(&view(2, 2));
    let (x, y) = (id_in(0, 1), id_in(3, 1));
    net.execute(1, &ops(&[op(OpKind::Insert, x, 1), op(OpKind::Insert, y, 1)]));
    net.run();
    assert!(net.committed());
    let z = id_in(1, 1);
    net.execute(1, &ops(&[op(OpKind::Insert, z, 2), op(OpKind::Insert, y, 2)]));
    net.run();
    let Some(Message::Refused { code, op, .. }) = net.answer() else { panic!() };
    assert_eq!((code, op), (Code::DuplicateKey, 1));
    assert_eq!(read(&mut net, 1, z), None);
    net.assert_at_rest();
}

/// The coordinator's node dies after every possible number of messages: the client that asks the
/// anchor afterwards, and the rows, tell the same.
#[test]
fn coordinator_dies_at_every_step() {
    let (mut commits, mut aborts) = (0, 0);
    for steps in 0..40 {
        let first = view(2, 2);
        let mut net = Net::new(&first);
        let (x, y) = (id_in(0, 1), id_in(3, 1));
        let tx = net.execute(1, &ops(&[op(OpKind::Insert, x, 1), op(OpKind::Insert, y, 1)]));
        for _ in 0..steps {
            net.step();
        }
        let told = net.committed();
        net.kill(1);
        net.run();
        let second = view_without(&first, 1);
        net.enter(&second);
        net.lease(&second);
        net.run();
        net.answers.clear();
        net.ask(2, &Message::AskOutcome { request: 9, tx, anchor: PartitionId(0), to_disk: false });
        net.run();
        let Some(Message::OutcomeIs { outcome, .. }) = net.answer() else {
            panic!("step {steps}: {:?}", net.answer())
        };
        let committed = matches!(outcome, OutcomeTold::Committed(_));
        assert!(committed || !told, "step {steps}: an acknowledged commit is gone");
        for (node, id) in [(2, x), (3, y), (4, y)] {
            assert_eq!(read(&mut net, node, id).is_some(), committed, "step {steps}, node {node}");
        }
        net.assert_at_rest();
        if committed { commits += 1 } else { aborts += 1 }
    }
    assert!(commits > 0 && aborts > 0, "both ends must be reached: {commits} and {aborts}");
}

#[test]
fn a_participant_dies_at_every_step_and_the_coordinator_decides() {
    for steps in 0..40 {
        let first = view(2, 2);
        let mut net = Net::new(&first);
        let (x, y) = (id_in(0, 1), id_in(3, 1));
        net.execute(1, &ops(&[op(OpKind::Insert, x, 1), op(OpKind::Insert, y, 1)]));
        for _ in 0..steps {
            net.step();
        }
        net.kill(3);
        net.run();
        let second = view_without(&first, 3);
        net.enter(&second);
        net.lease(&second);
        net.run();
        let committed = match net.answer() {
            Some(Message::Answer { .. }) => true,
            Some(Message::Refused { .. }) => false,
            other => panic!("step {steps}: {other:?}"),
        };
        for (node, id) in [(1, x), (2, x), (4, y)] {
            assert_eq!(read(&mut net, node, id).is_some(), committed, "step {steps}, node {node}");
        }
        net.assert_at_rest();
    }
}

#[test]
fn a_lost_request_asked_about_is_aborted_for_ever() {
    let mut net = Net::new(&view(1, 2));
    let id = id_in(0, 1);
    let list = ops(&[op(OpKind::Insert, id, 5)]);
    let tx = net.next_tx();
    net.answers.clear();
    net.ask(1, &Message::AskOutcome { request: 3, tx, anchor: PartitionId(0), to_disk: false });
    net.run();
    assert_eq!(
        net.answer(),
        Some(Message::OutcomeIs { request: 3, outcome: OutcomeTold::Aborted })
    );
    net.ask(1, &Message::Execute(request(tx, 0, Finish::Commit, &list)));
    net.run();
    let Some(Message::Refused { code, .. }) = net.answer() else { panic!() };
    assert_eq!(code, Code::TransactionKnown);
    assert_eq!(read(&mut net, 1, id), None);
}

#[test]
fn an_older_writer_waits_for_and_wounds_a_younger_holder() {
    let mut net = Net::new(&view(1, 2));
    let id = id_in(0, 1);
    let list = ops(&[op(OpKind::Upsert, id, 5)]);
    let young = net.next_tx();
    net.ask(1, &Message::Execute(request(young, 0, Finish::No, &list)));
    net.run();
    assert!(net.committed(), "its first step is done");
    let old = net.next_tx();
    let older = StartOrder { wall_ms: 1, ..StartOrder::default() };
    let mut second = request(old, 0, Finish::Commit, &list);
    second.order = older;
    net.answers.clear();
    net.ask(1, &Message::Execute(second));
    net.run();
    assert!(net.committed(), "{:?}", net.answer());
    let none = ops(&[]);
    let mut finish = request(young, 1, Finish::Commit, &none);
    finish.anchor = PartitionId(0);
    net.ask(1, &Message::Execute(finish));
    let Some(Message::Refused { code, .. }) = net.answer() else { panic!() };
    assert_eq!(code, Code::TransactionGone);
    net.assert_at_rest();
}

#[test]
fn locks_of_a_client_that_disappears_are_released() {
    let mut net = Net::new(&view(2, 2));
    let (x, y) = (id_in(0, 1), id_in(3, 1));
    let both = ops(&[op(OpKind::Upsert, x, 5), op(OpKind::Upsert, y, 5)]);
    let tx = net.next_tx();
    net.ask(1, &Message::Execute(request(tx, 0, Finish::No, &both)));
    net.run();
    net.client_gone(1);
    net.run();
    net.assert_at_rest();
    net.execute(1, &both);
    net.run();
    assert!(net.committed());
}

/// The answer to a creation comes before its commit reaches every partition: a client that uses the
/// table at once is told to try again, not that there is no such table.
#[test]
fn a_table_can_be_used_as_soon_as_its_creation_is_answered() {
    let mut net = Net::new(&view(2, 2));
    let new = TableDef::new(
        TableId(8),
        SchemaVersion(1),
        "new",
        table().columns().to_vec(),
        vec![0],
        vec![0],
    )
    .unwrap();
    let id = id_in(3, 1);
    let insert = ops_on(TableId(8), &[op(OpKind::Insert, id, 5)]);
    net.execute(3, &insert);
    net.run();
    let Some(Message::Refused { code, .. }) = net.answer() else { panic!() };
    assert_eq!(code, Code::NoSuchTable, "nobody has created it");
    net.execute(1, &creation(&new));
    while !net.committed() {
        assert!(net.step(), "the creation is never answered");
    }
    net.execute(3, &insert);
    let Some(Message::Refused { code, .. }) = net.answer() else {
        panic!("the commit has reached the partition already: {:?}", net.answer())
    };
    assert_eq!((code, code.class()), (Code::NotServing, ErrorClass::Retry));
    net.run();
    net.execute(3, &insert);
    net.run();
    assert!(net.committed());
    net.assert_at_rest();
}

/// What a client is told after one operation at node 1.
fn code_of(net: &mut Net, kind: OpKind, id: u64, finish: Finish) -> Option<Code> {
    let list = ops(&[op(kind, id, 1)]);
    let tx = net.next_tx();
    net.answers.clear();
    net.ask(1, &Message::Execute(request(tx, 0, finish, &list)));
    net.run();
    match net.answer() {
        Some(Message::Refused { code, .. }) => Some(code),
        Some(Message::Answer { .. }) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_of_the_group_that_is_full_or_slow_refuses_what_it_cannot_take() {
    let mut net = Net::new(&view(2, 2));
    let (there, new) = (id_in(0, 1), id_in(0, 1000));
    net.execute(1, &ops(&[op(OpKind::Insert, there, 1)]));
    net.run();
    let say = |net: &mut Net, node: u16, state: DiskState| {
        let pulse = Pulse { troubles: vec![(NodeId(node), state)], ..Pulse::default() };
        net.tell(NodeId(1), &ShardControl::Tick { epoch: Epoch(1), closed: Epoch(0), pulse });
    };
    let commit = Finish::Commit;
    say(&mut net, 2, DiskState::Full);
    assert_eq!(code_of(&mut net, OpKind::Upsert, new, commit), Some(Code::DiskFull));
    assert_eq!(code_of(&mut net, OpKind::Read, there, commit), None);
    assert_eq!(code_of(&mut net, OpKind::Delete, there, commit), None);
    say(&mut net, 2, DiskState::Slow);
    assert_eq!(code_of(&mut net, OpKind::Upsert, new, commit), Some(Code::DiskSlow));
    assert_eq!(code_of(&mut net, OpKind::Delete, new, commit), Some(Code::DiskSlow));
    for (node, state) in [(2, DiskState::Broken), (2, DiskState::Stuck), (3, DiskState::Full)] {
        say(&mut net, node, state);
        assert_eq!(code_of(&mut net, OpKind::Upsert, new, commit), None, "{node} {state:?}");
    }
    let to_disk = Finish::CommitToDisk;
    let code = code_of(&mut net, OpKind::Upsert, new, to_disk);
    assert_eq!(code, Some(Code::NotDurable), "these nodes have no disks");
}

#[test]
fn a_shard_says_at_once_that_it_has_finished_if_somebody_waits() {
    for waits in [true, false] {
        let mut net = Net::new(&view(1, 2));
        let (epoch, closed) = (Epoch(2), Epoch(0));
        let awaited = if waits { Epoch(1) } else { Epoch(0) };
        let tick =
            ShardControl::Tick { epoch, closed, pulse: Pulse { awaited, ..Pulse::default() } };
        let finished = |net: &Net| {
            let of_first = net.reports.iter().filter(|(node, _)| *node == NodeId(1));
            let epochs = of_first.filter_map(|(_, report)| match report {
                ShardControl::Finished { epoch, .. } => Some(*epoch),
                _ => None,
            });
            epochs.max()
        };
        net.execute(1, &ops(&[op(OpKind::Insert, id_in(0, 1), 1)]));
        net.tell(NodeId(1), &tick);
        assert!(finished(&net) < Some(Epoch(1)), "the backup has not the record yet");
        net.run();
        assert!(net.committed());
        assert_eq!(finished(&net) == Some(Epoch(1)), waits, "{:?}", finished(&net));
        net.tell(NodeId(1), &tick);
        assert_eq!(finished(&net), Some(Epoch(1)));
    }
}

/// Asks for a row, and drops what was answered before.
fn ask_for(net: &mut Net, node: u16, id: u64) {
    let list = ops(&[op(OpKind::Read, id, 0)]);
    net.answers.clear();
    net.ask(node, &Message::Read { request: 1, epoch: Epoch(0), ops: list.as_ops() });
    net.run();
}

fn fence(attempt: u64, handed: Option<PartitionId>) -> ShardControl {
    let president = NodeInstance { node: NodeId(1), incarnation: Incarnation(1) };
    let proposal = ProposalId { number: ViewNumber(2), attempt, president };
    let moving = handed.into_iter().collect();
    ShardControl::Fence { proposal, failed: Vec::new(), moving, handed }
}

#[test]
fn what_may_be_another_groups_is_not_read_until_the_next_view() {
    let first = view(2, 2);
    let mut net = Net::new(&first);
    let id = id_in(0, 1);
    net.execute(1, &ops(&[op(OpKind::Insert, id, 5)]));
    net.run();
    assert!(net.committed());
    for node in [1, 2] {
        ask_for(&mut net, node, id);
        assert_eq!(net.answers.len(), 1, "n{node} serves");
        net.tell(NodeId(node), &fence(1, Some(PartitionId(0))));
    }
    for node in [1, 2] {
        ask_for(&mut net, node, id);
        assert_eq!(net.answers.len(), 0, "n{node} has answered that it goes");
        // Another proposal does not say that the one before has come to nothing.
        net.tell(NodeId(node), &fence(2, None));
        net.lease(&first);
        net.run();
        assert_eq!(net.answers.len(), 0, "n{node} has heard of a higher proposal");
    }
    // Group 1 got it.
    let mut next = first.clone();
    next.number = ViewNumber(2);
    let placement = &mut next.placements[0];
    (placement.group, placement.local_index) = (GroupId(1), 99);
    placement.replicas = vec![NodeId(3), NodeId(4)];
    placement.primary = NodeId(3);
    net.enter(&next);
    net.run();
    let refused = net.answers.len();
    assert_eq!(refused, 2, "who has waited asks elsewhere");
    let Some(Message::Refused { code, .. }) = net.answer() else { panic!("{:?}", net.answer()) };
    assert_eq!(code, Code::NotReplica);
    ask_for(&mut net, 2, id);
    let Some(Message::Refused { code, .. }) = net.answer() else { panic!("{:?}", net.answer()) };
    assert_eq!(code, Code::NotReplica);
}
