//! Reads and scans at a closed epoch: from shard cores, at the edges of what they keep.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must fail")]

#[allow(dead_code, reason = "shared with other tests")]
mod net;

use std::time::Duration;

use lockstep_proto::durability::Pulse;
use lockstep_proto::error::Code;
use lockstep_proto::ids::*;
use lockstep_proto::limits::SNAPSHOT_EPOCHS_KEPT;
use lockstep_proto::process::Input;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec;
use lockstep_proto::wire::data::Message;
use lockstep_proto::wire::kind;
use lockstep_proto::wire::op::{OpKind, OpResult};
use lockstep_proto::wire::shard_control::ShardControl;
use net::*;

fn tick(net: &mut Net, epoch: u64, closed: u64) {
    for node in net.nodes.keys().copied().collect::<Vec<_>>() {
        let (epoch, closed) = (Epoch(epoch), Epoch(closed));
        net.tell(node, &ShardControl::Tick { epoch, closed, pulse: Pulse::default() });
    }
    net.run();
}

fn write(net: &mut Net, id: u64, value: i64) {
    net.execute(1, &ops(&[op(OpKind::Upsert, id, value)]));
    net.run();
    assert!(net.committed());
}

/// What a node reads at an epoch: the row, none, or why not; `None` while it waits.
fn read_at(net: &mut Net, node: u16, at: u64, id: u64) -> Option<Result<bool, Code>> {
    net.answers.clear();
    let list = ops(&[op(OpKind::Read, id, 0)]);
    net.ask(node, &Message::ReadAt { request: 9, at: Epoch(at), ops: list.as_ops() });
    answer_of(net)
}

fn answer_of(net: &Net) -> Option<Result<bool, Code>> {
    match net.answer()? {
        Message::Answer { results, .. } => {
            let mut reader = lockstep_proto::wire::bytes::Reader::new(&results.0[2..]);
            Some(Ok(matches!(OpResult::read(&mut reader).unwrap(), OpResult::Row(_))))
        }
        Message::Refused { code, .. } => Some(Err(code)),
        other => panic!("{other:?}"),
    }
}

/// All rows of the table at an epoch, page by page, with `between` done after each.
fn sweep(net: &mut Net, node: u16, at: u64, mut between: impl FnMut(&mut Net)) -> usize {
    let mut count = 0;
    for partition in (0..PARTITIONS).map(PartitionId) {
        let mut place = Some(0);
        while let Some(from) = place {
            net.answers.clear();
            let (table, schema) = (TABLE, SchemaVersion(1));
            let ask = Message::Sweep {
                request: 9,
                table,
                schema,
                partition,
                at: Epoch(at),
                place: from,
                rows_max: 10,
            };
            net.ask(node, &ask);
            let Some(Message::Swept { next, rows, .. }) = net.answer() else {
                panic!("{:?}", net.answer())
            };
            place = next;
            // A key of 8 bytes and a value of 8 with their lengths.
            count += rows.len() / 22;
            between(net);
        }
    }
    count
}

#[test]
fn a_snapshot_stays_what_it_was() {
    let mut net = Net::new(&view(1, 2));
    tick(&mut net, 5, 1);
    (0..200).for_each(|id| write(&mut net, id, 1));
    tick(&mut net, 10, 9);
    let mut next = 0;
    let count = sweep(&mut net, 2, 9, |net| {
        for id in next..next + 10 {
            write(net, 1000 + id, 2);
            net.execute(1, &ops(&[op(OpKind::Delete, id % 200, 0)]));
            net.run();
        }
        next += 10;
    });
    assert_eq!(count, 200);
    assert_eq!(read_at(&mut net, 1, 9, 3), Some(Ok(true)), "deleted since");
    assert_eq!(read_at(&mut net, 2, 9, 1003), Some(Ok(false)), "written since");
    assert_eq!(read_at(&mut net, 2, 4, 3), Some(Ok(false)), "not written yet");
    net.assert_at_rest();
}

#[test]
fn an_epoch_that_is_not_closed_is_waited_for() {
    let mut net = Net::new(&view(1, 2));
    tick(&mut net, 5, 3);
    write(&mut net, 1, 1);
    assert_eq!(read_at(&mut net, 2, 5, 1), None);
    assert!(net.reports.iter().any(|(node, report)| *node == NodeId(2)
        && matches!(report, ShardControl::Disk(report) if report.needed == Epoch(5))));
    tick(&mut net, 6, 4);
    assert_eq!(answer_of(&net), None);
    tick(&mut net, 7, 5);
    assert_eq!(answer_of(&net), Some(Ok(true)));
    assert_eq!(read_at(&mut net, 2, 1_000_000, 1), Some(Err(Code::EpochAhead)));
}

fn open(net: &mut Net, at_least: u64, pin: bool) {
    net.answers.clear();
    let at_least = Epoch(at_least);
    let mut frame = vec![kind::CLIENT];
    frame.extend(codec::encode(&ClientMessage::OpenSnapshot { request: 9, at_least, pin }));
    net.ask_bytes(1, &frame);
}

#[test]
fn old_versions_go_unless_somebody_reads_them() {
    let mut net = Net::new(&view(1, 1));
    tick(&mut net, 5, 4);
    write(&mut net, 1, 1);
    tick(&mut net, 7, 6);
    open(&mut net, 6, true);
    let later = |net: &mut Net, seconds: u64| {
        net.now = net.now + Duration::from_secs(seconds);
        net.input(NodeId(1), Input::Timeout);
    };
    let far = 6 + 2 * SNAPSHOT_EPOCHS_KEPT;
    tick(&mut net, far + 1, far);
    write(&mut net, 1, 2);
    // Each read keeps it for a while.
    for _ in 0..5 {
        later(&mut net, 10);
        assert_eq!(read_at(&mut net, 1, 6, 1), Some(Ok(true)));
    }
    assert_eq!(read_at(&mut net, 1, 5, 1), Some(Err(Code::SnapshotTooOld)));
    later(&mut net, 16);
    assert_eq!(read_at(&mut net, 1, 6, 1), Some(Err(Code::SnapshotTooOld)));
    open(&mut net, 6, true);
    assert_eq!(answer_of(&net), Some(Err(Code::SnapshotTooOld)));
    // A pin ends with its connection.
    open(&mut net, far, true);
    let farther = far + 2 * SNAPSHOT_EPOCHS_KEPT;
    tick(&mut net, farther + 1, farther);
    later(&mut net, 1);
    assert_eq!(read_at(&mut net, 1, far, 1), Some(Ok(true)));
    net.client_gone(1);
    later(&mut net, 1);
    assert_eq!(read_at(&mut net, 1, far, 1), Some(Err(Code::SnapshotTooOld)));
}
