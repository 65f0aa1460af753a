//! `lockstep node show`, `group list` and `cluster info`: parts of the page, closer.

use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::view::Arbitrator;
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{bytes, span, table, thousands};
use super::status::{NodeReport, Page, collect};
use super::{Global, block_on, connect, stdout_error};

/// Arguments of commands that look at one data node.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ShowArgs {
    /// The node id, as `lockstep status` shows it
    #[arg(value_name = "NODE", value_parser = super::node_id)]
    node: u16,
}

fn page(global: &Global) -> CliResult<Page> {
    block_on(async {
        let client = connect::client(global).await?;
        collect(&client).await
    })
}

/// Lines of a name and a value each.
fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {value}\n");
    pairs.iter().map(line).collect()
}

/// `lockstep node show`.
pub(super) async fn node(global: &Global, args: &ShowArgs) -> CliResult<ExitKind> {
    let page = collect(&connect::client(global).await?).await?;
    let found = page.nodes.iter().find(|node| node.member.instance.node == NodeId(args.node));
    let found = found.ok_or_else(|| {
        let ids: Vec<String> =
            page.nodes.iter().map(|n| n.member.instance.node.0.to_string()).collect();
        let what = format!("data node {} is not in the cluster", args.node);
        CliError::new(Trouble::NoSuchNode, what)
            .why(format!("its data nodes are {}", ids.join(", ")))
    })?;
    let mut json = found.to_json();
    json["schema"] = "lockstep.node/v1".into();
    json["partitions"] = partitions_of(&page, found);
    global.voice().data(&json, || describe(found)).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

fn partitions_of(page: &Page, node: &NodeReport) -> Value {
    let id = node.member.instance.node;
    let of = |wanted: &dyn Fn(&lockstep_proto::view::Placement) -> bool| -> Vec<usize> {
        let all = page.view.placements.iter().enumerate();
        all.filter(|(_, placement)| wanted(placement)).map(|(number, _)| number).collect()
    };
    json!({
        "primary": of(&|placement| placement.primary == id),
        "backup": of(&|placement| placement.primary != id && placement.replicas.contains(&id)),
        "joining": of(&|placement| placement.joining.contains(&id)),
    })
}

fn describe(node: &NodeReport) -> String {
    let member = &node.member;
    let zone = if member.zone.is_empty() { "-" } else { &member.zone };
    let mut pairs = vec![
        ("node", format!("{}, life {}", member.instance.node.0, member.instance.incarnation.0)),
        ("state", node.state().to_owned()),
        ("group", member.group.in_words()),
        ("zone", zone.to_owned()),
        ("address", member.addr.clone()),
        ("shards", member.shards.to_string()),
    ];
    if !node.shards.is_empty() {
        let (used, limit) = node.memory();
        let count =
            |of: fn(&lockstep_proto::wire::client::ShardStatus) -> u64| thousands(node.sum(of));
        pairs.extend([
            ("leads", format!("{} partitions", node.primaries())),
            ("backs up", format!("{} partitions", node.backups())),
            ("rows", thousands(node.rows())),
            ("data", format!("{} of {}", bytes(used), bytes(limit))),
            ("resident", bytes(node.rss_bytes())),
            ("clients", count(|s| u64::from(s.clients))),
            ("committed", count(|s| s.committed)),
            ("aborted", count(|s| s.aborted)),
            ("reads", count(|s| s.reads)),
            ("open", count(|s| s.open)),
            ("disk", node.describe_disk()),
        ]);
    }
    if let Some(disk) = node.disk() {
        pairs.push(("durable", format!("up to epoch {}", disk.durable.0)));
        if let (Some(epoch), Some(age)) = (disk.checkpointed, disk.checkpoint_age_ms) {
            pairs.push(("checkpoint", format!("epoch {}, {} ago", epoch.0, span(age))));
        }
    }
    if let Some(join) = node.describe_join() {
        pairs.push(("join", join));
    }
    lines(&pairs)
}

/// `lockstep group list`.
pub(super) fn groups(global: &Global) -> CliResult<ExitKind> {
    let page = page(global)?;
    let mut ids = page.view.groups();
    ids.extend(page.view.node_groups());
    ids.sort_unstable();
    ids.dedup();
    let groups: Vec<Group> = ids.into_iter().map(|id| Group::of(&page, id)).collect();
    let json: Vec<Value> = groups.iter().map(Group::json).collect();
    let text = || {
        let rows: Vec<Vec<String>> = groups.iter().map(Group::cells).collect();
        let headers =
            ["group", "state", "replicas", "nodes", "zones", "partitions", "rows", "data"];
        let mut text = table(&headers, &rows);
        for group in &groups {
            text += &group.news();
        }
        for (group, zone) in page.view.zones_shared() {
            text += &format!(
                "warning: node group {} has several nodes in zone {zone}: it may be lost with it\n",
                group.0
            );
        }
        text
    };
    global.voice().list("lockstep.groups/v1", "groups", &json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// What there is to say about one node group.
struct Group {
    group: u16,
    wanted: u16,
    serving: u16,
    nodes: Vec<u16>,
    zones: Vec<String>,
    partitions: usize,
    /// How many it should own.
    share: usize,
    /// What is on its way to it: the partition, and whether all rows are there.
    receives: Option<(u16, bool)>,
    /// It is to own nothing.
    dropped: bool,
    rows: u64,
    data_bytes: u64,
}

impl Group {
    fn of(page: &Page, id: GroupId) -> Self {
        let of_group = || page.nodes.iter().filter(|node| node.member.group == id);
        let mut zones: Vec<String> = of_group().map(|node| node.member.zone.clone()).collect();
        zones.sort_unstable();
        zones.dedup();
        zones.retain(|zone| !zone.is_empty());
        Self {
            group: id.0,
            wanted: page.view.config.replicas,
            serving: page.serving_in(id),
            nodes: of_group().map(|node| node.member.instance.node.0).collect(),
            zones,
            partitions: page.view.owned_by(id),
            share: page.view.share_of(id),
            receives: page.view.moving_to(id).map(|(p, to)| (p.0, to.attached)),
            dropped: page.view.roster.dropped.contains(&id),
            rows: of_group().map(NodeReport::rows).max().unwrap_or_default(),
            data_bytes: of_group().map(|node| node.memory().0).max().unwrap_or_default(),
        }
    }

    fn state(&self) -> &'static str {
        match self.serving {
            0 => "down",
            count if count < self.wanted => "degraded",
            _ => "healthy",
        }
    }

    /// What is going on with it, in words.
    fn news(&self) -> String {
        let mut text = String::new();
        if self.dropped {
            text += &format!("node group {} is to own nothing\n", self.group);
        }
        if let Some((partition, attached)) = self.receives {
            let how = if attached { "is there, and about to be served there" } else { "is copied" };
            text +=
                &format!("partition {partition} moves to node group {}: it {how}\n", self.group);
        }
        text
    }

    fn cells(&self) -> Vec<String> {
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        let zones = if self.zones.is_empty() { "-".to_owned() } else { self.zones.join(",") };
        vec![
            self.group.to_string(),
            self.state().to_owned(),
            format!("{} of {}", self.serving, self.wanted),
            nodes.join(","),
            zones,
            match self.partitions == self.share {
                true => self.partitions.to_string(),
                false => format!("{} of {}", self.partitions, self.share),
            },
            thousands(self.rows),
            bytes(self.data_bytes),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "group": self.group,
            "state": self.state(),
            "replicas": self.serving,
            "replicas_wanted": self.wanted,
            "nodes": self.nodes,
            "zones": self.zones,
            "partitions": self.partitions,
            "partitions_wanted": self.share,
            "receives": self.receives.map(|(partition, _)| partition),
            "dropped": self.dropped,
            "rows": self.rows,
            "data_bytes": self.data_bytes,
        })
    }
}

/// `lockstep cluster info`.
pub(super) fn cluster(global: &Global) -> CliResult<ExitKind> {
    let page = page(global)?;
    let (view, config) = (&page.view, &page.view.config);
    let name = |arbitrator: &Arbitrator| match arbitrator {
        Arbitrator::Mgmt { id, addr } => format!("management server {} at {addr}", id.0),
        Arbitrator::Api { name, .. } => format!("API node {name}"),
    };
    let possible: Vec<String> = view.arbitrators_possible.iter().map(name).collect();
    let json = json!({
        "schema": "lockstep.cluster/v1",
        "cluster": view.cluster.to_string(),
        "health": page.health().name(),
        "can_lose": page.can_lose(),
        "view": view.number.0,
        "restart_generation": view.restart_generation.0,
        "groups": view.groups().len(),
        "nodes": view.members.len(),
        "arbitrator": view.arbitrator.as_ref().map(name),
        "arbitrators_possible": possible,
        "settings": {
            "partitions": config.partitions,
            "replicas": config.replicas,
            "heartbeat_ms": config.heartbeat_ms,
            "suspicion_ms": config.suspicion_ms,
            "tick_ms": config.tick_ms,
            "transaction_idle_ms": config.transaction_idle_ms,
            "checkpoint_interval_ms": config.checkpoint_interval_ms,
            "data_memory": config.data_memory,
            "peer_death": if config.peer_death_by_fin { "fin" } else { "never" },
        },
    });
    let text = || {
        let ms = |ms: u32| format!("{ms} ms");
        let none = "none: an even split stops the cluster".to_owned();
        lines(&[
            ("cluster", view.cluster.to_string()),
            ("health", format!("{}, can lose {}", page.health().name(), page.can_lose())),
            (
                "view",
                format!(
                    "{}, stopped and started {} times",
                    view.number.0, view.restart_generation.0
                ),
            ),
            ("shape", format!("{} groups, {} data nodes", view.groups().len(), view.members.len())),
            ("arbitrator", view.arbitrator.as_ref().map_or(none, name)),
            ("could arbitrate", possible.join(", ")),
            ("partitions", config.partitions.to_string()),
            ("replicas", config.replicas.to_string()),
            ("heartbeat", ms(config.heartbeat_ms)),
            ("suspicion", ms(config.suspicion_ms)),
            ("tick", ms(config.tick_ms)),
            ("transaction idle", ms(config.transaction_idle_ms)),
            ("checkpoints", format!("every {}", span(config.checkpoint_interval_ms.into()))),
            ("data memory", format!("{} per node", bytes(config.data_memory))),
        ])
    };
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}
