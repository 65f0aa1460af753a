//! Committed reads: the nearest replica, and another one as soon as it is gone.

use super::rig::*;
use crate::core::*;
use lockstep_proto::ids::{Epoch, Incarnation, NodeId, RestartGeneration, ShardId};
use lockstep_proto::process::{DialError, Target};
use lockstep_proto::wire::op::OpResult;

fn read(rig: &mut Rig, partitions: &[u16], from: ReadFrom) -> CallId {
    rig.submit(Call::Read { ops: reads(partitions), from, at: None })
}

#[test]
fn a_read_goes_to_the_replica_in_the_same_zone() {
    let mut rig = Rig::new();
    let id = read(&mut rig, &[0, 1, 2], ReadFrom::Nearest);
    let sent = rig.sent_one(2);
    assert_eq!(sent.read().1.len(), 3);
    rig.answer_rows(2, sent.read().0, &[b"a", b"b", b"c"]);
    let Ok(Reply::Done { results, tx: None, .. }) = rig.completed_one(id) else { panic!() };
    let expected = [OpResult::Row(b"a"), OpResult::Row(b"b"), OpResult::Row(b"c")];
    assert_eq!(results.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_read_of_the_primaries_is_cut_and_put_together_again() {
    let mut rig = Rig::new();
    let id = read(&mut rig, &[0, 1, 2], ReadFrom::Primary);
    let (one, two) = (rig.sent_one(1), rig.sent_one(2));
    rig.answer_rows(2, two.read().0, &[b"b"]);
    assert!(rig.completed().is_empty());
    rig.answer_rows(1, one.read().0, &[b"a", b"c"]);
    let Ok(Reply::Done { results, .. }) = rig.completed_one(id) else { panic!() };
    let expected = [OpResult::Row(b"a"), OpResult::Row(b"b"), OpResult::Row(b"c")];
    assert_eq!(results.iter().collect::<Vec<_>>(), expected);
    assert_eq!(rig.core.calls_pending(), 0);
}

#[test]
fn a_lost_replica_means_another_one_at_once() {
    let mut rig = Rig::new();
    let id = read(&mut rig, &[0], ReadFrom::Nearest);
    rig.sent_one(2);
    rig.unlink(2);
    let request = rig.sent_one(1).read().0;
    rig.answer_rows(1, request, &[b"a"]);
    assert!(rig.completed_one(id).is_ok());
}

#[test]
fn a_refusing_replica_means_another_one_at_once_and_then_a_pause() {
    let mut rig = Rig::new();
    let id = read(&mut rig, &[0], ReadFrom::Nearest);
    let request = rig.sent_one(2).read().0;
    rig.refuse(2, request, Code::NoLease);
    assert!(rig.marks().contains(&"client_read_fallback"));
    let request = rig.sent_one(1).read().0;
    rig.refuse(1, request, Code::NoLease);
    assert!(rig.sent(1).is_empty() && rig.sent(2).is_empty());
    rig.pass(Duration::from_millis(3));
    let request = rig.sent_one(2).read().0;
    rig.answer_rows(2, request, &[b"a"]);
    assert!(rig.completed_one(id).is_ok());
}

#[test]
fn one_node_and_no_other() {
    let mut rig = Rig::new();
    read(&mut rig, &[0], ReadFrom::Node(NodeId(1)));
    rig.sent_one(1);
    let id = read(&mut rig, &[0], ReadFrom::Node(NodeId(3)));
    assert_eq!(rig.completed_one(id).unwrap_err().code, Code::NotReplica);
}

#[test]
fn a_write_is_not_a_read() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Read { ops: writes(&[0]), from: ReadFrom::Nearest, at: None });
    assert_eq!(rig.completed_one(id).unwrap_err().code, Code::Malformed);
}

#[test]
fn a_page_comes_from_its_partition() {
    let mut rig = Rig::new();
    let (table, schema) = (lockstep_proto::ids::TableId(1), lockstep_proto::ids::SchemaVersion(1));
    let partition = lockstep_proto::ids::PartitionId(3);
    let from = ReadFrom::Node(NodeId(1));
    let after = b"after".to_vec();
    let id =
        rig.submit(Call::Scan { table, schema, partition, from, after, rows_max: 5, at: None });
    let sent = rig.sent_one(1);
    let Message::Scan { request, after: b"after", rows_max: 5, .. } = sent.message() else {
        panic!("not a scan")
    };
    rig.answer(1, &Message::Page { request, more: true, rows: b"rows" });
    let expected = Reply::Page { more: true, rows: b"rows"[..].into() };
    assert_eq!(rig.completed_one(id), Ok(expected));
}

#[test]
fn status_comes_from_the_shard_that_was_asked() {
    let mut rig = Rig::new();
    let id = rig.submit(Call::Status { node: NodeId(9), shard: ShardId(0) });
    assert_eq!(rig.completed_one(id).unwrap_err().code, Code::NotServing);
    let id = rig.submit(Call::Status { node: NodeId(2), shard: ShardId(0) });
    let status = Box::default();
    let request = request_of(slab::Key::from_number(id.0), 0);
    rig.say(2, &ClientMessage::Status { request, status });
    assert!(matches!(rig.completed_one(id), Ok(Reply::Status(_))));
}

#[test]
fn why_nobody_could_be_reached_is_in_the_error() {
    for (error, words) in [
        (DialError::Refused, "nobody listens"),
        (DialError::WrongCluster, "another cluster"),
        (DialError::WrongVersion, "another version"),
    ] {
        let mut rig = Rig::unlinked();
        let id = rig.submit(Call::View);
        let (to, addr) = (Target::Any, "host1:1".to_owned());
        rig.core.handle(rig.now, Input::DialFailed { to, addr, error }, &mut rig.out);
        rig.pass(Duration::from_secs(11));
        let error = rig.completed_one(id).unwrap_err();
        assert_eq!((error.code, error.outcome), (Code::Unreachable, Outcome::NotApplied));
        assert!(error.detail.contains("host1:1") && error.detail.contains(words), "{error}");
    }
}

#[test]
fn a_server_of_another_cluster_is_not_believed() {
    let mut rig = Rig::new();
    let mut other = view(9, &[1]);
    other.cluster = lockstep_proto::ids::ClusterId(6);
    rig.say(1, &ClientMessage::View { view: Box::new(other) });
    assert_eq!(rig.core.view().unwrap().number.0, 1);
    assert!(rig.core.topology.trouble().contains("cluster"));
}

/// A replica that came back has no older versions of what it copied.
#[test]
fn a_snapshot_too_old_for_one_replica_is_read_at_another() {
    let mut rig = Rig::new();
    let (at, from) = (Some(Moment { epoch: Epoch(7), ..Moment::default() }), ReadFrom::Nearest);
    let id = rig.submit(Call::Read { ops: reads(&[0]), from, at });
    let request = rig.sent_one(2).read().0;
    rig.refuse(2, request, Code::SnapshotTooOld);
    let request = rig.sent_one(1).read().0;
    rig.answer_rows(1, request, &[b"a"]);
    assert!(rig.completed_one(id).is_ok());
    let id = rig.submit(Call::Read { ops: reads(&[0]), from, at });
    for node in [2, 1] {
        let request = rig.sent_one(node).read().0;
        rig.refuse(node, request, Code::SnapshotTooOld);
    }
    let refused = rig.completed_one(id);
    assert!(matches!(refused, Err(CallError { code: Code::SnapshotTooOld, .. })));
}

/// What was closed and not durable is not what will be closed under the same number.
#[test]
fn a_snapshot_does_not_outlive_a_restart_of_the_cluster() {
    let mut rig = Rig::new();
    let (at, from) = (Some(Moment { epoch: Epoch(7), ..Moment::default() }), ReadFrom::Nearest);
    let id = rig.submit(Call::Read { ops: reads(&[0]), from, at });
    rig.sent_one(2);
    let mut restarted = view(2, &[1, 2]);
    restarted.restart_generation = RestartGeneration(1);
    restarted.members.iter_mut().for_each(|m| m.instance.incarnation = Incarnation(2));
    rig.say(1, &ClientMessage::View { view: Box::new(restarted) });
    let refused = rig.completed_one(id);
    assert!(matches!(refused, Err(CallError { code: Code::SnapshotTooOld, .. })));
}
