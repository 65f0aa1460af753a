//! `lockstep doctor`: checks of this machine and of the cluster in use.

use std::path::{Path, PathBuf};

use lockstep_client::Client;
use lockstep_proto::view::Arbitrator;
use serde_json::{Value, json};

use super::error::{CliResult, ExitKind, Trouble};
use super::status::{NodeReport, Page, collect};
use super::{Global, block_on, connect, stdout_error};
use crate::backup::ask;
use crate::dev::state::{DevState, StateDir};
use crate::doctor::cluster::{self, Arbitration, NodeState};
use crate::doctor::{Finding, Level, machine};

const NOTES: &str = "\
Examples:
  lockstep doctor                               this machine, and the cluster in use
  lockstep doctor --dir /var/lib/lockstep/n1    and the disk of this directory
  lockstep doctor -o json | jq '.findings[] | select(.level == \"bad\")'

Each line is ok, note, warn or bad. Exit codes: 0 nothing is bad, 4 something is.";

/// Arguments of `lockstep doctor`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = NOTES)]
pub(super) struct DoctorArgs {
    /// A directory on this machine to measure; may be repeated [default: those of the dev cluster]
    #[arg(long = "dir", value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Only this machine
    #[arg(long)]
    offline: bool,
    /// Leave out what is well
    #[arg(long)]
    brief: bool,
}

pub(super) fn run(global: &Global, args: &DoctorArgs) -> CliResult<ExitKind> {
    // Another cluster than the dev cluster has its directories elsewhere.
    let dev = if global.url.is_some() { None } else { dev_cluster() };
    let mut dirs = args.dirs.clone();
    if dirs.is_empty() && !args.offline {
        dirs.extend(dev.iter().map(|dev| dev.dir.clone()));
    }
    let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    let mut findings = machine::check(&dirs);
    if !args.offline {
        findings.extend(check_cluster(global, dev.as_ref())?);
    }
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Well);
    let shown = findings.iter().filter(|f| !args.brief || f.level > Level::Well);
    let json = json!({
        "schema": "lockstep.doctor/v1",
        "worst": worst.name(),
        "findings": shown.clone().map(Finding::json).collect::<Vec<Value>>(),
    });
    let text = || {
        let text: String = shown.map(Finding::text).collect();
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (bad, warn) = (count(Level::Bad), count(Level::Warn));
        format!("{text}\n{} checks: {bad} bad, {warn} to look at\n", findings.len())
    };
    global.voice().data(&json, text).map_err(stdout_error)?;
    Ok(if worst == Level::Bad { ExitKind::NotHealthy } else { ExitKind::Done })
}

/// The dev cluster, if one runs. Nothing is said of a broken record: `lockstep dev` does.
fn dev_cluster() -> Option<DevState> {
    StateDir::of_user().ok()?.load().ok().flatten().filter(DevState::is_alive)
}

fn check_cluster(global: &Global, dev: Option<&DevState>) -> CliResult<Vec<Finding>> {
    let reached = block_on(async {
        let client: Client = connect::client(global).await?;
        let page = collect(&client).await?;
        let arbitration = arbitration(&client, &page).await;
        Ok((page, arbitration))
    });
    let (page, arbitration) = match reached {
        Ok(reached) => reached,
        Err(error) if error.number == Trouble::NoCluster as u16 => {
            let finding = Finding::of("cluster", Level::Note, error.what).then(error.then);
            return Ok(vec![finding]);
        }
        Err(error) => {
            let finding = Finding::of("cluster", Level::Bad, error.what).why(error.why);
            let then = "check the address and the network; the logs of its processes say more";
            return Ok(vec![finding.then(then)]);
        }
    };
    let nodes: Vec<NodeState> = page.nodes.iter().map(state_of).collect();
    let mut findings = vec![cluster_id(&page)];
    findings.extend(cluster::check(&page.view, &nodes, &arbitration));
    if let Some(dev) = dev {
        let all = dev.nodes.iter().map(|node| &node.admin);
        let admins = all.chain(dev.mgmt.iter().map(|mgmt| &mgmt.admin)).flatten().cloned();
        findings.push(cluster::releases(&admins.collect::<Vec<_>>()));
    }
    Ok(findings)
}

/// The view names only servers that were known when the cluster was created: those that the data
/// nodes have met since can take over too, so whoever answers is counted.
async fn arbitration(client: &Client, page: &Page) -> Arbitration {
    let servers = ask::servers(client).await.unwrap_or_default();
    let named = match &page.view.arbitrator {
        Some(Arbitrator::Mgmt { id, .. }) => Some(*id),
        Some(Arbitrator::Api { .. }) | None => None,
    };
    let others = servers.iter().filter(|server| Some(server.id) != named).count();
    Arbitration { answers: page.arbitrator_answers, others, fatal: page.fatal_names() }
}

fn cluster_id(page: &Page) -> Finding {
    Finding::well(
        "cluster",
        format!("{} answers in view {}", page.view.cluster, page.view.number.0),
    )
}

fn state_of(node: &NodeReport) -> NodeState {
    NodeState {
        node: node.member.instance.node.0,
        serves: node.is_serving(),
        memory: node.memory(),
        disk: node.disk(),
    }
}
