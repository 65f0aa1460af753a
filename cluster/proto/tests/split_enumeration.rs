//! Every split of small clusters, at rest and in the middle of a view change: at most one side goes
//! on, and a cluster that could live does not shut down.
//!
//! The survival rules and the register are pure, so the proof is to try everything: each node is on
//! the left, on the right or dead; each side knows any part of the deaths; each node has not
//! answered, answered or acts in the proposed view; the arbitrators are reached in either order.

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{GroupId, Incarnation, NodeId, NodeInstance, ViewNumber};
use lockstep_proto::register::Register;
use lockstep_proto::survival::{Counted, Survival, survival};
use lockstep_proto::view::ViewIdentity;
use lockstep_proto::wire::control::Verdict;

const SHAPES: [(u16, u16); 9] =
    [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)];

fn node(id: u16) -> NodeInstance {
    NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
}

/// Nodes 0.. of a cluster of `groups` × `replicas`, each with its group.
fn cluster(groups: u16, replicas: u16) -> Vec<(NodeInstance, GroupId)> {
    (0..groups * replicas).map(|id| (node(id), GroupId(id / replicas))).collect()
}

fn counted(members: &[(NodeInstance, GroupId)], groups: u16) -> Counted {
    Counted::new(members.to_vec(), (0..groups).map(GroupId).collect())
}

fn identity(number: u64, members: &[(NodeInstance, GroupId)]) -> ViewIdentity {
    let members = members.iter().map(|(member, _)| *member).collect();
    ViewIdentity { number: ViewNumber(number), members }
}

/// Calls `visit` with every way to give each of `places` one of `values`.
fn every(places: usize, values: u8, mut visit: impl FnMut(&[u8])) {
    let mut digits = vec![0; places];
    loop {
        visit(&digits);
        let Some(place) = digits.iter().position(|d| *d + 1 < values) else { return };
        digits[..place].fill(0);
        digits[place] += 1;
    }
}

fn nodes_where(fates: &[u8], test: impl Fn(u8) -> bool) -> Vec<NodeInstance> {
    let ids = (0..).zip(fates).filter(|(_, fate)| test(**fate));
    ids.map(|(id, _)| node(id)).collect()
}

#[test]
fn at_rest_two_sides_never_both_pass_without_the_same_arbitrator() {
    // 0 left, 1 right; dead: 2 nobody knows, 3 left knows, 4 right knows, 5 both know.
    let mut splits = 0;
    for (groups, replicas) in SHAPES {
        let members = cluster(groups, replicas);
        let view = [counted(&members, groups)];
        every(members.len(), 6, |fates| {
            let left = nodes_where(fates, |f| f == 0);
            let right = nodes_where(fates, |f| f == 1);
            let left_knows = nodes_where(fates, |f| f == 3 || f == 5);
            let right_knows = nodes_where(fates, |f| f == 4 || f == 5);
            let verdicts = (
                survival(&view, &left, &left_knows, None),
                survival(&view, &right, &right_knows, None),
            );
            let fine = match verdicts {
                (Survival::ShutDown(_), _) | (_, Survival::ShutDown(_)) => true,
                (Survival::Ask, Survival::Ask) => true,
                (Survival::GoOn, _) | (_, Survival::GoOn) => false,
            };
            assert!(fine, "{groups}x{replicas} {fates:?}: {verdicts:?}");
            splits += 1;
        });
    }
    assert!(splits > 90_000, "only {splits} splits tried");
}

#[test]
fn the_canary_of_a_minority_that_goes_on_is_found_by_the_same_enumeration() {
    let members = cluster(1, 3);
    let view = [counted(&members, 1)];
    let canary = Some(Canary::MinorityGoesOn);
    let minority = survival(&view, &[node(0)], &[], canary);
    let majority = survival(&view, &[node(1), node(2)], &[], canary);
    assert_eq!((minority, majority), (Survival::GoOn, Survival::GoOn));
}

#[test]
fn no_needless_shutdown_when_the_dead_are_known_dead() {
    for (groups, replicas) in SHAPES {
        let members = cluster(groups, replicas);
        let view = [counted(&members, groups)];
        every(members.len(), 2, |fates| {
            let here = nodes_where(fates, |f| f == 0);
            let dead = nodes_where(fates, |f| f == 1);
            let whole = (0..groups)
                .all(|g| members.iter().any(|(m, of)| *of == GroupId(g) && here.contains(m)));
            let verdict = survival(&view, &here, &dead, None);
            assert_eq!(whole, !matches!(verdict, Survival::ShutDown(_)), "{fates:?}: {verdict:?}");
        });
    }
}

#[test]
fn of_a_split_without_deaths_one_side_goes_on_if_any_holds_every_group() {
    for (groups, replicas) in SHAPES {
        let members = cluster(groups, replicas);
        let view = [counted(&members, groups)];
        every(members.len(), 2, |fates| {
            let sides = [nodes_where(fates, |f| f == 0), nodes_where(fates, |f| f == 1)];
            let viable = sides.iter().any(|side| {
                (0..groups)
                    .all(|g| members.iter().any(|(m, of)| *of == GroupId(g) && side.contains(m)))
            });
            let lives = sides
                .iter()
                .any(|side| !matches!(survival(&view, side, &[], None), Survival::ShutDown(_)));
            assert_eq!(viable, lives, "{groups}x{replicas} {fates:?}");
        });
    }
}

/// A view change from view 2 to view 3 that is cut through the middle.
struct Change {
    /// Members of view 2.
    old: Vec<(NodeInstance, GroupId)>,
    /// Members of view 3.
    new: Vec<(NodeInstance, GroupId)>,
    groups: u16,
    /// Which arbitrator view 2 and view 3 name.
    arbitrators: [usize; 2],
    /// What the arbitrator of view 2 holds: view 1, 2 or 3.
    registered: u64,
}

/// What one node knows of the change.
const UNASKED: u8 = 0;
const ANSWERED: u8 = 1;
const ACTS: u8 = 2;

impl Change {
    fn view(&self, number: u64) -> ViewIdentity {
        identity(number, if number < 3 { &self.old } else { &self.new })
    }

    fn registers(&self) -> Vec<Register> {
        let [old, new] = self.arbitrators;
        let mut registers = vec![Register::new(self.view(self.registered)); 2];
        if old != new {
            // A view that names a new arbitrator is in its register before anyone acts in it.
            registers[new] = Register::new(self.view(3));
        }
        registers
    }

    /// Whether the new view can have come into force at all, with the register as it is: those who
    /// made it passed the rules against the old view.
    fn was_allowed(&self) -> bool {
        let view = [counted(&self.old, self.groups)];
        let makers: Vec<NodeInstance> = self.new.iter().map(|(member, _)| *member).collect();
        match survival(&view, &makers, &[], None) {
            Survival::GoOn => true,
            Survival::Ask => self.registered == 3,
            Survival::ShutDown(_) => false,
        }
    }

    /// Numbers of the views this side counts against, by what its nodes know.
    fn counts(knowledge: &[u8]) -> Vec<u64> {
        if knowledge.contains(&ACTS) {
            vec![3]
        } else if knowledge.contains(&ANSWERED) {
            vec![2, 3]
        } else {
            vec![2]
        }
    }

    /// Whether the side of `here` goes on, asking the arbitrators of all views it counts against.
    fn goes_on(
        &self,
        here: &[NodeInstance],
        counts: &[u64],
        registers: &mut [Register],
        reach: bool,
    ) -> bool {
        let members = |number: u64| if number == 3 { &self.new } else { &self.old };
        let views: Vec<Counted> =
            counts.iter().map(|n| counted(members(*n), self.groups)).collect();
        match survival(&views, here, &[], None) {
            Survival::GoOn => true,
            Survival::ShutDown(_) => false,
            Survival::Ask => {
                let listed: Vec<ViewIdentity> = counts.iter().map(|n| self.view(*n)).collect();
                let number = counts[0] + 1;
                let wanted = ViewIdentity { number: ViewNumber(number), members: here.to_vec() };
                let mut arbitrators: Vec<usize> =
                    counts.iter().map(|n| self.arbitrators[usize::from(*n == 3)]).collect();
                arbitrators.dedup();
                reach
                    && arbitrators.into_iter().all(|arbitrator| {
                        let answer = registers[arbitrator].ask(&listed, &wanted, None);
                        answer.verdict == Verdict::Granted
                    })
            }
        }
    }
}

/// Tries every knowledge and side of every node for one change; returns (cases, winners).
fn try_change(change: &Change) -> (u64, u64) {
    let mut everybody = change.old.clone();
    everybody.extend(change.new.iter().filter(|m| !change.old.contains(m)));
    let (mut cases, mut winners) = (0, 0);
    every(everybody.len(), 6, |digits| {
        let knowledge: Vec<u8> = digits.iter().map(|d| d % 3).collect();
        let in_new = |i: usize| change.new.contains(&everybody[i]);
        let answered = (0..everybody.len()).all(|i| !in_new(i) || knowledge[i] != UNASKED);
        let acted = knowledge.contains(&ACTS);
        let strangers = (0..everybody.len()).any(|i| !in_new(i) && knowledge[i] != UNASKED);
        let in_force = acted || change.registered == 3;
        if strangers || (in_force && !(answered && change.was_allowed())) {
            return;
        }
        let side = |which: u8| -> (Vec<NodeInstance>, Vec<u8>) {
            let of = (0..everybody.len()).filter(|i| digits[*i] / 3 == which);
            of.map(|i| (everybody[i].0, knowledge[i])).unzip()
        };
        let sides = [side(0), side(1)];
        for (first, reached) in [(0, [true; 2]), (1, [true; 2]), (0, [true, false])] {
            let mut registers = change.registers();
            let went_on: Vec<usize> = [first, 1 - first]
                .into_iter()
                .filter(|which| {
                    let (here, knows) = &sides[*which];
                    let counts = Change::counts(knows);
                    !here.is_empty()
                        && change.goes_on(here, &counts, &mut registers, reached[*which])
                })
                .collect();
            assert!(went_on.len() < 2, "two winners: {:?} {sides:?}", change.new);
            cases += 1;
            winners += went_on.len() as u64;
        }
    });
    (cases, winners)
}

/// Every change: nobody or one node leaves, nobody or one joins, the arbitrator stays or moves.
fn every_change(groups: u16, replicas: u16, mut visit: impl FnMut(&Change)) {
    let old = cluster(groups, replicas);
    let joiner = (node(groups * replicas), GroupId(groups - 1));
    for leaves in (0..=old.len()).map(|i| old.get(i).copied()) {
        for joins in [None, Some(joiner)] {
            for arbitrators in [[0, 0], [0, 1]] {
                for registered in 1..=3 {
                    let mut new = old.clone();
                    new.retain(|member| Some(*member) != leaves);
                    new.extend(joins);
                    let change = Change { old: old.clone(), new, groups, arbitrators, registered };
                    visit(&change);
                }
            }
        }
    }
}

#[test]
fn in_the_middle_of_a_view_change_at_most_one_side_goes_on() {
    let (mut cases, mut winners) = (0, 0);
    for (groups, replicas) in [(1, 2), (1, 3), (1, 4), (2, 1), (2, 2)] {
        every_change(groups, replicas, |change| {
            let (tried, won) = try_change(change);
            cases += tried;
            winners += won;
        });
    }
    assert!(cases > 30_000, "only {cases} cases tried");
    assert!(winners * 2 > cases, "{winners} winners in {cases} cases: too timid to prove much");
}
