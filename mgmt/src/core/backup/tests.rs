//! A management server's part in backups, against shards that are played by the test.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_proto::disk::{DiskError, FileName, Op, Request};
use lockstep_proto::error::Code;
use lockstep_proto::ids::{
    ClusterId, GroupId, Incarnation, NodeId, PartitionId, RestartGeneration, ViewNumber,
};
use lockstep_proto::process::{Effect, Target};
use lockstep_proto::view::{ClusterConfig, Member, Placement, Standing};
use lockstep_proto::wire::backup::{PartError, PartSum};
use lockstep_proto::wire::kind;

use super::*;

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
        seal: Epoch(0),
        restart_generation: RestartGeneration(3),
        cuts: Vec::new(),
    }
}

struct Bench {
    backups: Backups,
    out: Outputs,
    now: Instant,
    links: BTreeMap<u16, LinkId>,
    disk: Vec<Request>,
    marks: Vec<&'static str>,
}

impl Bench {
    fn new() -> Self {
        Self {
            backups: Backups::restore(StoredBackups::default()),
            out: Outputs::with_marks(),
            now: Instant::default(),
            links: BTreeMap::new(),
            disk: Vec::new(),
            marks: Vec::new(),
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

    fn order(&mut self, message: BackupMessage) -> Option<String> {
        let told = self.backups.on_operator(self.now, message, Some(&view()), &mut self.out);
        self.settle();
        match told.and_then(|outcome| outcome.answer) {
            Some(BackupMessage::Done { refused, .. }) => refused,
            other => panic!("no answer to an order: {other:?}"),
        }
    }

    fn create(&mut self, backup: BackupId) -> Option<String> {
        self.order(BackupMessage::Create { backup, dir: Some("/b".into()), asked_ms: 5 })
    }

    fn say(&mut self, node: u16, message: BackupMessage) {
        self.backups.on_shard(self.now, self.links[&node], message, &mut self.out);
        self.settle();
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
        self.backups.on_disk(self.now, &done, &mut self.out);
        self.settle();
        request.ops
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.backups.on_timeout(self.now, &mut self.out);
        self.settle();
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
        self.backups.on_link_down(self.now, self.links[&node], &mut self.out);
        self.settle();
    }

    /// Everything is removed, as far as the disks let it.
    fn clear(&mut self, nodes: &[u16]) {
        self.disk_done(None);
        for node in nodes {
            let clear = BackupMessage::Clear { backup: FIRST, dir: Some("/b".into()) };
            assert!(self.heard(*node).contains(&clear));
            self.say(*node, BackupMessage::Cleared { backup: FIRST, failed: None });
        }
        assert!(matches!(self.disk_done(None).last(), Some(Op::RemoveEmpty(FIRST))));
        assert!(self.disk.is_empty());
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
    let done = BackupRecord {
        backup: FIRST,
        dir: Some("/b".into()),
        asked_ms: 5,
        state: BackupState::Done,
        epoch: Epoch(94),
        rows: 20,
        row_bytes: 200,
        file_bytes: 600,
        partitions: (4, 4),
    };
    bench.backups = Backups::restore(StoredBackups { list: vec![done] });
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
    let again = Backups::restore(bench.backups.stored().clone());
    let [record] = again.records() else { panic!("one") };
    assert!(matches!(&record.state, BackupState::Failed(why) if why.contains("ended meanwhile")));
}

#[test]
fn a_restart_of_the_cluster_ends_it() {
    let mut bench = Bench::new();
    bench.pinned();
    let mut later = view();
    later.restart_generation = RestartGeneration(4);
    bench.backups.on_view(bench.now, &later, &mut bench.out);
    bench.settle();
    assert!(matches!(bench.state(), BackupState::Failed(why) if why.contains("restarted")));
}

#[test]
fn whom_and_what_it_is_about_is_checked() {
    let mut bench = Bench::new();
    let relative = BackupMessage::Create { backup: FIRST, dir: Some("b".into()), asked_ms: 5 };
    assert!(bench.order(relative).is_some_and(|text| text.contains("absolute")));
    let none = BackupMessage::Create { backup: FIRST, dir: None, asked_ms: 5 };
    let told = bench.backups.on_operator(bench.now, none, None, &mut bench.out);
    let answer = told.and_then(|outcome| outcome.answer);
    assert!(matches!(answer, Some(BackupMessage::Done { refused: Some(_), .. })), "no cluster");
    let strange = BackupMessage::Kept { backup: FIRST, newest: 1 };
    assert!(bench.backups.on_operator(bench.now, strange, None, &mut bench.out).is_none());
    let known = bench.backups.on_shard_up(
        bench.now,
        bench.out.open_link(),
        (view().members[0].instance, ShardId(0)),
        &mut bench.out,
    );
    assert!(!known, "nobody has dialled");
}
