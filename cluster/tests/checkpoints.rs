//! Shards on disks that lose power at any moment: what is restored from checkpoints and redo is
//! what the rows were as of one closed epoch, at least the one that was reported durable, however
//! often the cluster was restarted before.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must fail")]

#[allow(dead_code, reason = "shared with other tests")]
mod net;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockstep_cluster::{Restored, RestoredShard, RowsAt, restore};
use lockstep_proto::disk::{FileName, Lane, Op, Request};
use lockstep_proto::durability::{DiskReport, Pulse};
use lockstep_proto::ids::*;
use lockstep_proto::process::{Input, Process};
use lockstep_proto::view::View;
use lockstep_proto::wire::data::{Finish, Message};
use lockstep_proto::wire::op::OpKind;
use lockstep_proto::wire::shard_control::ShardControl;
use lockstep_storage::disk::{Fate, FileFault, SimulatedDisk};
use lockstep_storage::restore::{Files, Owner, Reach, survey};
use net::*;

/// Numbers that look random and are the same in every run.
#[derive(Clone)]
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % bound.max(1)
    }
}

/// A cluster with epochs that close, and what its rows were at each.
struct World {
    net: Net,
    view: View,
    draws: Draws,
    epoch: u64,
    closed: u64,
    pulse: Pulse,
    finished: BTreeMap<NodeId, u64>,
    disks: BTreeMap<NodeId, DiskReport>,
    states: BTreeMap<u64, BTreeMap<NodeId, RowsAt>>,
    marks: BTreeMap<&'static str, u64>,
}

fn first_view() -> View {
    let mut view = view(2, 1);
    view.config.checkpoint_interval_ms = 40;
    view
}

fn owner(view: &View, node: NodeId) -> Owner {
    Owner::of(view, node, GroupId(node.0 - 1))
}

fn files(disk: &SimulatedDisk) -> Files<'_> {
    disk.files().collect()
}

fn reach(view: &View, node: NodeId, disk: &SimulatedDisk) -> Reach {
    survey(&owner(view, node), &files(disk))
}

impl World {
    fn new(seed: u64) -> Self {
        let view = first_view();
        let nodes = view.members.iter().map(|member| member.instance.node);
        let begin = nodes.map(|node| (node, (Disk::default(), RestoredShard::default())));
        let mut world = Self::over(Net::start(&view, begin.collect()), view, Draws(seed), 0);
        world.net.create_table();
        world
    }

    fn over(net: Net, view: View, draws: Draws, epoch: u64) -> Self {
        Self {
            net,
            view,
            draws,
            epoch: epoch + 1,
            closed: epoch,
            pulse: Pulse { durable: Epoch(epoch), ..Pulse::default() },
            finished: BTreeMap::new(),
            disks: BTreeMap::new(),
            states: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.net.nodes.keys().copied().collect()
    }

    /// A transaction of one to three rows, which may be on both nodes; a part of its messages.
    fn write(&mut self) {
        let mut list = Vec::new();
        for _ in 0..=self.draws.below(3) {
            let id = self.draws.below(60) as u64;
            let kind = [OpKind::Upsert, OpKind::Upsert, OpKind::Delete][self.draws.below(3)];
            if list.iter().all(|(_, key, _): &(_, Vec<u8>, _)| *key != net::key(id)) {
                list.push(op(kind, id, self.draws.below(1000) as i64));
            }
        }
        let first = lockstep_proto::placement::partition_of(
            lockstep_proto::placement::key_hash(&list[0].1),
            PARTITIONS,
        );
        let node = self.view.placement(first).unwrap().primary;
        self.net.execute(node.0, &ops(&list));
        for _ in 0..self.draws.below(8) {
            self.net.step();
        }
    }

    /// The next epoch; closes what all shards have finished.
    fn tick(&mut self) {
        self.epoch += 1;
        for (node, report) in std::mem::take(&mut self.net.reports) {
            match report {
                ShardControl::Finished { epoch, .. } => {
                    self.finished.insert(node, epoch.0);
                }
                ShardControl::Disk(report) => {
                    self.disks.insert(node, report);
                    self.pulse.worked = self.pulse.worked.max(report.worked);
                }
                _ => {}
            }
        }
        let nodes = self.nodes();
        let finished = nodes.iter().map(|node| self.finished.get(node).copied().unwrap_or(0));
        let durable = nodes.iter().map(|node| self.disks.get(node).map_or(Epoch(0), |d| d.durable));
        let (closes, durable) = (finished.min().unwrap(), durable.min().unwrap());
        self.pulse.durable = self.pulse.durable.max(durable);
        let before = self.closed;
        self.closed = before.max(closes);
        for node in self.nodes() {
            let pulse = self.pulse.clone();
            let tick =
                ShardControl::Tick { epoch: Epoch(self.epoch), closed: Epoch(self.closed), pulse };
            self.net.tell(node, &tick);
        }
        for closed in before + 1..=self.closed {
            for (node, (core, _)) in &mut self.net.nodes {
                let rows = core.rows_at(Epoch(closed));
                self.states.entry(closed).or_default().insert(*node, rows);
            }
        }
    }

    /// A disk does what it is asked for; false if that was nothing.
    fn work(&mut self, node: NodeId) -> bool {
        let disk = self.net.disks.get_mut(&node).unwrap();
        if disk.waiting.is_empty() {
            return false;
        }
        let at = self.draws.below(disk.waiting.len());
        let (lane, request) = disk.waiting.remove(at).unwrap();
        let done = disk.files.execute(request);
        self.net.input(node, Input::Disk { lane, done });
        true
    }

    fn step(&mut self) {
        let node = self.nodes()[self.draws.below(2)];
        match self.draws.below(10) {
            0..3 => self.write(),
            3..5 => self.tick(),
            5..8 => {
                self.work(node);
            }
            _ => {
                self.net.now = self.net.now + Duration::from_millis(5);
                self.net.input(node, Input::Timeout);
            }
        }
        for (_, out) in self.net.nodes.values_mut() {
            for mark in out.take_marks() {
                *self.marks.entry(mark).or_default() += 1;
            }
        }
    }

    /// All power is gone: each disk has taken some of what it was asked for and keeps what it
    /// keeps.
    fn lose_power(&mut self, fate: Fate) -> BTreeMap<NodeId, SimulatedDisk> {
        let mut disks = BTreeMap::new();
        for (node, disk) in &self.net.disks {
            let mut files = disk.files.clone();
            for (_, request) in disk.waiting.clone() {
                let steps = files.steps() + self.draws.below(request.ops.len() + 1) as u64;
                files.execute_some(request, steps);
            }
            files.lose_power(fate, &mut |bound| self.draws.below(bound));
            disks.insert(*node, files);
        }
        disks
    }

    /// What the disks make together: the epoch all can reach, and everybody's rows as of it.
    fn check(&self, disks: &BTreeMap<NodeId, SimulatedDisk>, what: &str) -> u64 {
        let reached = disks.iter().map(|(node, disk)| {
            let reach = reach(&self.view, *node, disk);
            assert_eq!(reach.faults, [], "{what}: {node}");
            reach.reached.unwrap_or_default().0
        });
        let epoch = reached.min().unwrap();
        let durable = self.pulse.durable.0;
        assert!(epoch >= durable, "{what}: {durable} was durable, {epoch} is there");
        for (node, disk) in disks.iter().filter(|_| epoch > 0) {
            let rows = rows(&mut restored(&self.view, *node, disk, epoch).unwrap());
            let state = &self.states[&epoch][node];
            let wrong = rows.iter().filter(|(key, row)| state.get(key) != Some(row));
            let missing = state.keys().filter(|key| !rows.contains_key(key));
            let (wrong, missing) = (wrong.collect::<Vec<_>>(), missing.collect::<Vec<_>>());
            assert!(
                wrong.is_empty() && missing.is_empty(),
                "{what}: {node} at {epoch}: wrong {wrong:?}, missing {missing:?}"
            );
        }
        epoch
    }

    /// Starts the cluster again from what the disks have.
    fn restart(&mut self, disks: BTreeMap<NodeId, SimulatedDisk>, epoch: u64) {
        let mut view = self.view.clone();
        view.cuts.push((view.restart_generation, Epoch(epoch)));
        view.restart_generation.0 += 1;
        view.number = view.number.next();
        for member in &mut view.members {
            member.instance.incarnation.0 += 1;
        }
        let begin = disks.into_iter().map(|(node, mut files)| {
            let mut shard = RestoredShard::default();
            if epoch > 0 {
                let mut restored = restored(&view, node, &files, epoch).unwrap();
                let ops = restored.superfluous.iter().copied().map(Op::Remove).collect();
                assert_eq!(files.execute(Request { ops }).failed, None);
                shard = restored.take_shard(ShardId(0), 1);
            }
            (node, (Disk { files, waiting: VecDeque::new() }, shard))
        });
        let begin = begin.collect();
        let mut net = Net::start(&view, begin);
        net.sequence = self.net.sequence;
        let marks = std::mem::take(&mut self.marks);
        let states = std::mem::take(&mut self.states);
        *self = Self::over(net, view, self.draws.clone(), epoch);
        (self.marks, self.states) = (marks, states);
        self.states.retain(|closed, _| *closed <= epoch);
        if epoch == 0 {
            self.net.create_table();
        }
    }
}

fn restored(
    view: &View,
    node: NodeId,
    disk: &SimulatedDisk,
    epoch: u64,
) -> Result<Restored, Vec<FileFault>> {
    restore(&owner(view, node), &files(disk), Some(Epoch(epoch)), 1)
}

/// The rows a shard begins with.
fn rows(restored: &mut Restored) -> RowsAt {
    let shard = restored.take_shard(ShardId(0), 1);
    let mut core = lockstep_cluster::ShardCore::new(lockstep_cluster::ShardOptions {
        instance: instance(1),
        shard: ShardId(0),
        shards: 1,
        wall_offset_ms: 1,
        redo: None,
        kept_max: lockstep_proto::limits::KEPT_BYTES_MAX,
        canary: None,
    })
    .with_restored(shard);
    core.rows_at(Epoch(u64::MAX))
}

const FATES: [Fate; 4] = [Fate::Nothing, Fate::Everything, Fate::Prefix, Fate::Any];

#[test]
fn power_may_go_at_any_moment() {
    let mut marks = BTreeMap::new();
    for seed in 1..=12 {
        let mut world = World::new(seed * 77);
        for step in 0..1500 {
            world.step();
            if step % 25 == 0 && world.closed > 0 {
                let fate = FATES[world.draws.below(4)];
                let disks = world.lose_power(fate);
                world.check(&disks, &format!("seed {seed}, step {step}, {fate:?}"));
            }
        }
        assert!(world.pulse.durable.0 > 100, "seed {seed}: nothing became durable");
        marks.extend(world.marks);
    }
    for mark in ["checkpoint_begun", "full_checkpoint_begun", "checkpoint_done"] {
        assert!(marks.contains_key(mark), "{mark} was never reached: {marks:?}");
    }
}

#[test]
fn a_cluster_is_restarted_again_and_again() {
    for seed in 1..=12 {
        let mut world = World::new(seed * 991);
        let mut restarts = 0;
        for step in 0..3000 {
            world.step();
            if world.draws.below(200) == 0 && world.closed > 0 {
                let fate = FATES[world.draws.below(4)];
                let disks = world.lose_power(fate);
                let epoch = world.check(&disks, &format!("seed {seed}, step {step}, {fate:?}"));
                world.restart(disks, epoch);
                restarts += 1;
            }
        }
        assert!(restarts > 4, "seed {seed}: {restarts} restarts");
    }
}

/// After a while without faults old files are gone, and what is left is enough.
#[test]
fn old_files_go() {
    let mut world = World::new(5);
    for _ in 0..6000 {
        world.step();
    }
    while world.nodes().into_iter().any(|node| world.work(node)) {}
    for disk in world.net.disks.values() {
        assert!(disk.files.steps() > 500);
        let names: Vec<FileName> = disk.files.files().map(|(name, _)| name).collect();
        let checkpoints = names.iter().filter(|name| matches!(name, FileName::Checkpoint(_)));
        // Eight slices for each of two partitions, and those that are not superfluous yet.
        let checkpoints = checkpoints.count();
        assert!(checkpoints <= 2 * 12, "{checkpoints}");
        assert!(disk.waiting.iter().all(|(lane, _)| *lane == Lane::Redo));
    }
    let disks = world.lose_power(Fate::Nothing);
    world.check(&disks, "at the end");
}

/// Epochs keep their distance for as long as there are those they are spaced for, and no longer.
#[test]
fn who_no_longer_waits_for_the_disks_is_forgotten() {
    let mut world = World::new(3);
    let first = world.view.placement(PartitionId(0)).unwrap().primary;
    for id in 0..20 {
        let list = ops(&[op(OpKind::Upsert, id_in(0, 1000 * id), 1)]);
        let tx = world.net.next_tx();
        world.net.ask(first.0, &Message::Execute(request(tx, 0, Finish::CommitToDisk, &list)));
    }
    let mut settle = |ticks: usize| {
        for _ in 0..ticks {
            world.net.run();
            while world.nodes().into_iter().any(|node| world.work(node)) {}
            world.tick();
        }
        (world.disks[&first].waiters, world.pulse.durable)
    };
    let (waiters, durable) = settle(8);
    assert!((10..=20).contains(&waiters) && durable > Epoch(0), "{waiters}, {durable}");
    assert_eq!(settle(30).0, 0);
}

/// A checkpoint takes a commit's time in small pieces, and leaves most of it to commits.
#[test]
fn a_checkpoint_goes_on_a_few_rows_at_a_time() {
    const ROWS: u64 = 4000;
    let mut world = World::new(3);
    let first = world.view.placement(PartitionId(0)).unwrap().primary;
    let mut id = 0;
    for _ in 0..ROWS / 50 {
        let batch = (0..50).map(|_| {
            id = id_in(0, id) + 1;
            op(OpKind::Upsert, id - 1, 1)
        });
        let batch: Vec<_> = batch.collect();
        world.net.execute(first.0, &ops(&batch));
        world.net.run();
    }
    let passed = |world: &mut World, mark: &str| {
        let (_, out) = world.net.nodes.get_mut(&first).unwrap();
        out.take_marks().into_iter().any(|passed| passed == mark)
    };
    let tick_and_look = |world: &mut World| {
        world.net.now = world.net.now + Duration::from_millis(50);
        world.tick();
        passed(world, "full_checkpoint_begun")
    };
    assert!((0..10).any(|_| tick_and_look(&mut world)));
    let (began, mut turns) = (world.net.now, 0);
    while !passed(&mut world, "checkpoint_done") {
        // However often it gets a turn at one moment, it goes on once.
        (0..20).for_each(|_| world.net.input(first, Input::Timeout));
        while world.work(first) {}
        world.net.now = world.net.nodes[&first].0.next_timeout().unwrap();
        turns += 1;
    }
    let took = world.net.now.since(began);
    // Half of the interval and a thirty-second of a turn for each row, or nearly.
    let round = world.view.config.checkpoint_interval() / 2;
    assert!(took > round * 3 / 4 && took < round * 3 / 2, "{took:?} for {ROWS} rows");
    assert!(turns > ROWS / 32 * 3 / 4, "{turns} turns for {ROWS} rows");
}
