//! Who counts as gone, by what was heard and said when.

use std::ops::RangeInclusive;

use super::*;
use crate::ids::{ClusterId, Epoch, Incarnation, RestartGeneration, ViewNumber};
use crate::roster::Roster;
use crate::view::{ClusterConfig, Member, Standing};

fn node(id: u16) -> NodeInstance {
    NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
}

fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn view(nodes: u16) -> View {
    let member = |id| Member {
        instance: node(id),
        group: GroupId(0),
        zone: String::new(),
        addr: String::new(),
        shards: 1,
        seniority: u64::from(id),
        standing: Standing::InSync,
    };
    View {
        cluster: ClusterId(1),
        number: ViewNumber(1),
        config: ClusterConfig::default(),
        roster: Roster::of(&(1..=nodes).map(member).collect::<Vec<_>>()),
        members: (1..=nodes).map(member).collect(),
        placements: Vec::new(),
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        configured: crate::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

/// Node `me` of `nodes`, everybody heard at 1000 ms.
fn suspicion(me: u16, nodes: u16) -> Suspicion {
    let mut suspicion = Suspicion::new(node(me), &view(nodes), at(1000), Duration::ZERO);
    for id in (1..=nodes).filter(|id| *id != me) {
        suspicion.heard(node(id), at(1000));
    }
    suspicion
}

/// Some are heard every 50 ms.
fn hear(s: &mut Suspicion, ids: RangeInclusive<u16>, ms: RangeInclusive<u64>) {
    for ms in ms.step_by(50) {
        ids.clone().for_each(|id| s.heard(node(id), at(ms)));
    }
}

fn check(suspicion: &mut Suspicion, ms: u64, expected: &[(u16, Reason)]) {
    let expected: Gone = expected.iter().map(|(id, why)| (node(*id), *why)).collect();
    assert_eq!(suspicion.gone(at(ms)), expected);
}

#[test]
fn silence_counts_only_when_nobody_heard_vouches_for_the_silent() {
    let mut s = suspicion(1, 3);
    check(&mut s, 1400, &[]);
    hear(&mut s, 2..=2, 1050..=1400);
    check(&mut s, 1401, &[(3, Reason::Asymmetric)]);
    assert!(s.says_unheard(node(2), &[NodeId(3)], at(1401)));
    check(&mut s, 1401, &[(3, Reason::Silent)]);
}

#[test]
fn the_younger_of_two_that_do_not_hear_each_other_is_dropped_even_if_it_is_this_node() {
    let mut s = suspicion(3, 3);
    hear(&mut s, 2..=2, 1050..=1400);
    check(&mut s, 1401, &[(3, Reason::Asymmetric)]);
    // Nobody drops it: the one it cannot hear must be gone after all.
    hear(&mut s, 2..=2, 1450..=6000);
    check(&mut s, 6001, &[(3, Reason::Asymmetric)]);
    check(&mut s, 6002, &[(1, Reason::Silent)]);
}

#[test]
fn the_node_with_most_broken_pairs_is_dropped_whatever_its_age() {
    let mut s = suspicion(2, 4);
    s.says_unheard(node(3), &[NodeId(1)], at(1050));
    s.says_unheard(node(4), &[NodeId(1)], at(1050));
    check(&mut s, 1051, &[]);
    s.heard(node(1), at(1060));
    check(&mut s, 1100, &[(1, Reason::Asymmetric)]);
}

#[test]
fn the_last_node_of_a_group_is_spared_while_another_choice_is_left() {
    // n3 is dead; n2 and n4 do not hear each other.
    let mut s = two_groups();
    s.says_unheard(node(2), &[NodeId(4)], at(1050));
    s.heard(node(4), at(1060));
    check(&mut s, 1100, &[(4, Reason::Asymmetric)]);
    s.refuse(node(3));
    check(&mut s, 1100, &[(2, Reason::Asymmetric), (3, Reason::Refused)]);
}

/// Two groups, n1 and n2, n3 and n4, as n1 sees them, everybody heard at 1000 ms.
fn two_groups() -> Suspicion {
    let mut two_groups = view(4);
    for member in &mut two_groups.members[2..] {
        member.group = GroupId(1);
    }
    let mut s = Suspicion::new(node(1), &two_groups, at(1000), Duration::ZERO);
    for id in [2, 3, 4] {
        s.heard(node(id), at(1000));
    }
    s
}

#[test]
fn the_last_of_a_group_may_be_silent_for_longer_and_nobody_is_dropped_for_not_hearing_it() {
    let mut s = two_groups();
    s.watch_ended(node(3));
    assert!(s.dial_refused(node(3)));
    s.heard(node(2), at(1500));
    s.says_unheard(node(2), &[NodeId(3), NodeId(4)], at(1500));
    check(&mut s, 1501, &[(3, Reason::Dead)]);
    s.heard(node(2), at(6000));
    check(&mut s, 6000, &[(3, Reason::Dead)]);
    assert_eq!(s.next_silence(at(5999)), Some(at(6000)));
    check(&mut s, 6001, &[(3, Reason::Dead), (4, Reason::Silent)]);
    s.heard(node(4), at(6002));
    s.says_unheard(node(2), &[NodeId(3)], at(6002));
    check(&mut s, 6003, &[(3, Reason::Dead)]);
}

#[test]
fn a_group_that_falls_silent_as_a_whole_is_waited_for() {
    let mut s = two_groups();
    s.heard(node(2), at(1500));
    s.says_unheard(node(2), &[NodeId(3), NodeId(4)], at(1500));
    check(&mut s, 1501, &[]);
    for ms in [1800, 2100, 2400, 2700, 3000] {
        s.heard(node(2), at(ms));
    }
    s.heard(node(3), at(3000));
    s.says_unheard(node(2), &[NodeId(4)], at(3000));
    // It is not the last any more, and links come back one by one.
    check(&mut s, 3300, &[]);
}

#[test]
fn who_comes_back_from_silence_blames_nobody_for_it_and_is_not_blamed() {
    let mut s = two_groups();
    hear(&mut s, 2..=3, 1150..=2500);
    s.says_unheard(node(2), &[NodeId(4)], at(1500));
    s.says_unheard(node(3), &[NodeId(4)], at(1500));
    s.heard(node(4), at(2500));
    s.says_unheard(node(4), &[NodeId(1), NodeId(2), NodeId(3)], at(2500));
    check(&mut s, 2501, &[]);
    s.says_unheard(node(4), &[], at(2550));
    s.says_unheard(node(3), &[], at(2550));
    hear(&mut s, 2..=4, 2600..=3949);
    check(&mut s, 3949, &[]);
    // One still does not hear it: they have no link. Of the two the younger goes.
    check(&mut s, 3950, &[(4, Reason::Asymmetric)]);
}

#[test]
fn who_hears_that_somebody_is_back_waits_for_its_own_link() {
    let mut s = suspicion(1, 4);
    for speaker in [2, 3] {
        s.says_unheard(node(speaker), &[NodeId(4)], at(1410));
    }
    hear(&mut s, 2..=3, 1050..=2500);
    check(&mut s, 2499, &[(4, Reason::Silent)]);
    s.says_unheard(node(2), &[], at(2500));
    check(&mut s, 2501, &[]);
    hear(&mut s, 2..=3, 2550..=3900);
    check(&mut s, 3899, &[]);
    check(&mut s, 3900, &[(4, Reason::Asymmetric)]);
}

#[test]
fn who_was_cut_off_for_almost_too_long_drops_nobody_whose_link_is_later() {
    let mut s = suspicion(1, 4);
    // All were heard at 1000: one comes back just in time, the others when they try again.
    s.heard(node(4), at(1399));
    s.says_unheard(node(4), &[], at(1399));
    hear(&mut s, 4..=4, 1450..=1700);
    check(&mut s, 1700, &[]);
    hear(&mut s, 2..=4, 1750..=3150);
    s.says_unheard(node(3), &[NodeId(1)], at(1750));
    check(&mut s, 3149, &[]);
    check(&mut s, 3150, &[(3, Reason::Asymmetric)]);
}

#[test]
fn a_link_that_comes_and_goes_does_not_calm_for_ever() {
    let mut s = suspicion(1, 4);
    for ms in (1300..=5400).step_by(300) {
        s.heard(node(2), at(ms));
        hear(&mut s, 3..=4, ms..=ms + 299);
    }
    s.says_unheard(node(4), &[NodeId(1)], at(1300));
    check(&mut s, 5400, &[]);
    s.heard(node(2), at(5500));
    check(&mut s, 5500, &[(4, Reason::Asymmetric)]);
}

#[test]
fn who_has_no_group_whole_waits_for_nobody() {
    let mut s = two_groups();
    check(&mut s, 1401, &[(2, Reason::Silent), (3, Reason::Silent), (4, Reason::Silent)]);
    let mut s = suspicion(1, 2);
    check(&mut s, 1401, &[(2, Reason::Silent)]);
}

#[test]
fn a_node_that_died_before_its_first_word_goes_and_not_the_one_that_misses_it() {
    let mut s = Suspicion::new(node(1), &view(4), at(0), Duration::from_secs(5));
    for id in [2, 4] {
        s.heard(node(id), at(600));
    }
    check(&mut s, 700, &[]);
    s.says_unheard(node(4), &[NodeId(3)], at(650));
    check(&mut s, 700, &[(3, Reason::Asymmetric)]);
}

#[test]
fn a_node_that_died_before_its_first_word_is_not_waited_for_where_nobody_listens() {
    let mut s = Suspicion::new(node(1), &view(3), at(0), Duration::from_secs(5));
    s.never_came(node(2), at(100));
    check(&mut s, 450, &[]);
    s.heard(node(3), at(500));
    s.never_came(node(3), at(510));
    s.says_unheard(node(3), &[NodeId(2)], at(520));
    check(&mut s, 520, &[(2, Reason::Silent)]);
    check(&mut s, 901, &[(2, Reason::Silent), (3, Reason::Silent)]);
}

#[test]
fn who_first_notices_a_silent_node_is_not_dropped_for_it() {
    let mut s = suspicion(1, 3);
    s.heard(node(3), at(1380));
    s.says_unheard(node(3), &[NodeId(2)], at(1380));
    check(&mut s, 1390, &[]);
    check(&mut s, 1401, &[(2, Reason::Silent)]);
}

#[test]
fn a_half_that_nobody_hears_is_gone_as_a_whole() {
    let mut s = suspicion(3, 4);
    s.heard(node(4), at(1400));
    s.says_unheard(node(4), &[NodeId(1), NodeId(2)], at(1401));
    check(&mut s, 1401, &[(1, Reason::Silent), (2, Reason::Silent)]);
}

#[test]
fn death_needs_the_end_of_the_watch_and_a_refused_dial() {
    let mut s = suspicion(1, 2);
    assert!(!s.dial_refused(node(2)));
    s.watch_ended(node(2));
    assert!(s.wants_proof(node(2)));
    check(&mut s, 1001, &[]);
    assert!(s.dial_refused(node(2)));
    check(&mut s, 1001, &[(2, Reason::Dead)]);
    assert!(s.is_known_dead(node(2)));
}

#[test]
fn a_watch_that_comes_up_again_takes_the_evidence_back() {
    let mut s = suspicion(1, 2);
    s.watch_ended(node(2));
    s.watch_up(node(2));
    assert!(!s.dial_refused(node(2)));
    check(&mut s, 1001, &[]);
}

#[test]
fn a_stalled_node_suspects_nobody_for_a_while() {
    let mut s = suspicion(1, 2);
    s.stalled(at(3100));
    check(&mut s, 3000, &[]);
    assert_eq!(s.next_silence(at(3000)), Some(at(3100)));
    check(&mut s, 3100, &[(2, Reason::Silent)]);
}

#[test]
fn what_was_said_while_a_node_was_stalled_is_no_ground_to_drop_who_said_it() {
    let mut s = suspicion(1, 3);
    s.stalled(at(1100));
    for id in [2, 3] {
        s.heard(node(id), at(1001));
        s.says_unheard(node(id), &[NodeId(1)], at(1001));
    }
    check(&mut s, 1001, &[]);
    s.says_unheard(node(2), &[], at(1050));
    hear(&mut s, 2..=3, 1100..=2450);
    check(&mut s, 2449, &[]);
    check(&mut s, 2450, &[(3, Reason::Asymmetric)]);
}

#[test]
fn refusal_and_dead_links_end_with_the_view_but_a_wish_to_leave_does_not() {
    let mut s = suspicion(1, 3);
    s.refuse(node(2));
    s.leaves(node(3));
    check(&mut s, 1001, &[(2, Reason::Refused), (3, Reason::Leaving)]);
    s.enter(&view(3), at(1001));
    check(&mut s, 1001, &[(3, Reason::Leaving)]);
}

#[test]
fn another_life_of_a_peer_is_not_the_peer() {
    let mut s = suspicion(1, 2);
    let later = NodeInstance { node: NodeId(2), incarnation: Incarnation(2) };
    s.heard(later, at(1400));
    check(&mut s, 1401, &[(2, Reason::Silent)]);
}

/// Six nodes of which the first is not heard by nodes 2 and 3, and by all others: node 2 at
/// `last`, when everybody but node 1 was last heard.
fn two_that_do_not_hear_the_first(last: u64) -> Suspicion {
    let mut s = suspicion(2, 6);
    hear(&mut s, 3..=6, 1050..=1380);
    hear(&mut s, 3..=6, 1430..=last);
    (3..=6).for_each(|id| s.heard(node(id), at(last)));
    s.says_unheard(node(3), &[NodeId(1)], at(1401));
    s
}

#[test]
fn who_is_heard_by_some_is_dropped_for_those_who_cannot_hear_it_however_senior_it_is() {
    let mut s = two_that_do_not_hear_the_first(1610);
    check(&mut s, 1611, &[(1, Reason::Asymmetric)]);
}

#[test]
fn who_has_only_not_noticed_a_silence_yet_does_not_vouch_for_the_silent() {
    // Nodes 4 to 6 may hear node 1 or not have noticed. Nobody but this node is to wait for that:
    // it drops itself, which only means that it does not lead.
    let mut s = two_that_do_not_hear_the_first(1590);
    check(&mut s, 1591, &[(2, Reason::Asymmetric)]);
    for id in 4..=6 {
        s.says_unheard(node(id), &[NodeId(1)], at(1595));
    }
    check(&mut s, 1595, &[(1, Reason::Silent)]);
}
