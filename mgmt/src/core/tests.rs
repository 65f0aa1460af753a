//! The management server against hand-written newcomers, control cores and clients.

use std::collections::BTreeMap;

use lockstep_proto::ids::{Incarnation, NodeId, NodeInstance, ViewNumber};
use lockstep_proto::process::LinkEnd;
use lockstep_proto::roster::Newcomer;
use lockstep_proto::view::{ClusterConfig, Member};
use lockstep_proto::wire::control::Verdict;

use super::*;

/// A management server with its links and its disk.
struct Bench {
    core: MgmtCore,
    out: Outputs,
    disk: BTreeMap<StoredFile, Vec<u8>>,
    exits: Vec<Exit>,
    closed: Vec<&'static str>,
    /// Stores that have not reached the disk yet.
    unstored: Vec<(u64, StoredFile, Vec<u8>)>,
    disk_is_slow: bool,
}

const OWN: MgmtId = MgmtId(1);

fn options(stored: MgmtStored) -> MgmtOptions {
    let config = ClusterConfig { replicas: 2, partitions: 8, ..ClusterConfig::default() };
    let plan = ClusterPlan { groups: 1, zones: vec!["a".to_owned(), "b".to_owned()], config };
    MgmtOptions {
        id: OWN,
        addr: "m1:1186".to_owned(),
        others: vec![(MgmtId(2), "m2:1186".to_owned())],
        plan,
        stored,
        wall_offset_ms: 0,
        cluster_id_seed: 77,
        canary: None,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(options(MgmtStored::default()))
    }

    fn with(options: MgmtOptions) -> Self {
        Self {
            core: MgmtCore::new(options),
            out: Outputs::with_marks(),
            disk: BTreeMap::new(),
            exits: Vec::new(),
            closed: Vec::new(),
            unstored: Vec::new(),
            disk_is_slow: false,
        }
    }

    /// The process is killed and started again on the same directory.
    fn restart(self) -> Self {
        let options = options(stored(&self));
        Self { disk: self.disk, ..Self::with(options) }
    }

    fn input(&mut self, input: Input<'_>) {
        self.core.handle(Instant(0), input, &mut self.out);
        for effect in self.out.take_effects() {
            match effect {
                Effect::Store { token, file, bytes } => self.unstored.push((token, file, bytes)),
                Effect::Exit(exit) => self.exits.push(exit),
                Effect::Close { why, .. } => self.closed.push(why),
                Effect::Log { .. } => {}
                Effect::Dial { .. }
                | Effect::Measure { .. }
                | Effect::Disk { .. }
                | Effect::Recover(_) => {
                    panic!("none of its effects")
                }
            }
        }
        if !self.disk_is_slow {
            self.disk_catches_up();
        }
    }

    fn disk_catches_up(&mut self) {
        self.disk_is_slow = false;
        for (token, file, bytes) in std::mem::take(&mut self.unstored) {
            self.disk.insert(file, bytes);
            self.input(Input::Stored { token, ok: true });
        }
    }

    fn connect(&mut self, peer: Peer) -> LinkId {
        let link = self.out.open_link();
        self.input(Input::LinkUp { link, peer });
        link
    }

    fn say(&mut self, link: LinkId, message: &ControlMessage) {
        let mut frame = bytes::BytesMut::new();
        message.frame(&mut frame);
        self.input(Input::Frame { link, bytes: &frame[4..] });
    }

    /// The frames on a link since the last call, kind byte and body.
    fn frames(&mut self, link: LinkId) -> Vec<Vec<u8>> {
        let mut unsent = self.out.unsent(link).expect("link is up").split();
        let mut frames = Vec::new();
        while !unsent.is_empty() {
            let head = unsent.split_to(4);
            let length = u32::from_le_bytes(head[..].try_into().expect("four bytes"));
            frames.push(unsent.split_to(length as usize).to_vec());
        }
        frames
    }

    fn heard(&mut self, link: LinkId) -> Vec<ControlMessage> {
        let frames = self.frames(link);
        frames.iter().map(|f| ControlMessage::parse(&f[1..]).expect("well formed")).collect()
    }

    fn views(&mut self, link: LinkId) -> Vec<ViewNumber> {
        let frames = self.frames(link);
        frames
            .iter()
            .map(|frame| match decode(&frame[1..]).expect("well formed") {
                ClientMessage::View { view } => view.number,
                other => panic!("not a view: {other:?}"),
            })
            .collect()
    }

    fn newcomer(&mut self, report: &ControlMessage) -> LinkId {
        let link = self.connect(Peer::Newcomer);
        self.say(link, report);
        link
    }

    /// A cluster of n1 in zone a and n2 in zone b.
    fn created() -> Self {
        let mut bench = Self::new();
        bench.newcomer(&report(1, "a"));
        bench.newcomer(&report(2, "b"));
        assert!(bench.core.view().is_some());
        bench.out.take_marks();
        bench
    }

    fn marked(&mut self, name: &str) -> bool {
        self.out.take_marks().contains(&name)
    }
}

fn stored(bench: &Bench) -> MgmtStored {
    MgmtStored::load(|file| bench.disk.get(&file).cloned()).expect("own files")
}

/// Node n reports from port n, process n, with the wish to be node n.
fn report(n: u16, zone: &str) -> ControlMessage {
    let newcomer = Newcomer {
        addr: format!("127.0.0.1:{n}"),
        zone: zone.to_owned(),
        shards: 1,
        process: u64::from(n),
        wanted: Some(NodeId(n)),
        group: None,
    };
    ControlMessage::Report { newcomer, creates: true }
}

fn restarted(mut report: ControlMessage) -> ControlMessage {
    if let ControlMessage::Report { newcomer, .. } = &mut report {
        newcomer.process += 100;
    }
    report
}

fn node(n: u16) -> NodeInstance {
    NodeInstance { node: NodeId(n), incarnation: Incarnation(1) }
}

fn identity(number: u64, nodes: &[u16]) -> ViewIdentity {
    let members = nodes.iter().copied().map(node).collect();
    ViewIdentity { number: ViewNumber(number), members }
}

/// `base` with another number and only these nodes.
fn follow(base: &View, number: u64, nodes: &[u16]) -> View {
    let stays = |m: &Member| nodes.contains(&m.instance.node.0);
    let members = base.members.iter().filter(|m| stays(m)).cloned().collect();
    View { number: ViewNumber(number), members, ..base.clone() }
}

fn ask(request: u64, counted: &[ViewIdentity], wanted: &ViewIdentity) -> ControlMessage {
    ControlMessage::AskArbitrator {
        request,
        cluster: ClusterId(77),
        asked: Arbitrator::Mgmt { id: OWN, addr: "m1:1186".to_owned() },
        counted: counted.to_vec(),
        wanted: wanted.clone(),
    }
}

fn verdict(request: u64, verdict: Verdict) -> ControlMessage {
    ControlMessage::ArbitratorVerdict { request, verdict }
}

fn refusal(messages: &[ControlMessage]) -> &str {
    match messages {
        [.., ControlMessage::AdmissionRefused { text }] => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_cluster_comes_into_being_when_all_have_reported() {
    let mut bench = Bench::new();
    let first = bench.newcomer(&report(2, "b"));
    let text = "1 of 2 data nodes are here; waiting for 1 more".to_owned();
    assert_eq!(bench.heard(first), [ControlMessage::AdmissionPending { text }]);
    let second = bench.newcomer(&report(1, "a"));
    let view = bench.core.view().expect("created").clone();
    assert_eq!(view.cluster, ClusterId(77));
    assert_eq!(view.identity(), identity(1, &[1, 2]));
    assert!(created::names(view.arbitrator.as_ref(), OWN));
    assert_eq!(view.arbitrators_possible.len(), 2);
    for (link, n) in [(first, 2), (second, 1)] {
        let admitted = ControlMessage::Admitted {
            cluster: ClusterId(77),
            instance: node(n),
            view: Box::new(view.clone()),
        };
        assert_eq!(bench.heard(link), [admitted]);
    }
    assert!(bench.marked("cluster_created"));
}

#[test]
fn nothing_is_handed_out_before_it_is_on_disk() {
    let mut bench = Bench::new();
    let watcher = bench.connect(Peer::Client);
    let first = bench.newcomer(&report(1, "a"));
    bench.heard(first);
    bench.disk_is_slow = true;
    let second = bench.newcomer(&report(2, "b"));
    let mut watch = bytes::BytesMut::new();
    frame_cold(&mut watch, kind::CLIENT, &ClientMessage::WatchView);
    bench.input(Input::Frame { link: watcher, bytes: &watch[4..] });
    for link in [first, second, watcher] {
        assert!(bench.frames(link).is_empty());
    }
    bench.disk_catches_up();
    assert_eq!(bench.heard(first).len(), 1);
    assert_eq!(bench.heard(second).len(), 1);
    assert_eq!(bench.views(watcher), [ViewNumber(1)]);
}

#[test]
fn a_creation_cut_between_its_files_starts_anew() {
    let mut bench = Bench::new();
    bench.newcomer(&report(1, "a"));
    bench.disk_is_slow = true;
    bench.newcomer(&report(2, "b"));
    let (_, file, bytes) = bench.unstored.remove(0);
    assert_eq!(file, StoredFile::Register);
    bench.disk.insert(file, bytes);
    let bench = bench.restart();
    assert!(bench.core.view().is_none());
}

#[test]
fn an_identity_is_given_to_one_process_only() {
    let mut bench = Bench::created().restart();
    let same = bench.newcomer(&report(2, "b"));
    let heard = bench.heard(same);
    let expected = node(2);
    assert!(
        matches!(&heard[..], [ControlMessage::Admitted { instance, .. }] if *instance == expected)
    );
    assert!(bench.marked("newcomer_admitted_again"));
    let other = bench.newcomer(&restarted(report(2, "b")));
    let heard = bench.heard(other);
    assert!(refusal(&heard).starts_with("node n2 of cluster"), "{heard:?}");
}

#[test]
fn a_newcomer_waits_for_the_seat_that_the_data_nodes_give_it() {
    let mut bench = Bench::created().restart();
    let data = bench.connect(Peer::Control(node(1)));
    let third = bench.newcomer(&report(3, "b"));
    let heard = bench.heard(third);
    assert!(matches!(&heard[..], [ControlMessage::AdmissionPending { .. }]), "{heard:?}");
    let asked = bench.heard(data);
    let [ControlMessage::Newcome(newcomer)] = &asked[..] else { panic!("{asked:?}") };
    let mut view = bench.core.view().expect("created").clone();
    view.number = view.number.next();
    view.roster.add(view.roster.seat_for(newcomer));
    let seated = |process| ControlMessage::Seated { process, view: Box::new(view.clone()) };
    bench.say(data, &seated(7));
    assert_eq!(bench.heard(third), [], "that process has no seat");
    bench.say(data, &seated(3));
    let heard = bench.heard(third);
    let [ControlMessage::Admitted { instance, .. }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(*instance, NodeInstance { node: NodeId(3), incarnation: Incarnation(0) });
    let again = bench.newcomer(&restarted(report(2, "b")));
    let heard = bench.heard(again);
    assert!(refusal(&heard).contains("node remove 2"), "{heard:?}");
}

#[test]
fn only_the_first_server_of_its_list_creates_a_cluster_of_a_newcomer() {
    let mut bench = Bench::new();
    for (n, zone) in [(1, "a"), (2, "b")] {
        let ControlMessage::Report { newcomer, .. } = report(n, zone) else { unreachable!() };
        let link = bench.newcomer(&ControlMessage::Report { newcomer, creates: false });
        let heard = bench.heard(link);
        assert!(matches!(&heard[..], [ControlMessage::AdmissionPending { .. }]), "{heard:?}");
    }
    assert!(bench.core.view().is_none());
}

#[test]
fn a_newcomer_that_went_away_before_creation_does_not_count() {
    let mut bench = Bench::new();
    let first = bench.newcomer(&report(1, "a"));
    bench.input(Input::LinkDown { link: first, end: LinkEnd::Fin });
    bench.newcomer(&report(2, "b"));
    assert!(bench.core.view().is_none());
    bench.newcomer(&restarted(report(1, "a")));
    assert!(bench.core.view().is_some());
}

#[test]
fn reports_that_do_not_fit_the_plan_are_refused_with_words() {
    let report_of = |addr: &str, zone: &str, shards, wanted| {
        let (addr, zone, wanted) = (addr.to_owned(), zone.to_owned(), Some(NodeId(wanted)));
        let newcomer = Newcomer { addr, zone, shards, process: 2, wanted, group: None };
        ControlMessage::Report { newcomer, creates: true }
    };
    let cases = [
        (report_of("127.0.0.1:2", "c", 1, 2), "zone \"c\" is not one of"),
        (report_of("127.0.0.1:2", "a", 1, 2), "zone \"a\" already has 1"),
        (report_of("127.0.0.1:2", "b", 1, 1), "node id 1 is taken by"),
        (report_of("127.0.0.1:2", "b", 1, 0), "node ids begin at 1"),
        (report_of("127.0.0.1:2", "b", 1, 999), "a new cluster's node ids"),
        (report_of("127.0.0.1:2", "b", 0, 2), "0 shards: set"),
        (report_of("127.0.0.1:1", "b", 1, 2), "another data node"),
        (report_of("nowhere", "b", 1, 2), "the address \"nowhere\""),
        (report_of("127.0.0.1:0", "b", 1, 2), "the address"),
    ];
    for (misfit, expected) in cases {
        let mut bench = Bench::new();
        bench.newcomer(&report(1, "a"));
        let link = bench.newcomer(&misfit);
        let heard = bench.heard(link);
        assert!(refusal(&heard).starts_with(expected), "{heard:?}");
        assert!(bench.marked("newcomer_refused"));
        assert!(bench.core.view().is_none());
    }
}

#[test]
fn one_half_is_granted_and_the_other_shown_the_winner_also_after_a_restart() {
    let mut bench = Bench::created();
    let (left, right) = (bench.connect(Peer::Control(node(1))), Peer::Control(node(2)));
    let whole = [identity(1, &[1, 2])];
    bench.say(left, &ask(7, &whole, &identity(2, &[1])));
    assert_eq!(bench.heard(left), [verdict(7, Verdict::Granted)]);
    assert!(bench.marked("arbitrator_granted"));
    let mut bench = bench.restart();
    let (left, right) = (bench.connect(Peer::Control(node(1))), bench.connect(right));
    bench.say(right, &ask(1, &whole, &identity(2, &[2])));
    let register = identity(2, &[1]);
    assert_eq!(bench.heard(right), [verdict(1, Verdict::Refused { register })]);
    assert!(bench.marked("arbitrator_refused"));
    bench.say(left, &ask(8, &whole, &identity(2, &[1])));
    assert_eq!(bench.heard(left), [verdict(8, Verdict::Granted)]);
    assert!(bench.marked("arbitrator_asked_again"));
}

#[test]
fn no_verdict_of_any_kind_leaves_before_the_register_is_on_disk() {
    let mut bench = Bench::created();
    let left = bench.connect(Peer::Control(node(1)));
    let right = bench.connect(Peer::Control(node(2)));
    let whole = [identity(1, &[1, 2])];
    bench.disk_is_slow = true;
    bench.say(left, &ask(1, &whole, &identity(2, &[1])));
    bench.say(right, &ask(1, &whole, &identity(2, &[2])));
    assert!(bench.heard(left).is_empty() && bench.heard(right).is_empty());
    bench.disk_catches_up();
    assert_eq!(bench.heard(left), [verdict(1, Verdict::Granted)]);
    assert_eq!(bench.heard(right).len(), 1);
}

#[test]
fn questions_of_strangers_or_for_another_arbitrator_are_not_answered() {
    let mut bench = Bench::created();
    let link = bench.connect(Peer::Control(node(1)));
    let whole = [identity(1, &[1, 2])];
    let mut stranger = ask(1, &whole, &identity(2, &[1]));
    if let ControlMessage::AskArbitrator { cluster, .. } = &mut stranger {
        *cluster = ClusterId(78);
    }
    bench.say(link, &stranger);
    let mut other = ask(1, &whole, &identity(2, &[1]));
    if let ControlMessage::AskArbitrator { asked, .. } = &mut other {
        *asked = Arbitrator::Mgmt { id: MgmtId(2), addr: "m2:1186".to_owned() };
    }
    bench.say(link, &other);
    assert!(bench.heard(link).is_empty());
    assert!(bench.marked("arbitrator_asked_in_vain"));
}

#[test]
fn watchers_get_every_registered_view_and_a_late_one_only_the_newest() {
    let mut bench = Bench::created();
    let view = bench.core.view().expect("created").clone();
    let early = bench.connect(Peer::Client);
    let mut watch = bytes::BytesMut::new();
    frame_cold(&mut watch, kind::CLIENT, &ClientMessage::WatchView);
    bench.input(Input::Frame { link: early, bytes: &watch[4..] });
    let control = bench.connect(Peer::Control(node(1)));
    let next = follow(&view, 2, &[1]);
    let register = ControlMessage::RegisterView {
        view: Box::new(next.clone()),
        counted: vec![view.identity()],
    };
    bench.say(control, &register);
    bench.say(control, &register);
    let answer =
        ControlMessage::RegisteredView { view: next.identity(), registered: true, lost: false };
    assert_eq!(bench.heard(control), [answer.clone(), answer]);
    assert_eq!(bench.views(early), [ViewNumber(1), ViewNumber(2)]);
    let mut bench = bench.restart();
    let late = bench.connect(Peer::Client);
    bench.input(Input::Frame { link: late, bytes: &watch[4..] });
    assert_eq!(bench.views(late), [ViewNumber(2)]);
}

#[test]
fn a_rival_view_is_neither_registered_nor_shown() {
    let mut bench = Bench::created();
    let view = bench.core.view().expect("created").clone();
    let left = bench.connect(Peer::Control(node(1)));
    bench.say(left, &ask(1, &[view.identity()], &identity(2, &[1])));
    let right = bench.connect(Peer::Control(node(2)));
    let rival = follow(&view, 2, &[2]);
    let counted = vec![view.identity()];
    bench.say(right, &ControlMessage::RegisterView { view: Box::new(rival.clone()), counted });
    let answer =
        ControlMessage::RegisteredView { view: rival.identity(), registered: false, lost: false };
    assert_eq!(bench.heard(right), [answer]);
    assert!(bench.marked("registration_refused"));
    assert_eq!(bench.core.view().expect("created").identity(), view.identity());
}

#[test]
fn a_second_server_keeps_copies_and_can_be_appointed() {
    let view = Bench::created().core.view().expect("created").clone();
    let second = MgmtOptions { id: MgmtId(2), ..options(MgmtStored::default()) };
    let mut bench = Bench::with(second);
    let control = bench.connect(Peer::Control(node(1)));
    let copy = ControlMessage::RegisterView { view: Box::new(view.clone()), counted: Vec::new() };
    bench.say(control, &copy);
    assert!(bench.marked("mgmt_copy_received"));
    assert!(!bench.disk.contains_key(&StoredFile::Register));
    let mut next = follow(&view, 2, &[1, 2]);
    next.arbitrator = view.arbitrators_possible.get(1).cloned();
    let counted = vec![view.identity()];
    bench.say(control, &ControlMessage::RegisterView { view: Box::new(next.clone()), counted });
    assert!(bench.marked("arbitrator_appointed"));
    let register = StoredRegister::from_file(&bench.disk[&StoredFile::Register]).expect("stored");
    assert_eq!(register.register.view(), &next.identity());
}

#[test]
fn an_emptied_directory_never_makes_up_a_register() {
    let view = Bench::created().core.view().expect("created").clone();
    let mut bench = Bench::new();
    let control = bench.connect(Peer::Control(node(1)));
    let counted = vec![view.identity()];
    let register = ControlMessage::RegisterView { view: Box::new(view.clone()), counted };
    bench.say(control, &register);
    let (registered, lost) = (false, true);
    let refused = ControlMessage::RegisteredView { view: view.identity(), registered, lost };
    assert_eq!(bench.heard(control), [refused]);
    assert!(bench.marked("arbitrator_without_register"));
    assert!(!bench.disk.contains_key(&StoredFile::Register));
    bench.say(control, &ask(1, &[view.identity()], &identity(2, &[1])));
    assert!(bench.heard(control).is_empty(), "it answers no side");
    // It serves views all the same, and takes a new register from the view that names it anew.
    let client = bench.connect(Peer::Client);
    let mut watch = bytes::BytesMut::new();
    frame_cold(&mut watch, kind::CLIENT, &ClientMessage::WatchView);
    bench.input(Input::Frame { link: client, bytes: &watch[4..] });
    assert_eq!(bench.views(client).len(), 1);
    let mut nobody = follow(&view, 2, &[1, 2]);
    nobody.arbitrator = None;
    let mut again = follow(&nobody, 3, &[1, 2]);
    again.arbitrator.clone_from(&view.arbitrator);
    for next in [nobody, again] {
        let (counted, identity) = (vec![view.identity()], next.identity());
        let register = ControlMessage::RegisterView { view: Box::new(next), counted };
        bench.say(control, &register);
        let (registered, lost) = (true, false);
        let taken = ControlMessage::RegisteredView { view: identity, registered, lost };
        assert_eq!(bench.heard(control), [taken]);
    }
    assert!(bench.marked("arbitrator_appointed"));
}

#[test]
fn a_failed_disk_ends_the_server_and_nothing_is_told() {
    let mut bench = Bench::created();
    let link = bench.connect(Peer::Control(node(1)));
    bench.disk_is_slow = true;
    bench.say(link, &ask(1, &[identity(1, &[1, 2])], &identity(2, &[1])));
    let (token, ..) = bench.unstored.remove(0);
    bench.input(Input::Stored { token, ok: false });
    assert_eq!(bench.exits.len(), 1);
    assert_eq!(bench.exits[0].code, 1);
    assert!(bench.heard(link).is_empty());
}

#[test]
fn malformed_and_misplaced_frames_close_the_link() {
    let mut bench = Bench::created();
    let control = bench.connect(Peer::Control(node(1)));
    let client = bench.connect(Peer::Client);
    let frames: [(LinkId, &[u8]); 4] = [
        (control, &[]),
        (control, &[kind::CONTROL, 250]),
        (control, &[kind::CLIENT, 0]),
        (client, &[kind::CLIENT, 250]),
    ];
    for (count, (link, bytes)) in (1..).zip(frames) {
        bench.input(Input::Frame { link, bytes });
        assert_eq!(bench.closed.len(), count);
    }
    bench.say(control, &ControlMessage::LeaveRequest);
    assert_eq!(bench.closed.len(), 5);
}

fn names(bench: &Bench) -> Vec<&'static str> {
    bench.core.events().events().iter().map(|event| event.what.name()).collect()
}

#[test]
fn what_happened_is_written_down_once_whichever_file_was_the_last_that_was_stored() {
    let bench = Bench::created();
    assert_eq!(names(&bench), ["cluster_met"]);
    let view = bench.core.view().expect("created").clone();
    let smaller = follow(&view, 2, &[1]);
    // Of the cluster's file and the log one reaches the disk, then the process dies.
    for kept in [StoredFile::View, StoredFile::Events] {
        let mut bench = Bench { disk: bench.disk.clone(), ..Bench::with(options(stored(&bench))) };
        let control = bench.connect(Peer::Control(node(1)));
        bench.disk_is_slow = true;
        let counted = vec![view.identity()];
        let register = ControlMessage::RegisterView { view: Box::new(smaller.clone()), counted };
        bench.say(control, &register);
        assert!(bench.heard(control).is_empty(), "what is not on disk is not told");
        for (_, file, bytes) in std::mem::take(&mut bench.unstored) {
            if file == kept || file == StoredFile::Register {
                bench.disk.insert(file, bytes);
            }
        }
        let mut bench = bench.restart();
        let control = bench.connect(Peer::Control(node(1)));
        bench.say(control, &register);
        assert_eq!(names(&bench), ["cluster_met", "node_lost"], "{kept:?} was stored");
        let client = bench.connect(Peer::Client);
        let mut question = bytes::BytesMut::new();
        frame_cold(&mut question, kind::CLIENT, &ClientMessage::GetEvents { after: 1 });
        bench.input(Input::Frame { link: client, bytes: &question[4..] });
        let answer: ClientMessage = decode(&bench.frames(client)[0][1..]).expect("well formed");
        let events = bench.core.events().events()[1..].to_vec();
        assert_eq!(answer, ClientMessage::Events { events });
        assert_eq!(names(&bench.restart()), ["cluster_met", "node_lost"]);
    }
}

#[test]
fn a_log_of_another_cluster_is_nobodys() {
    let bench = Bench::created();
    let mut other = stored(&bench);
    let cluster = other.cluster.as_mut().expect("created");
    cluster.view.cluster = ClusterId(78);
    assert_eq!(names(&Bench::with(options(other))), Vec::<&str>::new());
    let alone = MgmtStored { events: stored(&bench).events, ..MgmtStored::default() };
    assert_eq!(names(&Bench::with(options(alone))), Vec::<&str>::new());
}
