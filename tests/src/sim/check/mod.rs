//! What must hold: after every event, at samples, and when a run is over.

pub mod backup;
pub mod config;
pub mod cut;
pub mod durable;
pub mod events;
pub mod handover;
pub mod history;
pub mod progress;
pub mod replicas;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::ids::{NodeId, NodeInstance, ViewNumber};
use lockstep_proto::view::{Member, Standing, View};

use super::cluster::{Cluster, TRANSACTION_IDLE_MS};
use super::core::Core;
use super::event::Event;
use super::host::{HostId, Life, Role};
use super::run::Run;
use super::world::World;

use backup::BackupBook;
use durable::DiskBook;
use progress::ProgressBook;
use replicas::LogBook;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Bytes in flight and unsent on one connection beyond which something is not bounded.
const BACKLOG_MAX: usize = 64 << 20;

/// A view that somebody acted in.
struct Acted {
    view: View,
    by: BTreeSet<NodeId>,
}

impl Acted {
    /// Whether it can make a record stable or serve a read: a partition's replicas all act in it.
    fn is_in_force(&self) -> bool {
        let placements = &self.view.placements;
        placements.iter().any(|placement| placement.replicas.iter().all(|n| self.by.contains(n)))
    }

    /// Whether this view can have been made of that older one: who is in sync was a member, in sync
    /// or attached. A view that is in force has its successors made by those who act in it.
    fn comes_of(&self, older: &Self) -> bool {
        let stood = |member: &Member| {
            let before = older.view.member(member.instance.node);
            before
                .is_some_and(|b| b.instance == member.instance && b.standing >= Standing::Attached)
        };
        self.view.in_sync().all(stood) || self.starts_after(older)
    }

    /// Whether this view starts a stopped cluster again after that older one, in which some were
    /// the first to act and died: their later lives are in it.
    fn starts_after(&self, older: &Self) -> bool {
        let life = |view: &View, node| view.member(node).map(|m| m.instance.incarnation);
        let later = self.view.restart_generation > older.view.restart_generation;
        later && older.by.iter().all(|node| life(&self.view, *node) > life(&older.view, *node))
    }
}

/// Watches a run while it goes on.
#[derive(Default)]
pub struct Watchman {
    /// Every view anybody ever acted in, and who.
    views: BTreeMap<ViewNumber, Acted>,
    seen: BTreeMap<NodeInstance, ViewNumber>,
    logs: LogBook,
    disks: DiskBook,
    progress: ProgressBook,
    /// What was backed up.
    pub backups: BackupBook,
}

impl Watchman {
    /// Looks at the process that has just had a turn.
    #[inline]
    pub fn after_event(&mut self, world: &mut World, event: Event) {
        let Event::Wake(proc) = event else { return };
        let control = match &world.procs[proc.index()].core {
            Some(Core::Control(control)) => control,
            Some(Core::Shard(shard)) => {
                if let Some(text) = self.progress.judge(proc, shard) {
                    world.violation(text);
                }
                return;
            }
            _ => return,
        };
        let Role::Data(me) = world.host(world.procs[proc.index()].host).role else { return };
        let view = control.view();
        if self.seen.get(&me) == Some(&view.number) {
            return;
        }
        self.seen.insert(me, view.number);
        let before = self.views.range(..view.number).next_back().map(|(_, acted)| &acted.view);
        let first = !self.views.contains_key(&view.number);
        let hasty = before.filter(|_| first);
        if let Some(text) = hasty.and_then(|one| handover::unregistered(world, one, view)) {
            world.violation(text);
            return;
        }
        let fresh = || Acted { view: view.clone(), by: BTreeSet::new() };
        let mine = self.views.entry(view.number).or_insert_with(fresh);
        if mine.view != *view {
            let text = format!("split: {me} and {:?} act in two views {}", mine.by, view.number);
            world.violation(text);
            return;
        }
        mine.by.insert(me.node);
        // Views that are in force come of each other, so nobody is in sync all of a sudden. A
        // president may find itself alone in a view of its own: that one is not in force and does
        // no harm.
        let in_force: Vec<&Acted> = self.views.values().filter(|v| v.is_in_force()).collect();
        let split = in_force.windows(2).find(|pair| !pair[1].comes_of(pair[0]));
        if let Some([older, newer]) = split {
            let text = format!(
                "split: {:?} act in {} and {:?} in {}, which does not come of it",
                older.by, older.view.number, newer.by, newer.view.number
            );
            world.violation(text);
            return;
        }
        let pairs = in_force.windows(2);
        let forked = pairs.filter_map(|pair| config::between(&pair[0].view, &pair[1].view)).next();
        let pairs = in_force.windows(2).filter(|pair| !pair[1].starts_after(pair[0]));
        let seized = pairs.filter_map(|p| transfer::between(&p[0].view, &p[1].view)).next();
        let forked = forked.or(seized);
        let unfit = in_force.last().and_then(|last| config::of_view(&last.view));
        if let Some(text) = forked.or(unfit) {
            world.violation(text);
        }
    }

    /// The sampled checks.
    pub fn sample(&mut self, world: &mut World, cluster: &Cluster) {
        if world.tally.backlog_max > BACKLOG_MAX {
            world.violation(format!("{} bytes wait on one connection", world.tally.backlog_max));
        }
        self.logs.sample(world, cluster);
        self.disks.sample(world, cluster);
    }

    /// How many views there were.
    #[must_use]
    pub fn views(&self) -> usize {
        self.views.len()
    }
}

/// The checks of a run that stopped itself, as it may.
pub fn at_stop(run: &mut Run) {
    let found = history::check(&run.notes.borrow(), false);
    for text in found {
        run.world.violation(text);
    }
}

/// Lets happen what only needs time.
pub fn settle(run: &mut Run) {
    if has_idle(run) {
        // A client whose end of a connection is gone without its server knowing: the server's limit
        // for idle transactions ends it.
        run.advance(u64::from(TRANSACTION_IDLE_MS) * MS + SECOND);
    }
    // Management servers tell each other of backups, and remove what nobody wants.
    if backup::has_leftovers(&run.world, &run.cluster) {
        run.advance(10 * SECOND);
    }
    if backup::has_leftovers(&run.world, &run.cluster) {
        run.advance(70 * SECOND);
    }
}

/// Whether some shard coordinates a transaction that nobody goes on with.
#[must_use]
pub fn has_idle(run: &Run) -> bool {
    let nodes = running(&run.world, &run.cluster);
    nodes.iter().any(|node| {
        replicas::inspections(&run.world, *node, false).iter().any(|shard| shard.coordinated > 0)
    })
}

/// The checks of a run that is over.
pub fn at_end(run: &mut Run) {
    durable::look_at_all(&mut run.world, &run.cluster);
    run.watchman.backups.look_at_all(&mut run.world, &run.cluster);
    backup::look_for_leftovers(&mut run.world, &run.cluster);
    let mut found = run.notes.borrow().complaints.clone();
    found.extend(history::check(&run.notes.borrow(), true));
    found.extend(at_rest(run));
    for text in found {
        run.world.violation(text);
    }
}

/// What must hold of the nodes when nothing goes on any more.
#[must_use]
pub fn at_rest(run: &mut Run) -> Vec<String> {
    let mut found = membership(&run.world, &run.cluster);
    found.extend(transfer::at_rest(&run.world, &run.cluster));
    found.extend(events::at_rest(&run.world, &run.cluster));
    let unequal = replicas::at_rest(&run.world, &run.cluster);
    if !unequal.is_empty() {
        found.extend(replicas::differences(&mut run.world, &run.cluster));
    }
    found.extend(unequal);
    found
}

/// All members act in one view, and whoever is no member has stopped.
fn membership(world: &World, cluster: &Cluster) -> Vec<String> {
    let Some(newest) = cluster.newest_view(world) else {
        return vec!["no node is left, though the plan left enough of them".into()];
    };
    let mut found = Vec::new();
    for node in &cluster.nodes {
        let Role::Data(instance) = world.host(*node).role else { continue };
        let member = newest.contains(instance);
        match (member, cluster.control(world, *node)) {
            (true, Some(control)) if control.view().number == newest.number && control.acts() => {}
            (true, Some(control)) => found.push(format!(
                "{instance} is a member of {} but has {} and acts: {}",
                newest.number,
                control.view().number,
                control.acts()
            )),
            (true, None) => {
                found.push(format!("{instance} is dead but a member of {}", newest.number));
            }
            (false, Some(_)) if world.host(*node).life == Life::Running => {
                found.push(format!("{instance} is not in {} but runs", newest.number));
            }
            (false, _) => {}
        }
    }
    found
}

/// The hosts of all data nodes that run.
#[must_use]
pub fn running(world: &World, cluster: &Cluster) -> Vec<HostId> {
    cluster.nodes.iter().copied().filter(|node| world.runs(*node)).collect()
}
