//! Crash-point sweeps: one short run of a protocol, repeated once for every turn that a node takes
//! in it and every way in which the node can fail at that turn, and, where files are what it is
//! about, once for every step on them at which the power may go. Random faults hit the common
//! moments again and again; a sweep hits each one once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_storage::disk::Fate;
use serde_json::{Value, json};

use super::run::{Counted, Options, count, run};
use super::scenario;
use super::script::Script;
use super::trap::{Blow, Moment, Trap};

const MS: u64 = 1_000_000;

/// The ways to fail at a turn. The pause outlasts suspicion and every lease.
const BLOWS: &[Blow] = &[
    Blow::Before,
    Blow::OutputsLost,
    Blow::Prefix(1),
    Blow::Prefix(2),
    Blow::OnlyClients,
    Blow::CutOff,
    Blow::Pause(700 * MS),
];

/// What happens at the steps of redo.
const POWER: &[Blow] = &[Blow::PowerCut, Blow::PowerOff, Blow::OutputsLost];

/// What happens at the turns in which checkpoints are made, beside what happens between any two
/// steps on the disk.
const CHECKPOINTS: &[Blow] =
    &[Blow::Before, Blow::OutputsLost, Blow::PowerOff, Blow::Blackout(Fate::Any)];

/// What happens between two steps on a disk: the process dies, the machine loses power, and all
/// machines do, with the least and with anything left of what was not synced.
const AT_DISK: &[Blow] = &[
    Blow::Before,
    Blow::PowerOff,
    Blow::Blackout(Fate::Nothing),
    Blow::Blackout(Fate::Prefix),
    Blow::Blackout(Fate::Any),
];

/// The ways to fail while a cluster starts again.
const RESTARTS: &[Blow] = &[
    Blow::Before,
    Blow::OutputsLost,
    Blow::Prefix(1),
    Blow::CutOff,
    Blow::Pause(2_500 * MS),
    Blow::PowerOff,
    Blow::Blackout(Fate::Any),
];

/// The ways to fail while a backup is made.
const BACKUPS: &[Blow] = &[
    Blow::Before,
    Blow::OutputsLost,
    Blow::Prefix(1),
    Blow::Pause(700 * MS),
    Blow::PowerOff,
    Blow::Blackout(Fate::Nothing),
];

/// The ways to fail while partitions move.
const MOVES: &[Blow] = &[
    Blow::Before,
    Blow::OutputsLost,
    Blow::Prefix(1),
    Blow::CutOff,
    Blow::Pause(700 * MS),
    Blow::PowerOff,
    Blow::Blackout(Fate::Any),
    Blow::Blackout(Fate::Nothing),
];

/// A protocol whose every step is swept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swept {
    /// Transactions on one and on several partitions.
    Commit,
    /// The view without a node that was killed.
    View,
    /// The view without a node that has fallen silent.
    Silence,
    /// Two halves that ask the arbitrator.
    Arbitration,
    /// Redo written, synced and told, under commits that wait for it.
    Redo,
    /// A node that comes back, until it leads again.
    Rejoin,
    /// Checkpoints written, named and succeeded by others, and what is removed for them.
    Checkpoint,
    /// A cluster that starts again after all power has failed.
    Restart,
    /// Another arbitrator: the first one is dead, and then a node or the new one fails.
    Handover,
    /// Two changes of the configuration that are wanted at once.
    Config,
    /// Epochs sealed, closed and durable, at the node that ticks.
    Epoch,
    /// A backup, from its beginning until its manifest is there.
    Backup,
    /// A newcomer that gets a seat, comes, and takes the place of a node that leaves its group.
    Admit,
    /// Partitions that move to a new node group.
    Move,
}

impl Swept {
    /// Every sweep.
    pub const ALL: &'static [Self] = &[
        Self::Commit,
        Self::View,
        Self::Silence,
        Self::Arbitration,
        Self::Redo,
        Self::Epoch,
        Self::Rejoin,
        Self::Admit,
        Self::Checkpoint,
        Self::Restart,
        Self::Config,
        Self::Handover,
        Self::Backup,
        Self::Move,
    ];

    /// The protocol of this name.
    ///
    /// # Errors
    /// In words, if there is none.
    pub fn from_name(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|swept| swept.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|swept| swept.name()).collect();
            format!("no sweep {name:?}: {}", names.join(", "))
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::View => "view",
            Self::Silence => "silence",
            Self::Arbitration => "arbitration",
            Self::Redo => "redo",
            Self::Epoch => "epoch",
            Self::Config => "config",
            Self::Handover => "handover",
            Self::Rejoin => "rejoin",
            Self::Admit => "admit",
            Self::Checkpoint => "checkpoint",
            Self::Restart => "restart",
            Self::Backup => "backup",
            Self::Move => "move",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Commit => "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\n",
            // One disk is slower than the others, and one has no space for a while.
            Self::Redo => {
                "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\n\
                 at 5 disk_slow n2 4 300\nat 10 disk_full n3 400 15\n"
            }
            Self::Config => "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\nconfigures\n",
            Self::Handover => {
                "shape 2x2\nclients 1\nlists 2\npause_us 20000\nseconds 4\nmgmts 2\napis 1\n\
                 at 20 kill m1\n"
            }
            Self::Epoch => "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\n",
            Self::Rejoin => {
                "shape 2x3\nclients 2\nlists 2\npause_us 3000\nseconds 1\n\
                 at 20 kill n6\nat 150 revive n6\nexpect whole\n"
            }
            Self::Admit => {
                "shape 2x3\nfresh 1\nclients 2\nlists 2\npause_us 3000\nseconds 2\n\
                 at 20 come f1\nat 60 order spare 6\nexpect whole\n"
            }
            // Three replicas in both, so that the cluster lives on when one of them fails.
            Self::Move => {
                "shape 1x3\nfresh 3\npartitions 2\nclients 2\nlists 2\npause_us 3000\nseconds 1\n\
                 at 20 come f1\nat 30 come f2\nat 40 come f3\nat 300 order group_create 4 5 6\n\
                 expect whole\n"
            }
            Self::Checkpoint => {
                "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\n\
                 checkpoint_ms 10\nexpect whole\n"
            }
            Self::Restart => {
                "shape 2x2\nclients 1\nlists 2\npause_us 30000\nseconds 1\n\
                 checkpoint_ms 100\nblackout\n"
            }
            // Few transactions, so that most turns are the backup's.
            Self::Backup => {
                "shape 2x2\nclients 2\nlists 2\npause_us 12000\nseconds 1\n\
                 at 90 backup\nat 700 backup\n"
            }
            // Three replicas, so that the cluster lives on when one more node fails.
            Self::View => {
                "shape 2x3\nclients 2\nlists 2\npause_us 3000\nseconds 1\nat 20 kill n6\n"
            }
            Self::Silence => {
                "shape 2x3\nclients 2\nlists 2\npause_us 3000\nseconds 1\nat 20 power_off n6\n"
            }
            Self::Arbitration => {
                "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\nmay stop\n\
                 at 20 split n1,n3,c0 | n2,n4,c1 900\n"
            }
        }
    }

    /// The ways to fail at a turn.
    fn blows(self) -> &'static [Blow] {
        match self {
            Self::Redo => POWER,
            Self::Checkpoint => CHECKPOINTS,
            Self::Restart => RESTARTS,
            Self::Backup => BACKUPS,
            Self::Move => MOVES,
            _ => BLOWS,
        }
    }

    /// The ways to fail between two steps on the disk.
    fn blows_at_disk(self) -> &'static [Blow] {
        match self {
            Self::Checkpoint | Self::Restart | Self::Backup => AT_DISK,
            _ => &[],
        }
    }

    /// When the swept part begins and ends, counted from the start of the work. `None`: it is the
    /// time from the return of the power until the cluster is whole.
    fn window(self) -> Option<(u64, u64)> {
        Some(match self {
            Self::Commit | Self::View | Self::Epoch | Self::Config => (20 * MS, 32 * MS),
            Self::Redo => (8 * MS, 28 * MS),
            Self::Rejoin => (150 * MS, 300 * MS),
            Self::Handover => (2_010 * MS, 2_100 * MS),
            Self::Admit => (20 * MS, 130 * MS),
            Self::Silence => (440 * MS, 480 * MS),
            Self::Arbitration => (480 * MS, 560 * MS),
            Self::Checkpoint => (100 * MS, 130 * MS),
            Self::Backup => (90 * MS, 104 * MS),
            Self::Move => (395 * MS, 640 * MS),
            Self::Restart => return None,
        })
    }

    /// The nodes at which it is swept.
    fn nodes(self) -> &'static [&'static str] {
        match self {
            Self::Commit | Self::Redo | Self::Checkpoint | Self::Restart | Self::Config => {
                &["n1", "n2", "n3", "n4"]
            }
            Self::Handover => &["n1", "n2", "n4", "m2"],
            Self::Epoch => &["n1"],
            // The president, who leads first and is left; another one there; who comes.
            Self::Move => &["n1", "n2", "n4", "n5"],
            Self::Backup => &["m1", "n1", "n2", "n4"],
            // The president, the donors, and the one that comes back.
            Self::Rejoin => &["n1", "n4", "n5", "n6"],
            // The president, a donor, who leaves, who comes, and who hands out the seat.
            Self::Admit => &["n1", "n4", "n6", "n7", "m1"],
            Self::View | Self::Silence => &["n1", "n2", "n3", "n4", "n5"],
            Self::Arbitration => &["n1", "n2", "n3", "n4", "m1"],
        }
    }
}

/// What a sweep came to.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Turns in the window, by node.
    pub turns: BTreeMap<&'static str, u64>,
    /// Steps on the disk in the window, by node, where they are swept.
    pub steps: BTreeMap<&'static str, u64>,
    /// Turns and steps with each way to fail there; a thinned sweep makes fewer runs.
    pub points: u64,
    /// Runs made.
    pub runs: u64,
    /// Crash points whose run went wrong, and how.
    pub failed: Vec<(String, String)>,
    /// Rare branches that were reached.
    pub marks: BTreeSet<&'static str>,
    /// The hashes of all runs in one.
    pub hash: u64,
}

/// Which crash points of a sweep are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice<'a> {
    /// One in so many; 1 for all.
    Every(u64),
    /// The one that is called so in reports; what happens is printed.
    Only(&'a str),
}

/// Sweeps these crash points of a run with this seed on so many threads.
///
/// # Panics
/// If a sweep's own script is none.
#[must_use]
pub fn sweep(what: Swept, seed: u64, choice: Choice<'_>, threads: usize) -> Sweep {
    let name = format!("sweep_{}", what.name());
    let script = Arc::new(Script::parse(&name, what.script()).expect("a constant"));
    let print = matches!(choice, Choice::Only(_));
    let options = Options { trace: print, print: false, ..scenario::options(&script, seed, None) };
    let counted = count(&options, what.window());
    let mut sum = Sweep::default();
    let mut traps = Vec::new();
    for name in what.nodes() {
        let Counted { host, turns, steps, .. } = find(&counted, name);
        let (host, turns, steps) = (*host, turns.clone(), steps.clone());
        sum.turns.insert(*name, turns.clone().count() as u64);
        if !what.blows_at_disk().is_empty() {
            sum.steps.insert(*name, steps.end - steps.start);
        }
        let trap = |at| move |blow: &Blow| (*name, Trap { host, at, blow: *blow });
        traps.extend(turns.flat_map(|turn| what.blows().iter().map(trap(Moment::Turn(turn)))));
        let at_disk = what.blows_at_disk();
        traps.extend(steps.flat_map(|step| at_disk.iter().map(trap(Moment::Step(step)))));
    }
    sum.points = traps.len() as u64;
    match choice {
        Choice::Every(every) => thin(&mut traps, every),
        Choice::Only(point) => traps.retain(|(name, trap)| called(name, trap) == point),
    }
    let options = Options { print, ..options };
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(sum);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((name, trap)) = traps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = run(&Options { trap: Some(*trap), ..options.clone() });
                    let mut sum = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.runs += 1;
                    let (Moment::Turn(at) | Moment::Step(at)) = trap.at;
                    sum.hash ^= verdict.hash.rotate_left((at % 64) as u32);
                    sum.marks.extend(verdict.tally.marks.keys());
                    if let Some(how) = verdict.tally.violations.first() {
                        sum.failed.push((called(name, trap), how.clone()));
                    }
                }
            });
        }
    });
    let mut sum = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.failed.sort();
    sum
}

/// Leaves one in so many of each way to fail, not all at the same points.
fn thin(traps: &mut Vec<(&'static str, Trap)>, every: u64) {
    let mut ways: Vec<(Blow, u64)> = Vec::new();
    for (_, trap) in &*traps {
        if !ways.iter().any(|(way, _)| *way == trap.blow) {
            ways.push((trap.blow, 0));
        }
    }
    let count = ways.len() as u64;
    (0..).zip(&mut ways).for_each(|(at, (_, passed))| *passed = at * every / count);
    traps.retain(|(_, trap)| {
        let Some((_, passed)) = ways.iter_mut().find(|(way, _)| *way == trap.blow) else {
            return false;
        };
        *passed += 1;
        (*passed - 1).is_multiple_of(every)
    });
}

/// What a crash point is called.
fn called(name: &str, trap: &Trap) -> String {
    format!("{name} {:?} {:?}", trap.at, trap.blow)
}

fn find<'c>(counted: &'c [Counted], name: &str) -> &'c Counted {
    let is_it = |of: &str| of == name || of.strip_prefix(name).is_some_and(|r| r.starts_with('.'));
    counted.iter().find(|host| is_it(&host.name)).expect("a node of the shape")
}

/// Sweeps and reports; true if nothing went wrong.
#[must_use]
pub fn command(what: Swept, seed: u64, choice: Choice<'_>, threads: usize) -> bool {
    let sweep = sweep(what, seed, choice, threads);
    let failed: Vec<Value> =
        sweep.failed.iter().map(|(point, how)| json!({ "point": point, "how": how })).collect();
    let json = json!({
        "schema": "lockstep.sim.sweep/v1",
        "sweep": what.name(),
        "seed": seed,
        "turns": sweep.turns,
        "steps": sweep.steps,
        "points": sweep.points,
        "runs": sweep.runs,
        "violations": failed.len(),
        "failed": failed,
        "marks": sweep.marks,
        "hash": format!("{:016x}", sweep.hash),
    });
    println!("{json}");
    failed.is_empty() && sweep.runs > 0
}
