//! `lockstep status`: one page about the whole cluster.

use std::sync::Arc;
use std::time::Duration;

use lockstep_client::Client;
use lockstep_proto::ids::{GroupId, ShardId};
use lockstep_proto::view::{Member, Standing, View};
use lockstep_proto::wire::client::ShardStatus;
use serde_json::{Value, json};

use super::error::{CliResult, ExitKind};
use super::output::{bytes, table, thousands};
use super::{Global, block_on, connect, stdout_error};

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
}

/// The state of a node that has all its rows and answers.
const SERVING: &str = "serving";

/// What is known about one data node: its place in the view, and what its shards say.
struct NodeReport {
    member: Member,
    /// Empty if it does not answer.
    shards: Vec<ShardStatus>,
}

/// The whole page.
struct Page {
    view: View,
    nodes: Vec<NodeReport>,
}

pub(super) fn run(global: &Global, args: &StatusArgs) -> CliResult<ExitKind> {
    let page = block_on(async {
        let client = connect::client(global).await?;
        collect(&client).await
    })?;
    global.voice().data(&page.to_json(), || page.describe()).map_err(stdout_error)?;
    let healthy = page.health() == Health::Healthy;
    Ok(if args.check && !healthy { ExitKind::NotHealthy } else { ExitKind::Done })
}

/// Asks every node; asks again if the cluster moved on to another view in the meantime, so that
/// the page does not tell of a node that everybody else has forgotten.
async fn collect(client: &Client) -> CliResult<Page> {
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
    Page { view, nodes }
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
enum Health {
    /// Every replica is there.
    Healthy,
    /// It serves, with fewer replicas than it should have: nodes are gone, silent, or coming back.
    Degraded,
    /// Of some node group nobody answers: its rows are out of reach.
    Down,
}

impl Health {
    fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl Page {
    fn health(&self) -> Health {
        let wanted = self.view.config.replicas;
        match self.smallest_group() {
            0 => Health::Down,
            count if count >= wanted => Health::Healthy,
            _ => Health::Degraded,
        }
    }

    /// How many nodes serve in the node group with the fewest.
    fn smallest_group(&self) -> u16 {
        let groups = self.view.groups();
        groups.iter().map(|group| self.serving_in(*group)).min().unwrap_or_default()
    }

    /// How many nodes of a group serve. Others are not there to take over from one of them.
    fn serving_in(&self, group: GroupId) -> u16 {
        let of_group = self.nodes.iter().filter(|node| node.member.group == group);
        let count = of_group.filter(|node| node.is_serving()).count();
        u16::try_from(count).expect("at most NODES_MAX")
    }

    /// How many nodes may be lost, one after the other, whichever they are.
    fn can_lose(&self) -> u16 {
        self.smallest_group().saturating_sub(1)
    }

    fn epoch(&self) -> u64 {
        self.shards().map(|s| s.epoch.0).max().unwrap_or_default()
    }

    /// Rows counted once: the nodes of a group hold the same ones.
    fn rows(&self) -> u64 {
        let per_group = self.view.groups().into_iter().map(|group| {
            let nodes = self.nodes.iter().filter(|node| node.member.group == group);
            nodes.map(NodeReport::rows).max().unwrap_or_default()
        });
        per_group.sum()
    }

    fn shards(&self) -> impl Iterator<Item = &ShardStatus> {
        self.nodes.iter().flat_map(|node| &node.shards)
    }

    fn describe(&self) -> String {
        let rows: Vec<Vec<String>> = self.nodes.iter().map(NodeReport::cells).collect();
        let headers = [
            "node", "group", "zone", "state", "primary", "backup", "rows", "data", "limit", "rss",
            "clients", "address",
        ];
        let lose = match self.can_lose() {
            _ if self.health() == Health::Down => "of a node group nobody answers".to_owned(),
            0 => "no node may be lost in the smallest group".to_owned(),
            1 => "can lose 1 more node".to_owned(),
            n => format!("can lose {n} more nodes"),
        };
        let view = &self.view;
        format!(
            "cluster {}  {}, {lose}\n{} data nodes in {} groups, {} replicas wanted, {} \
             partitions, view {}, epoch {}, {} rows\narbitrator {}\n\n{}",
            view.cluster,
            self.health().name(),
            view.members.len(),
            view.groups().len(),
            view.config.replicas,
            view.placements.len(),
            view.number.0,
            self.epoch(),
            thousands(self.rows()),
            self.arbitrator(),
            table(&headers, &rows),
        )
    }

    fn arbitrator(&self) -> String {
        use lockstep_proto::view::Arbitrator;
        match &self.view.arbitrator {
            Some(Arbitrator::Mgmt { id, addr }) => format!("management server {} at {addr}", id.0),
            Some(Arbitrator::Api { id, addr, .. }) => format!("API node {} at {addr}", id.0),
            None => "none: an even split stops the cluster".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        let view = &self.view;
        json!({
            "schema": "lockstep.status/v1",
            "cluster": view.cluster.to_string(),
            "health": self.health().name(),
            "can_lose": self.can_lose(),
            "view": view.number.0,
            "epoch": self.epoch(),
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
    fn sum(&self, of: impl Fn(&ShardStatus) -> u64) -> u64 {
        self.shards.iter().map(of).sum()
    }

    fn rows(&self) -> u64 {
        self.sum(|s| s.rows)
    }

    fn primaries(&self) -> u64 {
        self.sum(|s| u64::from(s.partitions_primary))
    }

    fn backups(&self) -> u64 {
        self.sum(|s| u64::from(s.partitions_backup))
    }

    /// What the process as a whole reports; every shard says the same.
    fn rss_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.rss_bytes).max().unwrap_or_default()
    }

    fn cpu_us(&self) -> u64 {
        self.shards.iter().map(|s| s.cpu_us).max().unwrap_or_default()
    }

    /// Whether all of its shards answer, and it has everything: one that is coming back cannot
    /// take over from another yet.
    fn is_serving(&self) -> bool {
        self.state() == SERVING
    }

    fn state(&self) -> &'static str {
        if self.shards.len() < usize::from(self.member.shards) {
            return "silent";
        }
        match self.member.standing {
            Standing::Copying => "copying",
            Standing::Attached => "attached",
            Standing::InSync => SERVING,
        }
    }

    fn cells(&self) -> Vec<String> {
        let zone = if self.member.zone.is_empty() { "-" } else { &self.member.zone };
        let told = |text: String| if self.shards.is_empty() { "-".to_owned() } else { text };
        vec![
            self.member.instance.node.0.to_string(),
            self.member.group.0.to_string(),
            zone.to_owned(),
            self.state().to_owned(),
            told(self.primaries().to_string()),
            told(self.backups().to_string()),
            told(thousands(self.rows())),
            told(bytes(self.sum(|s| s.data_bytes))),
            told(bytes(self.sum(|s| s.data_bytes_max))),
            told(bytes(self.rss_bytes())),
            told(self.sum(|s| u64::from(s.clients)).to_string()),
            self.member.addr.clone(),
        ]
    }

    fn to_json(&self) -> Value {
        let member = &self.member;
        json!({
            "node": member.instance.node.0,
            "incarnation": member.instance.incarnation.0,
            "group": member.group.0,
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
        })
    }
}
