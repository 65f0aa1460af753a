//! Tests of the event log.

use super::*;
use crate::agreement::changed;
use crate::ids::Incarnation;
use crate::orders::Order;
use crate::orders::tests::{view as orders_view, with_spare};
use crate::transfer::TransferStep;
use crate::view::ClusterConfig;
use crate::wire::control::ViewChange;

fn node(id: u16, life: u32) -> NodeInstance {
    NodeInstance { node: NodeId(id), incarnation: Incarnation(life) }
}

fn member(instance: NodeInstance, standing: Standing) -> Member {
    Member {
        instance,
        group: GroupId(1),
        zone: String::new(),
        addr: String::new(),
        shards: 1,
        seniority: u64::from(instance.node.0),
        standing,
    }
}

fn view(number: u64, members: Vec<Member>) -> View {
    let primary = members.first().map_or(NodeId(0), |member| member.instance.node);
    let replicas = members.iter().map(|member| member.instance.node).collect();
    let placement = Placement {
        group: GroupId(1),
        local_index: 0,
        primary,
        replicas,
        joining: Vec::new(),
        to: None,
    };
    View {
        cluster: ClusterId(1),
        number: ViewNumber(number),
        config: ClusterConfig::default(),
        configured: crate::configuration::ConfigState::default(),
        left_out: Vec::new(),
        roster: Roster::of(&[node(1, 1), node(2, 1)].map(|n| member(n, Standing::InSync))),
        members,
        placements: vec![placement],
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

fn whole(number: u64, lives: [u32; 2]) -> View {
    let members = [node(1, lives[0]), node(2, lives[1])];
    view(number, members.map(|node| member(node, Standing::InSync)).to_vec())
}

#[test]
fn a_view_tells_who_has_gone_and_why_and_who_has_come() {
    let first = whole(1, [1, 1]);
    assert_eq!(between(None, &first), [Happening::Met { nodes: 2 }]);
    assert_eq!(between(Some(&first), &first), []);
    let mut second = view(2, vec![member(node(2, 1), Standing::InSync)]);
    second.left_out = vec![(node(1, 1), Reason::Dead)];
    let (group, gone) = (GroupId(1), node(1, 1));
    let lost = Happening::NodeLost { node: gone, group, why: Some(Reason::Dead) };
    let moved = Happening::PrimariesMoved { partitions: 1 };
    assert_eq!(between(Some(&first), &second), [lost, moved]);
    let mut third = view(3, vec![member(node(2, 1), Standing::InSync)]);
    third.members.insert(0, member(node(1, 2), Standing::Copying));
    let back = node(1, 2);
    assert_eq!(between(Some(&second), &third), [Happening::NodeAdmitted { node: back, group }]);
    third.members[0].standing = Standing::Attached;
    let mut fourth = third.clone();
    fourth.members[0].standing = Standing::InSync;
    assert_eq!(between(Some(&third), &fourth), [Happening::NodeInSync { node: back }]);
    // Who was away sees one step, and no reason of a view it has not seen.
    let lost = Happening::NodeLost { node: gone, group, why: None };
    let came = Happening::NodeAdmitted { node: back, group };
    assert_eq!(
        between(Some(&first), &whole(5, [2, 1])),
        [lost, came, Happening::NodeInSync { node: back }]
    );
}

#[test]
fn seats_that_are_given_moved_drained_and_taken_are_told() {
    let first = whole(1, [1, 1]);
    let mut second = whole(2, [1, 1]);
    let (third, none) = (member(node(3, 1), Standing::Copying), GroupId::NONE);
    second.roster = Roster::of(&[first.members[1].clone(), Member { group: none, ..third }]);
    second.roster.seats[0].drained = true;
    let seat = |node| NodeId(node);
    assert_eq!(
        between(Some(&first), &second),
        [
            Happening::NodeDrained { node: seat(2), drained: true },
            Happening::NodeSeated { node: seat(3), group: none },
            Happening::NodeRemoved { node: seat(1) },
        ]
    );
    let mut third = second.clone();
    third.roster.seats[1].group = GroupId(1);
    let placed = Happening::NodePlaced { node: seat(3), group: GroupId(1) };
    assert_eq!(between(Some(&second), &third), [placed]);
}

#[test]
fn a_start_from_the_disks_loses_those_who_are_not_in_it() {
    let first = whole(1, [1, 1]);
    let mut again = view(4, vec![member(node(2, 2), Standing::InSync)]);
    again.restart_generation = RestartGeneration(1);
    let generation = RestartGeneration(1);
    let lost = Happening::NodeLost { node: node(1, 1), group: GroupId(1), why: None };
    let moved = Happening::PrimariesMoved { partitions: 1 };
    let told = between(Some(&first), &again);
    assert_eq!(told, [Happening::Restarted { generation }, lost, moved]);
}

#[test]
fn a_view_is_told_once_also_after_a_restart_between_two_files() {
    let mut log = EventLog::default();
    assert!(log.note_view(5, &whole(1, [1, 1])));
    assert!(!log.note_view(6, &whole(1, [1, 1])));
    assert!(log.note_register_lost(7) && !log.note_register_lost(8));
    assert!(log.note_view(9, &whole(3, [2, 1])));
    let views: Vec<u64> = log.events().iter().map(|event| event.view.0).collect();
    assert_eq!(views, [1, 1, 3, 3, 3]);
    let names: Vec<&str> = log.events().iter().map(|event| event.what.name()).collect();
    assert_eq!(
        names,
        ["cluster_met", "register_lost", "node_lost", "node_admitted", "node_in_sync"]
    );
    assert!(names.iter().all(|name| Happening::NAMES.contains(name)));
}

#[test]
fn the_log_keeps_the_last_events_and_their_numbers() {
    let mut log = EventLog::default();
    let many = EVENTS_MAX as u64 + 10;
    for number in 1..=many {
        log.note(number, vec![Happening::PrimariesMoved { partitions: 1 }]);
    }
    assert_eq!(log.events.len(), EVENTS_MAX);
    assert_eq!((log.last, log.events[0].number), (many, 11));
    let numbers: Vec<u64> = log.after(many - 2, 9).iter().map(|event| event.number).collect();
    assert_eq!(numbers, [many - 1, many]);
    assert_eq!(log.after(0, 3).len(), 3);
    assert_eq!(log.after(many, 9), []);
}

/// What the log of a server tells that is shown these views.
fn told(views: &[&View]) -> Vec<Happening> {
    let mut log = EventLog::default();
    for view in views {
        log.note_view(5, view);
    }
    log.events().iter().map(|event| event.what.clone()).collect()
}

/// The views of all moves until none is left, the given one first.
fn until_balanced(view: &View) -> Vec<View> {
    let mut all = vec![view.clone()];
    while let Some(begin) = all[all.len() - 1].next_transfer() {
        let TransferStep::Begin { partition, .. } = begin else { panic!("{begin:?}") };
        let rest = [TransferStep::Attach { partition }, TransferStep::HandOver { partition }];
        for step in [begin].into_iter().chain(rest) {
            let last = &all[all.len() - 1];
            let change = ViewChange { transfer: Some(step), ..ViewChange::default() };
            all.push(changed(last, ViewNumber(last.number.0 + 1), &change));
        }
    }
    all
}

#[test]
fn a_group_that_comes_and_goes_is_told_and_of_moves_when_they_begin_and_how_many_it_were() {
    let mut small = with_spare(with_spare(orders_view(&[&[1, 2]]), 3, "a"), 4, "b");
    small.placements = vec![small.placements[0].clone(); 5];
    for (at, placement) in (0..).zip(&mut small.placements) {
        placement.local_index = at;
    }
    let mut grown = small.clone();
    grown.obey(&Order::CreateGroup { nodes: vec![NodeId(3), NodeId(4)] });
    for member in &mut grown.members {
        member.standing = Standing::InSync;
    }
    let (group, nodes) = (GroupId(2), [NodeId(3), NodeId(4)]);
    let placed = nodes.map(|node| Happening::NodePlaced { node, group }).to_vec();
    let synced =
        grown.members[2..].iter().map(|m| Happening::NodeInSync { node: m.instance }).collect();
    let begun = vec![Happening::RebalanceBegun];
    let created = vec![Happening::GroupCreated { group }];
    let came = [synced, created, begun.clone(), placed].concat();
    let views = until_balanced(&grown);
    assert_eq!(views.len(), 1 + 2 * 3, "two of five move, in three steps each");
    let even = &views[views.len() - 1];
    let all: Vec<&View> = [&small].into_iter().chain(&views).collect();
    let ended = |partitions| vec![Happening::RebalanceEnded { partitions }];
    let met = vec![Happening::Met { nodes: 4 }];
    assert_eq!(told(&all), [met.clone(), came.clone(), ended(2)].concat());
    // Who was away sees one step, and who came in the middle what it has seen.
    let away = told(&[&small, even]);
    assert_eq!(away.iter().filter(|what| **what == ended(2)[0]).count(), 1, "{away:?}");
    assert!(!away.contains(&Happening::RebalanceBegun));
    assert_eq!(told(&all[4..]), [met.clone(), ended(1)].concat());

    let mut dropped = even.clone();
    dropped.obey(&Order::DropGroup { group });
    let views = until_balanced(&dropped);
    let mut empty = views[views.len() - 1].clone();
    for order in empty.seats_to_clear() {
        empty.obey(&order);
    }
    let all: Vec<&View> = [even].into_iter().chain(&views).chain([&empty]).collect();
    let leaving = vec![Happening::GroupDropBegun { group }];
    // They do not join the next best group.
    let spare = |node| {
        let placed = Happening::NodePlaced { node, group: GroupId::NONE };
        [placed, Happening::NodeDrained { node, drained: true }]
    };
    let gone = [vec![Happening::GroupDropped { group }], nodes.map(spare).concat()].concat();
    assert_eq!(told(&all), [met, leaving, begun, ended(2), gone].concat());
}

#[test]
fn what_moves_by_hand_only_is_no_rebalancing_until_it_is_said() {
    let even = orders_view(&[&[1, 2], &[3, 4]]);
    let mut manual = even.clone();
    manual.obey(&Order::Automatic { on: false });
    let mut uneven = manual.clone();
    uneven.placements = vec![uneven.placements[0].clone(); 4];
    let mut said = uneven.clone();
    said.obey(&Order::Rebalance);
    let news = between(Some(&uneven), &said);
    let by_hand = Happening::RebalancingSet { automatic: false };
    assert_eq!(between(Some(&even), &manual), [by_hand]);
    assert_eq!(news, [Happening::RebalanceBegun]);
}

#[test]
fn what_operators_want_is_told_once() {
    let first = whole(1, [1, 1]);
    let mut second = View { number: ViewNumber(2), ..first.clone() };
    second.config.replicas = 3;
    second.config.primary_zone = "b".into();
    let third = View { number: ViewNumber(3), ..second.clone() };
    let news = between(Some(&first), &second);
    let replicas = Happening::ReplicasSet { replicas: 3 };
    assert_eq!(news, [replicas, Happening::PrimaryZoneSet { zone: "b".into() }]);
    assert_eq!(between(Some(&second), &third), []);
}
