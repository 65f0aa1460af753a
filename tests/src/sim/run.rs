//! One run from seed to verdict: set up, work under faults, heal, drain, read everything once more,
//! check.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;
use std::sync::Arc;

use lockstep_proto::canary::Canary;
use lockstep_proto::limits::{KEPT_BYTES_MAX, TX_EXPIRY_EPOCHS};
use lockstep_proto::time::Instant;

use super::check::{self, Watchman};
use super::cluster::{Cluster, Shape};
use super::core::Core;
use super::event::Event;
use super::ghost;
use super::host::{HostId, Life, Role};
use super::plan::{Operation, Plan, Profile};
use super::rng::Rng;
use super::scenario;
use super::script::{self, Act, Deed, Script};
use super::trap::Trap;
use super::workload::bank::{AuditTask, TransferTask};
use super::workload::churn::ChurnTask;
use super::workload::config::ConfigTask;
use super::workload::counters::{CounterReadTask, IncrementTask};
use super::workload::ddl::DdlTask;
use super::workload::finale::FinaleTask;
use super::workload::lists::{AppendTask, ReadTask};
use super::workload::orders::OrdersTask;
use super::workload::registers::RegisterTask;
use super::workload::setup::SetupTask;
use super::workload::snapshots::SnapshotTask;
use super::workload::{Notebook, Phase, Tables, Task};
use super::world::{Tally, World};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000 * MS;

/// Time between sampled checks.
const CHECK_EVERY: u64 = 50 * MS;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Simulated seconds of work under faults.
    pub seconds: u64,
    /// Which faults.
    pub profile: Profile,
    /// Groups and replicas, if fixed.
    pub shape: Option<(u16, u16)>,
    /// Shards per node, if fixed.
    pub shards: Option<u16>,
    /// A bug to run with.
    pub canary: Option<Canary>,
    /// A scenario instead of drawn faults.
    pub script: Option<Arc<Script>>,
    /// A crash point.
    pub trap: Option<Trap>,
    /// Keep the last events in words.
    pub trace: bool,
    /// Print them as they happen.
    pub print: bool,
}

/// What a run came to.
pub struct Verdict {
    /// The hash of everything that happened.
    pub hash: u64,
    /// Simulated time in all.
    pub simulated_ns: u64,
    /// Data nodes.
    pub nodes: u64,
    /// Operations begun by clients.
    pub operations: u64,
    /// Writing operations that committed.
    pub committed: u64,
    /// Counts of the world.
    pub tally: Tally,
    /// The last events, if they were kept.
    pub lines: Vec<String>,
    /// The list history.
    pub history: Vec<crate::checkers::Event>,
    /// Failed operations by code.
    pub refused: std::collections::BTreeMap<u16, u64>,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Whether the cluster stopped itself, as it may in a few seeds.
    pub stopped: bool,
    /// The data nodes of the newest view, by name.
    pub members: Vec<String>,
}

/// A run under way.
pub struct Run {
    /// The world.
    pub world: World,
    /// The cluster in it.
    pub cluster: Cluster,
    /// What clients were told.
    pub notes: Rc<RefCell<Notebook>>,
    pub(super) plan: Plan,
    pub(super) watchman: Watchman,
    pub(super) rng: Rng,
    ddl_number: u32,
    pub(super) script: Option<Arc<Script>>,
    acts: VecDeque<(u64, Act)>,
    /// The crash point lasts until it is healed.
    pub(super) lasting: bool,
    /// What each host had done when the power came back, and when the cluster was whole again.
    pub(super) restart: (Vec<Done>, Vec<Done>),
}

/// Draws the shape of a run's cluster.
fn draw_shape(options: &Options, rng: &mut Rng) -> Shape {
    let drawn_groups = *rng.pick(&[1, 1, 2, 2, 2, 3]);
    let drawn_replicas = *rng.pick(&[1, 2, 2, 2, 2, 3, 3, 4]);
    let drawn_shards = *rng.pick(&[1, 1, 2, 3]);
    let (groups, replicas) = options.shape.unwrap_or((drawn_groups, drawn_replicas));
    Shape {
        groups,
        replicas,
        shards: options.shards.unwrap_or(drawn_shards),
        partitions: *rng.pick(&[8, 8, 16]),
        zones: *rng.pick(&[1, 2, 2, 3]),
        mgmts: *rng.pick(&[1, 2, 2]),
        apis: *rng.pick(&[0, 0, 1]),
        fresh: *rng.pick(&[0, 1, 2]),
        clients: *rng.pick(&[2, 3, 4]),
        drift_ppm: *rng.pick(&[0, 100, 450]),
        checkpoint_ms: 700,
        kept_max: *rng.pick(&[KEPT_BYTES_MAX, KEPT_BYTES_MAX, 4 << 10]),
    }
}

/// Runs a seed.
#[must_use]
pub fn run(options: &Options) -> Verdict {
    let mut run = Run::new(options);
    let stopped = run.all_phases(options.seconds * SECOND);
    let mut verdict = run.verdict(stopped);
    if let Some(script) = &options.script
        && verdict.tally.violations.is_empty()
    {
        verdict.tally.violations = scenario::unexpected(script, &verdict);
    }
    verdict
}

/// Turns of a host, and steps on its data files.
pub(super) type Done = (u64, u64);

/// What a host does in the swept part of a run, in which it does not fail.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Its name at the end.
    pub name: String,
    /// Which it is.
    pub host: HostId,
    /// Its turns, counted from 1.
    pub turns: RangeInclusive<u64>,
    /// The steps on its data files, counted from 0.
    pub steps: Range<u64>,
}

/// What the hosts do between two moments of the work, or, where none are given, between the moment
/// at which the power comes back and the one at which the cluster is whole again.
#[must_use]
pub fn count(options: &Options, window: Option<(u64, u64)>) -> Vec<Counted> {
    let mut run = Run::new(options);
    let (first, last) = match window {
        Some((from, to)) => {
            run.begin();
            run.advance(from);
            let first = run.done_so_far();
            run.advance(to - from);
            (first, run.done_so_far())
        }
        None => {
            run.all_phases(options.seconds * SECOND);
            std::mem::take(&mut run.restart)
        }
    };
    let counted = |(index, (a, b)): (u16, (&Done, &Done))| Counted {
        name: run.world.host(HostId(index)).name.clone(),
        host: HostId(index),
        turns: a.0 + 1..=b.0,
        steps: a.1..b.1,
    };
    (0..).zip(first.iter().zip(&last)).map(counted).collect()
}

impl Run {
    /// A world with its cluster, before anything has happened.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed ^ 0x10c7_57e9);
        let shape = match &options.script {
            Some(script) => script.shape.clone(),
            None => draw_shape(options, &mut rng),
        };
        Self::with_shape(options, shape, rng)
    }

    /// The same with a given shape.
    #[must_use]
    pub fn with_shape(options: &Options, shape: Shape, mut rng: Rng) -> Self {
        let mut world = World::new(options.seed);
        world.trace.on = options.trace;
        world.trace.print = options.print;
        world.trap = options.trap;
        world.clock_before_socket = options.canary == Some(Canary::ClockBeforeSocket);
        let mut notes = Notebook::new(Tables::new(shape.partitions));
        notes.pause_us = *rng.pick(&[20_000, 60_000, 150_000]);
        notes.lists = *rng.pick(&[3, 6, 10]);
        notes.expiry_epochs = *rng.pick(&[TX_EXPIRY_EPOCHS, TX_EXPIRY_EPOCHS, 300]);
        if let Some(script) = &options.script {
            notes.pause_us = script.pause_us;
            notes.lists = script.lists;
            notes.expiry_epochs = script.expiry;
        }
        let notes = Rc::new(RefCell::new(notes));
        let cluster = Cluster::build(&mut world, shape, options.canary, &notes, &mut rng);
        cluster.add_operator(&mut world, &notes, options.script.is_none());
        if options.profile != Profile::Calm {
            let loss = *rng.pick(&[0, 0, 500, 5_000]);
            let hosts = u16::try_from(world.hosts.len()).expect("at most HOSTS_MAX hosts");
            for a in 0..hosts {
                for b in 0..hosts {
                    world.net.path_mut(HostId(a), HostId(b)).loss_one_in = loss;
                }
            }
        }
        let plan = Plan::new(options.profile, &mut rng);
        world.agenda.push(CHECK_EVERY, Event::Check);
        Self {
            world,
            cluster,
            notes,
            plan,
            watchman: Watchman::default(),
            rng,
            ddl_number: 0,
            script: options.script.clone(),
            acts: VecDeque::new(),
            lasting: options.trap.is_some_and(|trap| trap.blow.lasts()),
            restart: (Vec::new(), Vec::new()),
        }
    }

    /// Turns of each host, and steps on its data files.
    pub(super) fn done_so_far(&self) -> Vec<Done> {
        self.world.hosts.iter().map(|host| (host.turns, host.disk.files.steps())).collect()
    }

    /// Everything, in order; true if the cluster stopped itself where it may.
    fn all_phases(&mut self, length: u64) -> bool {
        self.begin();
        self.advance(length);
        if self.failed() {
            return false;
        }
        let scripted = self.script.as_ref().is_some_and(|script| script.blackout);
        if self.plan.blackout || scripted || self.world.blackout.is_some() {
            self.black_out();
            self.expect_no_trap();
            return false;
        }
        self.expect_no_trap();
        if self.failed() {
            return false;
        }
        self.world.heal();
        self.notes.borrow_mut().phase = Phase::Drain;
        self.world.ambush = None;
        self.world.watches.clear();
        if self.may_stop() {
            self.advance(3 * SECOND);
            if !self.cluster.serves(&self.world) {
                // What the clients have under way will never be told, and may have been done.
                for client in self.cluster.clients.clone() {
                    self.world.power_off(client);
                }
                check::at_stop(self);
                return true;
            }
        }
        self.drain();
        if !self.failed() {
            self.finale();
        }
        if !self.failed() {
            check::settle(self);
            check::at_end(self);
        }
        false
    }

    fn expect_no_trap(&mut self) {
        if self.world.trap.is_some() && !self.failed() {
            self.world.violation("the crash point was never reached".into());
        }
    }

    /// Up to the start of the work.
    fn begin(&mut self) {
        self.set_up();
        if self.failed() {
            return;
        }
        for index in 0..self.cluster.clients.len() {
            self.give_tasks(self.cluster.clients[index]);
        }
        self.plan_faults();
    }

    /// The first fault, or the script's first act.
    fn plan_faults(&mut self) {
        let now = self.world.now;
        let Some(script) = self.script.clone() else {
            if let Some(gap) = self.plan.gap() {
                self.world.agenda.push(now + 200 * MS + gap, Event::Fault);
            }
            return;
        };
        script::arm(&mut self.world, &script.traps);
        for (time, act) in &script.acts {
            self.acts.push_back((now + time, act.clone()));
            self.world.agenda.push(now + time, Event::Fault);
        }
    }

    /// Whether the cluster may bring itself down in this run.
    fn may_stop(&self) -> bool {
        self.script.as_ref().map_or(self.plan.reckless, |script| script.may_stop)
    }

    pub(super) fn failed(&self) -> bool {
        !self.world.tally.violations.is_empty()
    }

    fn set_up(&mut self) {
        let first = self.cluster.clients[0];
        self.add_task(first, Box::new(SetupTask::new()), 0);
        let limit = self.world.now + 10 * SECOND;
        let notes = self.notes.clone();
        self.advance_until(limit, || notes.borrow().phase == Phase::Work);
        if self.notes.borrow().phase != Phase::Work {
            self.world.violation("the tables could not be made within ten seconds".into());
        }
    }

    /// Gives a client its share of the work.
    pub(super) fn give_tasks(&mut self, client: HostId) {
        let tasks = self.rng.range(2, 4);
        for _ in 0..tasks {
            let task: Box<dyn Task> = match self.rng.below(16) {
                0..=4 => Box::new(AppendTask::new()),
                5..=6 => Box::new(ReadTask::default()),
                7..=8 => Box::new(IncrementTask::default()),
                9..=10 => Box::new(TransferTask::default()),
                11 => Box::new(AuditTask::default()),
                12 if self.rng.coin() => Box::new(SnapshotTask::default()),
                12 => Box::new(CounterReadTask::default()),
                13..=14 => Box::new(RegisterTask::default()),
                _ => {
                    self.ddl_number += 1;
                    Box::new(DdlTask::new(self.ddl_number))
                }
            };
            let start = self.rng.below(50 * MS);
            self.add_task(client, task, start);
        }
        let configures = self.script.as_ref().is_none_or(|script| script.configures);
        if configures && self.cluster.clients.iter().take(2).any(|one| *one == client) {
            self.add_task(client, Box::new(ConfigTask::default()), 20 * MS);
        }
        // What every run must have, whatever was drawn.
        let first = self.cluster.clients[0];
        if client == first {
            self.add_task(client, Box::new(AppendTask::new()), 0);
            self.add_task(client, Box::new(AppendTask::new()), MS);
            self.add_task(client, Box::new(IncrementTask::default()), MS);
            self.add_task(client, Box::new(TransferTask::default()), 2 * MS);
            self.add_task(client, Box::new(SnapshotTask::default()), 2 * MS);
            if self.script.is_none() {
                self.add_task(client, Box::new(ChurnTask::default()), 2 * MS);
            }
            self.add_task(client, Box::new(OrdersTask::default()), 3 * MS);
        }
    }

    fn add_task(&mut self, client: HostId, task: Box<dyn Task>, after: u64) {
        let Some(proc) = self.world.host(client).procs.first().copied() else { return };
        let start: Instant = self.world.host(client).clock.read(self.world.now + after);
        if let Some(Core::Client(process)) = &mut self.world.procs[proc.index()].core {
            process.add(task, start);
        }
        self.world.plan_next_turn(proc);
    }

    /// Lets time pass.
    pub fn advance(&mut self, length: u64) {
        let limit = self.world.now + length;
        self.advance_until(limit, || false);
    }

    /// Lets time pass until a condition holds.
    pub fn advance_until(&mut self, limit: u64, done: impl Fn() -> bool) {
        while let Some(time) = self.world.agenda.next_time() {
            if time > limit || self.failed() || self.world.blackout.is_some() || done() {
                break;
            }
            self.notes.borrow_mut().now = time;
            let event = self.world.step();
            for host in std::mem::take(&mut self.world.reborn) {
                match self.world.host(host).life {
                    // It goes on when it is not stopped any more.
                    Life::Paused { .. } => self.world.reborn.push(host),
                    _ if self.world.host(host).role == Role::Fresh => {
                        self.cluster.take_seat(&mut self.world, host);
                    }
                    _ => self.cluster.go_on(&mut self.world, host),
                }
            }
            if std::mem::take(&mut self.world.power_cut) {
                check::durable::look_at_all(&mut self.world, &self.cluster);
            }
            match event {
                Some(Event::Fault) => self.on_fault(),
                Some(Event::Check) => self.on_check(),
                Some(event) => {
                    let backups = &mut self.watchman.backups;
                    backups.after_event(&mut self.world, &self.cluster, &event);
                    self.watchman.after_event(&mut self.world, event);
                }
                None => {}
            }
        }
        if !self.failed() && self.world.blackout.is_none() && !done() {
            self.world.now = self.world.now.max(limit);
        }
    }

    fn on_check(&mut self) {
        let at = self.world.now + CHECK_EVERY;
        self.world.agenda.push(at, Event::Check);
        self.watchman.sample(&mut self.world, &self.cluster);
    }

    fn on_fault(&mut self) {
        if self.notes.borrow().phase != Phase::Work {
            return;
        }
        if self.script.is_some() {
            self.act();
            return;
        }
        self.plan.strike(&mut self.world, &self.cluster);
        match self.plan.draw_operation(&self.world, &self.cluster) {
            Some(Operation::Come(host)) => {
                let wanted = self.cluster.id_to_want(&self.world);
                self.cluster.come(&mut self.world, host, wanted, None);
            }
            Some(Operation::Order(order)) => self.notes.borrow_mut().orders.push_back(order),
            None => {}
        }
        self.replace_dead();
        self.revive_dead(3);
        if let Some(gap) = self.plan.gap() {
            self.world.agenda.push(self.world.now + gap, Event::Fault);
        }
    }

    /// Does what the script says is due.
    fn act(&mut self) {
        while self.acts.front().is_some_and(|(time, _)| *time <= self.world.now) {
            let Some((_, act)) = self.acts.pop_front() else { return };
            self.carry_out(&act);
        }
    }

    pub(super) fn carry_out(&mut self, act: &Act) {
        match act.deed(&self.world) {
            Deed::Fault(fault) => self.world.strike(&fault),
            Deed::Restart(host, empty) => self.cluster.restart(&mut self.world, host, empty),
            Deed::Revive(host, empty) => self.cluster.revive(&mut self.world, host, empty),
            Deed::Come(host, group) => self.cluster.come(&mut self.world, host, None, group),
            Deed::Order(order) => self.notes.borrow_mut().orders.push_back(order),
            Deed::Rot(host, kind) => self.world.rot(host, kind),
            Deed::Lie(host) => self.world.let_disk_lie(host),
            Deed::Backup => self.notes.borrow_mut().backups_wanted = true,
            Deed::RemoveBackups => self.notes.borrow_mut().removals_wanted = true,
            Deed::Ghost(host) => ghost::raise(&mut self.world, &self.cluster, host),
        }
    }

    fn drain(&mut self) {
        let servers = self.cluster.mgmts.iter().chain(&self.cluster.apis).copied();
        for server in servers.collect::<Vec<HostId>>() {
            if self.world.is_dead(server) {
                self.cluster.restart(&mut self.world, server, false);
            }
        }
        let limit = self.world.now + 15 * SECOND;
        let notes = self.notes.clone();
        self.advance_until(limit, || notes.borrow().open == 0);
        let open = self.notes.borrow().open;
        if open > 0 && !self.failed() {
            self.world.violation(format!(
                "{open} operations have not ended 15 s after everything was healed"
            ));
        }
        if !self.failed() {
            self.advance(2 * SECOND);
        }
        self.make_whole();
    }

    /// Reads everything once more: the clients' tasks are over, a new one reads.
    pub(super) fn finale(&mut self) {
        self.notes.borrow_mut().phase = Phase::Final;
        let mut members: Vec<_> = match self.cluster.newest_view(&self.world) {
            Some(view) => view.members.iter().map(|member| member.instance.node).collect(),
            None => Vec::new(),
        };
        members.sort_unstable();
        let reader = self.cluster.clients[0];
        let task = FinaleTask::new(&self.notes.borrow(), members);
        self.add_task(reader, Box::new(task), 0);
        let limit = self.world.now + 10 * SECOND;
        let notes = self.notes.clone();
        self.advance_until(limit, || notes.borrow().finished);
        if !self.notes.borrow().finished && !self.failed() {
            let stuck = check::replicas::stuck(&self.world, &self.cluster);
            self.world.violation(format!("the last reads have not ended within 10 s; {stuck}"));
        }
    }

    fn verdict(mut self, stopped: bool) -> Verdict {
        let members = self.cluster.newest_view(&self.world).map_or_else(Vec::new, |view| {
            view.members.iter().map(|member| member.instance.node.to_string()).collect()
        });
        let notes = self.notes.borrow();
        Verdict {
            hash: self.world.hash,
            simulated_ns: self.world.now,
            nodes: self.cluster.nodes.len() as u64,
            operations: notes.operations,
            committed: notes.committed,
            tally: std::mem::take(&mut self.world.tally),
            lines: std::mem::take(&mut self.world.trace.lines).into(),
            history: notes.history.clone(),
            refused: notes.refused.clone(),
            unknown: notes.unknown,
            stopped,
            members,
        }
    }
}

/// Whether a host is a data node.
#[must_use]
pub fn is_node(world: &World, host: HostId) -> bool {
    matches!(world.host(host).role, Role::Data(_))
}
