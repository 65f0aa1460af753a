//! View changes, arbitration, leases and epochs of real control cores in a small network.

#[path = "control_net/arbitrators.rs"]
mod arbitrators;
mod control_net;
#[path = "control_net/disks.rs"]
mod disks;
#[path = "control_net/roster.rs"]
mod roster;

use std::time::Duration;

use control_net::{Fate, Id, MGMT, Net, first_view, instance};
use lockstep_cluster::control::exit_code;
use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Epoch, NodeId, ViewNumber};
use lockstep_proto::wire::control::ControlMessage;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_killed_node_is_gone_from_the_view_within_milliseconds() {
    let mut net = Net::started(2, 2, 1);
    net.kill(4);
    let took = net.run_until(ms(1000), |net| net.acts_alone(&[1, 2, 3]));
    assert!(took < ms(20), "took {took:?}");
    assert!(net.marks.contains("known_dead_by_fin"));
    assert!(!net.marks.contains("lease_wait"), "a dead process holds no lease");
    let view = net.core(1).view();
    assert_eq!(view.number, ViewNumber(2));
    assert_eq!(view.placements[3].primary, NodeId(2), "the partition n4 led");
    assert_eq!(view.placements[3].replicas, vec![NodeId(2)]);
    net.check();
}

#[test]
fn the_presidents_death_makes_the_next_one_president() {
    let mut net = Net::started(2, 2, 1);
    net.kill(1);
    net.run_until(ms(1000), |net| net.acts_alone(&[2, 3, 4]));
    assert!(net.marks.contains("president_takeover"));
    let closed = net.core(2).epoch_closed();
    net.run(ms(200));
    assert!(net.core(3).epoch_closed() > closed, "the new president ticks");
    net.check();
}

#[test]
fn a_silent_node_loses_its_lease_before_the_others_act_and_finds_itself_excluded() {
    let mut net = Net::started(2, 2, 1);
    net.pause(4);
    let took = net.run_until(ms(2000), |net| net.acts_alone(&[1, 2, 3]));
    assert!(took > ms(350) && took < ms(600), "took {took:?}");
    let acted_at = net.now.0;
    let last = *net.shard(4).leases.values().max().expect("has leases");
    assert!(last <= acted_at, "n4 could read until {last}, the others acted at {acted_at}");
    net.resume(4);
    net.run(ms(100));
    assert_eq!(net.exit(4), Some(exit_code::EXCLUDED));
    net.check();
}

#[test]
fn a_node_cut_off_only_from_one_other_waits_for_leases_and_the_younger_goes() {
    let mut net = Net::started(2, 2, 1);
    net.split(&[2], &[3]);
    net.run_until(ms(2000), |net| net.acts_alone(&[1, 2, 4]));
    assert!(net.marks.contains("asymmetric_loss"));
    assert!(net.marks.contains("lease_wait"), "n3 had promises of n1 until the end");
    net.run(ms(500));
    assert_eq!(net.exit(3), Some(exit_code::EXCLUDED));
    net.check();
}

#[test]
fn of_two_halves_the_arbitrator_chooses_one() {
    let mut net = Net::started(2, 2, 1);
    net.split(&[1, 2], &[3, 4]);
    net.run(ms(3000));
    let left = net.acts_alone(&[1, 2]);
    let right = net.acts_alone(&[3, 4]);
    assert!(left != right, "left {left}, right {right}");
    let losers: [Id; 2] = if left { [3, 4] } else { [1, 2] };
    assert_eq!(losers.map(|id| net.exit(id)), [Some(exit_code::LOST); 2]);
    assert!(net.marks.contains("arbitrator_refused"));
    net.check();
}

#[test]
fn the_half_that_reaches_the_arbitrator_goes_on() {
    let mut net = Net::started(2, 2, 1);
    net.split(&[1, 2], &[3, 4, MGMT]);
    net.run(ms(8000));
    assert!(net.acts_alone(&[3, 4]));
    assert_eq!(net.exit(1), Some(exit_code::LOST));
    assert_eq!(net.exit(2), Some(exit_code::LOST));
    assert!(net.marks.contains("arbitrator_unreachable"));
    net.check();
}

#[test]
fn no_half_goes_on_without_an_arbitrator() {
    let mut net = Net::started(2, 2, 0);
    net.split(&[1, 2], &[3, 4]);
    net.run(ms(3000));
    for id in 1..=4 {
        assert_eq!(net.exit(id), Some(exit_code::LOST), "n{id}");
    }
    net.check();
}

#[test]
fn both_halves_stop_when_each_has_lost_a_group() {
    let mut net = Net::started(2, 2, 1);
    net.split(&[1, 3], &[2, 4]);
    net.run(ms(3000));
    // Each half waits for the other, but not for ever.
    assert!((1..=4).all(|id| net.exit(id).is_none()));
    net.run(ms(4000));
    for id in 1..=4 {
        assert_eq!(net.exit(id), Some(exit_code::LOST), "n{id}");
    }
    assert!(net.marks.contains("group_lost"));
    net.check();
}

#[test]
fn the_last_of_a_group_may_pause_for_seconds_and_all_go_on() {
    let mut net = Net::started(2, 2, 1);
    net.kill(4);
    net.run_until(ms(1000), |net| net.acts_alone(&[1, 2, 3]));
    net.split(&[2], &[1, 3, MGMT]);
    net.run(ms(4500));
    net.heal();
    net.run(ms(1000));
    assert!(net.acts_alone(&[1, 2, 3]));
    net.split(&[2], &[1, 3, MGMT]);
    net.run(ms(7000));
    assert_eq!([1, 2, 3].map(|id| net.exit(id)), [Some(exit_code::LOST); 3]);
    net.check();
}

#[test]
fn the_survivor_of_a_pair_asks_although_the_other_is_known_dead() {
    let mut net = Net::started(1, 2, 1);
    net.kill(1);
    net.run_until(ms(1000), |net| net.acts_alone(&[2]));
    assert!(net.marks.contains("arbitrator_granted"));
    net.kill_mgmt(MGMT);
    net.run(ms(500));
    assert!(net.acts_alone(&[2]), "the arbitrator is needed only in a split");
    net.check();
}

/// Kills `president` as soon as its first message that `matches` is on its way to `lucky`; its
/// other messages of that kind are lost.
fn kill_after_telling(
    net: &mut Net,
    president: Id,
    lucky: Id,
    matches: impl Fn(&ControlMessage) -> bool + 'static,
) {
    net.hook = Some(Box::new(move |from, to, message| {
        if from == president && to < MGMT && to != lucky && matches(message) {
            Fate::Lose
        } else {
            Fate::Deliver
        }
    }));
    let view_of = |net: &Net, id: Id| net.core(id).view().number;
    let before = view_of(net, lucky);
    net.run_until(ms(2000), |net| view_of(net, lucky) > before);
    net.kill(president);
    net.hook = None;
}

#[test]
fn a_view_that_one_member_knows_is_finished_by_the_next_president() {
    let mut net = Net::started(2, 3, 1);
    net.kill(6);
    kill_after_telling(&mut net, 1, 4, |m| matches!(m, ControlMessage::NewView { .. }));
    net.run_until(ms(2000), |net| net.acts_alone(&[2, 3, 4, 5]));
    assert!(net.marks.contains("view_adopted_from_peer"));
    assert_eq!(net.core(2).view().number, ViewNumber(3), "view 2 first, then view 3");
    net.check();
}

#[test]
fn a_half_done_proposal_of_a_dead_president_is_finished_by_the_next() {
    let mut net = Net::started(2, 3, 1);
    net.hook = Some(Box::new(|from, _, message| match message {
        ControlMessage::Answered { .. } if from != 1 => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.kill(6);
    net.run(ms(30));
    net.kill(1);
    net.hook = None;
    net.run_until(ms(2000), |net| net.acts_alone(&[2, 3, 4, 5]));
    assert_eq!(net.core(2).view().number, ViewNumber(3), "2 may be in force at n1");
    net.check();
}

#[test]
fn a_number_that_only_another_member_has_answered_is_not_used_again() {
    let mut net = Net::started(2, 3, 1);
    // Everybody but n2 answers n1; then n1 is silent.
    net.hook = Some(Box::new(|from, to, message| match message {
        ControlMessage::Propose { .. } if (from, to) == (1, 2) => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.kill(6);
    net.run(ms(30));
    net.kill(1);
    net.run_until(ms(2000), |net| net.acts_alone(&[2, 3, 4, 5]));
    assert!(net.marks.contains("number_taken"));
    assert_eq!(net.core(2).view().number, ViewNumber(3));
    net.check();
}

#[test]
fn a_second_failure_during_the_agreement_makes_the_proposal_larger() {
    let mut net = Net::started(2, 3, 1);
    net.hook = Some(Box::new(|from, _, message| match message {
        ControlMessage::Answered { .. } if from == 5 => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.kill(6);
    net.run(ms(30));
    assert_eq!(net.core(1).view().number, ViewNumber(1), "waits for n5");
    net.kill(5);
    net.run_until(ms(2000), |net| net.acts_alone(&[1, 2, 3, 4]));
    assert!(net.marks.contains("proposal_superseded"));
    assert_eq!(net.core(1).view().number, ViewNumber(2));
    net.check();
}

#[test]
fn a_failure_after_the_grant_counts_against_the_granted_view() {
    let mut net = Net::started(1, 4, 1);
    // n1 and n2 are half and are granted a view; n1 dies before it can announce it.
    net.hook = Some(Box::new(|_, _, message| match message {
        ControlMessage::NewView { .. } => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.kill(3);
    net.kill(4);
    net.run_until(ms(2000), |net| net.core(1).view().number > ViewNumber(1));
    net.kill(1);
    net.hook = None;
    net.run_until(ms(1000), |net| net.acts_alone(&[2]));
    assert_eq!(net.core(2).view().number, ViewNumber(3), "the granted one has number 2");
    assert!(!net.marks.contains("arbitrator_refused"));
}

#[test]
fn a_side_that_shrinks_below_what_may_be_alive_elsewhere_stops_although_it_was_granted() {
    let mut net = Net::started(1, 4, 1);
    net.split(&[1, 2, MGMT], &[3, 4]);
    net.hook = Some(Box::new(|_, _, message| match message {
        ControlMessage::NewView { .. } => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.run_until(ms(2000), |net| net.core(1).view().number > ViewNumber(1));
    net.kill(1);
    net.hook = None;
    net.run(ms(8000));
    assert_eq!([2, 3, 4].map(|id| net.exit(id)), [Some(exit_code::LOST); 3]);
}

#[test]
fn a_node_leaves_by_a_view_without_waiting_for_leases() {
    for leaver in [1, 4] {
        let mut net = Net::started(2, 2, 1);
        net.terminate(leaver);
        let rest: Vec<Id> = (1..=4).filter(|id| *id != leaver).collect();
        let took = net.run_until(ms(1000), |net| net.acts_alone(&rest));
        assert!(took < ms(100), "n{leaver} took {took:?}");
        net.run(ms(100));
        assert_eq!(net.exit(leaver), Some(0));
        assert!(net.shard(leaver).drained);
        assert!(net.marks.contains("leaver_answers"));
        assert!(!net.marks.contains("arbitrator_asked"), "three of four stay");
        net.check();
    }
}

#[test]
fn one_of_two_leaves_and_nobody_needs_an_arbitrator() {
    let mut net = Net::started(1, 2, 0);
    net.terminate(1);
    net.run_until(ms(100), |net| net.acts_alone(&[2]));
    net.run(ms(100));
    assert_eq!(net.exit(1), Some(0));
    net.check();
}

#[test]
fn a_node_that_dies_while_it_leaves_is_dropped_as_a_dead_one() {
    let mut net = Net::started(2, 2, 1);
    net.hook = Some(Box::new(|from, _, message| match message {
        ControlMessage::Answered { .. } if from == 4 => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.terminate(4);
    net.run(ms(50));
    assert_eq!(net.core(1).view().number, ViewNumber(1), "waits for its last answer");
    net.kill(4);
    net.run_until(ms(100), |net| net.acts_alone(&[1, 2, 3]));
    net.check();
}

#[test]
fn the_last_node_of_a_group_leaves_alone_and_the_cluster_stops() {
    let mut net = Net::started(2, 1, 1);
    net.terminate(2);
    net.run(ms(1000));
    assert_eq!(net.exit(2), Some(0));
    assert!(net.marks.contains("leave_last_of_group"));
    assert_eq!(net.exit(1), Some(exit_code::LOST));
}

#[test]
fn all_nodes_can_leave_at_once() {
    let mut net = Net::started(2, 2, 1);
    for id in 1..=4 {
        net.terminate(id);
    }
    net.run(ms(1000));
    for id in 1..=4 {
        assert_eq!(net.exit(id), Some(0), "n{id}");
    }
}

#[test]
fn a_node_that_is_left_out_while_it_leaves_does_not_come_back() {
    let mut net = Net::started(2, 2, 1);
    net.shard(4).drains_never = true;
    net.terminate(4);
    net.pause(4);
    net.run_until(ms(1000), |net| net.acts_alone(&[1, 2, 3]));
    net.resume(4);
    net.run_until(ms(1000), |net| net.exit(4).is_some());
    assert_eq!(net.exit(4), Some(0));
    assert!(net.marks.contains("leave_ends_left_out"));
    net.check();
}

#[test]
fn epochs_close_everywhere_and_stop_at_what_one_shard_has_not_finished() {
    let mut net = Net::started(2, 2, 1);
    net.run(ms(1000));
    let closed = net.core(1).epoch_closed();
    assert!(closed > Epoch(90), "{closed}");
    // Nothing works here: by now ticks come slowly.
    let most = Epoch(closed.0 + 5);
    net.shard(3).finishes = Some(most);
    net.run(ms(1000));
    for id in 1..=4 {
        assert!(net.core(id).epoch_closed() <= most);
        assert!(net.shard(id).closed <= most);
    }
    net.shard(3).finishes = None;
    net.run(ms(1000));
    assert!(net.core(4).epoch_closed() > most);
}

#[test]
fn what_was_reported_in_one_view_closes_nothing_in_the_next() {
    // With the bug the old view's reports seal and close epochs above the new view's seal, in
    // which an orphan may still commit.
    for canary in [None, Some(Canary::CloseEpochWithOrphan)] {
        let mut net = Net::new(&first_view(2, 2, 1), canary);
        // Between two ticks: what was reported after the last one is not sealed yet.
        net.run(ms(305));
        net.kill(4);
        for id in 1..=3 {
            net.shard(id).finishes = Some(Epoch(0));
        }
        net.run_until(ms(1000), |net| net.acts_alone(&[1, 2, 3]));
        net.run(ms(300));
        let (seal, closed) = (net.core(1).view().seal, net.core(1).epoch_closed());
        assert!(seal > Epoch(0));
        assert_eq!(closed > seal, canary.is_some(), "closed {closed}, sealed {seal}, {canary:?}");
    }
}

#[test]
fn peers_that_are_late_at_the_start_are_not_dropped_at_once() {
    let mut net = Net::new(&first_view(2, 2, 1), None);
    net.pause(4);
    net.run(ms(4000));
    net.resume(4);
    net.run(ms(500));
    assert!(net.acts_alone(&[1, 2, 3, 4]));
    assert_eq!(net.core(1).view().number, ViewNumber(1));
}

#[test]
fn a_stuck_shard_ends_its_node() {
    let mut net = Net::started(2, 2, 1);
    net.shard(2).stuck = true;
    net.run(ms(1000));
    assert_eq!(net.exit(2), Some(exit_code::STUCK));
    assert!(net.marks.contains("shard_stuck"));
    assert!(net.acts_alone(&[1, 3, 4]));
}

#[test]
fn a_stalled_node_drains_before_it_suspects() {
    let mut net = Net::started(2, 2, 1);
    net.pause(1);
    net.run(ms(300));
    net.resume(1);
    net.run(ms(1000));
    assert!(net.marks.contains("stalled_grace"));
    assert!(net.acts_alone(&[1, 2, 3, 4]));
}

#[test]
fn leases_are_held_from_all_peers_all_the_time() {
    let mut net = Net::started(2, 2, 1);
    for _ in 0..100 {
        net.run(ms(7));
        let now = net.now.0;
        for id in 1..=4 {
            let leases = &net.shard(id).leases;
            assert_eq!(leases.len(), 3);
            assert!(leases.values().all(|until| *until > now + 200_000_000));
        }
    }
}

#[test]
fn without_fencing_a_dropped_node_still_gets_promises() {
    // What the canary breaks: with it the dropped node's lease is renewed after the answer.
    for canary in [None, Some(Canary::NoFencing)] {
        let mut net = Net::new(&first_view(2, 2, 1), canary);
        net.run(ms(300));
        // n4 does not hear n2, and everybody else hears everybody.
        net.hook = Some(Box::new(|from, to, message| match message {
            ControlMessage::NewView { .. } => Fate::Lose,
            _ if from == 2 && to == 4 => Fate::Lose,
            _ => Fate::Deliver,
        }));
        net.run_until(ms(3000), |net| net.members(1) == [1, 2, 3]);
        let renewed = net.shard(4).leases[&NodeId(1)] > net.now.0;
        assert_eq!(renewed, canary.is_some());
        assert!(!net.core(1).view().contains(instance(4)));
    }
}

#[test]
fn the_third_of_three_goes_on_when_two_are_killed_together() {
    let mut net = Net::started(1, 3, 1);
    net.kill(1);
    net.kill(2);
    net.run_until(ms(1000), |net| net.acts_alone(&[3]));
    assert!(net.marks.contains("arbitrator_granted"));
    net.check();
}

#[test]
fn a_minority_does_not_count_on_a_death_while_somebody_else_may_live() {
    let mut net = Net::started(1, 3, 1);
    // n2 and n3 do not hear each other; n1 leaves and gives its last answer to n2.
    net.split(&[2], &[3]);
    net.run(ms(300));
    net.hook = Some(Box::new(|from, to, message| match message {
        ControlMessage::Propose { .. } if (from, to) == (3, 1) => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.terminate(1);
    net.run(ms(3000));
    assert!(net.acts_alone(&[2]), "two of three agreed");
    assert_eq!(net.exit(3), Some(exit_code::LOST), "n1 is dead, but n2 may live");
    net.check();
}

/// Seeds of the random test; raise it when the agreement changes.
const SEEDS: u64 = 60;

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn node(&mut self, nodes: Id) -> Id {
        1 + Id::try_from(self.roll(u64::from(nodes))).expect("small")
    }
}

/// One fault, drawn.
fn disturb(net: &mut Net, dice: &mut Dice, nodes: Id) {
    let (a, b) = (dice.node(nodes), dice.node(nodes));
    match dice.roll(12) {
        0 => net.kill(a),
        1 if net.is_paused(a) => net.resume(a),
        1 => net.pause(a),
        2 => net.cut(a, b),
        3 => net.split(&[a], &[b]),
        4 => {
            let left: Vec<Id> = (1..=nodes).filter(|_| dice.roll(2) == 0).collect();
            let right: Vec<Id> = (1..=nodes).filter(|id| !left.contains(id)).collect();
            net.split(&left, &right);
        }
        5 | 6 => net.heal(),
        7 => net.reset(a, b),
        8 => net.split(&[a], &[MGMT]),
        9 => net.kill_mgmt(MGMT),
        10 => net.revive_mgmt(MGMT),
        _ if dice.roll(4) == 0 && !net.is_dead(a) && !net.is_paused(a) => net.terminate(a),
        _ => {}
    }
}

#[test]
fn whatever_happens_views_do_not_fork_and_leases_hold() {
    let shapes = [(2, 2), (1, 3), (2, 3), (1, 2), (1, 4)];
    let mut survived = 0_u64;
    for seed in 1..=SEEDS {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (groups, replicas) = shapes[usize::try_from(seed % 5).expect("small")];
        let nodes = groups * replicas;
        let mut net = Net::started(groups, replicas, 1 + u16::try_from(seed % 2).expect("small"));
        for _ in 0..8 {
            disturb(&mut net, &mut dice, nodes);
            for _ in 0..dice.roll(12) {
                net.run(Duration::from_micros(dice.roll(120_000)));
                net.check();
            }
        }
        net.heal();
        net.revive_mgmt(MGMT);
        for id in (1..=nodes).filter(|id| net.is_paused(*id)).collect::<Vec<_>>() {
            net.resume(id);
        }
        net.run(ms(15_000));
        net.check();
        let alive: Vec<Id> = (1..=nodes).filter(|id| !net.is_dead(*id)).collect();
        assert!(net.acts_alone(&alive), "seed {seed}: {alive:?} live and do not act together");
        survived += u64::from(!alive.is_empty());
    }
    assert!(survived > SEEDS / 3, "only {survived} clusters survived");
}
