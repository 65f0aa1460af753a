//! `lockstep health`: one word, and what is wrong; for scripts and for people in a hurry.

use lockstep_proto::durability::DiskState;
use serde_json::json;

use super::error::{CliResult, ExitKind};
use super::parts::disk_word;
use super::status::{Health, NodeReport, Page, SERVING, SPARE, collect};
use super::{Global, block_on, connect, stdout_error};

/// A node with less of its data memory free is worth a word, percent.
const MEMORY_FREE_PERCENT_MIN: u64 = 10;

pub(super) fn run(global: &Global) -> CliResult<ExitKind> {
    let page = block_on(async {
        let client = connect::client(global).await?;
        collect(&client).await
    })?;
    let (health, why) = (page.health(), page.troubles());
    let json = json!({
        "schema": "lockstep.health/v1",
        "health": health.name(),
        "can_lose": page.can_lose(),
        "why": why,
    });
    let text = || match why.is_empty() {
        true => format!("{}\n", health.name()),
        false => format!("{}: {}\n", health.name(), why.join("; ")),
    };
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(if health == Health::Healthy { ExitKind::Done } else { ExitKind::NotHealthy })
}

impl Page {
    /// The nodes and zones whose loss would end the cluster.
    pub(super) fn fatal_names(&self) -> Vec<String> {
        let outlook = self.outlook();
        let nodes = outlook.fatal_nodes.iter().map(|(node, _)| format!("node {}", node.0));
        let zones = outlook.fatal_zones.iter().map(|(zone, _)| format!("zone {zone}"));
        nodes.chain(zones).collect()
    }

    /// What an operator should know, the worst first; empty if there is nothing.
    pub(super) fn troubles(&self) -> Vec<String> {
        let wanted = self.view.config.replicas;
        let groups = self.view.groups().into_iter();
        let short = groups.filter_map(|group| match (self.serving_in(group), group.0) {
            (0, number) => Some(format!("nobody of node group {number} serves")),
            (count, number) if count < wanted => {
                Some(format!("node group {number} has {count} of {wanted} replicas"))
            }
            _ => None,
        });
        short.chain(self.nodes.iter().flat_map(NodeReport::troubles)).collect()
    }
}

impl NodeReport {
    fn troubles(&self) -> Vec<String> {
        let node = self.member.instance.node.0;
        let mut troubles = Vec::new();
        if !matches!(self.state(), SERVING | SPARE) {
            troubles.push(match self.state() {
                "silent" => format!("node {node} is silent"),
                state => format!("node {node} is coming back ({state})"),
            });
        }
        match self.disk().map(|disk| disk.state) {
            None | Some(DiskState::Well) => {}
            Some(state) => {
                troubles.push(format!("the disk of node {node} is {}", disk_word(state)));
            }
        }
        let (used, limit) = self.memory();
        if limit > 0 && limit.saturating_sub(used) < limit / 100 * MEMORY_FREE_PERCENT_MIN {
            let percent = used.saturating_mul(100) / limit;
            troubles.push(format!("node {node} has used {percent} % of its data memory"));
        }
        troubles
    }
}
