//! Whose CPU time a bench counts: this process's, every data node's by its own report, and the
//! management servers' where they are children of a dev cluster on this machine.

use std::time::Duration;

use lockstep_client::Client;
use lockstep_proto::ids::{NodeInstance, ShardId};

use super::cpu;
use crate::cli::error::{CliError, CliResult, Trouble};
use crate::dev::state::StateDir;

/// See the module text.
pub struct CpuSources {
    nodes: Vec<NodeInstance>,
    mgmt: Vec<i32>,
}

impl CpuSources {
    /// Those of the cluster a client is connected to.
    ///
    /// # Errors
    /// If there is no view.
    pub async fn find(client: &Client) -> CliResult<Self> {
        let view = client.view().await?;
        let nodes = view.members.iter().map(|member| member.instance).collect();
        let dev = StateDir::of_user().ok().and_then(|home| home.load().ok().flatten());
        let here = |addr: &str| view.members.iter().any(|member| member.addr == addr);
        let ours = dev.filter(|dev| dev.nodes.iter().any(|node| here(&node.addr)));
        let mgmt = ours.map(|dev| dev.mgmt.iter().map(|m| m.process.pid).collect());
        Ok(Self { nodes, mgmt: mgmt.unwrap_or_default() })
    }

    /// The sum of all data nodes, now.
    ///
    /// # Errors
    /// If a node does not answer, or is not the process any more that it was.
    pub async fn nodes(&self, client: &Client) -> CliResult<Duration> {
        let mut total = Duration::ZERO;
        for instance in &self.nodes {
            let node = instance.node;
            let view = client.view().await?;
            // Who was away has begun to count anew.
            if view.member(node).is_none_or(|member| member.instance != *instance) {
                let what = format!("data node {} left while it was measured", node.0);
                return Err(CliError::new(Trouble::NoSuchNode, what));
            }
            let status = client.status(node, ShardId(0)).await?;
            total += Duration::from_micros(status.cpu_us);
        }
        Ok(total)
    }

    /// The sum of all, now.
    ///
    /// # Errors
    /// If a node does not answer, or is not the process any more that it was.
    pub async fn total(&self, client: &Client) -> CliResult<Duration> {
        let failed = |error: std::io::Error| {
            CliError::new(Trouble::Process, "CPU time is not known").why(error.to_string())
        };
        let mut total = self.nodes(client).await?;
        for pid in &self.mgmt {
            total += cpu::of(*pid).map_err(failed)?;
        }
        // Last, so that asking is not counted against the others' answers.
        Ok(total + cpu::own().map_err(failed)?)
    }
}
