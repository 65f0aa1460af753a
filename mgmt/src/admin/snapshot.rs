//! What this process knows about itself at one moment: the ground of every page.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::report::{ControlReport, MgmtReport, Report, ViewReport};
use lockstep_proto::view::Standing;
use lockstep_proto::wire::client::ShardStatus;
use lockstep_runtime::{Cores, Counters, Said};
use tokio::sync::{Mutex, watch};

use super::process::{ProcessFigures, wall_seconds};
use crate::log::LogCounts;

/// How long a core may take to answer before it counts as stuck. Turns are short: one that takes
/// this long has been given up by the rest of the cluster long ago.
const PATIENCE: Duration = Duration::from_secs(3);

/// A snapshot this young is shown again: many who ask do not make the cores answer more often.
const FRESH: Duration = Duration::from_millis(100);

/// The kinds of process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A data node.
    Data,
    /// A management server.
    Mgmt,
    /// A stand-in arbitrator.
    Arbitrator,
}

impl Kind {
    /// The word after `lockstep run`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Mgmt => "mgmt",
            Self::Arbitrator => "arbitrator",
        }
    }
}

/// What a stand-in arbitrator knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandIn {
    /// The newest view it has heard of.
    pub view: ViewReport,
    /// Whether that names it as the arbitrator.
    pub arbitrates: bool,
}

/// See the module text.
#[derive(Debug)]
pub struct Snapshot {
    /// What kind of process it is.
    pub kind: Kind,
    /// When it was started, in seconds since 1970.
    pub started: f64,
    /// Whether it has been all it was started for, once in its life.
    pub has_started: bool,
    /// What the kernel knows.
    pub process: ProcessFigures,
    /// What went wrong at the edge, and what was written.
    pub counters: Arc<Counters>,
    /// How many lines the log has.
    pub log: &'static LogCounts,
    /// What each core says, by its thread's name.
    pub cores: Vec<(String, Said)>,
    /// What it knows, if it is a stand-in arbitrator that has found its cluster.
    pub stand_in: Option<StandIn>,
}

impl Snapshot {
    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.cores.iter().filter_map(|(_, said)| match said {
            Said::Report(report) => Some(report),
            Said::Nothing | Said::Silent => None,
        })
    }

    /// What the control core says, of a data node that is part of its cluster.
    #[must_use]
    pub fn control(&self) -> Option<&ControlReport> {
        self.reports().find_map(|report| match report {
            Report::Control(control) => Some(&**control),
            _ => None,
        })
    }

    /// What the shards say.
    pub fn shards(&self) -> impl Iterator<Item = &ShardStatus> {
        self.reports().filter_map(|report| match report {
            Report::Shard(status) => Some(&**status),
            _ => None,
        })
    }

    /// What a management server says.
    #[must_use]
    pub fn mgmt(&self) -> Option<&MgmtReport> {
        self.reports().find_map(|report| match report {
            Report::Mgmt(mgmt) => Some(mgmt),
            _ => None,
        })
    }

    /// The newest view known here.
    #[must_use]
    pub fn view(&self) -> Option<&ViewReport> {
        let of_node = self.control().map(|control| &control.view);
        let of_server = || self.mgmt()?.view.as_ref();
        of_node.or_else(of_server).or_else(|| Some(&self.stand_in.as_ref()?.view))
    }

    /// Cores that do not answer.
    pub fn stuck(&self) -> impl Iterator<Item = &str> {
        let silent = self.cores.iter().filter(|(_, said)| *said == Said::Silent);
        silent.map(|(name, _)| name.as_str())
    }

    /// Why it does not do its work now; `None` if it does.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if let Some(stuck) = self.stuck().next() {
            return Some(format!("{stuck} does not answer"));
        }
        if self.kind == Kind::Arbitrator {
            let waits = self.stand_in.is_none();
            return waits.then(|| "looking for its cluster".to_owned());
        }
        let waits = |what: &str, waits_for: &str| match waits_for {
            "" => Some(what.to_owned()),
            text => Some(format!("{what}: {text}")),
        };
        for report in self.reports() {
            match report {
                Report::Newcomer { waits_for } => return waits("asking for admission", waits_for),
                Report::Returning { waits_for, .. } => return waits("coming back", waits_for),
                Report::Mgmt(mgmt) if mgmt.view.is_none() => {
                    return waits("there is no cluster yet", &mgmt.waits_for);
                }
                Report::Control(control) => return not_serving(control),
                Report::Mgmt(_) => return None,
                Report::Shard(_) => {}
            }
        }
        Some("between two steps of its start".to_owned())
    }
}

fn not_serving(control: &ControlReport) -> Option<String> {
    match control.standing {
        Standing::Copying => Some("copying rows from its node group".to_owned()),
        Standing::Attached => Some("attached, not in sync yet".to_owned()),
        Standing::InSync if control.acts => None,
        Standing::InSync => Some("between two views, or leaving".to_owned()),
    }
}

/// Makes snapshots.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
    started: f64,
    has_started: AtomicBool,
    cores: Arc<Cores>,
    counters: Arc<Counters>,
    stand_in: watch::Receiver<Option<StandIn>>,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Source {
    /// Of this process.
    #[must_use]
    pub fn new(
        kind: Kind,
        cores: Arc<Cores>,
        counters: Arc<Counters>,
        stand_in: watch::Receiver<Option<StandIn>>,
    ) -> Self {
        let (started, has_started) = (wall_seconds(), AtomicBool::new(false));
        let last = Mutex::default();
        Self { kind, started, has_started, cores, counters, stand_in, last }
    }

    /// How the process is now, or was a moment ago.
    pub async fn snapshot(&self) -> Arc<Snapshot> {
        let mut last = self.last.lock().await;
        if let Some((made, snapshot)) = &*last
            && made.elapsed() < FRESH
        {
            return Arc::clone(snapshot);
        }
        // Nobody else asks: this lock is held.
        let cores = self.cores.ask(PATIENCE).await.unwrap_or_default();
        let mut snapshot = Snapshot {
            kind: self.kind,
            started: self.started,
            has_started: false,
            process: ProcessFigures::read(),
            counters: Arc::clone(&self.counters),
            log: LogCounts::of_process(),
            cores,
            stand_in: self.stand_in.borrow().clone(),
        };
        // A management server is started when it answers: others create the cluster.
        let is_up = match self.kind {
            Kind::Data | Kind::Arbitrator => snapshot.not_ready().is_none(),
            Kind::Mgmt => snapshot.mgmt().is_some(),
        };
        if is_up {
            self.has_started.store(true, Ordering::Relaxed);
        }
        snapshot.has_started = self.has_started.load(Ordering::Relaxed);
        let snapshot = Arc::new(snapshot);
        *last = Some((Instant::now(), Arc::clone(&snapshot)));
        snapshot
    }
}
