//! A whole data node: control and shards on threads of their own, joined by links in memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use bytes::BufMut;
use lockstep_proto::ids::{NodeInstance, ShardId};
use lockstep_proto::process::{
    DialError, Effect, Exit, Input, LinkEnd, LinkId, Outputs, Peer, Process, Target,
};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::frame;
use lockstep_proto::wire::hello::{Speaker, Wanted, Welcome};
use lockstep_runtime::{HostOptions, run_node};

use crate::cores::{Echo, instance, listener, order};
use crate::raw;

/// Rounds of the relay below.
const ROUNDS: u16 = 1000;

/// Passes a number round: control to shard 0, each shard to the next, the last one to control.
#[derive(Default)]
struct Relay {
    links: BTreeMap<Peer, LinkId>,
    next: Option<Peer>,
    starts_with: Option<usize>,
}

impl Relay {
    fn pass_on(&self, number: u16, out: &mut Outputs) {
        let link = self.links[&self.next.expect("a relay has a next")];
        frame(out.buffer(link).expect("up"), |body| body.put_u16_le(number));
    }
}

impl Process for Relay {
    fn handle(&mut self, _now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, peer } => {
                self.links.insert(peer, link);
                if self.starts_with == Some(self.links.len()) {
                    self.pass_on(0, out);
                }
            }
            Input::Frame { bytes, .. } => {
                let number = u16::from_le_bytes(bytes.try_into().expect("two bytes"));
                if self.starts_with.is_none() {
                    self.pass_on(number, out);
                } else if number < ROUNDS {
                    self.pass_on(number + 1, out);
                } else {
                    out.effect(Effect::Exit(Exit { code: 42, reason: "round".into() }));
                }
            }
            other => panic!("a relay hears nothing else: {other:?}"),
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

#[test]
fn cores_of_a_node_reach_each_other_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let own = instance(1, 1);
    let shard = |index| Peer::Shard(own, ShardId(index));
    let control = Relay { next: Some(shard(0)), starts_with: Some(3), ..Relay::default() };
    let shards = [shard(1), shard(2), Peer::Control(own)]
        .map(|next| Relay { next: Some(next), ..Relay::default() });
    let (listener, _) = listener();
    let options = HostOptions::new(listener, dir.path().into(), Speaker::Control(own));
    let exit = run_node(control, shards.into(), options).unwrap();
    assert_eq!(exit.code, 42);
}

/// A control core that dials once and tells everything it hears; ends when the link or dial does.
struct Probe {
    to: Target,
    addr: SocketAddr,
    tell: Sender<String>,
}

impl Probe {
    fn on_end(&self, what: &str, out: &mut Outputs) {
        self.tell.send(what.into()).expect("the test listens");
        out.effect(Effect::Exit(Exit { code: 0, reason: String::new() }));
    }
}

impl Process for Probe {
    fn handle(&mut self, _now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { peer: Peer::Shard(..), .. } => {
                out.effect(Effect::Dial { to: self.to.clone(), addr: self.addr.to_string() });
            }
            Input::LinkUp { peer, .. } => {
                self.tell.send(format!("up {peer:?}")).expect("the test listens");
            }
            Input::LinkDown { end: LinkEnd::Fin, .. } => self.on_end("fin", out),
            Input::LinkDown { end: LinkEnd::Reset, .. } => self.on_end("reset", out),
            Input::DialFailed { error, .. } => match error {
                DialError::Refused => self.on_end("refused", out),
                DialError::LaterIncarnation => self.on_end("later", out),
                DialError::WrongCluster => self.on_end("cluster", out),
                DialError::WrongVersion => self.on_end("version", out),
                DialError::Failed => self.on_end("failed", out),
            },
            other => panic!("a probe hears nothing else: {other:?}"),
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

/// A shard that does nothing.
pub(crate) struct Idle;

impl Process for Idle {
    fn handle(&mut self, _now: Instant, input: Input<'_>, _out: &mut Outputs) {
        assert!(!matches!(input, Input::Frame { .. }), "nobody speaks to an idle shard");
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Starts node 9, whose control core dials; what it hears comes out of the channel.
pub(crate) fn probe(to: Target, addr: SocketAddr) -> Receiver<String> {
    let (tell, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        let own = Speaker::Control(instance(9, 1));
        let options = HostOptions::new(listener().0, dir.path().into(), own);
        run_node(Probe { to, addr, tell }, vec![Idle], options).unwrap();
    });
    heard
}

/// A node of idle shards whose control obeys the orders of an echo; runs until ordered to end.
pub(crate) fn echo_node(own: NodeInstance) -> (SocketAddr, JoinHandle<Exit>) {
    let (listener, addr) = listener();
    let node = std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        let options = HostOptions::new(listener, dir.path().into(), Speaker::Control(own));
        run_node(Echo::default(), vec![Idle, Idle], options).unwrap()
    });
    (addr, node)
}

#[test]
fn a_dial_tells_nobody_from_a_later_life_from_a_wrong_address() {
    let (listener, nobody) = listener();
    drop(listener);
    let (addr, _node) = echo_node(instance(1, 5));
    let control = |incarnation| Target::Control(instance(1, incarnation));
    assert_eq!(probe(control(5), nobody).recv().unwrap(), "refused");
    assert_eq!(probe(control(4), addr).recv().unwrap(), "later");
    assert_eq!(probe(control(6), addr).recv().unwrap(), "failed");
    assert_eq!(probe(Target::Control(instance(2, 1)), addr).recv().unwrap(), "failed");
    assert_eq!(probe(control(5), addr).recv().unwrap(), "up Control(n1.5)");
    let watch = Target::Watch(instance(1, 5));
    assert_eq!(probe(watch, addr).recv().unwrap(), "up Watch(n1.5)");
    let shard = |index| Target::Shard(instance(1, 5), ShardId(index));
    assert_eq!(probe(shard(2), addr).recv().unwrap(), "failed");
}

#[test]
fn clients_without_a_wish_reach_the_first_shard() {
    let (addr, _node) = echo_node(instance(1, 5));
    let mut stream = raw::connect(addr);
    let welcome = raw::greet(&mut stream, &raw::hello(Speaker::Client, Wanted::Any, None));
    let by = Speaker::Shard(instance(1, 5), ShardId(0));
    assert_eq!(welcome, Welcome::Accepted { cluster: None, by });
}

#[test]
fn a_process_that_ends_itself_ends_its_death_watch_by_reset() {
    let (addr, node) = echo_node(instance(1, 5));
    let watch = probe(Target::Watch(instance(1, 5)), addr);
    assert_eq!(watch.recv().unwrap(), "up Watch(n1.5)");
    let mut by_hand =
        raw::link(addr, Speaker::Watch(instance(3, 1)), Wanted::Watch(instance(1, 5)));
    let mut control =
        raw::link(addr, Speaker::Control(instance(3, 1)), Wanted::Control(instance(1, 5)));
    control.write_all(&raw::framed(&[order::EXIT])).unwrap();
    raw::end_of(&mut by_hand).expect_err("reset");
    assert_eq!(watch.recv().unwrap(), "reset");
    assert_eq!(node.join().unwrap().code, 7);
}
