//! The arbitrator's register: the one value that settles which side of an even split goes on.
//!
//! It holds the newest view the arbitrator has agreed to. Asking is a compare-and-set: "make it
//! `wanted`, if it holds one of the views I count against or an ancestor of them". The first side
//! to ask moves the register to its view; for the other side it then holds a rival and refuses.
//! Asking again after a lost answer finds `wanted` already there and is granted again. A refusal
//! shows the register, so that nodes of the winning side that did not know can take that view.
//!
//! Views that needed no arbitrator are registered by the same question, later. They may be
//! several views late, which is why ancestors match; every asker lists *all* views and proposals
//! it has counted against since the last one the register is known to hold ([`Lineage`]), so that
//! "ancestor" is simply: a smaller number than everything listed.
//!
//! Invariant: of two sides that count against a common view, at most one is granted. Holds only if
//! a change of the register is on disk before the answer leaves; [`Answer::changed`] says when.

use serde::{Deserialize, Serialize};

use crate::canary::Canary;
use crate::limits::LINEAGE_VIEWS_MAX;
use crate::view::ViewIdentity;
use crate::wire::control::Verdict;

/// A verdict, and what must happen before it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What to tell.
    pub verdict: Verdict,
    /// Whether the register changed: it must be on stable storage before *any* later answer, this
    /// one or another one's, leaves.
    pub changed: bool,
}

/// The register. See the module text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Register {
    view: ViewIdentity,
}

impl Register {
    /// A register that holds its first view: the cluster is being created, or a view is being made
    /// that names this arbitrator.
    #[must_use]
    pub fn new(view: ViewIdentity) -> Self {
        Self { view }
    }

    /// The view it holds.
    #[must_use]
    pub fn view(&self) -> &ViewIdentity {
        &self.view
    }

    /// Sets the register to `wanted` if it holds one of `counted` or an ancestor of them.
    pub fn ask(
        &mut self,
        counted: &[ViewIdentity],
        wanted: &ViewIdentity,
        canary: Option<Canary>,
    ) -> Answer {
        if self.view == *wanted {
            return Answer { verdict: Verdict::Granted, changed: false };
        }
        if self.precedes(counted, wanted) || canary == Some(Canary::ArbitratorAnswersTwice) {
            self.view = wanted.clone();
            return Answer { verdict: Verdict::Granted, changed: true };
        }
        Answer { verdict: Verdict::Refused { register: self.view.clone() }, changed: false }
    }

    /// Whether `wanted`, made by a side that counts against `counted`, follows what is held. A
    /// rival has the number of something listed but other members, or a larger number.
    fn precedes(&self, counted: &[ViewIdentity], wanted: &ViewIdentity) -> bool {
        if wanted.number < self.view.number {
            return false;
        }
        let Some(oldest) = counted.iter().map(|view| view.number).min() else { return false };
        self.view.number < oldest || counted.contains(&self.view)
    }
}

/// What one side has counted against since the last view it knows to be registered: the list that
/// goes with every question. A member keeps it across view changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    views: Vec<ViewIdentity>,
}

impl Lineage {
    /// Starts at a view that is registered.
    #[must_use]
    pub fn new(registered: ViewIdentity) -> Self {
        Self { views: vec![registered] }
    }

    /// Notes a view acted in or a proposal answered.
    pub fn count(&mut self, view: ViewIdentity) {
        if self.views.contains(&view) {
            return;
        }
        if self.views.len() == LINEAGE_VIEWS_MAX {
            // The start matters (older registers match by number), and so does the end.
            self.views.remove(1);
        }
        self.views.push(view);
    }

    /// Notes that the register holds `view`, which this side acts in: everything older is
    /// forgotten.
    pub fn registered(&mut self, view: &ViewIdentity) {
        self.views.retain(|known| known.number > view.number);
        self.views.insert(0, view.clone());
    }

    /// The list to send.
    #[must_use]
    pub fn listed(&self) -> &[ViewIdentity] {
        &self.views
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId, NodeInstance, ViewNumber};

    fn view(number: u64, nodes: &[u16]) -> ViewIdentity {
        let instance = |id: &u16| NodeInstance { node: NodeId(*id), incarnation: Incarnation(1) };
        ViewIdentity { number: ViewNumber(number), members: nodes.iter().map(instance).collect() }
    }

    fn ask(register: &mut Register, counted: &[&ViewIdentity], wanted: &ViewIdentity) -> Verdict {
        let counted: Vec<ViewIdentity> = counted.iter().copied().cloned().collect();
        register.ask(&counted, wanted, None).verdict
    }

    fn refused(register: &ViewIdentity) -> Verdict {
        Verdict::Refused { register: register.clone() }
    }

    #[test]
    fn the_second_half_is_refused_and_shown_the_winner() {
        let whole = view(4, &[1, 2, 3, 4]);
        let (left, right) = (view(5, &[1, 3]), view(5, &[2, 4]));
        let mut register = Register::new(whole.clone());
        assert_eq!(ask(&mut register, &[&whole], &left), Verdict::Granted);
        assert_eq!(ask(&mut register, &[&whole], &right), refused(&left));
        assert_eq!(ask(&mut register, &[&whole], &right), refused(&left));
    }

    #[test]
    fn a_repeated_question_gets_the_same_answer_and_changes_nothing() {
        let whole = view(4, &[1, 2]);
        let left = view(5, &[1]);
        let mut register = Register::new(whole.clone());
        let first = register.ask(std::slice::from_ref(&whole), &left, None);
        assert_eq!(first, Answer { verdict: Verdict::Granted, changed: true });
        let second = register.ask(std::slice::from_ref(&whole), &left, None);
        assert_eq!(second, Answer { verdict: Verdict::Granted, changed: false });
    }

    #[test]
    fn an_ancestor_matches_because_registration_lags() {
        let mut register = Register::new(view(1, &[1, 2, 3, 4]));
        let acted = view(4, &[1, 2]);
        assert_eq!(ask(&mut register, &[&acted], &view(5, &[1])), Verdict::Granted);
        assert_eq!(ask(&mut register, &[&acted], &view(5, &[2])), refused(&view(5, &[1])));
    }

    #[test]
    fn a_rival_of_the_number_of_an_answered_proposal_is_no_ancestor_of_it() {
        let acted = view(4, &[1, 2, 3, 4]);
        let mut register = Register::new(view(4, &[1, 2]));
        let proposed = view(5, &[2, 3, 4]);
        let wanted = view(5, &[3, 4]);
        assert_eq!(ask(&mut register, &[&acted, &proposed], &wanted), refused(&view(4, &[1, 2])));
    }

    #[test]
    fn a_side_that_answered_the_granted_proposal_may_replace_it() {
        let acted = view(4, &[1, 2, 3, 4]);
        let granted = view(5, &[1, 2, 3]);
        let mut register = Register::new(acted.clone());
        assert_eq!(ask(&mut register, &[&acted], &granted), Verdict::Granted);
        // Node 1 died before it announced its view; nodes 2 and 3 had answered it.
        assert_eq!(ask(&mut register, &[&acted, &granted], &view(5, &[2, 3])), Verdict::Granted);
        // Node 1 was not dead after all; it acts in the granted view.
        assert_eq!(ask(&mut register, &[&granted], &view(6, &[1])), refused(&view(5, &[2, 3])));
    }

    #[test]
    fn a_late_registration_does_not_turn_the_register_back() {
        let (older, newer) = (view(5, &[1, 2]), view(6, &[1]));
        let mut register = Register::new(newer.clone());
        assert_eq!(ask(&mut register, &[&view(4, &[1, 2, 3]), &newer], &older), refused(&newer));
    }

    #[test]
    fn nothing_listed_matches_nothing() {
        let mut register = Register::new(view(1, &[1, 2]));
        assert_eq!(ask(&mut register, &[], &view(2, &[1])), refused(&view(1, &[1, 2])));
    }

    #[test]
    fn the_canary_grants_both_halves() {
        let whole = view(4, &[1, 2]);
        let mut register = Register::new(whole.clone());
        for half in [view(5, &[1]), view(5, &[2])] {
            let counted = std::slice::from_ref(&whole);
            let answer = register.ask(counted, &half, Some(Canary::ArbitratorAnswersTwice));
            assert_eq!(answer.verdict, Verdict::Granted);
        }
    }

    #[test]
    fn a_lineage_finds_a_register_that_lags_behind_a_granted_proposal() {
        let first = view(4, &[1, 2, 3, 4]);
        let granted = view(5, &[1, 2, 3]);
        let mut register = Register::new(first.clone());
        assert_eq!(ask(&mut register, &[&first], &granted), Verdict::Granted);
        let mut lineage = Lineage::new(first);
        for next in [granted, view(5, &[2, 3]), view(6, &[2])] {
            lineage.count(next);
        }
        // View 5 of nodes 2 and 3 was never registered, and still view 6 finds its way.
        let wanted = view(6, &[2]);
        assert_eq!(register.ask(lineage.listed(), &wanted, None).verdict, Verdict::Granted);
        lineage.registered(&wanted);
        assert_eq!(lineage.listed(), [wanted]);
    }

    #[test]
    fn a_lineage_is_bounded_and_keeps_both_ends() {
        let mut lineage = Lineage::new(view(1, &[1]));
        for number in 2..=1000 {
            lineage.count(view(number, &[1]));
        }
        assert_eq!(lineage.listed().len(), LINEAGE_VIEWS_MAX);
        assert_eq!(lineage.listed()[0], view(1, &[1]));
        assert_eq!(lineage.listed().last(), Some(&view(1000, &[1])));
    }
}
