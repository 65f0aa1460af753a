//! Arbitrators: asking them in a split, naming another one when the current one is away, and
//! registering every view with them and with the other management servers.

use std::time::Duration;

use lockstep_proto::agreement::changed;
use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{MgmtId, ViewNumber};
use lockstep_proto::process::Outputs;
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, View, ViewIdentity};
use lockstep_proto::wire::control::{AnsweredProposal, ControlMessage, Verdict};

use super::ControlCore;
use super::links::{MgmtLink, id_of, send_on};
use super::president::Phase;

/// How long an arbitrator may take before the side that needs it gives up.
const ARBITRATION_WITHIN: Duration = Duration::from_secs(5);
/// How long a new arbitrator may take to register its first view.
const REGISTRATION_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two questions or registrations that were not answered.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// Pause between two looks at whether somebody who has the view still answers.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long an arbitrator is away before another one is named.
const ARBITRATOR_AWAY: Duration = Duration::from_secs(2);
/// How long a new arbitrator that did not register is not tried again.
const ARBITRATOR_BARRED: Duration = Duration::from_secs(10);

/// Questions that are open, asked one after the other.
#[derive(Debug)]
pub(super) struct Asking {
    /// Who is still to be asked; the first one is being asked.
    arbitrators: Vec<Arbitrator>,
    request: u64,
    sent: Instant,
    give_up: Instant,
}

/// A view that must be in its new arbitrator's register first.
#[derive(Debug)]
pub(super) struct Registering {
    view: Box<View>,
    sent: Instant,
    give_up: Instant,
}

impl ControlCore {
    /// The arbitrator the next view should name: the current one, unless it has been away for
    /// long and another one is here, or one of better rank has been here for long.
    pub(super) fn arbitrator_wanted(&self, now: Instant) -> Option<Arbitrator> {
        let current = self.view.arbitrator.as_ref();
        let barred = self.arbitrator_barred_until > now;
        let best = self.links.servers().chain(self.links.api_arbitrators()).find(|candidate| {
            matches!(self.links.arbitrator_for(candidate, now), (true, up) if up > ARBITRATOR_AWAY)
        });
        let Some(best) = best.filter(|_| !barred) else {
            return current.filter(|current| !self.will_not_answer(current, now)).cloned();
        };
        let replace = match current {
            None => true,
            Some(current) => {
                let (up, since) = self.links.arbitrator_for(current, now);
                (!up && since > ARBITRATOR_AWAY) || rank(&best) < rank(current)
            }
        };
        if replace { Some(best) } else { current.cloned() }
    }

    /// Whether an arbitrator is here no more for good: its register is lost, or with its process.
    /// A server that has lost it can be named anew once no view names it.
    fn will_not_answer(&self, arbitrator: &Arbitrator, now: Instant) -> bool {
        let gone = match arbitrator {
            Arbitrator::Mgmt { .. } => self.links.register_lost(arbitrator, now),
            Arbitrator::Api { .. } => {
                let (up, since) = self.links.arbitrator_for(arbitrator, now);
                (!up).then_some(since)
            }
        };
        gone.is_some_and(|since| since > ARBITRATOR_AWAY)
    }

    /// Asks the arbitrators one after the other; with none to ask, goes on.
    pub(super) fn ask(&mut self, now: Instant, arbitrators: Vec<Arbitrator>, out: &mut Outputs) {
        let request = self.next_number();
        let Some(proposing) = &mut self.proposing else { return };
        if arbitrators.is_empty() {
            return self.register_first(now, out);
        }
        out.mark("arbitrator_asked");
        let give_up = now + ARBITRATION_WITHIN;
        proposing.phase = Phase::Asking(Asking { arbitrators, request, sent: now, give_up });
        self.send_question(out);
    }

    fn send_question(&self, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        let Phase::Asking(Asking { arbitrators, request, .. }) = &proposing.phase else { return };
        let Some(asked) = arbitrators.first() else { return };
        let question = ControlMessage::AskArbitrator {
            cluster: self.view.cluster,
            request: *request,
            asked: asked.clone(),
            counted: self.counted_list(),
            wanted: proposing.collection.identity(&self.view),
        };
        if let Some(link) = self.links.arbitrator(asked) {
            send_on(link, &question, out);
        }
    }

    /// Everything this side has counted against: what this node has, what the others have answered,
    /// and what the arbitrator showed.
    fn counted_list(&self) -> Vec<ViewIdentity> {
        let mut list = self.lineage.listed().to_vec();
        if let Some(proposing) = &self.proposing {
            let rivals = proposing.collection.rivals();
            let of = |rival: &AnsweredProposal| {
                changed(&self.view, rival.proposal.number, &rival.change).identity()
            };
            let views = rivals.iter().map(of);
            list.extend(views.chain(proposing.shown.clone()));
        }
        list.dedup();
        list
    }

    pub(super) fn on_mgmt(
        &mut self,
        now: Instant,
        from: MgmtId,
        message: ControlMessage,
        out: &mut Outputs,
    ) {
        match message {
            ControlMessage::ArbitratorVerdict { request, verdict } => {
                self.on_verdict(now, from, request, verdict, out);
            }
            ControlMessage::RegisteredView { view, registered, lost } => {
                if let Some(mgmt) = self.links.mgmt_mut(from) {
                    mgmt.answered(now);
                }
                self.on_registered(now, from, &view, registered, out);
                if let Some(mgmt) = self.links.mgmt_mut(from) {
                    mgmt.note_register(lost, now);
                }
            }
            ControlMessage::ArbitratorReady { incarnation, name } => {
                out.mark("api_node_offers_itself");
                self.links.arbitrator_ready(from, incarnation, name);
            }
            ControlMessage::Newcome(newcomer) => self.on_newcome(now, from, *newcomer, out),
            ControlMessage::Heartbeat { .. }
            | ControlMessage::Order(_)
            | ControlMessage::Seated { .. }
            | ControlMessage::Returned(_)
            | ControlMessage::Forming { .. }
            | ControlMessage::HeartbeatAnswer { .. }
            | ControlMessage::Tick { .. }
            | ControlMessage::EpochReport { .. }
            | ControlMessage::Propose { .. }
            | ControlMessage::Answered { .. }
            | ControlMessage::AnsweredHigher { .. }
            | ControlMessage::NewView { .. }
            | ControlMessage::SideLost { .. }
            | ControlMessage::LeaveRequest
            | ControlMessage::Configure { .. }
            | ControlMessage::Joining { .. }
            | ControlMessage::AskArbitrator { .. }
            | ControlMessage::RegisterView { .. }
            | ControlMessage::Report { .. }
            | ControlMessage::AdmissionPending { .. }
            | ControlMessage::Admitted { .. }
            | ControlMessage::AdmissionRefused { .. } => out.mark("mgmt_message_misplaced"),
        }
    }

    fn on_verdict(
        &mut self,
        now: Instant,
        from: MgmtId,
        request: u64,
        verdict: Verdict,
        out: &mut Outputs,
    ) {
        let Some(proposing) = &mut self.proposing else { return };
        let Phase::Asking(asking) = &mut proposing.phase else { return };
        let expected = asking.arbitrators.first().is_some_and(|a| id_of(a) == from);
        if asking.request != request || !expected {
            return;
        }
        match verdict {
            Verdict::Granted => {
                out.mark("arbitrator_granted");
                let rest = asking.arbitrators.split_off(1);
                self.ask(now, rest, out);
            }
            Verdict::Refused { register } => self.on_refused(now, register, out),
        }
    }

    /// The register holds another view. If all of this side are in it, it is this side's own and
    /// is counted against; otherwise the other side goes on.
    fn on_refused(&mut self, now: Instant, register: ViewIdentity, out: &mut Outputs) {
        out.mark("arbitrator_refused");
        let Some(proposing) = &mut self.proposing else { return };
        let number = proposing.collection.proposal().number;
        let survivors = proposing.collection.members();
        let ours = survivors.iter().all(|node| register.members.contains(node))
            && register.number <= number
            && proposing.shown.is_none();
        if ours {
            out.mark("arbitrator_showed_own_view");
            proposing.shown = Some(register);
            return self.decide(now, out);
        }
        let names = Self::names(&register.members);
        self.lose(now, &format!("lost to view {} of {names}", register.number), out);
    }

    /// A view that names a new arbitrator is in its register before anyone acts in it.
    fn register_first(&mut self, now: Instant, out: &mut Outputs) {
        let Some(proposing) = &mut self.proposing else { return };
        let next = Box::new(proposing.collection.next_view(&self.view));
        let same = next.arbitrator.is_none() || next.arbitrator == self.view.arbitrator;
        if same || self.canary == Some(Canary::HandOverBeforeRegister) {
            return self.wait_for_leases(now, next, out);
        }
        out.mark("arbitrator_replaced");
        let give_up = now + REGISTRATION_WITHIN;
        proposing.phase = Phase::Registering(Registering { view: next, sent: now, give_up });
        self.send_first_registration(out);
    }

    fn send_first_registration(&self, out: &mut Outputs) {
        let Some(proposing) = &self.proposing else { return };
        let Phase::Registering(Registering { view, .. }) = &proposing.phase else { return };
        let link = view.arbitrator.as_ref().and_then(|a| self.links.arbitrator(a));
        if let Some(link) = link {
            let (view, counted) = (view.clone(), self.counted_list());
            send_on(link, &ControlMessage::RegisterView { view, counted }, out);
        }
    }

    /// Repeats what was not answered, and gives up in the end.
    pub(super) fn repeat_arbitration(&mut self, now: Instant, out: &mut Outputs) {
        let Some(proposing) = &mut self.proposing else { return };
        match &mut proposing.phase {
            Phase::Collecting | Phase::WaitingLeases(_) => {}
            Phase::Asking(asking) if now >= asking.give_up => {
                out.mark("arbitrator_unreachable");
                self.lose(
                    now,
                    "no arbitrator answered, and this side may not go on without one",
                    out,
                );
            }
            Phase::Asking(asking) => {
                if now.since(asking.sent) >= REPEAT_AFTER {
                    asking.sent = now;
                    self.send_question(out);
                }
            }
            Phase::Registering(registering) if now >= registering.give_up => {
                self.keep_arbitrator(now, out);
            }
            Phase::Registering(registering) => {
                if now.since(registering.sent) >= REPEAT_AFTER {
                    registering.sent = now;
                    self.send_first_registration(out);
                }
            }
        }
    }

    /// The new arbitrator does not register: the same change with the old one.
    fn keep_arbitrator(&mut self, now: Instant, out: &mut Outputs) {
        out.mark("arbitrator_kept");
        self.arbitrator_barred_until = now + ARBITRATOR_BARRED;
        let Some(proposing) = &self.proposing else { return };
        let mut change = proposing.collection.change().clone();
        change.arbitrator.clone_from(&self.view.arbitrator);
        self.propose(now, change, out);
    }

    /// Sends the view to every management server that has not confirmed it, and to the others now
    /// and then, to see whether they still answer.
    pub(super) fn register_view(&mut self, now: Instant, out: &mut Outputs) {
        if !self.state.acts() {
            return;
        }
        let number = self.view.number;
        let mut message = None;
        let probes = self.canary != Some(Canary::LinkIsLife);
        let due = |mgmt: &MgmtLink| match mgmt.sent {
            None => true,
            Some((_, of)) if of < number => true,
            Some((at, _)) if mgmt.registered < number => now.since(at) >= REPEAT_AFTER,
            Some((at, _)) => probes && mgmt.owes_nothing() && now.since(at) >= PROBE_EVERY,
        };
        for (_, link, mgmt) in self.links.mgmt_up() {
            if !due(mgmt) {
                continue;
            }
            mgmt.ask(now, number);
            let message = message.get_or_insert_with(|| ControlMessage::RegisterView {
                view: Box::new(self.view.clone()),
                counted: self.lineage.listed().to_vec(),
            });
            send_on(link, message, out);
        }
    }

    fn on_registered(
        &mut self,
        now: Instant,
        from: MgmtId,
        view: &ViewIdentity,
        registered: bool,
        out: &mut Outputs,
    ) {
        let first = self.proposing.as_ref().and_then(|proposing| match &proposing.phase {
            Phase::Registering(registering) => Some(registering.view.clone()),
            Phase::Collecting | Phase::Asking(_) | Phase::WaitingLeases(_) => None,
        });
        if let Some(next) = first.filter(|next| next.identity() == *view)
            && is_arbitrator(&next, from)
        {
            if registered {
                return self.wait_for_leases(now, next, out);
            }
            return self.keep_arbitrator(now, out);
        }
        if *view != self.view.identity() {
            return;
        }
        if let Some(mgmt) = self.links.mgmt_mut(from) {
            mgmt.registered = ViewNumber(mgmt.registered.0.max(view.number.0));
        }
        if registered && is_arbitrator(&self.view, from) {
            self.lineage.registered(view);
        }
    }
}

fn is_arbitrator(view: &View, id: MgmtId) -> bool {
    view.arbitrator.as_ref().is_some_and(|a| id_of(a) == id)
}

/// Smaller is preferred.
fn rank(arbitrator: &Arbitrator) -> u8 {
    match arbitrator {
        Arbitrator::Mgmt { .. } => 1,
        Arbitrator::Api { .. } => 2,
    }
}
