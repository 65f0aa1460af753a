//! A data node that has an identity and was started again: it looks for its cluster, and ends when
//! a view that names its new life is on disk and its rows are restored as far as that view allows.
//!
//! ```text
//!                     ┌─ a member that acts tells its view ─▶ restore what the own files have,
//! survey own files ───┤                                        say so, be admitted
//!                     └─ only others that came back, too ───▶ form the cluster anew ([`form`])
//! ```
//! It says [`Returned`] to everybody it knows of, over and over: to the members of the newest view
//! it has heard of, and to the management servers, which know whom else to ask. Whoever acts
//! answers with its view. A view that names this life is the end of the search.
//!
//! Invariants: this life serves nobody and is in no view before that view is on its disk; rows are
//! restored by the restart generations of the view that is entered, never by older ones; nothing
//! is formed while a member that acts has been heard lately.

mod form;
mod links;

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{Epoch, GroupId, MgmtId, NodeId, NodeInstance, PartitionId};
use lockstep_proto::process::{Effect, Exit, Input, LinkId, LogLevel, Outputs, Peer, Process};
use lockstep_proto::recovery::{Goal, Recovered, Recovery, last_cut};
use lockstep_proto::report::Report;
use lockstep_proto::stored::Stored;
use lockstep_proto::time::Instant;
use lockstep_proto::view::{Arbitrator, Member, Standing, View, ViewIdentity};
use lockstep_proto::wire::control::{ControlMessage, Returned};
use lockstep_proto::wire::kind;

use form::Forming;

/// Between two times that it says that it is back, and two attempts to reach somebody.
const SAY_EVERY: Duration = Duration::from_millis(200);

/// How long what somebody said counts.
const HEARD_FOR: Duration = Duration::from_secs(2);

/// Between two lines of the log about what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Names the write of the view; recoveries have higher numbers.
const TOKEN_VIEW: u64 = 1;

/// What it is started with.
#[derive(Clone, Debug)]
pub struct RestartOptions {
    /// The new life, whose incarnation is on disk; standing and seniority do not matter.
    pub member: Member,
    /// The newest view on disk.
    pub view: View,
    /// The management servers it knows from its configuration.
    pub mgmt: Vec<(MgmtId, String)>,
    /// How long to wait for all members of a stopped cluster before a part of them may start it.
    pub patience: Duration,
    /// The operator says: start the cluster with whoever is here.
    pub force: bool,
    /// A bug to switch on.
    pub canary: Option<Canary>,
}

/// See the module text.
#[derive(Debug)]
pub struct RestartCore {
    options: RestartOptions,
    me: NodeInstance,
    /// The newest view known to be on somebody's disk.
    base: View,
    /// Up to where the own files reach, by the generations of `base`.
    reached: Option<Epoch>,
    /// The own files cannot be used.
    damaged: bool,
    recovered: Option<Recovered>,
    /// Of which partitions.
    recovered_of: Vec<(PartitionId, u16)>,
    /// The node group whose rows the own files have; `None` if there are none.
    files_of: Option<GroupId>,
    recovering: Option<Recovering>,
    nodes: BTreeMap<NodeId, Contact>,
    mgmts: BTreeMap<MgmtId, Contact>,
    /// Who is at the other end of each link.
    peers: BTreeMap<LinkId, Peer>,
    /// The newest view a member told that acts in it, and when.
    acting: Option<(View, Instant)>,
    forming: Option<Forming>,
    /// Views the arbitrator's register held that nobody here has.
    shown: Vec<ViewIdentity>,
    /// The view the eldest wants to form, and when it said so.
    following: Option<(View, Instant)>,
    /// The last view to be that this node has said to be ready for.
    promised: Option<ViewIdentity>,
    /// The view that is being stored: the last thing this process does.
    entering: Option<View>,
    started: Option<Instant>,
    say_at: Instant,
    tell_at: Instant,
    told: String,
    token: u64,
    ended: bool,
}

/// A wish that has not been answered.
#[derive(Debug)]
struct Recovering {
    token: u64,
    goal: Goal,
    /// For which view.
    view: View,
    /// Of which partitions.
    held: Vec<(PartitionId, u16)>,
}

/// Somebody to talk to.
#[derive(Debug)]
struct Contact {
    addr: String,
    dialling: bool,
    /// Where it was reached, and every link it came on itself.
    links: Vec<LinkId>,
    dialled: Option<LinkId>,
    dial_at: Instant,
    /// What it said last, if it came back itself.
    said: Option<(Box<Returned>, Instant)>,
}

impl Contact {
    fn new(addr: String) -> Self {
        Self {
            addr,
            dialling: false,
            links: Vec::new(),
            dialled: None,
            dial_at: Instant::default(),
            said: None,
        }
    }
}

impl RestartCore {
    /// One that has not begun: it does at its first timeout.
    #[must_use]
    pub fn new(options: RestartOptions) -> Self {
        let (me, base) = (options.member.instance, options.view.clone());
        let mgmt = |(id, addr): &(MgmtId, String)| (*id, Contact::new(addr.clone()));
        let mut core = Self {
            me,
            reached: None,
            damaged: false,
            recovered: None,
            recovered_of: Vec::new(),
            files_of: Some(options.member.group),
            recovering: None,
            nodes: BTreeMap::new(),
            mgmts: options.mgmt.iter().map(mgmt).collect(),
            peers: BTreeMap::new(),
            acting: None,
            forming: None,
            shown: Vec::new(),
            following: None,
            promised: None,
            entering: None,
            started: None,
            say_at: Instant::default(),
            tell_at: Instant::default(),
            told: String::new(),
            token: TOKEN_VIEW,
            ended: false,
            base,
            options,
        };
        core.meet(&core.base.clone());
        core
    }

    /// What it has restored: of use once it has ended well.
    #[must_use]
    pub fn recovered(&self) -> Option<Recovered> {
        self.recovered
    }

    /// Learns from a view who could be there, and where.
    fn meet(&mut self, view: &View) {
        for member in view.members.iter().filter(|m| m.instance.node != self.me.node) {
            let node = member.instance.node;
            let contact = self.nodes.entry(node).or_insert_with(|| Contact::new(String::new()));
            contact.addr.clone_from(&member.addr);
        }
        for arbitrator in &view.arbitrators_possible {
            if let Arbitrator::Mgmt { id, addr } = arbitrator {
                self.mgmts.entry(*id).or_insert_with(|| Contact::new(addr.clone()));
            }
        }
    }

    fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    fn begin(&mut self, now: Instant, out: &mut Outputs) {
        self.started = Some(now);
        self.tell_at = now + TELL_EVERY;
        let view = self.base.clone();
        self.recover(Goal::Survey, view, out);
    }

    /// Asks the driver to look at the files, unless that is being done.
    fn recover(&mut self, goal: Goal, view: View, out: &mut Outputs) {
        let held = self.held(&view);
        let same = |r: &Recovering| {
            r.goal == goal && r.held == held && Recovered::under(&r.view, Epoch(0)).fits(&view)
        };
        if self.recovering.as_ref().is_some_and(same) {
            return;
        }
        let token = self.next_token();
        let generations = view.generations();
        self.recovering = Some(Recovering { token, goal, view, held: held.clone() });
        // The driver keeps what comes of the newest wish only, and a survey gives no rows.
        self.recovered = None;
        out.effect(Effect::Recover(Recovery { token, generations, held, goal }));
    }

    /// The partitions that a view gives to this node's group.
    fn held(&self, view: &View) -> Vec<(PartitionId, u16)> {
        let member = view.member(self.me.node).map(|member| member.group);
        let group = member.or_else(|| view.roster.seat(self.me.node).map(|seat| seat.group));
        view.held_by(group.unwrap_or(self.options.member.group))
    }

    /// Whether the rows that were restored are exactly those that a founder of this view begins
    /// with.
    fn has_restored(&self, wanted: Recovered, view: &View) -> bool {
        self.recovered == Some(wanted) && self.recovered_of == self.held(view)
    }

    fn on_recovered(
        &mut self,
        now: Instant,
        token: u64,
        result: Result<Epoch, String>,
        out: &mut Outputs,
    ) {
        let Some(done) = self.recovering.take_if(|recovering| recovering.token == token) else {
            return;
        };
        self.recovered_of.clone_from(&done.held);
        match (done.goal, result) {
            (Goal::Survey, Ok(epoch)) => {
                let same = done.held == self.held(&self.base);
                if same && Recovered::under(&done.view, epoch).fits(&self.base) {
                    self.reached = Some(epoch);
                    out.log(LogLevel::Info, format!("the own files reach epoch {epoch}"));
                }
            }
            (Goal::Survey, Err(why)) => {
                out.mark("restart_files_unusable");
                self.damaged = true;
                let text = format!(
                    "the own files cannot be used: {why}; this node needs another one of its \
                     node group to start from"
                );
                out.log(LogLevel::Warn, text);
            }
            (Goal::Anew, Ok(epoch)) => {
                out.mark("restart_files_of_another_group");
                self.files_of = None;
                self.recovered = Some(Recovered::under(&done.view, epoch));
                out.log(LogLevel::Info, "the own files are of another node group, and are gone");
            }
            (Goal::Rejoin | Goal::Exactly(_), Ok(epoch)) => {
                self.recovered = Some(Recovered::under(&done.view, epoch));
                out.log(LogLevel::Info, format!("restored to epoch {epoch}"));
            }
            (Goal::Rejoin | Goal::Anew, Err(why)) => {
                let reason = format!("the data directory cannot be used: {why}");
                return self.end(1, reason, out);
            }
            (Goal::Exactly(epoch), Err(why)) => {
                out.mark("restart_restore_failed");
                let text = format!("cannot restore epoch {epoch}: {why}");
                out.log(LogLevel::Warn, text);
                // The others go on without this node's files, and it rejoins them.
                (self.reached, self.damaged) = (None, true);
                self.following = None;
                self.forming = None;
            }
        }
        self.say(now, out);
        self.consider(now, out);
    }

    /// Somebody's disk has a newer view: what was known about the own files may not hold under it.
    fn rebase(&mut self, view: &View, out: &mut Outputs) {
        // Once a view is being stored, what was restored for it must stay: it ends this process.
        let decided = self.entering.is_some();
        if decided || view.number <= self.base.number || view.cluster != self.base.cluster {
            return;
        }
        out.mark("restart_newer_view");
        let same = Recovered::under(&self.base, Epoch(0)).fits(view)
            && self.held(&self.base) == self.held(view);
        self.base = view.clone();
        self.meet(view);
        self.forming = None;
        // Nobody forms a view that is on a disk already.
        self.following.take_if(|(formed, _)| formed.number <= view.number);
        if !same {
            (self.reached, self.damaged) = (None, false);
            let view = self.base.clone();
            self.recover(Goal::Survey, view, out);
        }
    }

    fn on_message(
        &mut self,
        now: Instant,
        link: LinkId,
        from: Peer,
        message: ControlMessage,
        out: &mut Outputs,
    ) {
        match (from, message) {
            (Peer::Mgmt(_), ControlMessage::NewView { view }) => {
                if view.cluster == self.base.cluster {
                    self.meet(&view);
                }
            }
            (Peer::Mgmt(id), ControlMessage::ArbitratorVerdict { request, verdict }) => {
                self.on_verdict(now, id, request, verdict, out);
            }
            (Peer::Control(from), ControlMessage::NewView { view }) => {
                self.on_acting(now, from, *view, out);
            }
            (Peer::Control(from), ControlMessage::Returned(returned)) => {
                self.on_returned(now, from, returned, out);
            }
            (Peer::Control(from), ControlMessage::Forming { view }) => {
                self.on_forming(now, from, *view, out);
            }
            // A member that acts takes this life for one of its peers.
            (Peer::Control(_), _) => {}
            _ => out.effect(Effect::Close { link, why: "not what is said to a starting node" }),
        }
    }

    /// A member that acts shows its view.
    fn on_acting(&mut self, now: Instant, from: NodeInstance, view: View, out: &mut Outputs) {
        let newest = self.acting.as_ref().is_none_or(|(known, _)| view.number >= known.number);
        if view.cluster != self.base.cluster || !view.contains(from) || !newest {
            return;
        }
        self.meet(&view);
        self.acting = Some((view, now));
        self.consider(now, out);
    }

    fn on_returned(
        &mut self,
        now: Instant,
        from: NodeInstance,
        returned: Box<Returned>,
        out: &mut Outputs,
    ) {
        let own = returned.view.cluster == self.base.cluster && returned.member.instance == from;
        if !own || from.node == self.me.node {
            return;
        }
        self.rebase(&returned.view, out);
        let addr = returned.member.addr.clone();
        let contact = self.nodes.entry(from.node).or_insert_with(|| Contact::new(addr));
        contact.said = Some((returned, now));
        self.consider(now, out);
    }

    /// Whether a member that acts was heard lately.
    fn is_served(&self, now: Instant) -> bool {
        self.acting.as_ref().is_some_and(|(_, at)| now.since(*at) <= HEARD_FOR)
    }

    /// Goes on with what can be done now.
    fn consider(&mut self, now: Instant, out: &mut Outputs) {
        if self.entering.is_some() || self.ended || self.started.is_none() {
            return;
        }
        if !self.is_served(now) {
            self.acting = None;
            return self.consider_forming(now, out);
        }
        (self.forming, self.following) = (None, None);
        let Some((view, _)) = self.acting.clone() else { return };
        let member = view.member(self.me.node);
        let own = member.filter(|member| member.instance == self.me);
        let in_sync = own.is_some_and(|member| member.standing == Standing::InSync);
        // Until there is a view without its earlier life, the cluster counts on what that one had,
        // whatever was ordered of its seat: perhaps nobody else has it.
        let counted = !in_sync && member.is_some_and(|m| m.standing == Standing::InSync);
        let seat = view.roster.seat(self.me.node).map(|seat| seat.group);
        let Some(group) = seat.or(own.filter(|_| in_sync).map(|member| member.group)) else {
            if counted || view.number < self.base.number {
                // Or whoever acts in an older view than this node has does not know of its seat.
                return;
            }
            let reason = format!(
                "{} was removed from cluster {} (view {}): to join anew, start it on an empty \
                 directory",
                self.me.node, view.cluster, view.number
            );
            out.mark("restart_of_removed");
            return self.end(1, reason, out);
        };
        let elsewhere = !in_sync && self.files_of.is_some_and(|of| of != group);
        if elsewhere && counted {
            return;
        }
        if in_sync && self.keeps_from(&view.identity()) {
            // Somebody may have made another view, and counts on this node. The members of this one
            // find it silent, and go on without it if they may.
            return;
        }
        let fits = self.recovered.is_some_and(|recovered| {
            let exact = recovered.epoch == last_cut(&view) && self.has_restored(recovered, &view);
            !elsewhere && recovered.fits(&view) && (!in_sync || exact)
        });
        if !fits {
            // As a founder it must have exactly what the others have.
            let goal = match in_sync {
                true => Goal::Exactly(last_cut(&view)),
                false if elsewhere => Goal::Anew,
                false => Goal::Rejoin,
            };
            return self.recover(goal, view, out);
        }
        if own.is_some() {
            if in_sync {
                out.mark("restart_formed");
            } else {
                out.mark("join_admitted");
            }
            self.enter(view, out);
        }
    }

    /// Whether a promise keeps this node from beginning in a view.
    fn keeps_from(&self, view: &ViewIdentity) -> bool {
        self.promised.as_ref().is_some_and(|own| view.number <= own.number && view != own)
    }

    /// The search is over: the view goes to the disk.
    fn enter(&mut self, view: View, out: &mut Outputs) {
        out.effect(Effect::Store { token: TOKEN_VIEW, file: View::FILE, bytes: view.to_file() });
        self.entering = Some(view);
    }

    fn on_stored(&mut self, token: u64, ok: bool, out: &mut Outputs) {
        let Some(view) = self.entering.take_if(|_| token == TOKEN_VIEW) else { return };
        if !ok {
            let reason = "the view could not be written to the data directory: free space or \
                          repair it, and start the node again";
            return self.end(1, reason.to_owned(), out);
        }
        if self.forming.is_some() {
            // The others find out at once; who does not is told when it asks.
            let message = ControlMessage::NewView { view: Box::new(view.clone()) };
            self.tell_nodes(&message, out);
        }
        let reason = format!("goes on as {} in view {}", self.me, view.number);
        self.end(0, reason, out);
    }

    fn end(&mut self, code: i32, reason: String, out: &mut Outputs) {
        self.ended = true;
        out.effect(Effect::Exit(Exit { code, reason }));
    }

    /// Tells everybody that this node is back, and what it has.
    fn say(&mut self, now: Instant, out: &mut Outputs) {
        self.say_at = now + SAY_EVERY;
        let returned = Returned {
            member: self.options.member.clone(),
            view: Box::new(self.base.clone()),
            reached: self.reached,
            damaged: self.damaged,
            recovered: self.recovered,
            promised: self.promised.clone(),
        };
        let message = ControlMessage::Returned(Box::new(returned));
        self.tell_nodes(&message, out);
        for link in self.mgmts.values().flat_map(|contact| &contact.links) {
            if let Some(buffer) = out.buffer(*link) {
                message.frame(buffer);
            }
        }
        self.repeat_forming(now, out);
    }

    fn tell_nodes(&self, message: &ControlMessage, out: &mut Outputs) {
        for link in self.nodes.values().flat_map(|contact| &contact.links) {
            if let Some(buffer) = out.buffer(*link) {
                message.frame(buffer);
            }
        }
    }

    fn on_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        let Some(peer) = self.peers.get(&link).copied() else { return };
        let body = bytes.split_first().filter(|(kind, _)| **kind == kind::CONTROL);
        match body.map(|(_, body)| ControlMessage::parse(body)) {
            Some(Ok(message)) => self.on_message(now, link, peer, message, out),
            _ => out.effect(Effect::Close { link, why: "a frame that is no message" }),
        }
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        if self.started.is_none() {
            self.begin(now, out);
        }
        self.dial_due(now, out);
        if self.say_at <= now {
            self.say(now, out);
        }
        self.consider(now, out);
        if self.tell_at <= now {
            self.tell_at = now + TELL_EVERY;
            self.tell(now, out);
        }
    }

    /// Tells the operator what is waited for, when that is news.
    fn tell(&mut self, now: Instant, out: &mut Outputs) {
        let text = match &self.acting {
            Some((view, _)) if self.recovered.is_some() => {
                format!("waiting to be admitted to view {}", view.number)
            }
            Some(_) => "restoring from the own files".to_owned(),
            None => self.missing(now),
        };
        if text != self.told {
            out.log(LogLevel::Info, text.clone());
            self.told = text;
        }
    }
}

impl Process for RestartCore {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        if self.ended {
            return;
        }
        match input {
            Input::LinkUp { link, peer } => self.on_link_up(now, link, peer, out),
            Input::LinkDown { link, .. } => self.on_link_down(now, link),
            Input::DialFailed { to, .. } => self.on_dial_failed(now, &to),
            Input::Frame { link, bytes } => self.on_frame(now, link, bytes, out),
            Input::Stored { token, ok } => self.on_stored(token, ok, out),
            Input::Recovered { token, result } => self.on_recovered(now, token, result, out),
            Input::Timeout => self.on_timeout(now, out),
            Input::Terminate => {
                self.end(0, "stopped before it was part of its cluster again".to_owned(), out);
            }
            Input::Measured { .. } | Input::Disk { .. } => {}
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        if self.started.is_none() {
            return Some(Instant::default());
        }
        let contacts = self.nodes.values().chain(self.mgmts.values());
        let dials = contacts
            .filter(|c| c.dialled.is_none() && !c.dialling && !c.addr.is_empty())
            .map(|c| c.dial_at);
        dials.chain([self.say_at, self.tell_at]).min()
    }

    fn report(&self, _now: Instant) -> Option<Report> {
        Some(Report::Returning { instance: self.me, waits_for: self.told.clone() })
    }
}
