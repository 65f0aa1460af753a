//! A replica that comes back, between shard cores: at the edges of the conversation with its donor.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must fail")]

#[allow(dead_code, reason = "shared with other tests")]
mod net;

use std::time::Duration;

use bytes::BytesMut;
use lockstep_proto::ids::*;
use lockstep_proto::process::Input;
use lockstep_proto::view::{Standing, View};
use lockstep_proto::wire::control::JoinStage;
use lockstep_proto::wire::join::JoinMessage;
use lockstep_proto::wire::op::OpKind;
use lockstep_proto::wire::shard_control::ShardControl;
use net::*;

/// Of two nodes of a group the second comes back.
fn view_of_one_and_a_joiner() -> View {
    let mut view = view(1, 2);
    view.members[1].standing = Standing::Copying;
    for placement in &mut view.placements {
        placement.replicas.retain(|node| *node == NodeId(1));
        placement.joining = vec![NodeId(2)];
    }
    view
}

/// Lets messages and timers run until everything has been copied.
fn copy_all(net: &mut Net) {
    let copied = |(node, report): &(NodeId, ShardControl)| {
        let all = matches!(report, ShardControl::Joined { stage: JoinStage::Copied, .. });
        *node == NodeId(2) && all
    };
    for _ in 0..100 {
        turn(net);
        if net.reports.iter().any(copied) {
            return;
        }
    }
    panic!("not copied: {:?}", net.reports);
}

/// All messages, and then all timers.
fn turn(net: &mut Net) {
    net.run();
    net.now = net.now + Duration::from_millis(1);
    (1..=2).for_each(|node| net.input(NodeId(node), Input::Timeout));
    net.run();
}

fn write(net: &mut Net, partition: u16, value: i64) {
    net.execute(1, &ops(&[op(OpKind::Upsert, id_in(partition, 1), value)]));
}

/// A joiner that is cut off from the streams of several partitions at once takes those up anew, and
/// no others: a stream that is taken up twice would go back behind what has been applied.
#[test]
fn who_is_cut_off_from_some_streams_does_not_disturb_the_others() {
    let mut net = Net::new(&view_of_one_and_a_joiner());
    (0..PARTITIONS).for_each(|p| write(&mut net, p, 1));
    copy_all(&mut net);
    let mut again = BytesMut::new();
    for p in [0, 1] {
        JoinMessage::Again { partition: PartitionId(p) }.frame(&mut again, ViewNumber(1));
    }
    net.slip_in(1, 2, &again);
    // Between any two messages, writes on a partition that was not cut off.
    for value in 0.. {
        write(&mut net, 2, value);
        write(&mut net, 2, value);
        if !net.step() || value > 200 {
            break;
        }
    }
    let rows = |net: &mut Net, node: u16| {
        let (core, _) = net.nodes.get_mut(&NodeId(node)).unwrap();
        let mut rows = core.rows_at(Epoch(u64::MAX));
        // Of the others it hears with the next record that the last one is stable.
        rows.retain(|(p, ..), _| *p <= PartitionId(1));
        rows
    };
    let again = |net: &mut Net| {
        turn(net);
        rows(net, 1) == rows(net, 2)
    };
    let equal = (0..100).any(|_| again(&mut net));
    assert!(equal, "{:?} and {:?}", rows(&mut net, 1), rows(&mut net, 2));
    assert_eq!(rows(&mut net, 2).len(), 4, "two partitions, a definition and a row in each");
}
