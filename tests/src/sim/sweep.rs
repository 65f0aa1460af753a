//! Crash-point sweeps: one short run of a protocol, repeated once for every turn that a node takes
//! in it and every way in which the node can fail at that turn. Random faults hit the common
//! moments again and again; a sweep hits each one once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::host::HostId;
use super::run::{Options, run, turns_between};
use super::scenario;
use super::script::Script;
use super::trap::{Blow, Trap};

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
    /// Epochs sealed, closed and durable, at the node that ticks.
    Epoch,
}

impl Swept {
    /// The protocol of this name.
    ///
    /// # Errors
    /// In words, if there is none.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match name {
            "commit" => Ok(Self::Commit),
            "view" => Ok(Self::View),
            "silence" => Ok(Self::Silence),
            "arbitration" => Ok(Self::Arbitration),
            "redo" => Ok(Self::Redo),
            "epoch" => Ok(Self::Epoch),
            "rejoin" => Ok(Self::Rejoin),
            _ => Err(format!(
                "no sweep {name:?}: commit, view, silence, arbitration, redo, epoch or rejoin"
            )),
        }
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
            Self::Rejoin => "rejoin",
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
            Self::Epoch => "shape 2x2\nclients 2\nlists 2\npause_us 3000\nseconds 1\n",
            Self::Rejoin => {
                "shape 2x3\nclients 2\nlists 2\npause_us 3000\nseconds 1\n\
                 at 20 kill n6\nat 150 revive n6\nexpect whole\n"
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

    /// The ways to fail.
    fn blows(self) -> &'static [Blow] {
        match self {
            Self::Redo => POWER,
            _ => BLOWS,
        }
    }

    /// When the swept part begins and ends, counted from the start of the work.
    fn window(self) -> (u64, u64) {
        match self {
            Self::Commit | Self::View | Self::Epoch => (20 * MS, 32 * MS),
            Self::Redo => (8 * MS, 28 * MS),
            Self::Rejoin => (150 * MS, 300 * MS),
            Self::Silence => (440 * MS, 480 * MS),
            Self::Arbitration => (480 * MS, 560 * MS),
        }
    }

    /// The nodes at which it is swept.
    fn nodes(self) -> &'static [&'static str] {
        match self {
            Self::Commit | Self::Redo => &["n1", "n2", "n3", "n4"],
            Self::Epoch => &["n1"],
            // The president, the donors, and the one that comes back.
            Self::Rejoin => &["n1", "n4", "n5", "n6.3"],
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
    /// Runs made.
    pub runs: u64,
    /// Crash points whose run went wrong, and how.
    pub failed: Vec<(String, String)>,
    /// Rare branches that were reached.
    pub marks: BTreeSet<&'static str>,
    /// The hashes of all runs in one.
    pub hash: u64,
}

/// Sweeps every `every`-th turn (1 for all) of a run with this seed on so many threads.
///
/// # Panics
/// If a sweep's own script is none.
#[must_use]
pub fn sweep(what: Swept, seed: u64, every: u64, threads: usize) -> Sweep {
    let name = format!("sweep_{}", what.name());
    let script = Arc::new(Script::parse(&name, what.script()).expect("a constant"));
    let options = scenario::options(&script, seed, None);
    let (from, to) = what.window();
    let counted = turns_between(&options, from, to);
    let mut sum = Sweep::default();
    let mut traps = Vec::new();
    for name in what.nodes() {
        let (host, first, last) = find(&counted, name);
        sum.turns.insert(*name, last - first);
        // Another blow at each turn of a thinned sweep, so that all get their share.
        for (at, turn) in (first + 1..=last).enumerate() {
            for (index, blow) in what.blows().iter().enumerate() {
                if ((at * what.blows().len() + index) as u64).is_multiple_of(every) {
                    traps.push((*name, Trap { host, turn, blow: *blow }));
                }
            }
        }
    }
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(sum);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((name, trap)) = traps.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = run(&Options { trap: Some(*trap), ..options.clone() });
                    let mut sum = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.runs += 1;
                    sum.hash ^= verdict.hash.rotate_left((trap.turn % 64) as u32);
                    sum.marks.extend(verdict.tally.marks.keys());
                    if let Some(how) = verdict.tally.violations.first() {
                        let point = format!("{name} turn {} {:?}", trap.turn, trap.blow);
                        sum.failed.push((point, how.clone()));
                    }
                }
            });
        }
    });
    let mut sum = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.failed.sort();
    sum
}

fn find(counted: &[(String, HostId, u64, u64)], name: &str) -> (HostId, u64, u64) {
    let found = counted.iter().find(|(host, ..)| host == name);
    found.map(|(_, host, first, last)| (*host, *first, *last)).expect("a node of the shape")
}

/// Sweeps and reports; true if nothing went wrong.
#[must_use]
pub fn command(what: Swept, seed: u64, every: u64, threads: usize) -> bool {
    let sweep = sweep(what, seed, every, threads);
    let failed: Vec<Value> =
        sweep.failed.iter().map(|(point, how)| json!({ "point": point, "how": how })).collect();
    let json = json!({
        "schema": "lockstep.sim.sweep/v1",
        "sweep": what.name(),
        "seed": seed,
        "turns": sweep.turns,
        "runs": sweep.runs,
        "violations": failed.len(),
        "failed": failed,
        "marks": sweep.marks,
        "hash": format!("{:016x}", sweep.hash),
    });
    println!("{json}");
    failed.is_empty()
}
