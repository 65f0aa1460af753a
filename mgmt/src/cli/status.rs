//! `lockstep status`: one page about the whole cluster.

use std::sync::Arc;
use std::time::Duration;

use lockstep_client::Client;
use lockstep_proto::ids::{ClusterId, GroupId, ShardId};
use lockstep_proto::survival::{Outlook, outlook};
use lockstep_proto::view::{Arbitrator, Member, Standing, View};
use lockstep_proto::wire::client::{DiskStatus, ShardStatus};
use lockstep_proto::wire::progress::JoinProgress;
use serde_json::{Value, json};

use super::error::{CliResult, ExitKind};
use super::output::{bytes, span, table, thousands};
use super::parts::{disk_json, disk_word, join_json};
use super::watch::{Look, repeat};
use super::{Global, block_on, connect, stdout_error};
use crate::backup::ask::Server;

/// How long one node may take to tell its state before it counts as silent.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the nodes are asked while views follow one another.
const COLLECTIONS_MAX: u32 = 3;

/// Arguments of `lockstep status`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct StatusArgs {
    /// End with exit code 4 if a node is missing, silent or coming back
    #[arg(long)]
    pub(super) check: bool,
    /// Show it again and again, every two seconds or as often as is said, until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = super::duration::parse)]
    #[arg(num_args = 0..=1, default_missing_value = "2s")]
    watch: Option<Duration>,
    /// With --watch: end after so many times
    #[arg(long, value_name = "N", requires = "watch")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// The state of a node that has all its rows and answers.
pub(super) const SERVING: &str = "serving";

/// The state of a node that waits to be needed.
pub(super) const SPARE: &str = "spare";

/// Bytes of redo that wait for a disk beyond which the table says so.
const WAITING_BYTES_TOLD: u64 = 16 << 20;

/// What is known about one data node: its place in the view, and what its shards say.
pub(super) struct NodeReport {
    pub(super) member: Member,
    /// Empty if it does not answer.
    pub(super) shards: Vec<ShardStatus>,
}

/// The whole page.
pub(super) struct Page {
    pub(super) view: View,
    pub(super) nodes: Vec<NodeReport>,
    /// Whether the arbitrator that the view names can be reached from here.
    pub(super) arbitrator_answers: bool,
}

pub(super) fn run(global: &Global, args: &StatusArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let exit = |page: &Page| match args.check && page.health() != Health::Healthy {
        true => ExitKind::NotHealthy,
        false => ExitKind::Done,
    };
    block_on(async {
        let client = connect::client(global).await?;
        let Some(every) = args.watch else {
            let page = collect(&client).await?;
            voice.data(&page.to_json(), || page.describe()).map_err(stdout_error)?;
            return Ok(exit(&page));
        };
        repeat(&voice, every, args.count, async || {
            let page = collect(&client).await?;
            Ok(Look { json: page.to_json(), text: page.describe(), exit: exit(&page) })
        })
        .await
    })
}

/// How many fatal losses the page tells.
const FATAL_SHOWN: usize = 4;

/// Asks every node; asks again if the cluster moved on to another view in the meantime, so that
/// the page does not tell of a node that everybody else has forgotten.
pub(super) async fn collect(client: &Client) -> CliResult<Page> {
    let mut page = collect_in(client, client.view().await?).await;
    for _ in 1..COLLECTIONS_MAX {
        let now = client.view().await?;
        if now.number == page.view.number {
            break;
        }
        page = collect_in(client, now).await;
    }
    Ok(page)
}

/// Asks all nodes at once: one that is silent does not keep the others waiting.
async fn collect_in(client: &Client, view: Arc<View>) -> Page {
    let view = View::clone(&view);
    let ask = |member: &Member| tokio::spawn(ask_node(client.clone(), member.clone()));
    let asked: Vec<_> = view.members.iter().map(ask).collect();
    let mut nodes = Vec::new();
    for (member, asked) in view.members.iter().zip(asked) {
        // A task that ended badly has learnt nothing: the node is shown as silent.
        let shards = asked.await.unwrap_or_default();
        nodes.push(NodeReport { member: member.clone(), shards });
    }
    let arbitrator_answers = match &view.arbitrator {
        Some(Arbitrator::Mgmt { addr, .. }) => answers(view.cluster, addr).await,
        // The data nodes name another one, or none, soon after it is gone.
        Some(Arbitrator::Api { .. }) => true,
        None => false,
    };
    Page { view, nodes, arbitrator_answers }
}

/// Whether a management server answers at an address: the kernel listens for one that hangs, too.
async fn answers(cluster: ClusterId, addr: &str) -> bool {
    let connected = Server::connect(cluster, addr.to_owned());
    matches!(tokio::time::timeout(NODE_TIMEOUT, connected).await, Ok(Ok(Some(_))))
}

/// What the shards of one node say, up to the first that does not answer.
async fn ask_node(client: Client, member: Member) -> Vec<ShardStatus> {
    let mut shards = Vec::new();
    for shard in (0..member.shards).map(ShardId) {
        let asked = client.status(member.instance.node, shard);
        match tokio::time::timeout(NODE_TIMEOUT, asked).await {
            Ok(Ok(status)) => shards.push(*status),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    shards
}

/// How the cluster is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// Every replica is there.
    Healthy,
    /// It serves, with fewer replicas than it should have: nodes are gone, silent, or coming back.
    Degraded,
    /// Of some node group nobody answers: its rows are out of reach.
    Down,
}

impl Health {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl Page {
    pub(super) fn health(&self) -> Health {
        let wanted = self.view.config.replicas;
        match self.smallest_group() {
            0 => Health::Down,
            count if count >= wanted => Health::Healthy,
            _ => Health::Degraded,
        }
    }

    /// How many nodes serve in the node group with the fewest.
    fn smallest_group(&self) -> u16 {
        // One that owns nothing is missed by nobody.
        let groups = self.view.owners();
        groups.iter().map(|group| self.serving_in(*group)).min().unwrap_or_default()
    }

    /// How many nodes of a group serve. Others are not there to take over from one of them.
    pub(super) fn serving_in(&self, group: GroupId) -> u16 {
        let of_group = self.nodes.iter().filter(|node| node.member.group == group);
        let count = of_group.filter(|node| node.is_serving()).count();
        u16::try_from(count).expect("at most NODES_MAX")
    }

    /// What the cluster survives, by the survival rules.
    pub(super) fn outlook(&self) -> Outlook {
        outlook(&self.view, self.arbitrator_answers)
    }

    /// How many nodes may be lost, one after the other, whichever they are.
    pub(super) fn can_lose(&self) -> u16 {
        let survived = u16::try_from(self.outlook().nodes).unwrap_or(u16::MAX);
        self.smallest_group().saturating_sub(1).min(survived)
    }

    /// Which single loss would end it, and why.
    fn fatal(&self) -> Vec<Value> {
        let outlook = self.outlook();
        let nodes = outlook.fatal_nodes.iter().map(|(n, why)| json!({ "node": n.0, "why": why }));
        let zones = outlook.fatal_zones.iter().map(|(z, why)| json!({ "zone": z, "why": why }));
        nodes.chain(zones).collect()
    }

    /// The same for people.
    fn describe_fatal(&self) -> String {
        let outlook = self.outlook();
        let nodes = outlook.fatal_nodes.iter().map(|(node, why)| (format!("node {}", node.0), why));
        let zones = outlook.fatal_zones.iter().map(|(zone, why)| (format!("zone {zone}"), why));
        let line = |(what, why): (String, &String)| format!("the loss of {what} ends it: {why}\n");
        let lines: Vec<String> = nodes.chain(zones).map(line).collect();
        match lines.len() {
            0..=FATAL_SHOWN => lines.concat(),
            many => {
                let more = many - FATAL_SHOWN;
                format!("{}and {more} other losses would\n", lines[..FATAL_SHOWN].concat())
            }
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.shards().map(|s| s.epoch.0).max().unwrap_or_default()
    }

    /// Rows counted once: the nodes of a group hold the same ones.
    pub(super) fn rows(&self) -> u64 {
        let per_group = self.view.groups().into_iter().map(|group| {
            let nodes = self.nodes.iter().filter(|node| node.member.group == group);
            nodes.map(NodeReport::rows).max().unwrap_or_default()
        });
        per_group.sum()
    }

    fn shards(&self) -> impl Iterator<Item = &ShardStatus> {
        self.nodes.iter().flat_map(|node| &node.shards)
    }

    /// Up to which epoch everything is on all disks, and the last one with anything in it; `None`
    /// if no node has a disk, or none answers.
    fn durable(&self) -> Option<(u64, u64)> {
        let all = self.shards().filter_map(|shard| shard.disk).reduce(DiskStatus::and)?;
        Some((all.durable_everywhere.0, all.worked.0))
    }

    fn describe_durable(&self) -> String {
        match self.durable() {
            None => String::new(),
            Some((durable, worked)) if durable >= worked => ", all of it on disk".to_owned(),
            Some((durable, _)) => format!(", on disk up to epoch {durable}"),
        }
    }

    /// One line for each node that is not there yet.
    fn describe_joins(&self) -> String {
        let line = |node: &NodeReport| Some(node.describe_join()? + "\n");
        let lines: String = self.nodes.iter().filter_map(line).collect();
        if lines.is_empty() { lines } else { format!("\n{lines}") }
    }

    fn describe(&self) -> String {
        let rows: Vec<Vec<String>> = self.nodes.iter().map(NodeReport::cells).collect();
        let headers = [
            "node", "group", "zone", "state", "primary", "backup", "rows", "data", "limit", "rss",
            "clients", "disk", "address",
        ];
        let lose = match self.can_lose() {
            _ if self.health() == Health::Down => "of a node group nobody answers".to_owned(),
            0 => "no node may be lost in the smallest group".to_owned(),
            1 => "can lose 1 more node".to_owned(),
            n => format!("can lose {n} more nodes"),
        };
        let lose = match self.outlook().zones {
            _ if self.health() == Health::Down => lose,
            0 => lose,
            1 => format!("{lose}, or 1 zone"),
            n => format!("{lose}, or {n} zones"),
        };
        let view = &self.view;
        format!(
            "cluster {}  {}, {lose}\n{} data nodes in {} groups, {} replicas wanted, {} \
             partitions, view {}, epoch {}{}, {} rows\narbitrator {}\n\n{}{}",
            view.cluster,
            self.health().name(),
            view.members.len(),
            view.groups().len(),
            view.config.replicas,
            view.placements.len(),
            view.number.0,
            self.epoch(),
            self.describe_durable(),
            thousands(self.rows()),
            self.arbitrator(),
            table(&headers, &rows),
            self.describe_joins() + &self.describe_fatal(),
        )
    }

    fn arbitrator(&self) -> String {
        match &self.view.arbitrator {
            Some(Arbitrator::Mgmt { id, addr }) => {
                let silent = if self.arbitrator_answers { "" } else { ", which does not answer" };
                format!("management server {} at {addr}{silent}", id.0)
            }
            Some(Arbitrator::Api { name, .. }) => format!("API node {name}"),
            None => "none: an even split stops the cluster".to_owned(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let view = &self.view;
        json!({
            "schema": "lockstep.status/v1",
            "cluster": view.cluster.to_string(),
            "health": self.health().name(),
            "can_lose": self.can_lose(),
            "can_lose_zones": self.outlook().zones,
            "fatal": self.fatal(),
            "arbitrator_answers": self.arbitrator_answers,
            "view": view.number.0,
            "epoch": self.epoch(),
            "durable_epoch": self.durable().map(|(durable, _)| durable),
            "worked_epoch": self.durable().map(|(_, worked)| worked),
            "partitions": view.placements.len(),
            "replicas": view.config.replicas,
            "rows": self.rows(),
            "arbitrator": view.arbitrator.is_some().then(|| self.arbitrator()),
            "groups": view.groups().iter().map(|group| {
                json!({ "group": group.0, "nodes": self.serving_in(*group) })
            }).collect::<Vec<_>>(),
            "nodes": self.nodes.iter().map(NodeReport::to_json).collect::<Vec<_>>(),
        })
    }
}

impl NodeReport {
    pub(super) fn sum(&self, of: impl Fn(&ShardStatus) -> u64) -> u64 {
        self.shards.iter().map(of).sum()
    }

    pub(super) fn rows(&self) -> u64 {
        self.sum(|s| s.rows)
    }

    pub(super) fn primaries(&self) -> u64 {
        self.sum(|s| u64::from(s.partitions_primary))
    }

    pub(super) fn backups(&self) -> u64 {
        self.sum(|s| u64::from(s.partitions_backup))
    }

    /// What the process as a whole reports; every shard says the same.
    pub(super) fn rss_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.rss_bytes).max().unwrap_or_default()
    }

    pub(super) fn cpu_us(&self) -> u64 {
        self.shards.iter().map(|s| s.cpu_us).max().unwrap_or_default()
    }

    /// Whether all of its shards answer, and it has everything: one that is coming back cannot
    /// take over from another yet.
    pub(super) fn is_serving(&self) -> bool {
        self.state() == SERVING
    }

    /// Whether it belongs to no node group: it holds nothing, and nothing is missing.
    pub(super) fn is_spare(&self) -> bool {
        self.member.group == GroupId::NONE
    }

    pub(super) fn state(&self) -> &'static str {
        if self.shards.len() < usize::from(self.member.shards) {
            return "silent";
        }
        match self.member.standing {
            _ if self.is_spare() => SPARE,
            Standing::Copying => "copying",
            Standing::Attached => "attached",
            Standing::InSync => SERVING,
        }
    }

    /// How far it is, if it is not there yet.
    pub(super) fn describe_join(&self) -> Option<String> {
        // One that the view counts may not have heard of it yet.
        let joins = self.member.standing != Standing::InSync && !self.is_spare();
        let join = self.join().filter(|join| joins && !join.finished)?;
        let (number, elapsed) = (self.member.instance.node.0, span(join.elapsed_ms));
        Some(format!("node {number} is coming back, for {elapsed}: {}", join.describe()))
    }

    /// Row data held, and how much may be.
    pub(super) fn memory(&self) -> (u64, u64) {
        (self.sum(|s| s.data_bytes), self.sum(|s| s.data_bytes_max))
    }

    /// How far its shards together are on their way back, or how it went.
    fn join(&self) -> Option<JoinProgress> {
        self.shards.iter().filter_map(|shard| shard.join.clone()).reduce(JoinProgress::and)
    }

    /// `None` if its data is in memory only, or it does not answer.
    pub(super) fn disk(&self) -> Option<DiskStatus> {
        self.shards.iter().filter_map(|shard| shard.disk).reduce(DiskStatus::and)
    }

    pub(super) fn describe_disk(&self) -> String {
        let Some(disk) = self.disk() else { return "none".to_owned() };
        let word = disk_word(disk.state);
        match disk.redo_waiting_bytes {
            waiting if waiting < WAITING_BYTES_TOLD => word.to_owned(),
            waiting => format!("{word}, {} wait", bytes(waiting)),
        }
    }

    fn cells(&self) -> Vec<String> {
        let zone = if self.member.zone.is_empty() { "-" } else { &self.member.zone };
        let told = |text: String| if self.shards.is_empty() { "-".to_owned() } else { text };
        vec![
            self.member.instance.node.0.to_string(),
            self.member.group.in_words(),
            zone.to_owned(),
            self.state().to_owned(),
            told(self.primaries().to_string()),
            told(self.backups().to_string()),
            told(thousands(self.rows())),
            told(bytes(self.sum(|s| s.data_bytes))),
            told(bytes(self.sum(|s| s.data_bytes_max))),
            told(bytes(self.rss_bytes())),
            told(self.sum(|s| u64::from(s.clients)).to_string()),
            told(self.describe_disk()),
            self.member.addr.clone(),
        ]
    }

    pub(super) fn to_json(&self) -> Value {
        let member = &self.member;
        json!({
            "node": member.instance.node.0,
            "incarnation": member.instance.incarnation.0,
            "group": member.group.number(),
            "zone": member.zone,
            "addr": member.addr,
            "state": self.state(),
            "shards": member.shards,
            "partitions_primary": self.primaries(),
            "partitions_backup": self.backups(),
            "rows": self.rows(),
            "data_bytes": self.sum(|s| s.data_bytes),
            "data_bytes_max": self.sum(|s| s.data_bytes_max),
            "rss_bytes": self.rss_bytes(),
            "cpu_us": self.cpu_us(),
            "committed": self.sum(|s| s.committed),
            "aborted": self.sum(|s| s.aborted),
            "reads": self.sum(|s| s.reads),
            "open": self.sum(|s| s.open),
            "clients": self.sum(|s| u64::from(s.clients)),
            "malformed": self.sum(|s| s.malformed),
            "view": self.shards.iter().map(|s| s.view.0).max(),
            "epoch": self.shards.iter().map(|s| s.epoch.0).max(),
            "disk": self.disk().map(|disk| disk_json(&disk)),
            "join": self.join().filter(|_| !self.is_spare()).map(|join| join_json(&join)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_proto::durability::DiskState;
    use lockstep_proto::ids::{Epoch, NodeId, NodeInstance};
    use lockstep_proto::roster::Roster;
    use lockstep_proto::view::{ClusterConfig, Placement};

    fn shard(join: Option<JoinProgress>, disk: Option<DiskStatus>) -> ShardStatus {
        ShardStatus { epoch: Epoch(900), join, disk, ..ShardStatus::default() }
    }

    fn node(number: u16, standing: Standing, shards: Vec<ShardStatus>) -> NodeReport {
        let instance = NodeInstance { node: NodeId(number), ..NodeInstance::default() };
        let member = Member {
            instance,
            group: GroupId(0),
            zone: String::new(),
            addr: format!("127.0.0.1:{number}"),
            shards: 2,
            seniority: number.into(),
            standing,
        };
        NodeReport { member, shards }
    }

    fn page(nodes: Vec<NodeReport>) -> Page {
        let placement = Placement {
            group: GroupId(0),
            local_index: 0,
            primary: NodeId(1),
            replicas: vec![NodeId(1)],
            joining: vec![NodeId(2)],
            to: None,
        };
        let view = View {
            cluster: lockstep_proto::ids::ClusterId::default(),
            number: lockstep_proto::ids::ViewNumber(3),
            config: ClusterConfig::default(),
            roster: Roster::of(&nodes.iter().map(|node| node.member.clone()).collect::<Vec<_>>()),
            members: nodes.iter().map(|node| node.member.clone()).collect(),
            placements: vec![placement],
            arbitrator: None,
            arbitrators_possible: Vec::new(),
            configured: lockstep_proto::configuration::ConfigState::default(),
            left_out: Vec::new(),
            seal: Epoch(0),
            restart_generation: lockstep_proto::ids::RestartGeneration(0),
            cuts: Vec::new(),
        };
        Page { view, nodes, arbitrator_answers: false }
    }

    fn disk(durable: u64) -> DiskStatus {
        DiskStatus {
            durable: Epoch(durable),
            durable_everywhere: Epoch(durable),
            worked: Epoch(890),
            checkpoint_age_ms: Some(1_500),
            ..DiskStatus::default()
        }
    }

    fn join(rows: u64) -> JoinProgress {
        JoinProgress {
            partitions: 8,
            partitions_copied: 3,
            copies_delta: 4,
            restored: Epoch(700),
            rows,
            bytes: rows * 100,
            rows_expected: Some(rows * 2),
            elapsed_ms: 4_200,
            left_ms: Some(3_900),
            ..JoinProgress::default()
        }
    }

    /// Node 1 serves; node 2 is coming back with two shards.
    fn coming_back() -> Page {
        let serving = vec![shard(None, Some(disk(888))); 2];
        let slow = DiskStatus { state: DiskState::Slow, redo_waiting_bytes: 50 << 20, ..disk(880) };
        let copying =
            vec![shard(Some(join(1_000)), Some(disk(888))), shard(Some(join(40_000)), Some(slow))];
        page(vec![node(1, Standing::InSync, serving), node(2, Standing::Copying, copying)])
    }

    #[test]
    fn a_node_that_comes_back_has_a_line_of_its_own() {
        let text = coming_back().describe();
        let line = "node 2 is coming back, for 4.2 s: copying 6 of 16 partitions, 41 000 of about \
                    82 000 rows, 3.9 MiB, about 4 s left (changes since epoch 700)";
        assert!(text.lines().any(|one| one == line), "{text}");
        assert!(text.contains(", on disk up to epoch 888,"), "{text}");
        assert!(text.contains("slow, 50.0 MiB wait") && text.contains("copying"), "{text}");
    }

    #[test]
    fn programs_read_the_sum_of_the_shards() {
        let json = coming_back().to_json();
        assert_eq!((&json["durable_epoch"], &json["worked_epoch"]), (&888.into(), &890.into()));
        let (one, two) = (&json["nodes"][0], &json["nodes"][1]);
        assert_eq!((&one["join"], &one["disk"]["state"]), (&Value::Null, &"ok".into()));
        assert_eq!(two["disk"]["state"], "slow");
        assert_eq!(two["disk"]["durable_epoch"], 880);
        assert_eq!(two["disk"]["redo_waiting_bytes"], 50 << 20);
        let join = &two["join"];
        assert_eq!((&join["kind"], &join["finished"]), (&"delta".into(), &false.into()));
        assert_eq!((&join["partitions"], &join["partitions_copied"]), (&16.into(), &6.into()));
        assert_eq!((&join["rows"], &join["rows_expected"]), (&41_000.into(), &82_000.into()));
        assert_eq!((&join["elapsed_ms"], &join["left_ms"]), (&4_200.into(), &3_900.into()));
    }

    #[test]
    fn who_is_back_or_has_no_disk_needs_no_words() {
        let finished = JoinProgress { finished: true, ..join(7) };
        let shards = vec![shard(Some(finished), None); 2];
        let page = page(vec![node(2, Standing::InSync, shards)]);
        let text = page.describe();
        assert!(!text.contains("coming back") && !text.contains("on disk"), "{text}");
        assert!(text.contains("none"), "{text}");
        let json = page.to_json();
        assert_eq!(json["nodes"][0]["disk"], Value::Null);
        assert_eq!(json["nodes"][0]["join"]["finished"], true);
        assert_eq!(json["durable_epoch"], Value::Null);
    }
}
