//! A data node without an identity: it asks a management server to be part of the cluster that is
//! being created, or for a seat in one that is there, and ends when identity and view are on disk.
//!
//! Only the *first* management server of its list may create a cluster of those who report to it:
//! two servers that each collected all reports would create two clusters. For a seat any of them
//! will do, because the data nodes give it; so they are tried in turn. A refusal ends the process
//! with the server's words, because only an operator can mend it; silence and broken links are
//! tried again for ever.
//!
//! ```text
//! Waiting ─dial─▶ Dialling ─link up─▶ Reporting ─Admitted─▶ Storing ─both stored─▶ exit 0
//!    ▲                │ failed            │ link down
//!    └────────────────┴───────────────────┘
//! ```
//!
//! Invariant: whatever ends it, the identity is on disk only if the view is.

use std::time::Duration;

use lockstep_proto::ids::{ClusterId, MgmtId, NodeInstance};
use lockstep_proto::process::{
    Effect, Exit, Input, LinkId, LogLevel, Outputs, Peer, Process, Target,
};
use lockstep_proto::report::Report;
use lockstep_proto::roster::Newcomer;
use lockstep_proto::stored::{Stored, StoredIdentity};
use lockstep_proto::time::Instant;
use lockstep_proto::view::View;
use lockstep_proto::wire::control::ControlMessage;
use lockstep_proto::wire::kind;

/// Between two attempts to reach the management server.
const DIAL_PAUSE: Duration = Duration::from_millis(200);

/// Between two reports on one link: the answer may be lost with a restarted server.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// After how many failed dials the log says so again.
const DIALS_PER_WARNING: u32 = 25;

const TOKEN_VIEW: u64 = 1;
const TOKEN_IDENTITY: u64 = 2;

/// What a newcomer is started with.
#[derive(Clone, Debug)]
pub struct NewcomerOptions {
    /// The management servers; the first may create the cluster.
    pub mgmts: Vec<(MgmtId, String)>,
    /// What it says about itself.
    pub newcomer: Newcomer,
}

/// A newcomer. See the module text.
pub struct NewcomerCore {
    options: NewcomerOptions,
    state: State,
    /// Which server is asked now.
    turn: usize,
    dials_failed: u32,
    told: String,
}

enum State {
    Waiting { until: Instant },
    Dialling,
    Reporting { link: LinkId, again: Instant },
    Storing { identity: StoredIdentity },
    Ended,
}

impl NewcomerCore {
    /// A newcomer at its start; it dials at its first timeout.
    #[must_use]
    pub fn new(options: NewcomerOptions) -> Self {
        let state = State::Waiting { until: Instant(0) };
        Self { options, state, turn: 0, dials_failed: 0, told: String::new() }
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Outputs) {
        match self.state {
            State::Waiting { until } if now >= until => {
                self.state = State::Dialling;
                let (id, addr) = self.server();
                out.effect(Effect::Dial { to: Target::Mgmt(id), addr });
            }
            State::Reporting { link, again } if now >= again => self.report(now, link, out),
            State::Waiting { .. }
            | State::Dialling
            | State::Reporting { .. }
            | State::Storing { .. }
            | State::Ended => {}
        }
    }

    fn on_link_up(&mut self, now: Instant, link: LinkId, peer: Peer, out: &mut Outputs) {
        if matches!(self.state, State::Dialling) && peer == Peer::Mgmt(self.server().0) {
            self.dials_failed = 0;
            self.report(now, link, out);
        }
    }

    fn on_link_down(&mut self, now: Instant, ended: LinkId, out: &mut Outputs) {
        if matches!(self.state, State::Reporting { link, .. } if link == ended) {
            out.mark("newcomer_link_lost");
            self.next_server(now);
        }
    }

    /// The server whose turn it is.
    fn server(&self) -> (MgmtId, String) {
        let servers = &self.options.mgmts;
        servers.get(self.turn % servers.len().max(1)).cloned().unwrap_or_default()
    }

    fn next_server(&mut self, now: Instant) {
        self.turn += 1;
        self.state = State::Waiting { until: now + DIAL_PAUSE };
    }

    fn on_dial_failed(&mut self, now: Instant, out: &mut Outputs) {
        if !matches!(self.state, State::Dialling) {
            return;
        }
        if self.dials_failed.is_multiple_of(DIALS_PER_WARNING) {
            let (id, addr) = self.server();
            let text = format!(
                "cannot reach management server {id} at {addr}; trying again, and the others: \
                 check that it runs, its `mgmt.id`, and `cluster.mgmt` here"
            );
            out.log(LogLevel::Warn, text);
        }
        self.dials_failed += 1;
        self.next_server(now);
    }

    fn report(&mut self, now: Instant, link: LinkId, out: &mut Outputs) {
        let newcomer = self.options.newcomer.clone();
        let creates = self.options.mgmts.first() == Some(&self.server());
        let message = ControlMessage::Report { newcomer, creates };
        if let Some(buffer) = out.buffer(link) {
            message.frame(buffer);
        }
        self.state = State::Reporting { link, again: now + REPORT_PAUSE };
    }

    fn on_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        if !matches!(self.state, State::Reporting { link: own, .. } if own == link) {
            return;
        }
        let message = bytes
            .split_first()
            .filter(|(kind, _)| **kind == kind::CONTROL)
            .and_then(|(_, body)| ControlMessage::parse(body).ok());
        match message {
            Some(ControlMessage::AdmissionPending { text }) => self.on_admission_pending(text, out),
            Some(ControlMessage::Admitted { cluster, instance, view }) => {
                self.on_admitted(cluster, instance, &view, out);
            }
            Some(ControlMessage::AdmissionRefused { text }) => self.end(1, text, out),
            // Anything else is not from a management server of this version.
            Some(_) | None => {
                out.effect(Effect::Close { link, why: "not what a management server says" });
                self.state = State::Waiting { until: now + DIAL_PAUSE };
            }
        }
    }

    fn on_admission_pending(&mut self, text: String, out: &mut Outputs) {
        if self.told != text {
            out.log(LogLevel::Info, text.clone());
            self.told = text;
        }
    }

    fn on_admitted(
        &mut self,
        cluster: ClusterId,
        instance: NodeInstance,
        view: &View,
        out: &mut Outputs,
    ) {
        let seat = view.roster.seat(instance.node);
        let own = seat.is_some_and(|seat| seat.process == self.options.newcomer.process);
        if view.cluster != cluster || !(own || view.contains(instance)) {
            let reason = "the management server handed out an identity that is not in its own \
                          view; this is a bug, please report it";
            return self.end(1, reason.to_owned(), out);
        }
        let identity = StoredIdentity { cluster, instance };
        self.state = State::Storing { identity };
        out.effect(Effect::Store { token: TOKEN_VIEW, file: View::FILE, bytes: view.to_file() });
    }

    fn on_stored(&mut self, token: u64, ok: bool, out: &mut Outputs) {
        let State::Storing { identity } = &self.state else { return };
        if !ok {
            let reason = "the node's directory cannot be written: free space or repair it, empty \
                          it, and start the node again";
            return self.end(1, reason.to_owned(), out);
        }
        if token == TOKEN_VIEW {
            let (file, bytes) = (StoredIdentity::FILE, identity.to_file());
            return out.effect(Effect::Store { token: TOKEN_IDENTITY, file, bytes });
        }
        let StoredIdentity { cluster, instance } = *identity;
        out.mark("newcomer_admitted");
        self.end(0, format!("became node {instance} of cluster {cluster}"), out);
    }

    fn end(&mut self, code: i32, reason: String, out: &mut Outputs) {
        self.state = State::Ended;
        out.effect(Effect::Exit(Exit { code, reason }));
    }
}

impl Process for NewcomerCore {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, peer } => self.on_link_up(now, link, peer, out),
            Input::LinkDown { link, .. } => self.on_link_down(now, link, out),
            Input::DialFailed { .. } => self.on_dial_failed(now, out),
            Input::Frame { link, bytes } => self.on_frame(now, link, bytes, out),
            Input::Stored { token, ok } => self.on_stored(token, ok, out),
            Input::Timeout => self.on_timeout(now, out),
            Input::Terminate => {
                self.end(0, "stopped before it was part of a cluster".to_owned(), out);
            }
            Input::Measured { .. } | Input::Disk { .. } | Input::Recovered { .. } => {}
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Reporting { again, .. } => Some(again),
            State::Dialling | State::Storing { .. } | State::Ended => None,
        }
    }

    fn report(&self, _now: Instant) -> Option<Report> {
        Some(Report::Newcomer { waits_for: self.told.clone() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use lockstep_proto::ids::{Epoch, GroupId, Incarnation, NodeId, RestartGeneration, ViewNumber};
    use lockstep_proto::process::{DialError, LinkEnd, StoredFile};
    use lockstep_proto::roster::Roster;
    use lockstep_proto::view::{ClusterConfig, Member, Standing};

    use super::*;

    const MGMT: MgmtId = MgmtId(1);

    struct Bench {
        core: NewcomerCore,
        out: Outputs,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let options = NewcomerOptions {
                mgmts: vec![(MGMT, "m1:1186".to_owned())],
                newcomer: Newcomer {
                    addr: "n1:1".to_owned(),
                    zone: "a".to_owned(),
                    shards: 2,
                    process: 9,
                    wanted: None,
                    group: None,
                },
            };
            Self { core: NewcomerCore::new(options), out: Outputs::with_marks(), now: Instant(1) }
        }

        /// Hands in one input and returns the effects that are not log lines.
        fn input(&mut self, input: Input<'_>) -> Vec<Effect> {
            self.core.handle(self.now, input, &mut self.out);
            let mut effects = self.out.take_effects();
            effects.retain(|effect| !matches!(effect, Effect::Log { .. }));
            effects
        }

        fn wait(&mut self) -> Vec<Effect> {
            self.now = self.core.next_timeout().expect("waits for something").max(self.now);
            self.input(Input::Timeout)
        }

        fn connected() -> (Self, LinkId) {
            let mut bench = Self::new();
            assert_eq!(bench.wait().len(), 1, "dials");
            let link = bench.out.open_link();
            assert_eq!(bench.input(Input::LinkUp { link, peer: Peer::Mgmt(MGMT) }), []);
            assert_eq!(bench.reports(link), 1);
            (bench, link)
        }

        fn reports(&mut self, link: LinkId) -> usize {
            let mut unsent = self.out.unsent(link).expect("link is up").split();
            let mut count = 0;
            while !unsent.is_empty() {
                let length = u32::from_le_bytes(unsent[..4].try_into().expect("four bytes"));
                let frame = unsent.split_to(4 + length as usize);
                let message = ControlMessage::parse(&frame[5..]).expect("well formed");
                assert!(matches!(message, ControlMessage::Report { creates: true, .. }));
                count += 1;
            }
            count
        }

        fn hear(&mut self, link: LinkId, message: &ControlMessage) -> Vec<Effect> {
            let mut frame = BytesMut::new();
            message.frame(&mut frame);
            self.input(Input::Frame { link, bytes: &frame[4..] })
        }
    }

    fn admitted() -> ControlMessage {
        let instance = NodeInstance { node: NodeId(3), incarnation: Incarnation(1) };
        let member = Member {
            instance,
            group: GroupId(1),
            zone: "a".to_owned(),
            addr: "n1:1".to_owned(),
            shards: 2,
            seniority: 0,
            standing: Standing::InSync,
        };
        let view = View {
            cluster: ClusterId(7),
            number: ViewNumber(1),
            config: ClusterConfig::default(),
            roster: Roster::of(std::slice::from_ref(&member)),
            members: vec![member],
            placements: Vec::new(),
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            configured: lockstep_proto::configuration::ConfigState::default(),
            left_out: Vec::new(),
            seal: Epoch(0),
            restart_generation: RestartGeneration(0),
            cuts: Vec::new(),
        };
        ControlMessage::Admitted { cluster: ClusterId(7), instance, view: Box::new(view) }
    }

    #[test]
    fn it_stores_the_view_then_the_identity_then_ends() {
        let (mut bench, link) = Bench::connected();
        let effects = bench.hear(link, &admitted());
        assert!(matches!(&effects[..], [Effect::Store { token, file: StoredFile::View, .. }]
                if *token == TOKEN_VIEW));
        let effects = bench.input(Input::Stored { token: TOKEN_VIEW, ok: true });
        let [Effect::Store { token, file: StoredFile::Identity, bytes }] = &effects[..] else {
            panic!("{effects:?}")
        };
        let identity = StoredIdentity::from_file(bytes).expect("own file");
        assert_eq!(identity.instance.node, NodeId(3));
        let effects = bench.input(Input::Stored { token: *token, ok: true });
        assert!(matches!(&effects[..], [Effect::Exit(Exit { code: 0, .. })]), "{effects:?}");
        assert_eq!(bench.core.next_timeout(), None);
    }

    #[test]
    fn it_reports_again_on_the_same_link_and_after_a_broken_one() {
        let (mut bench, link) = Bench::connected();
        assert_eq!(bench.wait(), []);
        assert_eq!(bench.reports(link), 1);
        bench.input(Input::LinkDown { link, end: LinkEnd::Reset });
        assert!(matches!(&bench.wait()[..], [Effect::Dial { to: Target::Mgmt(MGMT), .. }]));
        let (to, addr, error) = (Target::Mgmt(MGMT), "m1:1186".to_owned(), DialError::Refused);
        assert_eq!(bench.input(Input::DialFailed { to, addr, error }), []);
        assert!(matches!(&bench.wait()[..], [Effect::Dial { .. }]));
    }

    #[test]
    fn a_refusal_ends_it_with_the_servers_words() {
        let (mut bench, link) = Bench::connected();
        let text = "zone \"q\" is not one of the cluster's zones".to_owned();
        let effects = bench.hear(link, &ControlMessage::AdmissionRefused { text: text.clone() });
        assert_eq!(effects, [Effect::Exit(Exit { code: 1, reason: text })]);
    }

    #[test]
    fn a_failed_disk_leaves_no_identity() {
        let (mut bench, link) = Bench::connected();
        bench.hear(link, &admitted());
        let effects = bench.input(Input::Stored { token: TOKEN_VIEW, ok: false });
        assert!(matches!(&effects[..], [Effect::Exit(Exit { code: 1, .. })]), "{effects:?}");
    }

    #[test]
    fn a_stranger_at_the_other_end_is_dropped_and_tried_again() {
        let (mut bench, link) = Bench::connected();
        let effects = bench.input(Input::Frame { link, bytes: &[kind::CONTROL, 255] });
        assert!(matches!(&effects[..], [Effect::Close { .. }]), "{effects:?}");
        assert!(matches!(&bench.wait()[..], [Effect::Dial { .. }]));
    }
}
