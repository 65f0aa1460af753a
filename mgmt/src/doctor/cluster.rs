//! Checks of a cluster: its view, what its nodes say, and what its admin ports say.

use std::collections::BTreeMap;

use lockstep_proto::durability::DiskState;
use lockstep_proto::figures::span;
use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::view::{Standing, View};

use super::{Finding, Level};
use crate::admin::ask;
use crate::cli::{disk_word, drained_spares, listed};
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

/// Who could arbitrate, by who answers here.
#[derive(Clone, Debug, Default)]
pub struct Arbitration {
    /// Whether the one that the view names answers.
    pub answers: bool,
    /// How many others answer.
    pub others: usize,
    /// Nodes and zones whose loss would end the cluster as it is now.
    pub fatal: Vec<String>,
}

/// All checks of a cluster.
#[must_use]
pub fn check(view: &View, nodes: &[NodeState], arbitration: &Arbitration) -> Vec<Finding> {
    let mut findings = vec![redundancy(view, nodes), members(view, nodes), zones(view)];
    findings.push(arbitrator(view, arbitration));
    findings.extend(nodes.iter().filter_map(memory));
    findings.extend(nodes.iter().filter_map(|node| disk(view, node)));
    findings
}

fn redundancy(view: &View, nodes: &[NodeState]) -> Finding {
    let serves = |id: NodeId| nodes.iter().any(|node| node.node == id.0 && node.serves);
    let count = |group| {
        let members = view.members.iter().filter(|m| m.group == group);
        members.filter(|m| serves(m.instance.node)).count()
    };
    let wanted = usize::from(view.config.replicas);
    let groups: Vec<(usize, GroupId)> = view.groups().into_iter().map(|g| (count(g), g)).collect();
    let Some(least) = groups.iter().map(|(count, _)| *count).min() else {
        return Finding::of("redundancy", Level::Bad, "there is no node group");
    };
    if (least, wanted) == (1, 1) {
        return Finding::of("redundancy", Level::Warn, "each row is on one data node only")
            .why("its loss stops the cluster")
            .then("make clusters that matter with `cluster.replicas` 2 or more");
    }
    let short = || groups.iter().filter(|(count, _)| *count < wanted.max(1));
    if short().next().is_none() {
        return Finding::well("redundancy", format!("{wanted} replicas of every row"));
    }
    let each =
        short().map(|(count, g)| format!("node group {} has {count} of {wanted} replicas", g.0));
    let finding = Finding::of("redundancy", Level::Bad, each.collect::<Vec<_>>().join(", "));
    if least == 0 {
        return finding
            .why("rows of a group without replicas are out of reach")
            .then("start its data nodes; their logs say what they wait for");
    }
    let away = short().any(|(_, g)| view.roster.of_group(*g).any(|seat| !serves(seat.node)));
    let then = match (away, drained_spares(view)) {
        (true, _) => "start the missing data nodes again; `lockstep status` shows how far they are"
            .to_owned(),
        (false, spares) if spares.is_empty() => {
            "start more with `lockstep run data`: they join by themselves".to_owned()
        }
        (false, spares) => format!(
            "data nodes {} are drained spares: `lockstep node undrain` lets them join by \
             themselves, `lockstep node join` says to which group",
            listed(&spares)
        ),
    };
    let why = match least {
        1 => "the loss of one more data node stops the cluster",
        _ => "it survives fewer losses than it should",
    };
    finding.why(why).then(then)
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
    // Spares are no group; their zones are places where replicas could be.
    for member in view.members.iter().filter(|member| member.group != GroupId::NONE) {
        let zones = by_group.entry(member.group.0).or_default();
        *zones.entry(member.zone.as_str()).or_default() += 1;
    }
    let mut names: Vec<&str> = view.members.iter().map(|member| &*member.zone).collect();
    if names.iter().all(|zone| zone.is_empty()) {
        return Finding::of("zones", Level::Note, "no data node names a zone")
            .why("replicas may share a rack, a switch or a power supply without anybody knowing")
            .then("set `node.zone`, if there is more than one place");
    }
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

fn arbitrator(view: &View, arbitration: &Arbitration) -> Finding {
    let warn = |what: &str| Finding::of("arbitrator", Level::Warn, what);
    let Arbitration { answers, others, fatal } = arbitration;
    let cost = match fatal.is_empty() {
        true => "if the cluster splits into equal halves, both stop".to_owned(),
        false => format!("the loss of {} ends the cluster", fatal.join(", or of ")),
    };
    match (&view.arbitrator, answers, others) {
        (None, ..) => warn("nobody arbitrates")
            .why(cost)
            .then("start a management server; a new view takes it"),
        (Some(_), false, 0) => warn("the arbitrator does not answer, and no other could take over")
            .why(cost)
            .then("start the management servers again, on their directories"),
        (Some(_), false, _) => warn("the arbitrator does not answer")
            .why(cost)
            .then("another one takes over soon: look again; and start it again, on its directory"),
        (Some(_), true, 0) => {
            Finding::of("arbitrator", Level::Note, "there is one, and no other to take over")
                .why("while it is away, an even split stops the cluster")
                .then("run a second management server, on another machine")
        }
        (Some(_), true, others) => {
            Finding::well("arbitrator", format!("one of {} that answer", others + 1))
        }
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

#[cfg(test)]
mod tests {
    use lockstep_proto::ids::{NodeInstance, ViewNumber};
    use lockstep_proto::roster::Roster;
    use lockstep_proto::view::{Arbitrator, ClusterConfig, Member};

    use super::*;

    /// Nodes 1, 2, … in these groups and zones; two replicas are wanted.
    fn view(seats: &[(GroupId, &str)]) -> View {
        let member = |(node, (group, zone)): (u16, &(GroupId, &str))| Member {
            instance: NodeInstance { node: NodeId(node), ..NodeInstance::default() },
            group: *group,
            zone: (*zone).to_owned(),
            addr: format!("n{node}:1"),
            shards: 1,
            seniority: node.into(),
            standing: Standing::InSync,
        };
        let members: Vec<Member> = (1..).zip(seats).map(member).collect();
        View {
            cluster: lockstep_proto::ids::ClusterId::default(),
            number: ViewNumber(3),
            config: ClusterConfig { replicas: 2, ..ClusterConfig::default() },
            roster: Roster::of(&members),
            members,
            placements: Vec::new(),
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            configured: lockstep_proto::configuration::ConfigState::default(),
            left_out: Vec::new(),
            seal: lockstep_proto::ids::Epoch(0),
            restart_generation: lockstep_proto::ids::RestartGeneration(0),
            cuts: Vec::new(),
        }
    }

    fn serving(nodes: &[u16]) -> Vec<NodeState> {
        let state =
            |node: &u16| NodeState { node: *node, serves: true, memory: (0, 0), disk: None };
        nodes.iter().map(state).collect()
    }

    #[test]
    fn spares_are_no_group() {
        let (one, none) = (GroupId(1), GroupId::NONE);
        let spares = view(&[(one, "a"), (one, "b"), (none, "b"), (none, "b")]);
        assert_eq!(zones(&spares).level, Level::Well);
        let crowded = view(&[(one, "a"), (one, "a"), (none, "b"), (none, "b")]);
        assert!(zones(&crowded).what.contains("of node group 1 are in zone \"a\""));
    }

    #[test]
    fn all_groups_that_lack_replicas_are_named_and_what_mends_them() {
        let none = GroupId::NONE;
        let mut view = view(&[(GroupId(1), "a"), (GroupId(2), "a"), (none, "b"), (none, "b")]);
        let all = serving(&[1, 2, 3, 4]);
        let found = redundancy(&view, &all);
        let both = "node group 1 has 1 of 2 replicas, node group 2 has 1 of 2 replicas";
        assert_eq!((found.level, found.what.as_str()), (Level::Bad, both));
        assert!(found.then.contains("start more"), "{found:?}");
        for node in [3, 4] {
            view.roster.seat_mut(NodeId(node)).unwrap().drained = true;
        }
        let found = redundancy(&view, &all);
        assert!(found.then.contains("data nodes 3, 4 are drained spares"), "{found:?}");
        let found = redundancy(&view, &serving(&[2, 3, 4]));
        assert!(found.what.contains("group 1 has 0 of 2"), "{found:?}");
        let mut gone = view.clone();
        gone.roster.seat_mut(NodeId(3)).unwrap().group = GroupId(1);
        gone.members.remove(2);
        let found = redundancy(&gone, &all[..2]);
        assert!(found.then.contains("start the missing"), "{found:?}");
    }

    #[test]
    fn who_answers_decides_about_the_arbitrator() {
        let mut view = view(&[(GroupId(1), "a"), (GroupId(1), "b")]);
        let told = |view: &View, answers, others, fatal: &[&str]| {
            let fatal = fatal.iter().map(|one| (*one).to_owned()).collect();
            arbitrator(view, &Arbitration { answers, others, fatal })
        };
        assert_eq!(told(&view, false, 0, &[]).level, Level::Warn);
        let id = lockstep_proto::ids::MgmtId(1);
        view.arbitrator = Some(Arbitrator::Mgmt { id, addr: "m1:1".to_owned() });
        assert_eq!(told(&view, true, 1, &[]), Finding::well("arbitrator", "one of 2 that answer"));
        assert_eq!(told(&view, true, 0, &[]).level, Level::Note);
        let silent = told(&view, false, 0, &["node 1", "zone b"]);
        assert_eq!(silent.level, Level::Warn);
        assert_eq!(silent.why, "the loss of node 1, or of zone b ends the cluster");
        assert_eq!(told(&view, false, 1, &[]).level, Level::Warn);
    }
}
