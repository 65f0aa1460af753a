//! Starting a stopped cluster from its disks.
//!
//! Whoever of the newest view's members in sync is there and has usable files counts as *here*; the
//! eldest of those that reach the epoch at which the cluster comes back leads. The cluster comes
//! back at the largest epoch that some node of *every* node group can reach, because a transaction
//! may have written in all of them: the epochs behind it are dropped, and a new restart generation
//! keeps them from coming back.
//!
//! ```text
//!  eldest: Forming ──▶ all restore exactly it ──▶ ask the arbitrator ──▶ view on disk ──▶ act
//! ```
//! When all members are here nobody else can be acting, and the arbitrator is only brought up to
//! date. A part of them must pass the rules of survival against the newest view *and* win the
//! arbitrator's register, also where the rules alone would say "go on": the others may be starting
//! the cluster at this moment, without this part. Nobody counts as dead: a stopped node has told
//! nobody why.
//!
//! A register that holds a view nobody here has on disk was granted to a side that may or may not
//! have acted in it: it is counted against as well. What was said before it was seen does not count
//! any more, because a life that said it may have acted in that view since.

use std::time::Duration;

use lockstep_proto::ids::{
    Epoch, GroupId, MgmtId, NodeId, NodeInstance, RestartGeneration, ViewNumber,
};
use lockstep_proto::process::{Effect, LogLevel, Outputs};
use lockstep_proto::recovery::{Goal, Recovered, last_cut};
use lockstep_proto::survival::{Counted, Survival, survival};
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, Member, Standing, View, ViewIdentity};
use lockstep_proto::wire::control::{ControlMessage, Returned, Verdict};

use super::{HEARD_FOR, RestartCore};

/// How long the arbitrator of a cluster whose members are all here may take.
const ARBITRATOR_WITHIN: Duration = Duration::from_secs(2);

/// Views shown by the register that are counted against, at most: each was granted to somebody who
/// then did not act.
const SHOWN_MAX: usize = 16;

/// A view to be.
#[derive(Debug)]
pub(super) struct Forming {
    view: View,
    /// All members of the view before are here.
    whole: bool,
    /// Since when the arbitrator has been asked, and by which number.
    asked: Option<(Instant, u64)>,
}

impl RestartCore {
    /// What a node said lately, if it has come back to the same cluster.
    fn said(&self, now: Instant, node: NodeId) -> Option<&Returned> {
        let (said, at) = self.nodes.get(&node)?.said.as_ref()?;
        (now.since(*at) <= HEARD_FOR).then_some(&**said)
    }

    /// The new life of a member of the newest view that is here.
    fn life(&self, now: Instant, node: NodeId) -> Option<&Member> {
        if node == self.me.node {
            return Some(&self.options.member);
        }
        self.said(now, node).map(|said| &said.member)
    }

    /// Up to where a member's files reach, as far as that is known here.
    fn reach(&self, now: Instant, node: NodeId) -> Option<Epoch> {
        if node == self.me.node {
            return self.reached;
        }
        let said = self.said(now, node)?;
        let held = |view: &View| view.member(node).map(|member| view.held_by(member.group));
        let same = Recovered::under(&said.view, Epoch(0)).fits(&self.base)
            && held(&said.view) == held(&self.base);
        said.reached.filter(|_| same)
    }

    /// Whether it has been found out what a member's files are worth.
    fn is_surveyed(&self, now: Instant, node: NodeId) -> bool {
        let damaged = if node == self.me.node {
            self.damaged
        } else {
            self.said(now, node).is_some_and(|said| said.damaged)
        };
        damaged || self.reach(now, node).is_some()
    }

    /// The members in sync of the newest view that are here.
    fn here(&self, now: Instant) -> Vec<NodeInstance> {
        let here = |member: &&Member| self.life(now, member.instance.node).is_some();
        self.base.in_sync().filter(here).map(|member| member.instance).collect()
    }

    /// The groups without which there is no cluster.
    fn owners(&self) -> Vec<GroupId> {
        let mut owners: Vec<GroupId> = self.base.placements.iter().map(|p| p.group).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The largest epoch that some member here of every group can reach; or a group nobody of
    /// which has usable files here.
    fn common_epoch(&self, now: Instant) -> Result<Epoch, GroupId> {
        let mut common = Epoch(u64::MAX);
        for group in self.owners() {
            let of_group = self.base.in_sync().filter(|member| member.group == group);
            let reaches = of_group.filter_map(|member| self.reach(now, member.instance.node));
            common = common.min(reaches.max().ok_or(group)?);
        }
        Ok(common)
    }

    /// May the members that are here start the cluster? `None`: not yet.
    fn may_form(&self, now: Instant) -> Option<bool> {
        let here = self.here(now);
        if !here.iter().all(|member| self.is_surveyed(now, member.node)) {
            return None;
        }
        if self.base.in_sync().count() == here.len() {
            return Some(true);
        }
        let waited = now.since(self.started?) >= self.options.patience;
        if self.options.force {
            // Who is on its way may have more than those that are here.
            return waited.then_some(false);
        }
        let passes = |counted: &Counted, here: &[NodeInstance]| {
            let verdict = survival(std::slice::from_ref(counted), here, &[], None);
            !matches!(verdict, Survival::ShutDown(_))
        };
        let all = self.shown.iter().all(|view| {
            let (counted, here) = self.count_shown(view, &here);
            passes(&counted, &here)
        });
        (waited && all && passes(&Counted::of(&self.base), &here)).then_some(false)
    }

    /// A view the register has shown, for the rules: its members' groups are those of the newest
    /// view.
    fn count_shown(
        &self,
        shown: &ViewIdentity,
        here: &[NodeInstance],
    ) -> (Counted, Vec<NodeInstance>) {
        let group = |life: &NodeInstance| self.base.member(life.node).map(|member| member.group);
        // Spares hold nothing and count nowhere.
        let counts = |(_, group): &(NodeInstance, GroupId)| *group != GroupId::NONE;
        let members = shown.members.iter().filter_map(|life| Some((*life, group(life)?)));
        let members = members.filter(counts);
        let is_here = |life: &&NodeInstance| here.iter().any(|member| member.node == life.node);
        let there = shown.members.iter().filter(is_here).copied().collect();
        (Counted::new(members.collect(), self.owners()), there)
    }

    /// Goes on with the start of a stopped cluster, as the eldest or as one that follows it.
    pub(super) fn consider_forming(&mut self, now: Instant, out: &mut Outputs) {
        if let Some((view, at)) = &self.following {
            if now.since(*at) <= HEARD_FOR {
                let (epoch, view) = (last_cut(view), view.clone());
                let done = Recovered::under(&view, epoch);
                let identity = view.identity();
                if !self.has_restored(done, &view) {
                    self.recover(Goal::Exactly(epoch), view, out);
                } else if self.promised.as_ref() != Some(&identity) {
                    self.promised = Some(identity);
                    self.say(now, out);
                }
                return;
            }
            self.following = None;
        }
        if self.reached.is_none() && !self.damaged && self.recovering.is_none() {
            // The look at the files was overtaken by a wish for rows.
            let view = self.base.clone();
            return self.recover(Goal::Survey, view, out);
        }
        let (Some(whole), Ok(epoch)) = (self.may_form(now), self.common_epoch(now)) else {
            self.forming = None;
            return;
        };
        // Whoever reaches less is not in that view, and keeps its files for the case that those who
        // reach it cannot read theirs.
        let reaches = |member: &&Member| self.reach(now, member.instance.node) >= Some(epoch);
        let eldest = self.base.in_sync().filter(reaches).min_by_key(|member| member.seniority);
        if eldest.is_none_or(|member| member.instance.node != self.me.node) {
            self.forming = None;
            return;
        }
        let view = self.founding_view(now, epoch);
        let stands = self.forming.as_ref().is_some_and(|forming| {
            let identity = forming.view.identity();
            let mut others = self.promises(now).filter(|promise| **promise != identity);
            forming.view.members == view.members
                && last_cut(&forming.view) == epoch
                && others.all(|promise| promise.number < identity.number)
        });
        if let Some(forming) = self.forming.as_mut().filter(|_| stands) {
            // Its members have promised it, and the arbitrator may be about to grant it.
            forming.whole = whole;
        } else {
            if whole {
                out.mark("restart_of_all");
            } else {
                out.mark("restart_of_a_part");
            }
            self.forming = Some(Forming { view, whole, asked: None });
            self.repeat_forming(now, out);
        }
        self.go_on_forming(now, out);
    }

    /// Views to be that somebody here has said to be ready for.
    fn promises(&self, now: Instant) -> impl Iterator<Item = &ViewIdentity> {
        let members = self.base.members.iter();
        let said = members.filter_map(move |member| self.said(now, member.instance.node));
        said.filter_map(|said| said.promised.as_ref()).chain(&self.promised)
    }

    /// The view in which the cluster comes back at `epoch`: the members whose files reach it. Who
    /// is not in it rejoins.
    fn founding_view(&self, now: Instant, epoch: Epoch) -> View {
        let base = &self.base;
        let mut view = base.clone();
        let known = self.shown.iter().chain(self.promises(now)).map(|known| known.number);
        view.number = known.fold(base.number, ViewNumber::max).next();
        view.members.clear();
        view.left_out.clear();
        for member in base.in_sync() {
            let node = member.instance.node;
            let reaches = self.reach(now, node).is_some_and(|reached| reached >= epoch);
            let Some(life) = self.life(now, node).filter(|_| reaches) else { continue };
            view.members.push(Member {
                group: member.group,
                seniority: member.seniority,
                standing: Standing::InSync,
                ..life.clone()
            });
        }
        let there = |node: &NodeId| view.members.iter().any(|m| m.instance.node == *node);
        for placement in &mut view.placements {
            placement.replicas.retain(there);
            placement.joining.clear();
            placement.to = None;
            if let Some(first) = placement.replicas.first() {
                placement.primary = *first;
            }
        }
        // An API node arbitrates as the process that a view has named; a server has its register.
        if !matches!(view.arbitrator, Some(Arbitrator::Mgmt { .. })) {
            let is_server = |one: &&Arbitrator| matches!(one, Arbitrator::Mgmt { .. });
            view.arbitrator = view.arbitrators_possible.iter().find(is_server).cloned();
        }
        view.seal = epoch;
        view.cuts.push((base.restart_generation, epoch));
        view.restart_generation = RestartGeneration(base.restart_generation.0 + 1);
        view
    }

    pub(super) fn repeat_forming(&mut self, now: Instant, out: &mut Outputs) {
        let Some(forming) = &self.forming else { return };
        let message = ControlMessage::Forming { view: Box::new(forming.view.clone()) };
        self.tell_nodes(&message, out);
        if self.forming.as_ref().is_some_and(|forming| forming.asked.is_some()) {
            self.ask(out);
        }
        self.go_on_forming(now, out);
    }

    /// The eldest of those that came back names the view to be.
    pub(super) fn on_forming(
        &mut self,
        now: Instant,
        from: NodeInstance,
        view: View,
        out: &mut Outputs,
    ) {
        let seniority = |node| self.base.member(node).map(|member| member.seniority);
        let follows = view.cluster == self.base.cluster
            && view.number > self.base.number
            && view.contains(self.me)
            && view.contains(from)
            && seniority(from.node) < seniority(self.me.node)
            && !self.keeps_from(&view.identity())
            && self.entering.is_none();
        if follows && !self.is_served(now) {
            self.following = Some((view, now));
            self.forming = None;
            self.consider(now, out);
        }
    }

    /// All have restored themselves: asks the arbitrator, or goes on.
    fn go_on_forming(&mut self, now: Instant, out: &mut Outputs) {
        let Some(forming) = &self.forming else { return };
        if self.entering.is_some() {
            return;
        }
        let (view, whole, asked) = (forming.view.clone(), forming.whole, forming.asked);
        let wanted = Recovered::under(&view, last_cut(&view));
        let identity = view.identity();
        if !self.has_restored(wanted, &view) {
            return self.recover(Goal::Exactly(wanted.epoch), view, out);
        }
        let restored = |member: &Member| {
            let node = member.instance.node;
            let said = self.said(now, node);
            node == self.me.node
                || said.is_some_and(|said| {
                    said.member.instance == member.instance
                        && said.recovered == Some(wanted)
                        && said.promised.as_ref() == Some(&identity)
                })
        };
        if !view.members.iter().all(restored) {
            return;
        }
        match asked {
            None => {
                let request = self.next_token();
                if let Some(forming) = &mut self.forming {
                    forming.asked = Some((now, request));
                }
                self.ask(out);
            }
            Some((since, _)) => {
                let late = now.since(since) >= ARBITRATOR_WITHIN;
                if late && (whole || self.options.force) {
                    out.mark("restart_without_arbitrator");
                    self.found(view, out);
                }
            }
        }
        let nobody = self.forming.as_ref().is_some_and(|forming| forming.view.arbitrator.is_none());
        if nobody && whole && self.entering.is_none() {
            let view = self.forming.as_ref().map(|forming| forming.view.clone());
            view.into_iter().for_each(|view| self.found(view, out));
        }
    }

    fn ask(&self, out: &mut Outputs) {
        let Some(Forming { view, asked: Some((_, request)), .. }) = &self.forming else { return };
        let Some(arbitrator @ Arbitrator::Mgmt { id, .. }) = &view.arbitrator else { return };
        let mut counted = vec![self.base.identity()];
        counted.extend(self.shown.iter().cloned());
        let question = ControlMessage::AskArbitrator {
            request: *request,
            cluster: view.cluster,
            asked: arbitrator.clone(),
            counted,
            wanted: view.identity(),
        };
        for link in self.mgmts.get(id).into_iter().flat_map(|contact| &contact.links) {
            if let Some(buffer) = out.buffer(*link) {
                question.frame(buffer);
            }
        }
    }

    pub(super) fn on_verdict(
        &mut self,
        now: Instant,
        from: MgmtId,
        request: u64,
        verdict: Verdict,
        out: &mut Outputs,
    ) {
        let Some(Forming { view, asked: Some((_, asked)), .. }) = &self.forming else { return };
        let named = matches!(&view.arbitrator, Some(Arbitrator::Mgmt { id, .. }) if *id == from);
        if *asked != request || !named || self.entering.is_some() {
            return;
        }
        match verdict {
            Verdict::Granted => {
                out.mark("restart_granted");
                let view = view.clone();
                self.found(view, out);
            }
            Verdict::Refused { register } => {
                out.mark("restart_refused");
                let names: Vec<NodeId> = register.members.iter().map(|life| life.node).collect();
                let text = format!(
                    "the arbitrator has agreed to view {} of {names:?}, which nobody here has",
                    register.number
                );
                out.log(LogLevel::Info, text);
                // An earlier view of the same members says nothing more.
                self.shown.retain(|shown| shown.members != register.members || *shown == register);
                if !self.shown.contains(&register) && self.shown.len() < SHOWN_MAX {
                    self.shown.push(register);
                    self.ask_everybody_anew(out);
                }
                self.forming = None;
                self.consider(now, out);
            }
        }
    }

    /// What was said so far may be older than the view that the register has shown, and whoever
    /// said it may act in that view by now. Only what comes over new links counts.
    fn ask_everybody_anew(&mut self, out: &mut Outputs) {
        out.mark("restart_asks_anew");
        self.following = None;
        for contact in self.nodes.values_mut() {
            contact.said = None;
            for link in &contact.links {
                let why = "what comes on it may be older than the view that was granted";
                out.effect(Effect::Close { link: *link, why });
            }
        }
    }

    fn found(&mut self, view: View, out: &mut Outputs) {
        let text = format!(
            "starting the cluster at epoch {} with view {}, restart generation {}",
            last_cut(&view),
            view.number,
            view.restart_generation.0
        );
        out.log(LogLevel::Info, text);
        self.enter(view, out);
    }

    /// What a stopped cluster waits for, for its operator.
    pub(super) fn missing(&self, now: Instant) -> String {
        let gone = self.base.in_sync().filter(|m| self.life(now, m.instance.node).is_none());
        let gone: Vec<String> =
            gone.map(|m| format!("{} at {}", m.instance.node, m.addr)).collect();
        let here: Vec<String> = self
            .base
            .in_sync()
            .filter(|m| self.life(now, m.instance.node).is_some())
            .map(|m| match self.reach(now, m.instance.node) {
                Some(epoch) => format!("{} ({epoch})", m.instance.node),
                None => format!("{} (no usable files)", m.instance.node),
            })
            .collect();
        let here = here.join(", ");
        if let Err(group) = self.common_epoch(now) {
            let what = match gone.join(", ") {
                none if none.is_empty() => "nobody else is missing; where a warning says so, \
                                            `--force-start` does without damaged redo"
                    .to_owned(),
                gone => format!("start one of {gone}"),
            };
            return format!(
                "the cluster is stopped; here: {here}; waiting for a node of group {group} with \
                 usable files: {what}"
            );
        }
        if gone.is_empty() {
            return format!("starting the cluster; here: {here}");
        }
        format!(
            "the cluster is stopped; here: {here}; missing: {}; it starts when they have come, or \
             without them if those here are enough by the rules for splits and the arbitrator \
             agrees; `--force-start` starts it with those here, if the others are gone for good",
            gone.join(", ")
        )
    }
}
