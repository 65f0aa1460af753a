//! Members that come back: how a node that was started again becomes a member in sync, step by
//! step, each step a view change.
//!
//! ```text
//!  Returned ─▶ admitted ────▶ Copied ─▶ attached ────▶ CaughtUp ─▶ promoted ───▶ moved
//!  (is back)   gets the logs  (has all  stability and  (has what   counts,       leads again,
//!              and the rows    rows)    leases need it  was stable) serves        few at a time
//! ```
//!
//! Between *attached* and *promoted* lies the moment that makes it safe: what is stable is stable
//! with the joiner before any view counts it. So a member is promoted only after it has told, in
//! the view that is to be changed, that its logs reach the ends they had when it was attached.
//!
//! Only the president makes these changes, and only while nothing else is wrong.

use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Epoch, GroupId, NodeId, NodeInstance, PartitionId, ShardId, ViewNumber};
use lockstep_proto::process::{Exit, LinkId, LogLevel, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Member, Standing};
use lockstep_proto::wire::control::{ControlMessage, JoinStage, Returned, ViewChange};
use lockstep_proto::wire::progress::JoinProgress;

use super::links::send_on;
use super::state::State;
use super::{ControlCore, exit_code};

/// For how long the word of a node that is back counts; it repeats it more often.
const BACK_FOR: Duration = Duration::from_secs(1);
/// Most partitions that one view change gives another primary: they take no writes until then.
const MOVES_PER_VIEW: usize = 8;
/// The pause between two such view changes.
const MOVE_PAUSE: Duration = Duration::from_millis(250);
/// The pause before the next partition begins to move to another node group.
const TRANSFER_PAUSE: Duration = Duration::from_millis(100);
/// How often a node that comes back says in its log how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What is known of nodes that come back.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Who waits to be admitted, and when that was heard.
    back: Vec<(Member, Instant)>,
    /// How far members that are not in sync have come in this view.
    pub(super) stages: Vec<(NodeInstance, JoinStage)>,
    /// What this node has told in this view.
    told: Option<(ViewNumber, JoinStage)>,
    /// When the log last had a word on how far this node is, and whether that was the last.
    said: Option<(Instant, bool)>,
    /// No primary moves before this.
    moves_after: Instant,
    /// No partition begins to move to another group before this.
    pub(super) transfers_after: Instant,
    /// It was said that they wait for a backup.
    pub(super) transfers_wait: bool,
    /// Other members that have an epoch pinned for a backup, by their last heartbeats.
    pub(super) pinned: Vec<NodeInstance>,
}

impl Returns {
    /// A member has said whether it has an epoch pinned for a backup.
    pub(super) fn note_pinned(&mut self, node: NodeInstance, pinned: bool) {
        if self.pinned.contains(&node) != pinned {
            self.pinned.retain(|other| *other != node);
            self.pinned.extend(pinned.then_some(node));
        }
    }
}

impl ControlCore {
    /// A node that was here before is here again. Its earlier life is over, whatever is heard of
    /// it; itself it becomes a member once it has restored what its disk holds.
    pub(super) fn on_returned(
        &mut self,
        now: Instant,
        link: LinkId,
        from: NodeInstance,
        returned: Returned,
        out: &mut Outputs,
    ) {
        let Returned { member, view, recovered, .. } = returned;
        if !self.acts() || view.cluster != self.view.cluster || member.instance != from {
            out.mark("returned_ignored");
            return;
        }
        send_on(link, &ControlMessage::NewView { view: Box::new(self.view.clone()) }, out);
        if let Some(earlier) = self.view.member(from.node).map(|m| m.instance) {
            if earlier.incarnation < from.incarnation {
                self.on_succeeded(now, earlier, out);
            }
            return;
        }
        self.returns.back.retain(|(known, _)| known.instance.node != from.node);
        if recovered.is_some_and(|recovered| recovered.fits(&self.view)) {
            self.returns.back.push((member, now));
            self.reconsider(now, out);
        }
    }

    /// A member's later life is here: that one is dead.
    fn on_succeeded(&mut self, now: Instant, earlier: NodeInstance, out: &mut Outputs) {
        if !self.suspicion.succeeded(earlier) {
            return;
        }
        out.mark("known_dead_by_successor");
        self.note_death(now, earlier, out);
    }

    /// A member that is not in sync says how far it is.
    pub(super) fn on_joining(
        &mut self,
        now: Instant,
        from: NodeInstance,
        view: ViewNumber,
        stage: JoinStage,
        out: &mut Outputs,
    ) {
        if view != self.view.number {
            return;
        }
        match self.returns.stages.iter_mut().find(|(node, _)| *node == from) {
            Some((_, known)) if *known >= stage => return,
            Some((_, known)) => *known = stage,
            None => self.returns.stages.push((from, stage)),
        }
        self.reconsider(now, out);
    }

    /// Adds to a change who comes and how far members have come; true if that is anything.
    pub(super) fn draft_returns(
        &mut self,
        now: Instant,
        change: &mut ViewChange,
        out: &mut Outputs,
    ) -> bool {
        self.admit(now, change, out);
        let is_at = |member: &&Member, standing, stage| {
            member.standing == standing && self.returns.stages.contains(&(member.instance, stage))
        };
        // A spare has nothing to copy, and gets nothing to serve.
        let copied = |m: &&Member| {
            m.group != GroupId::NONE && is_at(m, Standing::Copying, JoinStage::Copied)
        };
        // In sync with a disk that has less than was told to be durable it would be the last to
        // have it, if the others died. Who ticks knows what was told.
        let ticks = self.ticking_member() == self.me;
        let hasty = self.canary == Some(Canary::JoinerVotes);
        let has_all = |m: &&Member| hasty || ticks && self.disk_ticker.has_all(m.instance);
        let caught_up =
            |m: &&Member| is_at(m, Standing::Attached, JoinStage::CaughtUp) && has_all(m);
        let members = || self.view.members.iter();
        change.attached = members().filter(copied).map(|m| m.instance).collect();
        change.promoted = members().filter(caught_up).map(|m| m.instance).collect();
        if !change.attached.is_empty() {
            out.mark("join_attached");
        }
        if !change.promoted.is_empty() {
            out.mark("join_promoted");
        }
        let roster = self.draft_roster(now, change, out);
        let steps = change.admitted.len() + change.attached.len() + change.promoted.len();
        if steps == 0 && !roster {
            change.transfer = self.transfer_due(now, out);
            if change.transfer.is_some() {
                return true;
            }
            change.moved = self.moves_due(now);
            if !change.moved.is_empty() {
                out.mark("primaries_move_back");
                return true;
            }
            return false;
        }
        true
    }

    /// Who is back and heard of recently comes, if it has a seat, and to where that is.
    fn admit(&mut self, now: Instant, change: &mut ViewChange, out: &mut Outputs) {
        let (view, links) = (&self.view, &self.links);
        self.returns.back.retain(|(member, heard)| {
            now.since(*heard) <= BACK_FOR
                && view.member(member.instance.node).is_none()
                && links.links_to(member.instance).next().is_some()
        });
        let eldest = self.view.members.iter().map(|m| m.seniority).max().unwrap_or_default();
        let mut youngest = eldest;
        for (member, _) in &self.returns.back {
            if self.view.roster.seat(member.instance.node).is_none() {
                out.mark("return_without_a_seat");
                continue;
            }
            youngest += 1;
            out.mark("join_admitted");
            out.log(LogLevel::Info, format!("{} is back: it becomes a member", member.instance));
            let (seniority, standing) = (youngest, Standing::Copying);
            change.admitted.push(Member { seniority, standing, ..member.clone() });
        }
    }

    /// The next partitions that go back to their preferred primary, in groups that are complete,
    /// or away from one that should not lead.
    fn moves_due(&self, now: Instant) -> Vec<(PartitionId, NodeId)> {
        if now < self.returns.moves_after {
            return Vec::new();
        }
        let is_leaving = |node: NodeId| {
            self.view.member(node).is_some_and(|m| self.suspicion.is_leaving(m.instance))
        };
        let placed = self.view.partitions().zip(&self.view.placements);
        let view = &self.view;
        let due =
            placed.filter(|(_, p)| view.should_not_lead(p.primary) || view.is_complete(p.group));
        let wanted = due.filter_map(|(partition, p)| {
            let best = view.preferred_primary(p)?;
            (best != p.primary && !is_leaving(best)).then_some((partition, best))
        });
        wanted.take(MOVES_PER_VIEW).collect()
    }

    /// Whether a change brings back only whom it may, and moves primaries only to replicas.
    pub(super) fn brings_back_sanely(&self, change: &ViewChange) -> bool {
        let stands = |node: &NodeInstance, standing: Standing| {
            self.view.contains(*node)
                && self.view.member(node.node).is_some_and(|m| m.standing == standing)
        };
        let fresh = |member: &Member| match self.view.member(member.instance.node) {
            Some(earlier) => change.failed.contains(&earlier.instance),
            None => true,
        };
        change.admitted.iter().all(fresh)
            && change.attached.iter().all(|node| stands(node, Standing::Copying))
            && change.promoted.iter().all(|node| stands(node, Standing::Attached))
            && (change.failed.is_empty() || change.moved.is_empty() && change.promoted.is_empty())
            && change.moved.iter().all(|(partition, node)| {
                self.view.placement(*partition).is_some_and(|p| p.replicas.contains(node))
            })
    }

    /// The partitions led here that a change gives another primary.
    pub(super) fn moving_from_here(&self, change: &ViewChange) -> Vec<PartitionId> {
        let me = self.me.node;
        let leaves = |(partition, node): &(PartitionId, NodeId)| {
            *node != me && self.view.placement(*partition).is_some_and(|p| p.primary == me)
        };
        let moved = change.moved.iter().filter(|moved| leaves(moved));
        let led = |p: &PartitionId| self.view.placement(*p).is_some_and(|p| p.primary == me);
        let handed = self.handed_by(change).filter(led);
        moved.map(|(partition, _)| *partition).chain(handed).collect()
    }

    /// A view begins: what was told of the one before is void.
    pub(super) fn enter_returns(&mut self, now: Instant, out: &mut Outputs) {
        self.returns.stages.clear();
        self.returns.pinned.retain(|node| self.view.contains(*node));
        self.returns.told = None;
        self.returns.moves_after = now + MOVE_PAUSE;
        self.returns.transfers_after = now + TRANSFER_PAUSE;
        let standing = self.view.member(self.me.node).map(|m| m.standing);
        match standing {
            Some(Standing::Copying) => out.mark("joiner_copies"),
            Some(Standing::Attached) => out.mark("joiner_attached"),
            Some(Standing::InSync) | None => {}
        }
    }

    /// A shard of this node says how far its partitions are.
    pub(super) fn on_shard_joined(
        &mut self,
        now: Instant,
        shard: ShardId,
        joined: (ViewNumber, JoinStage),
        out: &mut Outputs,
    ) {
        if let Some(state) = self.shards.get_mut(usize::from(shard.0)) {
            state.joined = Some(joined);
        }
        self.tell_joining(now, out);
    }

    /// A member that is not in sync and hears nobody who is has been left out before it began, and
    /// those who left it out do not dial it: it ends, and is started again.
    pub(super) fn end_if_alone(&mut self, now: Instant, out: &mut Outputs) {
        let standing = self.view.member(self.me.node).map(|m| m.standing);
        if standing.is_none_or(|s| s == Standing::InSync) || self.is_over() {
            return;
        }
        let gone = self.suspicion.gone(now);
        let is_gone = |member: &Member| gone.iter().any(|(node, _)| *node == member.instance);
        if self.view.in_sync().all(is_gone) {
            out.mark("joiner_alone");
            let number = self.view.number;
            let reason = format!(
                "no member of view {number} that is in sync is heard: this node starts again to \
                 look for its cluster"
            );
            self.end(Exit { code: exit_code::EXCLUDED, reason }, out);
        }
    }

    /// A shard says in figures how far it is: people read the sum in the log, not too often.
    pub(super) fn on_shard_progress(
        &mut self,
        now: Instant,
        shard: ShardId,
        progress: JoinProgress,
        out: &mut Outputs,
    ) {
        if let Some(state) = self.shards.get_mut(usize::from(shard.0)) {
            state.progress = Some(progress);
        }
        let shards: Option<Vec<JoinProgress>> =
            self.shards.iter().map(|state| state.progress.clone()).collect();
        let sum = shards.and_then(|shards| shards.into_iter().reduce(JoinProgress::and));
        // Nothing is said before all of them have begun, nor by a spare, which waits for nothing.
        let own = self.view.member(self.me.node).filter(|member| member.group != GroupId::NONE);
        let (Some(sum), Some(_)) = (sum, own) else { return };
        let due = self.returns.said.is_none_or(|(at, finished)| {
            finished != sum.finished || (!finished && now.since(at) >= PROGRESS_EVERY)
        });
        if due {
            let begins = self.returns.said.is_none_or(|(_, finished)| finished);
            self.returns.said = Some((now, sum.finished));
            let text = match (begins, sum.finished) {
                (true, false) if sum.restored == Epoch(0) => {
                    format!("coming back without rows of its own: {}", sum.describe())
                }
                (true, false) => format!(
                    "coming back with the rows of its own files, as of epoch {}: {}",
                    sum.restored.0,
                    sum.describe()
                ),
                (_, false) => format!("coming back: {}", sum.describe()),
                (_, true) => format!("in sync again: {}", sum.describe()),
            };
            out.log(LogLevel::Info, text);
        }
    }

    /// Tells the others how far this node is, if it is not in sync: repeated, because whoever is
    /// president must know.
    pub(super) fn tell_joining(&mut self, now: Instant, out: &mut Outputs) {
        let Some(member) = self.view.member(self.me.node) else { return };
        let copies =
            member.standing != Standing::InSync || self.view.moving_to(member.group).is_some();
        if !copies || self.state != State::Acting {
            return;
        }
        let view = self.view.number;
        let stage_of = |joined: Option<(ViewNumber, JoinStage)>| {
            joined.filter(|(of, _)| *of == view).map(|(_, stage)| stage)
        };
        // No stage at all is the lowest.
        let Some(stage) = self.shards.iter().map(|s| stage_of(s.joined)).min().flatten() else {
            return;
        };
        if self.returns.told != Some((view, stage)) {
            self.returns.told = Some((view, stage));
            out.log(LogLevel::Info, format!("this node has {stage:?} in view {view}"));
        }
        self.links.broadcast(&ControlMessage::Joining { view, stage }, out);
        // It may be president itself, of a group that gets a partition.
        self.on_joining(now, self.me, view, stage, out);
    }
}
