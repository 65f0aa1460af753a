//! Nodes that were started again, joined by queues, with an arbitrator's register: who forms the
//! cluster, at which epoch, and who waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use lockstep_cluster::{RestartCore, RestartOptions};
use lockstep_proto::ids::*;
use lockstep_proto::process::{Effect, Exit, Input, LinkId, Outputs, Peer, Process, Target};
use lockstep_proto::recovery::{Goal, Recovered, last_cut};
use lockstep_proto::register::Register;
use lockstep_proto::roster::Roster;
use lockstep_proto::stored::Stored;
use lockstep_proto::time::Instant;
use lockstep_proto::view::ViewIdentity;
use lockstep_proto::view::{Arbitrator, ClusterConfig, Member, Placement, Standing, View};
use lockstep_proto::wire::control::{ControlMessage, Returned};

const MGMT: MgmtId = MgmtId(1);
const STEP: Duration = Duration::from_millis(10);

fn life(node: u16, incarnation: u32) -> NodeInstance {
    NodeInstance { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

fn member(node: u16, group: u16) -> Member {
    Member {
        instance: life(node, 1),
        group: GroupId(group),
        zone: String::new(),
        addr: format!("n{node}:1"),
        shards: 1,
        seniority: u64::from(node),
        standing: Standing::InSync,
    }
}

/// View 5 of a cluster whose groups have these nodes.
fn view(groups: &[&[u16]]) -> View {
    let mut members = Vec::new();
    let mut placements = Vec::new();
    for (group, nodes) in (0..).zip(groups) {
        members.extend(nodes.iter().map(|node| member(*node, group)));
        let replicas: Vec<NodeId> = nodes.iter().map(|node| NodeId(*node)).collect();
        placements.push(Placement {
            group: GroupId(group),
            local_index: 0,
            primary: replicas[0],
            replicas,
            joining: Vec::new(),
            to: None,
        });
    }
    let arbitrator = Arbitrator::Mgmt { id: MGMT, addr: "m1:1".to_owned() };
    View {
        cluster: ClusterId(9),
        number: ViewNumber(5),
        config: ClusterConfig::default(),
        roster: Roster::of(&members),
        members,
        placements,
        arbitrator: Some(arbitrator.clone()),
        arbitrators_possible: vec![arbitrator],
        configured: lockstep_proto::configuration::ConfigState::default(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(0),
        cuts: Vec::new(),
    }
}

struct Node {
    core: RestartCore,
    out: Outputs,
    /// What its files reach, if they are of any use.
    reach: Option<u64>,
    /// That cannot be read, as who reads it finds out.
    rotten: bool,
    links: BTreeMap<LinkId, Peer>,
    stored: Option<View>,
    /// Its disk takes its time: what is being stored.
    slow: bool,
    storing: Option<u64>,
    exit: Option<Exit>,
    logs: Vec<String>,
    goals: Vec<Goal>,
}

/// Everything there is. Node 0 as a peer is the management server.
struct Net {
    now: Instant,
    nodes: BTreeMap<u16, Node>,
    register: Option<Register>,
    inputs: VecDeque<(u16, LinkId, Vec<u8>)>,
}

impl Net {
    fn new(register: Option<ViewIdentity>) -> Self {
        let register = register.map(Register::new);
        Self { now: Instant(1), nodes: BTreeMap::new(), register, inputs: VecDeque::new() }
    }

    /// Starts a node that has this view on disk.
    fn start(&mut self, node: u16, view: &View, reach: Option<u64>, force: bool) {
        let old = view.member(NodeId(node)).expect("a member").clone();
        let member = Member { instance: life(node, 2), ..old };
        let core = RestartCore::new(RestartOptions {
            member,
            view: view.clone(),
            mgmt: vec![(MGMT, "m1:1".to_owned())],
            patience: Duration::from_secs(3),
            force,
            canary: None,
        });
        let fresh = Node {
            core,
            out: Outputs::with_marks(),
            reach,
            rotten: false,
            links: BTreeMap::new(),
            stored: None,
            slow: false,
            storing: None,
            exit: None,
            logs: Vec::new(),
            goals: Vec::new(),
        };
        self.nodes.insert(node, fresh);
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.now = self.now + STEP;
            for node in self.nodes.keys().copied().collect::<Vec<u16>>() {
                let entry = self.nodes.get_mut(&node).expect("listed");
                if entry.core.next_timeout().is_some_and(|at| at <= self.now) {
                    entry.core.handle(self.now, Input::Timeout, &mut entry.out);
                }
                self.drain(node);
            }
            while let Some((to, link, frame)) = self.inputs.pop_front() {
                let entry = self.nodes.get_mut(&to).expect("addressed");
                entry.core.handle(self.now, Input::Frame { link, bytes: &frame }, &mut entry.out);
                self.drain(to);
            }
        }
    }

    fn input(&mut self, node: u16, input: Input<'_>) {
        let entry = self.nodes.get_mut(&node).expect("known");
        entry.core.handle(self.now, input, &mut entry.out);
        self.drain(node);
    }

    fn drain(&mut self, node: u16) {
        let entry = self.nodes.get_mut(&node).expect("known");
        let mut frames = Vec::new();
        while let Some(link) = entry.out.pop_dirty() {
            let mut bytes = entry.out.unsent(link).map(BytesMut::split).unwrap_or_default();
            let Some(peer) = entry.links.get(&link).copied() else { continue };
            while bytes.len() >= 4 {
                let length = u32::from_le_bytes(bytes[..4].try_into().expect("four")) as usize;
                frames.push((link, peer, bytes.split_to(4 + length).split_off(4).to_vec()));
            }
        }
        let effects = entry.out.take_effects();
        for (link, peer, frame) in frames {
            match peer {
                Peer::Control(to) => self.pass_on(node, to.node.0, frame),
                _ => self.ask_register(node, link, &frame),
            }
        }
        for effect in effects {
            self.perform(node, effect);
        }
    }

    fn pass_on(&mut self, from: u16, to: u16, frame: Vec<u8>) {
        let Some(entry) = self.nodes.get(&to) else { return };
        let back = entry.links.iter().find(|(_, peer)| **peer == Peer::Control(life(from, 2)));
        if let Some((link, _)) = back {
            self.inputs.push_back((to, *link, frame));
        }
    }

    fn ask_register(&mut self, node: u16, link: LinkId, frame: &[u8]) {
        let message = ControlMessage::parse(&frame[1..]).expect("well formed");
        let ControlMessage::AskArbitrator { request, counted, wanted, .. } = message else {
            return;
        };
        let Some(register) = &mut self.register else { return };
        let verdict = register.ask(&counted, &wanted, None).verdict;
        let mut answer = BytesMut::new();
        ControlMessage::ArbitratorVerdict { request, verdict }.frame(&mut answer);
        self.inputs.push_back((node, link, answer[4..].to_vec()));
    }

    fn perform(&mut self, node: u16, effect: Effect) {
        match effect {
            Effect::Dial { to: Target::Node(there), .. } => {
                let alive = self.nodes.get(&there.0).is_some_and(|n| n.exit.is_none());
                if !alive {
                    let error = lockstep_proto::process::DialError::Refused;
                    let (to, addr) = (Target::Node(there), String::new());
                    return self.input(node, Input::DialFailed { to, addr, error });
                }
                self.link(node, Peer::Control(life(there.0, 2)));
                self.link(there.0, Peer::Control(life(node, 2)));
            }
            Effect::Dial { .. } => self.link(node, Peer::Mgmt(MGMT)),
            Effect::Recover(wish) => {
                let entry = self.nodes.get_mut(&node).expect("known");
                entry.goals.push(wish.goal);
                let reach = entry.reach.map(Epoch);
                let limit = wish.generations.limit(RestartGeneration(0)).expect("known");
                let reach = reach.map(|epoch| epoch.min(limit));
                let result = match (wish.goal, reach) {
                    (Goal::Anew, _) => Ok(Epoch(0)),
                    (Goal::Rejoin, reach) => Ok(reach.unwrap_or_default()),
                    (_, None) => Err("a file is damaged".to_owned()),
                    (Goal::Survey, Some(epoch)) => Ok(epoch),
                    (Goal::Exactly(_), _) if entry.rotten => Err("a block is damaged".to_owned()),
                    (Goal::Exactly(to), Some(epoch)) if to <= epoch => Ok(to),
                    (Goal::Exactly(_), Some(_)) => Err("too short".to_owned()),
                };
                self.input(node, Input::Recovered { token: wish.token, result });
            }
            Effect::Store { token, bytes, .. } => {
                let view = View::from_file(&bytes).expect("a view");
                let entry = self.nodes.get_mut(&node).expect("known");
                entry.stored = Some(view);
                if entry.slow {
                    entry.storing = Some(token);
                    return;
                }
                self.input(node, Input::Stored { token, ok: true });
            }
            Effect::Exit(exit) => self.nodes.get_mut(&node).expect("known").exit = Some(exit),
            Effect::Log { text, .. } => self.nodes.get_mut(&node).expect("known").logs.push(text),
            Effect::Close { .. } | Effect::Measure { .. } | Effect::Disk { .. } => {}
        }
    }

    fn link(&mut self, node: u16, peer: Peer) {
        let entry = self.nodes.get_mut(&node).expect("known");
        let link = entry.out.open_link();
        entry.links.insert(link, peer);
        self.input(node, Input::LinkUp { link, peer });
    }

    /// The view a node has ended with.
    fn entered(&self, node: u16) -> Option<&View> {
        let entry = &self.nodes[&node];
        entry.exit.as_ref().filter(|exit| exit.code == 0)?;
        entry.stored.as_ref()
    }

    /// The rare branches a node has taken.
    fn marks(&mut self, node: u16) -> Vec<&'static str> {
        self.nodes.get_mut(&node).expect("known").out.take_marks()
    }

    /// Says something to a node as this life of another.
    fn say(&mut self, from: NodeInstance, to: u16, message: &ControlMessage) {
        let mut frame = BytesMut::new();
        message.frame(&mut frame);
        let entry = self.nodes.get_mut(&to).expect("known");
        let link = entry.out.open_link();
        entry.links.insert(link, Peer::Control(from));
        self.input(to, Input::LinkUp { link, peer: Peer::Control(from) });
        self.input(to, Input::Frame { link, bytes: &frame[4..] });
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn all_come_back_at_the_largest_epoch_every_group_can_reach() {
    let view = view(&[&[1, 2], &[3, 4]]);
    let mut net = Net::new(Some(view.identity()));
    for (node, reach) in [(1, 70), (2, 90), (3, 80), (4, 60)] {
        net.start(node, &view, Some(reach), false);
    }
    net.run(SECOND);
    // Group 0 reaches e90, group 1 e80: so e80. Nodes 1 and 4 have less and rejoin.
    let formed = net.entered(2).expect("formed").clone();
    assert_eq!(net.entered(3), Some(&formed));
    assert_eq!(last_cut(&formed), Epoch(80));
    assert_eq!(formed.restart_generation, RestartGeneration(1));
    assert_eq!(formed.seal, Epoch(80));
    let members: Vec<NodeInstance> = formed.members.iter().map(|m| m.instance).collect();
    assert_eq!(members, vec![life(2, 2), life(3, 2)]);
    assert_eq!(formed.placements[0].replicas, vec![NodeId(2)]);
    assert_eq!(net.register.as_ref().map(Register::view), Some(&formed.identity()));
    assert!(net.entered(1).is_none() && net.entered(4).is_none());
    assert_eq!(net.nodes[&2].goals, vec![Goal::Survey, Goal::Exactly(Epoch(80))]);
    assert_eq!(net.nodes[&1].goals, vec![Goal::Survey, Goal::Rejoin]);
}

#[test]
fn who_reaches_less_starts_the_cluster_if_the_others_cannot_read_their_files() {
    let view = view(&[&[1, 2]]);
    let mut net = Net::new(Some(view.identity()));
    net.start(1, &view, Some(70), false);
    net.start(2, &view, Some(90), false);
    net.nodes.get_mut(&2).expect("started").rotten = true;
    net.run(4 * SECOND);
    let formed = net.entered(1).expect("formed").clone();
    assert_eq!(last_cut(&formed), Epoch(70));
    let members: Vec<NodeInstance> = formed.members.iter().map(|m| m.instance).collect();
    assert_eq!(members, vec![life(1, 2)]);
    assert!(net.marks(2).contains(&"restart_restore_failed"));
}

#[test]
fn a_part_waits_and_then_needs_the_arbitrator() {
    let view = view(&[&[1, 2]]);
    let mut net = Net::new(Some(view.identity()));
    net.start(2, &view, Some(50), false);
    net.run(2 * SECOND);
    assert!(net.entered(2).is_none(), "patience");
    net.run(2 * SECOND);
    let formed = net.entered(2).expect("granted").clone();
    assert_eq!(formed.members.len(), 1);
    // The other half comes up alone: its question is refused, and it waits.
    net.nodes.remove(&2);
    net.start(1, &view, Some(60), false);
    net.run(8 * SECOND);
    assert!(net.entered(1).is_none(), "{:?}", net.nodes[&1].logs);
    let marks = net.marks(1);
    assert!(marks.contains(&"restart_refused") && marks.contains(&"restart_asks_anew"));
    let mut net = Net::new(None);
    net.start(2, &view, Some(50), false);
    net.run(8 * SECOND);
    assert!(net.entered(2).is_none(), "nobody to ask");
    assert!(net.nodes[&2].logs.iter().any(|line| line.contains("missing: n1 at n1:1")));
}

#[test]
fn all_of_them_need_no_arbitrator() {
    let view = view(&[&[1, 2]]);
    let mut net = Net::new(None);
    net.start(1, &view, Some(50), false);
    net.start(2, &view, Some(50), false);
    net.run(SECOND);
    assert!(net.entered(1).is_none(), "it may still answer");
    net.run(3 * SECOND);
    let formed = net.entered(1).expect("nobody else can be acting").clone();
    assert_eq!(net.entered(2), Some(&formed));
    assert!(net.marks(1).contains(&"restart_without_arbitrator"));
}

/// What was restored is what the node begins with: another look at the files would drop it.
#[test]
fn a_view_that_is_being_stored_is_the_last_word() {
    let view = view(&[&[1, 2]]);
    let mut net = Net::new(Some(view.identity()));
    net.start(1, &view, Some(50), false);
    net.start(2, &view, Some(50), false);
    net.nodes.get_mut(&2).expect("started").slow = true;
    net.run(5 * SECOND);
    let formed = net.entered(1).expect("formed").clone();
    let token = net.nodes[&2].storing.expect("its disk is slow");
    let goals = net.nodes[&2].goals.len();
    // Node 1 acts in the view, dies, and is back before node 2 has it on disk.
    let member = Member { instance: life(1, 3), ..formed.members[0].clone() };
    let returned = Returned {
        member,
        view: Box::new(formed.clone()),
        reached: None,
        damaged: false,
        recovered: None,
        promised: None,
    };
    net.say(life(1, 3), 2, &ControlMessage::Returned(Box::new(returned)));
    net.run(SECOND);
    assert_eq!(net.nodes[&2].goals.len(), goals, "what was restored stays");
    net.input(2, Input::Stored { token, ok: true });
    assert_eq!(net.entered(2), Some(&formed));
    assert_eq!(net.nodes[&2].core.recovered(), Some(Recovered::under(&formed, Epoch(50))));
}

/// A view that somebody may have made counts on whoever said to be ready for it.
#[test]
fn who_is_ready_for_a_view_begins_in_no_older_one() {
    let base = view(&[&[1, 2, 3]]);
    let founded = |number: u64, nodes: &[u16]| {
        let mut view = base.clone();
        view.number = ViewNumber(number);
        view.members.retain(|member| nodes.contains(&member.instance.node.0));
        view.members.iter_mut().for_each(|m| m.instance = life(m.instance.node.0, 2));
        view.cuts.push((RestartGeneration(0), Epoch(50)));
        view.restart_generation = RestartGeneration(1);
        Box::new(view)
    };
    let mut net = Net::new(None);
    net.start(2, &base, Some(50), false);
    let wanted = founded(9, &[1, 2, 3]);
    net.say(life(1, 2), 2, &ControlMessage::Forming { view: wanted });
    net.run(SECOND);
    assert_eq!(net.nodes[&2].goals.last(), Some(&Goal::Exactly(Epoch(50))));
    let older = founded(8, &[2, 3]);
    net.say(life(3, 2), 2, &ControlMessage::NewView { view: older.clone() });
    net.run(SECOND);
    assert!(net.entered(2).is_none());
    // Once it leads, it wants a view that its promise allows.
    net.register = Some(Register::new(base.identity()));
    net.run(3 * SECOND);
    net.start(3, &base, Some(50), false);
    net.run(6 * SECOND);
    let formed = net.entered(2).expect("granted");
    assert_eq!((formed.number, formed.members.len()), (ViewNumber(10), 2));
    assert_eq!(net.entered(3), Some(formed));
    let mut free = Net::new(None);
    free.start(2, &base, Some(50), false);
    free.say(life(3, 2), 2, &ControlMessage::NewView { view: older.clone() });
    free.run(SECOND);
    assert_eq!(free.entered(2), Some(&*older), "without the promise");
}

#[test]
fn a_minority_waits_and_the_operator_can_force_it() {
    let view = view(&[&[1, 2, 3]]);
    let mut net = Net::new(Some(view.identity()));
    net.start(3, &view, Some(50), false);
    net.run(10 * SECOND);
    assert!(net.entered(3).is_none());
    let mut net = Net::new(Some(view.identity()));
    net.start(3, &view, Some(50), true);
    net.run(SECOND);
    assert!(net.entered(3).is_none(), "others may be on their way, with more");
    net.run(3 * SECOND);
    assert_eq!(net.entered(3).map(|view| view.members.len()), Some(1));
}

#[test]
fn half_the_data_is_not_a_cluster_even_by_force() {
    let view = view(&[&[1, 2], &[3, 4]]);
    let mut net = Net::new(Some(view.identity()));
    net.start(1, &view, Some(50), true);
    net.start(2, &view, Some(50), true);
    net.start(3, &view, None, true);
    net.run(10 * SECOND);
    assert!((1..=3).all(|node| net.entered(node).is_none()));
    assert!(net.nodes[&1].logs.iter().any(|line| line.contains("waiting for a node of group")));
}

#[test]
fn the_newest_view_on_any_disk_counts() {
    let old = view(&[&[1, 2]]);
    let mut newer = view(&[&[1, 2]]);
    newer.number = ViewNumber(8);
    newer.restart_generation = RestartGeneration(1);
    newer.cuts = vec![(RestartGeneration(0), Epoch(40))];
    let mut net = Net::new(Some(newer.identity()));
    net.start(1, &old, Some(90), false);
    net.run(SECOND);
    net.start(2, &newer, Some(70), false);
    net.run(2 * SECOND);
    let formed = net.entered(1).expect("formed");
    assert_eq!(formed.number, ViewNumber(9));
    assert_eq!(formed.cuts.len(), 2);
    // By the newer view nothing of generation 0 behind e40 counts, on either disk.
    assert_eq!(last_cut(formed), Epoch(40));
    assert_eq!(net.entered(2), Some(formed));
}

#[test]
fn a_view_that_nobody_acted_in_is_counted_against_and_passed_over() {
    let view = view(&[&[1, 2]]);
    let stale = ViewIdentity { number: ViewNumber(6), members: vec![life(2, 1)] };
    let mut net = Net::new(Some(stale.clone()));
    net.start(1, &view, Some(50), false);
    net.run(8 * SECOND);
    assert!(net.entered(1).is_none(), "node 2 may be acting in it");
    net.start(2, &view, Some(50), false);
    net.run(2 * SECOND);
    let formed = net.entered(1).expect("both are here and neither has it");
    assert_eq!(formed.number, ViewNumber(7));
    assert_eq!(formed.members.len(), 2);
}

#[test]
fn whoever_finds_a_living_cluster_restores_itself_and_is_admitted() {
    let old = view(&[&[1, 2, 3]]);
    let mut acting = old.clone();
    acting.number = ViewNumber(6);
    acting.members.remove(0);
    acting.placements[0].replicas.remove(0);
    acting.placements[0].primary = NodeId(2);
    let mut net = Net::new(Some(acting.identity()));
    net.start(1, &old, None, false);
    let tell = ControlMessage::NewView { view: Box::new(acting.clone()) };
    net.say(life(2, 1), 1, &tell);
    net.run(SECOND);
    assert!(net.entered(1).is_none());
    let recovered = net.nodes[&1].core.recovered().expect("restored, if only to nothing");
    assert_eq!(recovered.epoch, Epoch(0), "its files are damaged: everything is copied");
    acting.number = ViewNumber(7);
    let back = Member { instance: life(1, 2), standing: Standing::Copying, ..member(1, 0) };
    acting.members.insert(0, back);
    net.say(life(2, 1), 1, &ControlMessage::NewView { view: Box::new(acting.clone()) });
    assert_eq!(net.entered(1), Some(&acting));
}

#[test]
fn rows_are_restored_again_after_another_look_at_the_files() {
    let view = view(&[&[1, 2]]);
    let mut net = Net::new(Some(view.identity()));
    net.start(2, &view, Some(50), false);
    net.run(SECOND);
    let mut formed = view.clone();
    formed.number = ViewNumber(view.number.0 + 1);
    for member in &mut formed.members {
        member.instance.incarnation = Incarnation(2);
    }
    formed.seal = Epoch(40);
    formed.cuts.push((formed.restart_generation, Epoch(40)));
    formed.restart_generation = RestartGeneration(1);
    net.say(life(1, 2), 2, &ControlMessage::Forming { view: Box::new(formed.clone()) });
    net.run(STEP);
    let mut goals = vec![Goal::Survey, Goal::Exactly(Epoch(40))];
    assert_eq!(net.nodes[&2].goals, goals);
    // The eldest dies with the view on its disk, and its next life shows it: the files are looked
    // at under that view, and what the driver had restored before is gone.
    let returned = Returned {
        member: Member { instance: life(1, 3), ..formed.members[0].clone() },
        view: Box::new(formed.clone()),
        reached: Some(Epoch(40)),
        damaged: false,
        recovered: None,
        promised: None,
    };
    net.say(life(1, 3), 2, &ControlMessage::Returned(Box::new(returned)));
    net.run(STEP);
    goals.push(Goal::Survey);
    assert_eq!(net.nodes[&2].goals, goals, "the view that was to be formed is there");
    assert!(net.entered(2).is_none());
    net.say(life(1, 2), 2, &ControlMessage::NewView { view: Box::new(formed.clone()) });
    net.run(STEP);
    goals.push(Goal::Exactly(Epoch(40)));
    assert_eq!(net.nodes[&2].goals, goals);
    assert_eq!(net.entered(2), Some(&formed));
}
