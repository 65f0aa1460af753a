//! Which epoch is on disk, how fast the epochs have to go, and how the disks are.
//!
//! Shards tell their node's control core what their disk has ([`DiskReport`]); control adds them up
//! and tells the ticking member, which adds up the members. The ticks carry the sums back
//! ([`Pulse`]), so that every shard knows what is durable in the whole cluster, whether somebody
//! waits for more, and whose disk is in trouble.
//!
//! Invariant: the durable epoch never goes back, is closed, and everything up to it was on the
//! disks of all members that count at the time.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, GroupId, NodeId, NodeInstance};

/// When a commit is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Durability {
    /// When it is in the memory of all in-sync replicas: it survives the loss of any but the last
    /// of them. A power cut of all machines may cost the last tenth of a second.
    #[default]
    Memory,
    /// When it is on their disks, too: it survives a power cut of all machines.
    Disk,
}

/// How a disk is, the worst last.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub enum DiskState {
    /// It takes what it is given.
    #[default]
    Well,
    /// More waits for it than should.
    Slow,
    /// It has no space.
    Full,
    /// It has not answered for so long that it counts as gone.
    Stuck,
    /// It has failed: nothing becomes durable on it any more.
    Broken,
}

impl DiskState {
    /// Whether a node with such a disk is better left out, if its group can spare it.
    #[must_use]
    pub fn is_lost(self) -> bool {
        self >= Self::Stuck
    }
}

/// What a shard, or all of a node, has to say about its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DiskReport {
    /// Everything up to here is on it.
    pub durable: Epoch,
    /// The highest epoch of a record.
    pub worked: Epoch,
    /// Somebody waits until this epoch is durable.
    pub awaited: Epoch,
    /// Somebody waits until this epoch is closed.
    pub needed: Epoch,
    /// How the disk is.
    pub state: DiskState,
    /// It has all rows, or the redo to make them: the disk of a node that comes back has not, until
    /// what was copied is on it.
    pub whole: bool,
    /// The newest of the checkpoints that hold what was copied: its files lead to nothing older.
    pub founded: Epoch,
    /// So many commits waited for the disks at one shard lately, when some of them were answered.
    pub waiters: u32,
}

impl DiskReport {
    /// Both as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            durable: self.durable.min(other.durable),
            worked: self.worked.max(other.worked),
            awaited: self.awaited.max(other.awaited),
            needed: self.needed.max(other.needed),
            state: self.state.max(other.state),
            whole: self.whole && other.whole,
            founded: self.founded.max(other.founded),
            waiters: self.waiters.max(other.waiters),
        }
    }
}

/// What ticks say beside epochs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pulse {
    /// Everything up to here is on the disks of all members that count.
    pub durable: Epoch,
    /// Everything up to here is on those of them that are not lost.
    pub carried: Epoch,
    /// The highest epoch with a record anywhere.
    pub worked: Epoch,
    /// The highest epoch that somebody wants to be durable.
    pub awaited: Epoch,
    /// The highest epoch that somebody wants to be closed.
    pub needed: Epoch,
    /// All disks of a node group have failed: nothing more becomes durable.
    pub frozen: bool,
    /// Ticks come slowly, because nothing happens: the first work has to be told at once.
    pub quiet: bool,
    /// Members whose disks are not well.
    pub troubles: Vec<(NodeId, DiskState)>,
    /// Filled in by a node's control for its own shards: while the node is attached, none of them
    /// closes an epoch before this one on its disk.
    pub floor: Epoch,
}

impl Pulse {
    /// Whether somebody waits for epochs to close, or to become durable.
    #[must_use]
    pub fn hurries(&self, closed: Epoch) -> bool {
        self.awaited > self.durable || self.needed > closed
    }

    /// Whether a node's disk is lost.
    #[must_use]
    pub fn has_lost(&self, node: NodeId) -> bool {
        self.troubles.iter().any(|(its, state)| *its == node && state.is_lost())
    }

    /// Whether the disk of one of these nodes is in this state.
    #[must_use]
    pub fn has(&self, state: DiskState, nodes: &[NodeId]) -> bool {
        self.troubles.iter().any(|(node, its)| *its == state && nodes.contains(node))
    }
}

/// The ticking side: what the members have reported.
#[derive(Debug, Default)]
pub struct DiskTicker {
    members: Vec<MemberDisk>,
    durable: Epoch,
    told: Pulse,
}

#[derive(Clone, Copy, Debug)]
struct MemberDisk {
    member: NodeInstance,
    /// Its node group, if its disk counts, or will once it is whole.
    group: Option<GroupId>,
    in_sync: bool,
    report: DiskReport,
}

impl MemberDisk {
    fn counts(&self) -> bool {
        self.group.is_some() && (self.in_sync || self.report.whole)
    }
}

/// A member, as far as disks are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskOwner {
    /// Which.
    pub member: NodeInstance,
    /// Its node group, if its disk counts, or will once it is whole.
    pub group: Option<GroupId>,
    /// It is in sync: its disk counts.
    pub in_sync: bool,
}

impl DiskTicker {
    /// A view begins: its members, and what this node knows to be durable. What members that stay
    /// have reported still holds.
    pub fn enter(&mut self, members: impl Iterator<Item = DiskOwner>, durable: Epoch) {
        let old = std::mem::take(&mut self.members);
        let before = |member| {
            let known = old.iter().find(|known| known.member == member);
            known.map(|known| known.report).unwrap_or_default()
        };
        let fresh = |DiskOwner { member, group, in_sync }| {
            let report = before(member);
            MemberDisk { member, group, in_sync, report }
        };
        self.members = members.map(fresh).collect();
        self.durable = self.durable.max(durable);
    }

    /// What a member's disk has.
    pub fn report(&mut self, member: NodeInstance, news: DiskReport) {
        if let Some(known) = self.members.iter_mut().find(|known| known.member == member) {
            let durable = known.report.durable.max(news.durable);
            known.report = DiskReport { durable, ..news };
        }
    }

    /// Whether everything that was ever told to be durable is on this member's disk, and will be.
    #[must_use]
    pub fn has_all(&self, member: NodeInstance) -> bool {
        let known = self.members.iter().find(|known| known.member == member);
        known.is_some_and(|known| known.counts() && known.report.durable >= self.durable)
    }

    /// Whether a tick now would tell of something that has become durable.
    #[must_use]
    pub fn has_progress(&self, closed: Epoch) -> bool {
        self.durable_now(closed) > self.told.durable
    }

    /// The highest epochs that somebody wants to be durable, and closed.
    #[must_use]
    pub fn wanted(&self) -> (Epoch, Epoch) {
        let sum = self.sum();
        (sum.awaited, sum.needed)
    }

    /// How many commits wait for the disks at the shard where most do.
    #[must_use]
    pub fn waiters(&self) -> u32 {
        self.sum().waiters
    }

    /// The highest epoch with a record anywhere.
    #[must_use]
    pub fn worked(&self) -> Epoch {
        self.sum().worked
    }

    /// What the last tick has said.
    #[must_use]
    pub fn told(&self) -> &Pulse {
        &self.told
    }

    /// What the next tick says.
    pub fn tick(&mut self, closed: Epoch, quiet: bool) -> Pulse {
        self.durable = self.durable_now(closed);
        let sum = self.sum();
        let ill = self.members.iter().filter(|known| known.report.state > DiskState::Well);
        let troubles = ill.map(|known| (known.member.node, known.report.state)).collect();
        let pulse = Pulse {
            durable: self.durable,
            carried: self.carried(closed),
            worked: sum.worked,
            awaited: sum.awaited,
            needed: sum.needed,
            frozen: self.is_frozen(),
            quiet,
            troubles,
            floor: Epoch(0),
        };
        self.told = pulse.clone();
        pulse
    }

    /// The highest epoch a tick now would call durable.
    #[must_use]
    pub fn durable_now(&self, closed: Epoch) -> Epoch {
        let counted = self.members.iter().filter(|known| known.counts());
        let least = counted.map(|known| known.report.durable).min().unwrap_or_default();
        self.durable.max(least.min(closed))
    }

    /// The highest epoch that all disks have that count and are not lost.
    fn carried(&self, closed: Epoch) -> Epoch {
        let well = self.members.iter().filter(|m| m.counts() && !m.report.state.is_lost());
        let least = well.map(|known| known.report.durable).min().unwrap_or_default();
        self.durable.max(least.min(closed))
    }

    /// Whether a group has disks that count, and all of them have failed.
    fn is_frozen(&self) -> bool {
        let broken = |known: &MemberDisk| known.report.state == DiskState::Broken;
        self.members.iter().any(|one| {
            let same = |other: &&MemberDisk| other.counts() && other.group == one.group;
            one.counts() && self.members.iter().filter(same).all(broken)
        })
    }

    fn sum(&self) -> DiskReport {
        let reports = self.members.iter().map(|known| known.report);
        reports.reduce(DiskReport::and).unwrap_or_default()
    }
}

/// The member's side: what its shards have reported, and what the last tick said.
#[derive(Debug, Default)]
pub struct MemberDisks {
    shards: Vec<DiskReport>,
    reported: DiskReport,
    pulse: Pulse,
}

impl MemberDisks {
    /// For a node with this many shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        let shards = vec![DiskReport::default(); usize::from(shards)];
        Self { shards, ..Self::default() }
    }

    /// What a shard has to say.
    pub fn report_of(&mut self, shard: usize, report: DiskReport) {
        if let Some(known) = self.shards.get_mut(shard) {
            *known = report;
        }
    }

    /// The first epoch that all of this node's files together can lead to, once what was copied is
    /// on its disk: each shard has checkpoints of its own.
    #[must_use]
    pub fn floor(&self) -> Epoch {
        let sum = self.report();
        if sum.whole { sum.founded } else { Epoch(u64::MAX) }
    }

    /// Takes a tick's. What is durable stays so, whoever says less.
    pub fn learn(&mut self, pulse: Pulse) {
        let durable = self.pulse.durable.max(pulse.durable);
        self.pulse = Pulse { durable, ..pulse };
    }

    /// What the last tick said.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// The node's report as it is now.
    #[must_use]
    pub fn report(&self) -> DiskReport {
        self.shards.iter().copied().reduce(DiskReport::and).unwrap_or_default()
    }

    /// Whether the report must not wait for the next one about epochs: somebody waits for what it
    /// says, nobody knows yet that somebody does, work begins in a quiet cluster, or the disk is in
    /// another state than before.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        let (now, told) = (self.report(), self.reported);
        let waits = self.pulse.awaited > self.pulse.durable && now.durable > told.durable;
        let wants = now.awaited > told.awaited || now.needed > told.needed;
        let begins = self.pulse.quiet && now.worked > told.worked;
        waits || wants || begins || now.state != told.state
    }

    /// The report, to be sent now.
    pub fn take_report(&mut self) -> DiskReport {
        self.reported = self.report();
        self.reported
    }

    /// What was reported may be lost.
    pub fn report_again(&mut self) {
        self.reported = DiskReport::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn node(id: u16) -> NodeInstance {
        NodeInstance { node: NodeId(id), incarnation: Incarnation(1) }
    }

    fn durable(epoch: u64) -> DiskReport {
        DiskReport { durable: Epoch(epoch), ..DiskReport::default() }
    }

    fn ticker(members: &[(u16, Option<u16>)]) -> DiskTicker {
        let mut ticker = DiskTicker::default();
        let owner = |(id, group): &(u16, Option<u16>)| DiskOwner {
            member: node(*id),
            group: group.map(GroupId),
            in_sync: true,
        };
        ticker.enter(members.iter().map(owner), Epoch(0));
        ticker
    }

    #[test]
    fn durable_is_what_the_slowest_disk_that_counts_has_of_what_is_closed() {
        let mut ticker = ticker(&[(1, Some(0)), (2, Some(0)), (3, None)]);
        ticker.report(node(1), durable(7));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(0));
        ticker.report(node(2), durable(5));
        assert!(ticker.has_progress(Epoch(9)));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(5));
        assert!(!ticker.has_progress(Epoch(9)));
        ticker.report(node(2), durable(8));
        assert_eq!(ticker.tick(Epoch(6), false).durable, Epoch(6), "closed first");
        ticker.report(node(2), durable(3));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(7), "a disk does not forget");
    }

    #[test]
    fn durable_never_goes_back_and_reports_outlive_a_view() {
        let mut ticker = ticker(&[(1, Some(0)), (2, Some(0))]);
        ticker.report(node(1), durable(5));
        ticker.report(node(2), durable(5));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(5));
        let group = Some(GroupId(0));
        let next = [1, 3].map(|id| DiskOwner { member: node(id), group, in_sync: true });
        ticker.enter(next.into_iter(), Epoch(0));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(5));
        ticker.report(node(3), durable(9));
        ticker.report(node(1), durable(8));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(8));
    }

    #[test]
    fn a_disk_that_is_not_whole_neither_counts_nor_may_its_node_be_in_sync() {
        let mut ticker = DiskTicker::default();
        let group = Some(GroupId(0));
        let owner = |id, in_sync| DiskOwner { member: node(id), group, in_sync };
        ticker.enter([owner(1, true), owner(2, false)].into_iter(), Epoch(0));
        ticker.report(node(1), durable(5));
        ticker.report(node(2), durable(2));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(5), "nobody waits for a copy");
        assert!(!ticker.has_all(node(2)));
        ticker.report(node(2), DiskReport { whole: true, ..durable(4) });
        ticker.report(node(1), durable(8));
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(5));
        assert!(!ticker.has_all(node(2)), "5 was told to be durable");
        ticker.report(node(2), DiskReport { whole: true, ..durable(6) });
        assert_eq!(ticker.tick(Epoch(9), false).durable, Epoch(6));
        assert!(ticker.has_all(node(2)));
    }

    #[test]
    fn ticks_name_the_ill_and_what_is_waited_for() {
        let mut ticker = ticker(&[(1, Some(0)), (2, Some(0))]);
        let state = DiskState::Full;
        ticker.report(node(2), DiskReport { awaited: Epoch(4), state, ..DiskReport::default() });
        let pulse = ticker.tick(Epoch(3), false);
        assert_eq!(pulse.troubles, [(NodeId(2), DiskState::Full)]);
        assert!(pulse.hurries(Epoch(3)));
        assert!(!pulse.has(DiskState::Full, &[NodeId(1)]));
        assert!(pulse.has(DiskState::Full, &[NodeId(1), NodeId(2)]));
        assert!(!pulse.has(DiskState::Slow, &[NodeId(2)]));
    }

    #[test]
    fn a_group_whose_disks_have_all_failed_freezes_what_is_durable() {
        let mut ticker = ticker(&[(1, Some(0)), (2, Some(0)), (3, Some(1)), (4, None)]);
        let broken = DiskReport { state: DiskState::Broken, ..DiskReport::default() };
        ticker.report(node(1), broken);
        ticker.report(node(4), broken);
        assert!(!ticker.tick(Epoch(3), false).frozen);
        ticker.report(node(2), broken);
        assert!(ticker.tick(Epoch(3), false).frozen);
    }

    #[test]
    fn a_report_is_urgent_when_somebody_waits_for_it() {
        let mut member = MemberDisks::new(2);
        member.report_of(0, durable(3));
        assert!(!member.is_urgent(), "the other shard has nothing yet");
        member.report_of(1, durable(4));
        assert!(!member.is_urgent(), "nobody waits");
        member.learn(Pulse { awaited: Epoch(4), ..Pulse::default() });
        assert!(member.is_urgent());
        assert_eq!(member.take_report().durable, Epoch(3));
        assert!(!member.is_urgent());
        member.report_of(0, DiskReport { worked: Epoch(6), ..durable(3) });
        assert!(!member.is_urgent());
        member.learn(Pulse { quiet: true, ..Pulse::default() });
        assert!(member.is_urgent());
        member.take_report();
        member.report_of(0, DiskReport { state: DiskState::Slow, ..durable(3) });
        assert!(member.is_urgent());
    }
}
