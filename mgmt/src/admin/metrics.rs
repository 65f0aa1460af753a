//! Metrics: one table is the source of the page `/metrics` and of docs/METRICS.md.
//!
//! Rules: base units (seconds, bytes); counters end in `_total` and never go down in the life of a
//! process; a metric without a value is left out, never 0.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_proto::disk::Lane;
use lockstep_proto::durability::DiskState;
use lockstep_proto::report::{ControlReport, MgmtReport, ViewReport};
use lockstep_proto::view::Standing;
use lockstep_proto::wire::client::{DiskStatus, ShardStatus};
use lockstep_proto::wire::progress::JoinProgress;
use lockstep_runtime::{Count, DiskCounts};

use super::process::ProcessFigures;
use super::snapshot::{Snapshot, StandIn};

pub(super) mod table;

pub use table::METRICS;

/// What becomes of a metric's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What it is, one sentence without a final stop.
    pub help: &'static str,
    /// Where its values come from.
    pub read: Read,
}

/// Where values come from. Those of shards have the label `shard`.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// The process, whatever its kind.
    Process(fn(&ProcessFigures) -> f64),
    /// The newest view the process knows.
    View(fn(&ViewReport) -> f64),
    /// The control core of a data node.
    Control(fn(&ControlReport) -> f64),
    /// Each shard of a data node.
    Shard(fn(&ShardStatus) -> f64),
    /// Each shard of a data node with a disk, if there is a value.
    Disk(fn(&DiskStatus) -> Option<f64>),
    /// Each shard of a data node that has come back in this life of the process.
    Join(fn(&JoinProgress) -> Option<f64>),
    /// A management server.
    Mgmt(fn(&MgmtReport) -> f64),
    /// A stand-in arbitrator.
    StandIn(fn(&StandIn) -> f64),
    /// What the threads of each kind of file have done with their disk; label `files`.
    Lane(fn(&DiskCounts) -> &AtomicU64, f64),
    /// Several values with these labels.
    Labelled(&'static [&'static str], fn(&Snapshot, &mut Samples<'_>)),
}

impl Read {
    /// The labels of its values.
    #[must_use]
    pub fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::Process(_)
            | Self::View(_)
            | Self::Control(_)
            | Self::Mgmt(_)
            | Self::StandIn(_) => &[],
            Self::Shard(_) | Self::Disk(_) | Self::Join(_) => &["shard"],
            Self::Lane(..) => &["files"],
            Self::Labelled(labels, _) => labels,
        }
    }

    /// Which processes have it.
    #[must_use]
    pub fn whose(&self) -> &'static str {
        match self {
            Self::Process(_) | Self::View(_) => "all",
            Self::Control(_) | Self::Shard(_) | Self::Disk(_) | Self::Join(_) | Self::Lane(..) => {
                "data nodes"
            }
            Self::Mgmt(_) => "management servers",
            Self::StandIn(_) => "stand-in arbitrators",
            Self::Labelled(labels, _) => match labels.first() {
                Some(&("cluster" | "shard")) => "data nodes",
                _ => "all",
            },
        }
    }
}

/// The values of one metric, as lines of text.
#[derive(Debug)]
pub struct Samples<'a> {
    metric: &'a Metric,
    text: &'a mut String,
    begun: bool,
}

impl Samples<'_> {
    /// One value; `labels` belong to the names in the table, in the same order.
    pub fn add(&mut self, labels: &[&str], value: f64) {
        let Metric { name, kind, help, read } = self.metric;
        if !self.begun {
            self.begun = true;
            self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
        }
        self.text.push_str(name);
        let names = read.labels();
        assert_eq!(names.len(), labels.len(), "{name} has other labels");
        for (at, (label, value)) in names.iter().zip(labels).enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(self.text, value);
            self.text.push('"');
        }
        if !names.is_empty() {
            self.text.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, " {value}");
    }

    fn of_shards(&mut self, at: &Snapshot, of: impl Fn(&ShardStatus) -> Option<f64>) {
        for shard in at.shards() {
            if let Some(value) = of(shard) {
                self.add(&[&shard.shard.0.to_string()], value);
            }
        }
    }

    fn all_of(&mut self, at: &Snapshot) {
        match self.metric.read {
            Read::Process(of) => self.add(&[], of(&at.process)),
            Read::View(of) => at.view().into_iter().for_each(|view| self.add(&[], of(view))),
            Read::Control(of) => {
                at.control().into_iter().for_each(|control| self.add(&[], of(control)));
            }
            Read::Mgmt(of) => at.mgmt().into_iter().for_each(|mgmt| self.add(&[], of(mgmt))),
            Read::StandIn(of) => at.stand_in.iter().for_each(|it| self.add(&[], of(it))),
            Read::Shard(of) => self.of_shards(at, |shard| Some(of(shard))),
            Read::Disk(of) => self.of_shards(at, |shard| of(shard.disk.as_ref()?)),
            Read::Join(of) => self.of_shards(at, |shard| of(shard.join.as_ref()?)),
            Read::Lane(of, unit) => {
                if at.shards().next().is_some() {
                    for (files, lane) in [
                        ("redo", Lane::Redo),
                        ("checkpoint", Lane::Checkpoint),
                        ("backup", Lane::Backup),
                    ] {
                        let number = of(at.counters.disk(lane)).load(Ordering::Relaxed);
                        self.add(&[files], number as f64 * unit);
                    }
                }
            }
            Read::Labelled(_, read) => read(at, self),
        }
    }
}

/// What the exposition format wants escaped in a label's value.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// The page `/metrics`.
#[must_use]
pub fn page(at: &Snapshot) -> String {
    let mut text = String::new();
    for metric in METRICS {
        Samples { metric, text: &mut text, begun: false }.all_of(at);
    }
    text
}

fn build(_: &Snapshot, samples: &mut Samples<'_>) {
    samples.add(&[env!("CARGO_PKG_VERSION")], 1.0);
}

fn started(at: &Snapshot, samples: &mut Samples<'_>) {
    samples.add(&[], at.started);
}

fn ready(at: &Snapshot, samples: &mut Samples<'_>) {
    samples.add(&[], one_if(at.not_ready().is_none()));
}

fn node(at: &Snapshot, samples: &mut Samples<'_>) {
    let Some(control) = at.control() else { return };
    let (node, life) = (control.instance.node.0, control.instance.incarnation.0);
    let labels = [
        &control.view.cluster.to_string(),
        &node.to_string(),
        &life.to_string(),
        &control.group.in_words(),
        &control.zone,
    ];
    samples.add(&labels.map(String::as_str), 1.0);
}

fn members(at: &Snapshot, samples: &mut Samples<'_>) {
    let Some(view) = at.view() else { return };
    let all = [
        (Standing::InSync, view.in_sync),
        (Standing::Attached, view.attached),
        (Standing::Copying, view.copying),
    ];
    for (standing, count) in all {
        samples.add(&[standing_name(standing)], f64::from(count));
    }
}

/// The word for how far a member is.
#[must_use]
pub fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::InSync => "in_sync",
        Standing::Attached => "attached",
        Standing::Copying => "copying",
    }
}

fn transactions(at: &Snapshot, samples: &mut Samples<'_>) {
    for shard in at.shards() {
        let name = shard.shard.0.to_string();
        samples.add(&[&name, "committed"], shard.committed as f64);
        samples.add(&[&name, "aborted"], shard.aborted as f64);
    }
}

fn partitions(at: &Snapshot, samples: &mut Samples<'_>) {
    for shard in at.shards() {
        let name = shard.shard.0.to_string();
        samples.add(&[&name, "primary"], f64::from(shard.partitions_primary));
        samples.add(&[&name, "backup"], f64::from(shard.partitions_backup));
    }
}

fn disk_states(at: &Snapshot, samples: &mut Samples<'_>) {
    let all =
        [DiskState::Well, DiskState::Slow, DiskState::Full, DiskState::Stuck, DiskState::Broken];
    for shard in at.shards() {
        let Some(disk) = &shard.disk else { continue };
        for state in all {
            let name = crate::cli::disk_word(state);
            let value = one_if(disk.state == state);
            samples.add(&[&shard.shard.0.to_string(), name], value);
        }
    }
}

fn edge(at: &Snapshot, samples: &mut Samples<'_>) {
    for count in Count::ALL {
        samples.add(&[count.name()], at.counters.number(count) as f64);
    }
}

fn log_lines(at: &Snapshot, samples: &mut Samples<'_>) {
    for (level, number) in at.log.numbers() {
        samples.add(&[level], number as f64);
    }
}

fn threads(at: &Snapshot, samples: &mut Samples<'_>) {
    for thread in &at.process.threads {
        samples.add(&[&thread.name], thread.cpu.as_secs_f64());
    }
}

fn one_if(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// docs/METRICS.md.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(HEAD);
    for metric in METRICS {
        let labels: Vec<String> =
            metric.read.labels().iter().map(|label| format!("`{label}`")).collect();
        let Metric { name, kind, help, read } = metric;
        text.push_str(&format!(
            "| `{name}` | {} | {} | {} | {help} |\n",
            kind.name(),
            labels.join(", "),
            read.whose(),
        ));
    }
    text
}

const HEAD: &str = "\
# Metrics

What `/metrics` on the admin port of every process shows, in the text form of Prometheus; see
[OPERATING.md](OPERATING.md) for the port. Made from the table in code
(`mgmt/src/admin/metrics/table.rs`): a test compares the two, and
`LOCKSTEP_REGENERATE=1 cargo test -p lockstep-mgmt --lib admin` writes this page anew.

Each process tells of itself only. Units are seconds and bytes; counters begin at 0 with each
process and end in `_total`; what has no value is left out. Values of a data node that are by shard
are added up over its shards, those of a cluster over its data nodes: rows and partitions are
counted once for each replica.

| Metric | Kind | Labels | Of | Meaning |
|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        for Metric { name, kind, help, .. } in METRICS {
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(name.starts_with("lockstep_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(!name.contains("_ms") && !name.contains("_us"), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.') && !help.contains('|'), "{name}");
            assert!(!help.contains(['\n', '\\']), "{name}");
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = String::new();
        escape(&mut text, "a\"b\\c\nd");
        assert_eq!(text, "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn the_page_in_docs_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        if std::env::var_os("LOCKSTEP_REGENERATE").is_some() {
            std::fs::write(path, document()).expect("written");
        }
        let page = std::fs::read_to_string(path).expect("docs/METRICS.md");
        assert_eq!(page, document(), "LOCKSTEP_REGENERATE=1 writes it anew");
    }
}
