//! Control cores and their disks: what is durable, hurried and slow ticks, disks that fail.

use std::time::Duration;

use super::control_net::Net;
use lockstep_cluster::control::exit_code;
use lockstep_proto::durability::{DiskReport, DiskState};
use lockstep_proto::ids::Epoch;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn everywhere(net: &mut Net, nodes: u16, report: DiskReport) {
    (1..=nodes).for_each(|id| net.shard(id).disk = report);
}

#[test]
fn durable_is_what_all_disks_have_and_what_is_closed() {
    let mut net = Net::started(2, 2, 1);
    let begin = net.core(1).epoch_closed().0;
    let (less, more) = (Epoch(begin + 10), Epoch(begin + 15));
    everywhere(&mut net, 4, DiskReport { durable: more, ..DiskReport::default() });
    net.shard(3).disk.durable = less;
    net.run_until(ms(2000), |net| net.core(4).epoch_closed() > Epoch(begin + 3));
    let durable = net.shard(4).durable;
    assert!(durable > Epoch(begin) && durable < less, "closed first: {durable}");
    net.run(ms(2000));
    (1..=4).for_each(|id| assert_eq!(net.shard(id).durable, less));
    net.shard(3).disk.durable = more;
    net.run(ms(500));
    (1..=4).for_each(|id| assert_eq!(net.shard(id).durable, more));
}

#[test]
fn an_epoch_that_is_waited_for_closes_within_a_few_messages() {
    let mut net = Net::started(2, 2, 1);
    net.run(ms(3000));
    assert!(net.shard(4).quiet, "nothing has happened for seconds");
    let needed = net.core(3).epoch_closed().next().next().next();
    net.shard(3).disk.needed = needed;
    // The shard says so with its next tick; from then on no tick is waited for.
    let took = net.run_until(ms(1000), |net| net.core(3).epoch_closed() >= needed);
    assert!(took < ms(130), "{took:?}");
    assert!(net.marks.contains("tick_hurried"));
}

#[test]
fn epochs_in_a_hurry_are_as_far_apart_as_those_who_wait_need() {
    // Commits that wait, and how many epochs they get in a second of ticks that are 10 ms apart:
    // one per 10 µs that each of them takes, but at least two thousand and at most a hundred.
    let cases = [(0, 500..2001), (200, 300..501), (500, 150..201), (u32::MAX, 95..106)];
    for (waiters, expected) in cases {
        let mut net = Net::started(2, 2, 1);
        let (awaited, durable) = (Epoch(1_000_000), Epoch(100_000));
        everywhere(&mut net, 4, DiskReport { awaited, durable, ..DiskReport::default() });
        // Where most of them wait is what counts.
        net.shard(3).disk.waiters = waiters;
        net.run(ms(500));
        let before = net.core(1).epoch_closed().0;
        net.run(ms(1000));
        let epochs = net.core(1).epoch_closed().0 - before;
        assert!(expected.contains(&epochs), "{waiters} wait: {epochs} epochs");
    }
}

#[test]
fn the_first_work_in_a_quiet_cluster_ends_the_slow_ticks() {
    let mut net = Net::started(2, 2, 1);
    net.run(ms(3000));
    assert!(net.shard(1).quiet);
    net.shard(2).disk.worked = Epoch(10_000);
    net.run(ms(200));
    assert!((1..=4).all(|id| !net.shard(id).quiet));
    assert!(net.marks.contains("quiet_ends"));
    let closed = net.core(1).epoch_closed();
    net.run(ms(500));
    assert!(net.core(1).epoch_closed() >= Epoch(closed.0 + 45), "ticks come fast again");
}

#[test]
fn a_node_whose_disk_fails_leaves_and_says_why() {
    for state in [DiskState::Broken, DiskState::Stuck] {
        let mut net = Net::started(2, 2, 1);
        net.shard(2).disk.state = state;
        net.run_until(ms(1000), |net| net.acts_alone(&[1, 3, 4]));
        net.run(ms(100));
        assert_eq!(net.exit(2), Some(exit_code::STUCK));
        assert!(net.marks.contains("leave_for_disk"));
        net.check();
    }
}

#[test]
fn of_two_disks_that_fail_together_one_node_stays() {
    let mut net = Net::started(2, 2, 1);
    // Odd nodes are of one group, even ones of the other.
    net.shard(1).disk.state = DiskState::Broken;
    net.shard(3).disk.state = DiskState::Broken;
    net.run(ms(3000));
    let left: Vec<u16> = [1, 3].into_iter().filter(|id| net.exit(*id).is_none()).collect();
    assert_eq!(left.len(), 1, "one of the group serves on");
    let mut rest = [2, left[0], 4];
    rest.sort_unstable();
    assert!(net.acts_alone(&rest));
    net.check();
    // It stays by itself, not against an order.
    net.terminate(left[0]);
    net.run(ms(1000));
    assert_eq!(net.exit(left[0]), Some(0));
    assert!(net.marks.contains("leave_last_of_group"));
}

#[test]
fn the_last_of_a_group_stays_whatever_its_disk_does() {
    let mut net = Net::started(2, 1, 1);
    net.shard(2).disk.state = DiskState::Broken;
    net.run(ms(2000));
    assert_eq!(net.exit(2), None);
    assert!(net.acts_alone(&[1, 2]));
}
