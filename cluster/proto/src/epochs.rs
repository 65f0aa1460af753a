//! The epoch clock: ticking, sealing and closing.
//!
//! The most senior member of the view sends the ticks. Closing takes two steps, both carried by
//! later ticks: epoch e is *sealed* when every shard of every member has finished it, and *closed*
//! when every member has confirmed that it knows the seal. So whoever survives a view change knows
//! every seal that can have led to a closed epoch, and the next view names the highest one: what a
//! dead coordinator left behind commits above it.
//!
//! Invariant: an epoch closes only when all members of one view have reported it finished and then
//! confirmed its seal, in that same view. Reports are void in any other view, and nothing is sealed
//! or confirmed from the answer to a proposal until the next view.

use crate::ids::{Epoch, NodeInstance};

/// What a tick says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TickNews {
    /// The current epoch.
    pub epoch: Epoch,
    /// The highest sealed one.
    pub sealed: Epoch,
    /// The highest closed one.
    pub closed: Epoch,
}

/// The ticking side: what the members of one view have reported.
#[derive(Debug, Default)]
pub struct Ticker {
    reports: Vec<MemberReport>,
    sealed: Epoch,
    closed: Epoch,
}

#[derive(Debug)]
struct MemberReport {
    member: NodeInstance,
    finished: Epoch,
    confirmed: Epoch,
}

impl Ticker {
    /// Starts for a view with these members and this seal; `closed` is the highest closed epoch
    /// known.
    pub fn enter(
        &mut self,
        members: impl Iterator<Item = NodeInstance>,
        seal: Epoch,
        closed: Epoch,
    ) {
        let fresh = |member| MemberReport { member, finished: Epoch(0), confirmed: Epoch(0) };
        self.reports = members.map(fresh).collect();
        self.sealed = seal;
        self.closed = closed;
    }

    /// As [`Ticker::enter`], but what was reported in the view before still counts. A bug, for the
    /// canary.
    pub fn enter_with_old_reports(
        &mut self,
        members: impl Iterator<Item = NodeInstance>,
        seal: Epoch,
        closed: Epoch,
    ) {
        let old = std::mem::take(&mut self.reports);
        self.enter(members, seal, closed);
        for report in old {
            self.report(report.member, report.finished, report.confirmed);
        }
    }

    /// A member's progress in this view.
    pub fn report(&mut self, member: NodeInstance, finished: Epoch, confirmed: Epoch) {
        if let Some(report) = self.reports.iter_mut().find(|r| r.member == member) {
            report.finished = report.finished.max(finished);
            report.confirmed = report.confirmed.max(confirmed);
        }
    }

    /// What the next tick says. Returns it and whether an epoch has closed.
    pub fn tick(&mut self, epoch: Epoch) -> (TickNews, bool) {
        let finished = self.reports.iter().map(|r| r.finished).min().unwrap_or_default();
        self.sealed = self.sealed.max(finished.min(epoch.before()));
        let closed = self.closed_now();
        let progress = closed > self.closed;
        self.closed = closed;
        (TickNews { epoch, sealed: self.sealed, closed }, progress)
    }

    /// Whether a tick now would seal or close something.
    #[must_use]
    pub fn has_progress(&self, epoch: Epoch) -> bool {
        let finished = self.reports.iter().map(|r| r.finished).min().unwrap_or_default();
        finished.min(epoch.before()) > self.sealed || self.closed_now() > self.closed
    }

    /// The highest epoch a tick now would call closed.
    #[must_use]
    pub fn closed_now(&self) -> Epoch {
        let confirmed = self.reports.iter().map(|r| r.confirmed).min().unwrap_or_default();
        self.closed.max(confirmed.min(self.sealed))
    }

    /// The highest epoch it has closed or known to be closed.
    #[must_use]
    pub fn closed(&self) -> Epoch {
        self.closed
    }

    /// What a tick says while nothing may be sealed or closed.
    #[must_use]
    pub fn frozen(&self, epoch: Epoch) -> TickNews {
        TickNews { epoch, sealed: self.sealed, closed: self.closed }
    }
}

/// The member's side: what its shards have finished and what it knows.
#[derive(Debug, Default)]
pub struct MemberEpochs {
    current: Epoch,
    seal: Epoch,
    closed: Epoch,
    finished: Vec<Epoch>,
    reported: (Epoch, Epoch),
    confirm_due: bool,
}

impl MemberEpochs {
    /// For a node with this many shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self { finished: vec![Epoch(0); usize::from(shards)], ..Self::default() }
    }

    /// Starts in a view with this seal: earlier reports of the shards are void.
    pub fn enter(&mut self, seal: Epoch) {
        self.finished.fill(Epoch(0));
        self.enter_with_old_reports(seal);
    }

    /// As [`MemberEpochs::enter`], but what the shards reported before still counts. A bug, for
    /// the canary.
    pub fn enter_with_old_reports(&mut self, seal: Epoch) {
        self.seal = self.seal.max(seal);
        self.current = self.current.max(self.seal.next());
        self.reported = (Epoch(0), Epoch(0));
        self.confirm_due = true;
    }

    /// Raises the node's epoch to one seen in a message.
    pub fn raise(&mut self, epoch: Epoch) {
        self.current = self.current.max(epoch);
    }

    /// Takes a tick's seal and closed epoch. Whoever has answered a proposal must not: it has
    /// told the highest seal it knows.
    pub fn learn(&mut self, news: TickNews) {
        self.seal = self.seal.max(news.sealed);
        self.closed = self.closed.max(news.closed);
    }

    /// A shard has finished everything up to `epoch`.
    pub fn finished(&mut self, shard: usize, epoch: Epoch) {
        if let Some(known) = self.finished.get_mut(shard) {
            *known = epoch.max(*known);
        }
    }

    /// The report to send now, `(finished, confirmed)`, if one is worth a message: when the node
    /// has finished more, or at the second tick that finds a seal unconfirmed (at the first, if
    /// somebody waits for it). So a quiet member sends one message per tick.
    pub fn report_due(&mut self, at_tick: bool, hurry: bool) -> Option<(Epoch, Epoch)> {
        let finished = self.finished.iter().copied().min().unwrap_or_default();
        let unconfirmed = self.seal > self.reported.1;
        let due = self.confirm_due || hurry;
        let worth = finished > self.reported.0 || (at_tick && unconfirmed && due);
        if at_tick {
            self.confirm_due = unconfirmed;
        }
        worth.then(|| self.report_now())
    }

    /// The report as it is now, to be sent for another reason.
    pub fn report_now(&mut self) -> (Epoch, Epoch) {
        let finished = self.finished.iter().copied().min().unwrap_or_default();
        self.confirm_due = false;
        self.reported = (finished, self.seal);
        self.reported
    }

    /// The link to the ticking member is new: what was reported may be lost.
    pub fn report_again(&mut self) {
        self.reported = (Epoch(0), Epoch(0));
    }

    /// The node's epoch.
    #[must_use]
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// The highest seal the node knows.
    #[must_use]
    pub fn seal(&self) -> Epoch {
        self.seal
    }

    /// The highest closed epoch the node knows.
    #[must_use]
    pub fn closed(&self) -> Epoch {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    fn node(id: u16) -> NodeInstance {
        NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
    }

    fn ticker(members: &[u16]) -> Ticker {
        let mut ticker = Ticker::default();
        ticker.enter(members.iter().copied().map(node), Epoch(0), Epoch(0));
        ticker
    }

    #[test]
    fn an_epoch_is_sealed_by_the_slowest_and_closed_by_the_last_confirmation() {
        let mut ticker = ticker(&[1, 2]);
        ticker.report(node(1), Epoch(5), Epoch(0));
        assert_eq!(ticker.tick(Epoch(7)).0.sealed, Epoch(0));
        ticker.report(node(2), Epoch(4), Epoch(0));
        assert_eq!(ticker.tick(Epoch(8)).0.sealed, Epoch(4));
        ticker.report(node(1), Epoch(5), Epoch(4));
        assert_eq!(ticker.tick(Epoch(9)).0.closed, Epoch(0));
        ticker.report(node(2), Epoch(5), Epoch(4));
        let (news, progress) = ticker.tick(Epoch(10));
        assert_eq!((news.closed, progress), (Epoch(4), true));
    }

    #[test]
    fn reports_are_void_in_the_next_view() {
        let mut ticker = ticker(&[1, 2]);
        ticker.report(node(1), Epoch(5), Epoch(5));
        ticker.report(node(2), Epoch(5), Epoch(5));
        ticker.enter([node(1)].into_iter(), Epoch(3), Epoch(2));
        let (news, progress) = ticker.tick(Epoch(9));
        assert_eq!((news.sealed, news.closed, progress), (Epoch(3), Epoch(2), false));
        ticker.report(node(2), Epoch(8), Epoch(8));
        assert_eq!(ticker.tick(Epoch(9)).0.sealed, Epoch(3), "a stranger's report");
    }

    #[test]
    fn a_frozen_ticker_says_nothing_new() {
        let mut ticker = ticker(&[1]);
        ticker.report(node(1), Epoch(5), Epoch(0));
        assert_eq!(ticker.frozen(Epoch(9)).sealed, Epoch(0));
        assert_eq!(ticker.tick(Epoch(9)).0.sealed, Epoch(5));
    }

    #[test]
    fn a_member_reports_its_slowest_shard_once() {
        let mut member = MemberEpochs::new(2);
        member.enter(Epoch(0));
        member.finished(0, Epoch(3));
        assert_eq!(member.report_due(false, false), None);
        member.finished(1, Epoch(2));
        assert_eq!(member.report_due(false, false), Some((Epoch(2), Epoch(0))));
        assert_eq!(member.report_due(false, false), None);
    }

    #[test]
    fn a_confirmation_rides_on_the_next_report_or_goes_alone_at_the_second_tick() {
        let mut member = MemberEpochs::new(1);
        member.enter(Epoch(0));
        member.learn(TickNews { epoch: Epoch(5), sealed: Epoch(3), closed: Epoch(0) });
        assert_eq!(
            member.report_due(true, false),
            Some((Epoch(0), Epoch(3))),
            "first after entering"
        );
        member.learn(TickNews { epoch: Epoch(6), sealed: Epoch(4), closed: Epoch(0) });
        assert_eq!(member.report_due(true, false), None);
        assert_eq!(member.report_due(true, false), Some((Epoch(0), Epoch(4))));
        member.learn(TickNews { epoch: Epoch(7), sealed: Epoch(5), closed: Epoch(0) });
        assert_eq!(member.report_due(true, false), None);
        member.finished(0, Epoch(6));
        assert_eq!(member.report_due(false, false), Some((Epoch(6), Epoch(5))));
    }

    #[test]
    fn a_confirmation_does_not_wait_when_somebody_does() {
        let mut member = MemberEpochs::new(1);
        member.enter(Epoch(0));
        assert_eq!(member.report_due(true, false), None);
        member.learn(TickNews { epoch: Epoch(5), sealed: Epoch(3), closed: Epoch(0) });
        assert_eq!(member.report_due(false, true), None, "at ticks only");
        assert_eq!(member.report_due(true, true), Some((Epoch(0), Epoch(3))));
        assert_eq!(member.report_due(true, true), None);
    }

    #[test]
    fn progress_is_what_the_next_tick_would_tell() {
        let mut ticker = ticker(&[1]);
        assert!(!ticker.has_progress(Epoch(7)));
        ticker.report(node(1), Epoch(5), Epoch(0));
        assert!(ticker.has_progress(Epoch(7)));
        ticker.tick(Epoch(7));
        assert!(!ticker.has_progress(Epoch(7)));
        ticker.report(node(1), Epoch(5), Epoch(5));
        assert!(ticker.has_progress(Epoch(7)));
        assert_eq!(ticker.closed(), Epoch(0));
    }

    #[test]
    fn a_view_raises_the_epoch_above_its_seal() {
        let mut member = MemberEpochs::new(1);
        member.enter(Epoch(41));
        assert_eq!((member.current(), member.seal()), (Epoch(42), Epoch(41)));
    }
}
