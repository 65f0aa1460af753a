//! Who arbitrates: API nodes, the real machine on links of the test's network, and the registers of
//! management servers.

use std::time::Duration;

use bytes::BytesMut;

use lockstep_proto::arbitrator::{ApiArbitrator, ApiArbitratorOptions};
use lockstep_proto::ids::{ClusterId, Incarnation, MgmtId, NodeId};
use lockstep_proto::process::{Input, LinkId, Outputs, Process};

use lockstep_proto::register::Register;
use lockstep_proto::view::Arbitrator;
use lockstep_proto::wire::control::{ControlMessage, Verdict};

use super::{DELAY, Event, Id, MGMT, Net};

impl Net {
    /// Starts a process of an API node, another than any before.
    pub(crate) fn start_api(&mut self, id: Id) {
        self.lives += 1;
        let options = ApiArbitratorOptions {
            id: MgmtId(id - MGMT),
            cluster: ClusterId(7),
            incarnation: Incarnation(self.lives),
            name: "a1".to_owned(),
            nodes: self.nodes.keys().map(|id| (NodeId(*id), format!("n{id}"))).collect(),
            canary: None,
        };
        self.mgmt_down.remove(&id);
        self.mgmt_out.insert(id, Outputs::with_marks());
        self.apis.insert(id, ApiArbitrator::new(options));
        self.at(Duration::ZERO, Event::Wake(id));
    }

    pub(super) fn api_event(&mut self, id: Id, event: Event) {
        if self.mgmt_down.contains(&id) {
            return;
        }
        match event {
            Event::Frame(_, link, bytes) => {
                self.api_input(id, Input::Frame { link, bytes: &bytes });
            }
            Event::Up(_, link, peer) => self.api_input(id, Input::LinkUp { link, peer }),
            Event::Down(_, link, end) => self.api_input(id, Input::LinkDown { link, end }),
            Event::DialFailed(_, to, error) => {
                let addr = String::new();
                self.api_input(id, Input::DialFailed { to, addr, error });
            }
            Event::Wake(_) => {
                let core = &self.apis[&id];
                if core.next_timeout().is_some_and(|at| at <= self.now) {
                    self.api_input(id, Input::Timeout);
                }
            }
            Event::Stored(..) | Event::Dial(..) => unreachable!("an API node has no disk"),
        }
    }

    fn api_input(&mut self, id: Id, input: Input<'_>) {
        let Some((core, out)) = self.apis.get_mut(&id).zip(self.mgmt_out.get_mut(&id)) else {
            return;
        };
        core.handle(self.now, input, out);
        self.marks.extend(out.take_marks());
        let (effects, wake) = (out.take_effects(), core.next_timeout());
        let mut sent = Vec::new();
        while let Some(link) = out.pop_dirty() {
            sent.push((link, out.unsent(link).map(BytesMut::split).unwrap_or_default()));
        }
        for (link, mut bytes) in sent {
            while bytes.len() >= 4 {
                let length = u32::from_le_bytes(bytes[..4].try_into().expect("four")) as usize;
                let frame = bytes.split_to(4 + length).split_off(4);
                self.transmit(id, link, &frame);
            }
        }
        for effect in effects {
            self.perform(id, effect);
        }
        if let Some(at) = wake {
            self.at(at.since(self.now), Event::Wake(id));
        }
    }

    pub(super) fn mgmt_frame(&mut self, id: Id, link: LinkId, bytes: &[u8]) {
        if self.mgmt_down.contains(&id) {
            return;
        }
        let message = ControlMessage::parse(&bytes[1..]).expect("own bytes");
        if self.registers_lost.contains(&id) {
            let ControlMessage::RegisterView { view, .. } = message else { return };
            let me = MgmtId(id - MGMT);
            let named = matches!(&view.arbitrator, Some(Arbitrator::Mgmt { id, .. }) if *id == me);
            if !named {
                // What a later view that names it brings is its register.
                self.registers_lost.remove(&id);
                self.registers.insert(id, Register::new(view.identity()));
            }
            let (view, registered, lost) = (view.identity(), !named, named);
            let answer = ControlMessage::RegisteredView { view, registered, lost };
            return self.mgmt_answers(id, link, &answer);
        }
        let register = self.registers.get_mut(&id).expect("known");
        let answer = match message {
            ControlMessage::AskArbitrator { request, counted, wanted, .. } => {
                let verdict = register.ask(&counted, &wanted, None).verdict;
                ControlMessage::ArbitratorVerdict { request, verdict }
            }
            ControlMessage::RegisterView { view, counted } => {
                let verdict = register.ask(&counted, &view.identity(), None).verdict;
                let registered = verdict == Verdict::Granted;
                ControlMessage::RegisteredView { view: view.identity(), registered, lost: false }
            }
            other => panic!("not for an arbitrator: {other:?}"),
        };
        self.mgmt_answers(id, link, &answer);
    }

    fn mgmt_answers(&mut self, id: Id, link: LinkId, answer: &ControlMessage) {
        let mut frame = BytesMut::new();
        answer.frame(&mut frame);
        if let Some((to, there)) = self.conns.get(&(id, link)).copied()
            && !self.is_cut(id, to)
        {
            self.at(DELAY, Event::Frame(to, there, frame[4..].to_vec()));
        }
    }
}
