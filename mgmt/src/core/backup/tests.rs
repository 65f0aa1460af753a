//! A management server's part in backups, against shards that are played by the test.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_proto::disk::{DiskError, FileName, Op, Request};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{
    ClusterId, GroupId, Incarnation, NodeId, PartitionId, RestartGeneration, ViewNumber,
};
use lockstep_proto::process::{Effect, Target};
use lockstep_proto::view::{Arbitrator, ClusterConfig, Member, Placement, Standing};
use lockstep_proto::wire::backup::{PartError, PartSum};
use lockstep_proto::wire::kind;

use super::*;

mod moved;
mod recorded;

const ME: MgmtId = MgmtId(1);
const OTHER: MgmtId = MgmtId(2);
const FIRST: BackupId = BackupId(1);
const SUM: PartSum = PartSum { rows: 10, row_bytes: 100, file_bytes: 300, checksum: 7 };

/// Two nodes with a shard each, which hold four partitions between them.
fn view() -> View {
    let instance = |node| NodeInstance { node: NodeId(node), incarnation: Incarnation(1) };
    let member = |node: u16| Member {
        instance: instance(node),
        group: GroupId(0),
        zone: "z".into(),
        addr: format!("n{node}:1"),
        shards: 1,
        seniority: u64::from(node),
        standing: Standing::InSync,
    };
    let placement = |p: u16| Placement {
        group: GroupId(0),
        local_index: p,
        primary: NodeId(p % 2 + 1),
        replicas: vec![NodeId(1), NodeId(2)],
        joining: Vec::new(),
        to: None,
    };
    View {
        cluster: ClusterId(9),
        number: ViewNumber(1),
        config: ClusterConfig { partitions: 4, ..ClusterConfig::default() },
        configured: lockstep_proto::configuration::ConfigState::default(),
        roster: lockstep_proto::roster::Roster::of(&[member(1), member(2)]),
        members: vec![member(1), member(2)],
        placements: (0..4).map(placement).collect(),
        arbitrator: None,
        arbitrators_possible: Vec::new(),
        left_out: Vec::new(),
        seal: Epoch(0),
        restart_generation: RestartGeneration(3),
        cuts: Vec::new(),
    }
}

/// The next view: a third node has come, in a group of its own, and two partitions with it.
fn grown() -> View {
    let mut newer = View { number: ViewNumber(2), ..view() };
    let instance = NodeInstance { node: NodeId(3), incarnation: Incarnation(1) };
    let (group, addr) = (GroupId(1), "n3:1".into());
    newer.members.push(Member { instance, group, addr, ..newer.members[0].clone() });
    for placement in &mut newer.placements[..2] {
        (placement.group, placement.primary) = (GroupId(1), NodeId(3));
        placement.replicas = vec![NodeId(3)];
    }
    newer
}

struct Bench {
    backups: Backups,
    out: Outputs,
    now: Instant,
    links: BTreeMap<u16, LinkId>,
    disk: Vec<Request>,
    marks: Vec<&'static str>,
    /// Stores of the records, and whether they take until the test says so.
    stores: u64,
    slow: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            backups: Backups::restore(ME, StoredBackups::default(), Some(&view()), None),
            out: Outputs::with_marks(),
            now: Instant::default(),
            links: BTreeMap::new(),
            disk: Vec::new(),
            marks: Vec::new(),
            stores: 0,
            slow: false,
        }
    }

    /// Takes what was asked for, and links the shards that were dialled.
    fn settle(&mut self) {
        for effect in self.out.take_effects() {
            match effect {
                Effect::Dial { to: Target::Shard(instance, shard), .. } => {
                    let link = self.out.open_link();
                    self.links.insert(instance.node.0, link);
                    let known =
                        self.backups.on_shard_up(self.now, link, (instance, shard), &mut self.out);
                    assert!(known);
                }
                Effect::Disk { request, .. } => self.disk.push(request),
                _ => {}
            }
        }
        self.marks.extend(self.out.take_marks());
    }

    /// Stores the records if they have changed.
    fn after(&mut self, changed: bool) {
        if changed {
            self.stores += 1;
            self.backups.on_storing(self.stores);
            if !self.slow {
                return self.stored(self.stores);
            }
        }
        self.settle();
    }

    /// A store is done.
    fn stored(&mut self, store: u64) {
        let changed = self.backups.on_stored(self.now, store, &mut self.out);
        self.after(changed);
    }

    fn see(&mut self, view: &View) {
        let changed = self.backups.on_view(self.now, view, &mut self.out);
        self.after(changed);
    }

    /// Another server tells what it knows; whether that is news to be stored.
    fn learn(&mut self, from: MgmtId, list: Vec<BackupRecord>) -> bool {
        let changed = self.backups.on_peer(self.now, from, list, &mut self.out);
        self.after(changed);
        changed
    }

    fn order(&mut self, message: BackupMessage) -> Option<String> {
        let told = self.backups.on_operator(self.now, message, &mut self.out).expect("an order");
        self.after(told.changed);
        match told.answer {
            Some(BackupMessage::Done { refused, .. }) => refused,
            other => panic!("no answer to an order: {other:?}"),
        }
    }

    fn create(&mut self, backup: BackupId) -> Option<String> {
        self.order(BackupMessage::Create { backup, dir: Some("/b".into()), asked_ms: 5 })
    }

    fn say(&mut self, node: u16, message: BackupMessage) {
        let changed = self.backups.on_shard(self.now, self.links[&node], message, &mut self.out);
        self.after(changed);
    }

    /// What a node was told since it was last asked about.
    fn heard(&mut self, node: u16) -> Vec<BackupMessage> {
        let unsent = self.out.unsent(self.links[&node]).expect("linked");
        let mut bytes = std::mem::take(unsent);
        let mut heard = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
            let frame = bytes.split_to(4 + length);
            assert_eq!(frame[4], kind::BACKUP);
            heard.push(BackupMessage::parse(&frame[5..]).expect("a message"));
        }
        heard
    }

    fn disk_done(&mut self, error: Option<DiskError>) -> Vec<Op> {
        let request = self.disk.remove(0);
        let failed = error.map(|error| (request.ops.len() - 1, error));
        let done = Completion { ops: request.ops.clone(), failed };
        let changed = self.backups.on_disk(self.now, &done, &mut self.out);
        self.after(changed);
        request.ops
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        let changed = self.backups.on_timeout(self.now, &mut self.out);
        self.after(changed);
    }

    fn state(&self) -> BackupState {
        self.backups.records().last().expect("one was begun").state.clone()
    }

    /// Both shards have pinned the epoch.
    fn pinned(&mut self) {
        assert_eq!(self.create(FIRST), None);
        for (node, epoch) in [(1, 90), (2, 94)] {
            assert_eq!(self.heard(node), [BackupMessage::Ask { backup: FIRST }]);
            self.say(node, BackupMessage::Epoch { backup: FIRST, epoch: Epoch(epoch) });
        }
        for node in [1, 2] {
            let dir = Some("/b".to_owned());
            let pin = BackupMessage::Pin { backup: FIRST, epoch: Epoch(94), dir };
            assert_eq!(self.heard(node), [pin]);
            let refused = None;
            self.say(node, BackupMessage::Pinned { backup: FIRST, epoch: Epoch(94), refused });
        }
    }

    fn writes(&mut self, node: u16) -> Vec<(u32, Vec<PartitionId>)> {
        let heard = self.heard(node).into_iter().filter_map(|message| match message {
            BackupMessage::Write { piece, partitions, .. } => Some((piece, partitions)),
            _ => None,
        });
        heard.collect()
    }

    fn wrote(&mut self, node: u16, piece: u32, result: Result<PartSum, PartError>) {
        self.say(node, BackupMessage::Wrote { backup: FIRST, piece, result });
    }

    fn lose(&mut self, node: u16) {
        let changed = self.backups.on_link_down(self.now, self.links[&node], &mut self.out);
        self.after(changed);
    }

    /// Everything is removed, as far as the disks let it.
    fn clear(&mut self, nodes: &[u16]) {
        self.clear_of(FIRST, nodes);
    }

    fn clear_of(&mut self, backup: BackupId, nodes: &[u16]) {
        self.disk_done(None);
        for node in nodes {
            let clear = BackupMessage::Clear { backup, dir: Some("/b".into()) };
            assert!(self.heard(*node).contains(&clear));
            self.say(*node, BackupMessage::Cleared { backup, failed: None });
        }
        assert_eq!(self.disk_done(None).last(), Some(&Op::RemoveEmpty(backup)));
        assert!(self.disk.is_empty());
    }

    /// It has been told of a backup in an earlier life.
    fn knows(&mut self, record: BackupRecord) {
        let stored = StoredBackups { list: vec![record] };
        self.backups = Backups::restore(ME, stored, Some(&view()), None);
    }

    /// How many shards were dialled.
    fn heard_by_anybody(&self) -> usize {
        self.links.len()
    }
}

/// A whole backup, with parts at both nodes.
fn done() -> BackupRecord {
    BackupRecord {
        backup: FIRST,
        by: ME,
        turn: 3,
        dir: Some("/b".into()),
        asked_ms: 5,
        state: BackupState::Done,
        epoch: Epoch(94),
        rows: 20,
        row_bytes: 200,
        file_bytes: 600,
        partitions: (4, 4),
        parts_at: vec![NodeId(1), NodeId(2)],
        unwanted: Vec::new(),
    }
}

fn both(p: [u16; 2]) -> Vec<PartitionId> {
    p.map(PartitionId).to_vec()
}

#[test]
fn each_partition_is_written_by_a_backup_and_named_when_all_are_promised() {
    let mut bench = Bench::new();
    bench.pinned();
    // n1 leads p0 and p2.
    assert_eq!(bench.writes(1), [(1, both([1, 3]))]);
    assert_eq!(bench.writes(2), [(2, both([0, 2]))]);
    bench.wrote(1, 1, Ok(SUM));
    assert_eq!(bench.heard(1), []);
    bench.wrote(2, 2, Ok(SUM));
    for node in [1, 2] {
        let newest = u32::from(node);
        assert_eq!(bench.heard(node), [BackupMessage::Keep { backup: FIRST, newest }]);
        assert!(bench.disk.is_empty(), "not all have promised");
        bench.say(node, BackupMessage::Kept { backup: FIRST, newest });
    }
    assert_eq!(bench.state(), BackupState::Finishing);
    assert!(bench.order(BackupMessage::Abort { backup: FIRST }).is_some(), "too late");
    let ops = bench.disk_done(None);
    let written = ops.iter().find_map(|op| match op {
        Op::Write { bytes, .. } => Some(Manifest::from_file(bytes).expect("whole")),
        _ => None,
    });
    let manifest = written.expect("a manifest");
    assert_eq!((manifest.epoch, manifest.generation), (Epoch(94), RestartGeneration(3)));
    assert_eq!((manifest.rows(), manifest.file_bytes()), ((20, 200), 600));
    assert_eq!(bench.state(), BackupState::Done);
    assert_eq!(bench.heard(2), [BackupMessage::End { backup: FIRST }]);
    assert!(bench.create(FIRST).is_some(), "a name is given once");
}

#[test]
fn a_second_backup_is_refused_while_one_is_under_way() {
    let mut bench = Bench::new();
    bench.pinned();
    let refused = bench.create(BackupId(2)).expect("one at a time");
    assert!(refused.contains("b1 is under way"), "{refused}");
    let other = bench.order(BackupMessage::Abort { backup: BackupId(2) });
    assert!(other.is_some_and(|text| text.contains("no backup b2")));
}

#[test]
fn who_is_lost_before_the_manifest_takes_his_parts_with_him() {
    let mut bench = Bench::new();
    bench.pinned();
    assert_eq!(bench.writes(2), [(2, both([0, 2]))]);
    bench.wrote(1, 1, Ok(SUM));
    bench.wrote(2, 2, Ok(SUM));
    bench.say(1, BackupMessage::Kept { backup: FIRST, newest: 1 });
    assert_eq!(bench.heard(2), [BackupMessage::Keep { backup: FIRST, newest: 2 }]);
    bench.lose(1);
    assert!(bench.disk.is_empty());
    assert_eq!(bench.writes(2), [(3, both([1, 3]))]);
    // A promise that was on its way: for its earlier parts, which are loose again by now.
    bench.say(2, BackupMessage::Kept { backup: FIRST, newest: 2 });
    bench.wrote(2, 3, Ok(SUM));
    assert_eq!(bench.heard(2), [BackupMessage::Keep { backup: FIRST, newest: 3 }]);
    assert!(bench.disk.is_empty());
    bench.say(2, BackupMessage::Kept { backup: FIRST, newest: 3 });
    bench.disk_done(None);
    assert_eq!(bench.state(), BackupState::Done);
    assert!(bench.marks.contains(&"backup_writer_lost"));
}

#[test]
fn a_full_disk_makes_another_write_and_two_end_it() {
    let mut bench = Bench::new();
    bench.pinned();
    bench.writes(2);
    bench.wrote(1, 1, Err(PartError::Disk(DiskError::Full)));
    assert_eq!(bench.writes(2), [(3, both([1, 3]))]);
    bench.wrote(2, 2, Ok(SUM));
    bench.wrote(2, 3, Err(PartError::Disk(DiskError::Full)));
    let BackupState::Failed(why) = bench.state() else { panic!("nobody can write it") };
    assert!(why.contains("no space left"), "{why}");
    bench.clear(&[1, 2]);
    assert!(bench.marks.contains(&"backup_part_goes_to_another"));
    assert_eq!(bench.create(BackupId(2)), None, "the next one may begin");
}

#[test]
fn what_is_given_up_is_removed() {
    let mut bench = Bench::new();
    bench.pinned();
    assert_eq!(bench.order(BackupMessage::Abort { backup: FIRST }), None);
    assert!(bench.create(BackupId(2)).is_some_and(|text| text.contains("being removed")));
    bench.clear(&[1, 2]);
    assert_eq!(bench.state(), BackupState::Failed("an operator has aborted it".into()));
}

#[test]
fn an_epoch_that_is_gone_or_a_table_that_is_dropped_begins_it_anew() {
    let mut bench = Bench::new();
    bench.pinned();
    bench.writes(1);
    bench.writes(2);
    bench.wrote(1, 1, Err(PartError::Dropped));
    for (node, epoch) in [(1, 120), (2, 121)] {
        assert_eq!(bench.heard(node), [BackupMessage::Ask { backup: FIRST }]);
        bench.say(node, BackupMessage::Epoch { backup: FIRST, epoch: Epoch(epoch) });
    }
    // What was wanted before is not taken any more.
    bench.wrote(2, 2, Ok(SUM));
    for node in [1, 2] {
        assert!(matches!(bench.heard(node)[..], [BackupMessage::Pin { epoch: Epoch(121), .. }]));
        let refused = Some(PartError::Refused(Code::SnapshotTooOld));
        bench.say(node, BackupMessage::Pinned { backup: FIRST, epoch: Epoch(121), refused });
    }
    assert_eq!(bench.heard(1), [BackupMessage::Ask { backup: FIRST }], "once more");
    assert!(bench.marks.contains(&"backup_started_anew"));
    assert!(bench.marks.contains(&"backup_pin_refused"));
}

#[test]
fn a_shard_that_is_silent_is_left_out() {
    let mut bench = Bench::new();
    assert_eq!(bench.create(FIRST), None);
    bench.say(1, BackupMessage::Epoch { backup: FIRST, epoch: Epoch(90) });
    bench.wait(Duration::from_secs(9));
    assert!(!bench.marks.contains(&"backup_shard_silent"));
    bench.wait(Duration::from_secs(2));
    assert!(bench.marks.contains(&"backup_shard_silent"));
    bench.say(1, BackupMessage::Pinned { backup: FIRST, epoch: Epoch(90), refused: None });
    let all = (0..4).map(PartitionId).collect();
    assert_eq!(bench.writes(1), [(1, all)]);
    // And the last one ends it.
    bench.wait(Duration::from_secs(11));
    assert!(matches!(bench.state(), BackupState::Failed(_)));
}

#[test]
fn a_backup_of_another_server_is_not_disturbed() {
    let mut bench = Bench::new();
    assert_eq!(bench.create(FIRST), None);
    for node in [1, 2] {
        bench.say(node, BackupMessage::Epoch { backup: FIRST, epoch: Epoch(90) });
    }
    let refused = Some(PartError::Other(BackupId(8)));
    bench.say(1, BackupMessage::Pinned { backup: FIRST, epoch: Epoch(90), refused });
    let BackupState::Failed(why) = bench.state() else { panic!("one at a time") };
    assert!(why.contains("b8 is under way"), "{why}");
}

#[test]
fn the_manifest_is_removed_first_or_nothing_is() {
    let mut bench = Bench::new();
    bench.knows(done());
    assert_eq!(bench.order(BackupMessage::Delete { backup: FIRST }), None);
    assert_eq!(bench.state(), BackupState::Removing);
    assert!(bench.disk[0].ops.contains(&Op::Remove(FileName::Manifest(FIRST))));
    assert_eq!(bench.heard(1), [], "not before the manifest is gone");
    bench.disk_done(Some(DiskError::Denied));
    assert!(matches!(bench.state(), BackupState::Failed(why) if why.contains("delete it again")));
    assert_eq!(bench.heard(1), []);
    assert_eq!(bench.order(BackupMessage::Delete { backup: FIRST }), None);
    bench.clear(&[1, 2]);
    assert_eq!(bench.state(), BackupState::Deleted);
    assert!(bench.order(BackupMessage::Delete { backup: FIRST }).is_some(), "it is gone");
}

#[test]
fn what_was_under_way_when_the_server_ended_has_failed() {
    let mut bench = Bench::new();
    bench.pinned();
    let stored = bench.backups.stored().clone();
    let mut again = Bench::new();
    again.backups = Backups::restore(ME, stored, Some(&view()), None);
    let failed =
        |state| matches!(state, BackupState::Failed(why) if why.contains("ended meanwhile"));
    assert!(failed(again.state()));
    // What there may be of it is removed, the manifest first.
    again.wait(Duration::ZERO);
    assert!(again.disk[0].ops.contains(&Op::Remove(FileName::Manifest(FIRST))));
    again.clear(&[1, 2]);
    assert!(failed(again.state()));
    assert_eq!(again.backups.records()[0].unwanted, []);
    assert!(!again.backups.has_left());
}

#[test]
fn what_a_lost_writer_has_begun_is_removed_when_it_is_back() {
    let mut bench = Bench::new();
    bench.pinned();
    bench.lose(1);
    bench.wrote(2, 2, Ok(SUM));
    bench.wrote(2, 3, Ok(SUM));
    bench.say(2, BackupMessage::Kept { backup: FIRST, newest: 3 });
    let mut without = view();
    without.members.remove(0);
    bench.see(&without);
    bench.disk_done(None);
    let record = bench.backups.records()[0].clone();
    assert_eq!((record.parts_at, record.unwanted), (vec![NodeId(2)], vec![NodeId(1)]));
    assert!(!bench.backups.has_left(), "it is not there");
    bench.see(&view());
    // An operator's wish goes first; then the node is asked.
    assert_eq!(bench.create(BackupId(2)), None);
    assert_eq!(bench.order(BackupMessage::Abort { backup: BackupId(2) }), None);
    let clear = BackupMessage::Clear { backup: FIRST, dir: Some("/b".into()) };
    assert!(bench.heard(1).contains(&clear), "the oldest first");
    assert!(bench.disk.is_empty(), "the manifest stays");
    bench.say(1, BackupMessage::Cleared { backup: FIRST, failed: None });
    assert_eq!(bench.backups.records()[0].unwanted, []);
    assert_eq!(bench.backups.records()[0].state, BackupState::Done);
    assert!(bench.marks.contains(&"backup_leftovers_removed"));
}

#[test]
fn what_cannot_be_removed_is_tried_again_after_a_while() {
    let mut bench = Bench::new();
    bench.knows(BackupRecord { unwanted: vec![NodeId(1)], ..done() });
    bench.wait(Duration::ZERO);
    let clear = BackupMessage::Clear { backup: FIRST, dir: Some("/b".into()) };
    assert_eq!(bench.heard(1), std::slice::from_ref(&clear));
    let failed = Some(PartError::Disk(DiskError::Missing));
    bench.say(1, BackupMessage::Cleared { backup: FIRST, failed });
    assert_eq!(bench.backups.records()[0].unwanted, [NodeId(1)]);
    bench.links.clear();
    bench.wait(REMOVE_AGAIN / 2);
    assert!(bench.links.is_empty());
    assert_eq!(bench.create(BackupId(2)), None, "nobody waits for it");
    assert_eq!(bench.order(BackupMessage::Abort { backup: BackupId(2) }), None);
    bench.clear_of(BackupId(2), &[1, 2]);
    bench.wait(REMOVE_AGAIN);
    assert_eq!(bench.heard(1), [clear]);
}

#[test]
fn another_server_tells_of_its_backups_and_takes_them_over_when_it_is_gone() {
    let theirs = BackupRecord { by: OTHER, state: BackupState::Writing, ..done() };
    let mut bench = Bench::new();
    let mut view = view();
    view.arbitrators_possible = vec![
        Arbitrator::Mgmt { id: ME, addr: "m1:1".into() },
        Arbitrator::Mgmt { id: OTHER, addr: "m2:1".into() },
    ];
    bench.see(&view);
    bench.wait(Duration::ZERO);
    let link = bench.out.open_link();
    bench.backups.on_peer_up(bench.now, OTHER, link);
    assert!(bench.learn(OTHER, vec![theirs.clone()]));
    assert_eq!(bench.backups.records(), std::slice::from_ref(&theirs));
    // What goes on is news, and need not be stored.
    let further = BackupRecord { rows: 40, ..theirs.clone() };
    assert!(!bench.learn(OTHER, vec![further]));
    assert_eq!(bench.backups.records()[0].rows, 40);
    let refused = bench.order(BackupMessage::Delete { backup: FIRST });
    assert!(refused.is_some_and(|text| text.contains("m2 is at it")));
    let changed = bench.backups.on_link_down(bench.now, link, &mut bench.out);
    bench.after(changed);
    bench.wait(Duration::from_secs(4));
    assert_eq!(bench.order(BackupMessage::Delete { backup: FIRST }), None);
    assert_eq!((bench.backups.records()[0].by, bench.state()), (ME, BackupState::Removing));
    // The other one is back, and believes what it was.
    assert!(!bench.learn(OTHER, vec![theirs.clone()]));
    assert_eq!(bench.state(), BackupState::Removing);
    bench.clear(&[1, 2]);
    assert_eq!(bench.state(), BackupState::Deleted);
    let told = bench.backups.records().to_vec();

    let mut back = Bench::new();
    let stored = StoredBackups { list: vec![theirs] };
    back.backups = Backups::restore(OTHER, stored, Some(&self::view()), None);
    assert!(back.learn(ME, told));
    assert_eq!(back.state(), BackupState::Deleted);
    assert!(back.disk[0].ops.contains(&Op::Remove(FileName::Manifest(FIRST))));
    assert_eq!(back.heard_by_anybody(), 0, "the parts are not its business any more");
    assert!(back.marks.contains(&"backup_taken_over"));
}

#[test]
fn a_server_without_its_files_learns_what_it_was_at() {
    let mut bench = Bench::new();
    let own = BackupRecord { state: BackupState::Writing, unwanted: vec![NodeId(2)], ..done() };
    assert!(bench.learn(OTHER, vec![own]));
    assert!(matches!(bench.state(), BackupState::Failed(why) if why.contains("ended meanwhile")));
    bench.clear(&[2]);
    assert_eq!(bench.backups.records()[0].unwanted, []);
}

#[test]
fn a_restart_of_the_cluster_ends_it() {
    let mut bench = Bench::new();
    bench.pinned();
    let mut later = view();
    later.restart_generation = RestartGeneration(4);
    bench.see(&later);
    assert!(matches!(bench.state(), BackupState::Failed(why) if why.contains("restarted")));
}

#[test]
fn whom_and_what_it_is_about_is_checked() {
    let mut bench = Bench::new();
    let relative = BackupMessage::Create { backup: FIRST, dir: Some("b".into()), asked_ms: 5 };
    assert!(bench.order(relative).is_some_and(|text| text.contains("absolute")));
    let none = BackupMessage::Create { backup: FIRST, dir: None, asked_ms: 5 };
    bench.backups = Backups::restore(ME, StoredBackups::default(), None, None);
    let told = bench.backups.on_operator(bench.now, none, &mut bench.out);
    let answer = told.and_then(|outcome| outcome.answer);
    assert!(matches!(answer, Some(BackupMessage::Done { refused: Some(_), .. })), "no cluster");
    let strange = BackupMessage::Kept { backup: FIRST, newest: 1 };
    assert!(bench.backups.on_operator(bench.now, strange, &mut bench.out).is_none());
    let known = bench.backups.on_shard_up(
        bench.now,
        bench.out.open_link(),
        (view().members[0].instance, ShardId(0)),
        &mut bench.out,
    );
    assert!(!known, "nobody has dialled");
}
