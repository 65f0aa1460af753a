//! Checks of a cluster: its view, what its nodes say, and what its admin ports say.

use std::collections::BTreeMap;

use lockstep_proto::durability::DiskState;
use lockstep_proto::figures::span;
use lockstep_proto::view::{Standing, View};

use super::{Finding, Level};
use crate::admin::ask;
use crate::cli::disk_word;
use lockstep_proto::wire::client::DiskStatus;

/// A node with less of its data memory free is worth a word, percent.
const MEMORY_FREE_PERCENT_MIN: u64 = 20;

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Its id.
    pub node: u16,
    /// Whether it is in sync and answers.
    pub serves: bool,
    /// Row data held, and how much may be.
    pub memory: (u64, u64),
    /// Its disk.
    pub disk: Option<DiskStatus>,
}

/// All checks of a cluster.
#[must_use]
pub fn check(view: &View, nodes: &[NodeState]) -> Vec<Finding> {
    let mut findings = vec![redundancy(view, nodes), members(view, nodes), zones(view)];
    findings.push(arbitrator(view));
    findings.extend(nodes.iter().filter_map(memory));
    findings.extend(nodes.iter().filter_map(|node| disk(view, node)));
    findings
}

fn redundancy(view: &View, nodes: &[NodeState]) -> Finding {
    let serves = |id: u16| nodes.iter().any(|node| node.node == id && node.serves);
    let count = |group| {
        let members = view.members.iter().filter(|m| m.group == group);
        members.filter(|m| serves(m.instance.node.0)).count()
    };
    let least = view.groups().into_iter().map(|group| (count(group), group)).min();
    let Some((count, group)) = least else {
        return Finding::of("redundancy", Level::Bad, "there is no node group");
    };
    let what = format!("node group {} has {count} of {} replicas", group.0, view.config.replicas);
    match (count, usize::from(view.config.replicas)) {
        (0, _) => Finding::of("redundancy", Level::Bad, what)
            .why("its rows are out of reach")
            .then("start its data nodes; their logs say what they wait for"),
        (1, 1) => Finding::of("redundancy", Level::Warn, "each row is on one data node only")
            .why("its loss stops the cluster")
            .then("make clusters that matter with `cluster.replicas` 2 or more"),
        (count, wanted) if count < wanted => Finding::of("redundancy", Level::Bad, what)
            .why(match count {
                1 => "the loss of one more data node stops the cluster",
                _ => "it survives fewer losses than it should",
            })
            .then("start the missing data nodes again; `lockstep status` shows how far they are"),
        (_, wanted) => Finding::well("redundancy", format!("{wanted} replicas of every row")),
    }
}

fn members(view: &View, nodes: &[NodeState]) -> Finding {
    let silent: Vec<String> = view
        .members
        .iter()
        .filter(|m| m.standing == Standing::InSync)
        .filter(|m| !nodes.iter().any(|n| n.node == m.instance.node.0 && n.serves))
        .map(|m| m.instance.node.0.to_string())
        .collect();
    if silent.is_empty() {
        return Finding::well("members", format!("{} data nodes answer", nodes.len()));
    }
    let what = format!("data nodes {} are in the view and do not answer here", silent.join(", "));
    Finding::of("members", Level::Bad, what)
        .why("they are dying, or this machine cannot reach them")
        .then("look again in some seconds; check the network between here and them")
}

fn zones(view: &View) -> Finding {
    let mut by_group: BTreeMap<u16, BTreeMap<&str, u32>> = BTreeMap::new();
    for member in &view.members {
        let zones = by_group.entry(member.group.0).or_default();
        *zones.entry(member.zone.as_str()).or_default() += 1;
    }
    let all = || by_group.values().flat_map(BTreeMap::keys);
    if all().all(|zone| zone.is_empty()) {
        return Finding::of("zones", Level::Note, "no data node names a zone")
            .why("replicas may share a rack, a switch or a power supply without anybody knowing")
            .then("set `node.zone`, if there is more than one place");
    }
    let mut names: Vec<&str> = all().copied().collect();
    names.sort_unstable();
    names.dedup();
    let crowded = by_group.iter().find_map(|(group, zones)| {
        let zone = zones.iter().find(|(_, count)| **count > 1 && zones.len() < names.len())?;
        Some(format!("{} replicas of node group {group} are in zone {:?}", zone.1, zone.0))
    });
    match crowded {
        None => Finding::well("zones", format!("replicas are spread over {}", names.join(", "))),
        Some(what) => Finding::of("zones", Level::Warn, what)
            .why("the loss of that zone costs more replicas than it must")
            .then("start the next data nodes of that group in other zones"),
    }
}

fn arbitrator(view: &View) -> Finding {
    match (&view.arbitrator, view.arbitrators_possible.len()) {
        (None, _) => Finding::of("arbitrator", Level::Warn, "nobody arbitrates")
            .why("if the cluster splits into equal halves, both stop")
            .then("start a management server; a new view takes it"),
        (Some(_), 0 | 1) => {
            Finding::of("arbitrator", Level::Note, "there is one, and no other to take over")
                .why("while it is away, an even split stops the cluster")
                .then("run a second management server, on another machine")
        }
        (Some(_), more) => Finding::well("arbitrator", format!("one of {more}")),
    }
}

fn memory(node: &NodeState) -> Option<Finding> {
    let (used, limit) = node.memory;
    if limit == 0 || limit.saturating_sub(used) >= limit / 100 * MEMORY_FREE_PERCENT_MIN {
        return None;
    }
    let percent = used.saturating_mul(100) / limit;
    let what = format!("data node {} has used {percent} % of its data memory", node.node);
    let level = if percent >= 95 { Level::Bad } else { Level::Warn };
    let finding = Finding::of("data-memory", level, what)
        .why("when it is used up, inserts are refused (LS-2010)");
    Some(finding.then("delete rows, or make room: `lockstep explain LS-2010`"))
}

fn disk(view: &View, node: &NodeState) -> Option<Finding> {
    let disk = node.disk.as_ref()?;
    let id = node.node;
    if disk.state != DiskState::Well {
        let what = format!("the disk of data node {id} is {}", disk_word(disk.state));
        let level = if disk.state == DiskState::Slow { Level::Warn } else { Level::Bad };
        let finding =
            Finding::of("disk", level, what).why("its group writes only what it can keep");
        return Some(finding.then("see \"A disk is in trouble\" in docs/OPERATING.md"));
    }
    let late = u64::from(view.config.checkpoint_interval_ms).saturating_mul(4);
    let age = disk
        .checkpoint_age_ms
        .filter(|age| *age > late && disk.durable > lockstep_proto::ids::Epoch(0))?;
    let behind = disk.checkpointed.is_some_and(|at| at < disk.worked);
    behind.then(|| {
        let what = format!("data node {id} finished its last checkpoint {} ago", span(age));
        Finding::of("disk", Level::Note, what)
            .why("the more redo there is after it, the longer a restart takes")
            .then("see whether its disk is busy: `lockstep node show`")
    })
}

/// Whether all processes are of one release, by their admin ports.
#[must_use]
pub fn releases(admins: &[String]) -> Finding {
    let mut by_release: BTreeMap<String, u32> = BTreeMap::new();
    for admin in admins {
        let release = ask::get(admin, "/status.json").ok().and_then(|page| {
            let json: serde_json::Value = serde_json::from_str(&page.body).ok()?;
            Some(json["version"].as_str()?.to_owned())
        });
        // A process that is gone is another check's.
        if let Some(release) = release {
            *by_release.entry(release).or_default() += 1;
        }
    }
    let own = env!("CARGO_PKG_VERSION");
    let described: Vec<String> =
        by_release.iter().map(|(release, count)| format!("{count} of {release}")).collect();
    let what = format!("processes: {}; this command: {own}", described.join(", "));
    if by_release.keys().all(|release| release == own) {
        return Finding::well("releases", what);
    }
    Finding::of("releases", Level::Warn, what)
        .why("a cluster should be of two releases only while it is upgraded")
        .then("stop and start the others with the new release: docs/RUNBOOKS.md, \"Upgrade\"")
}
