//! `lockstep node` and `lockstep cluster`: data nodes leave in good order and come back.
//!
//! Invariant: a command never takes the last node in sync out of a node group, unless it is told
//! to; a rolling restart goes on only when everybody is in sync again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::{NodeId, NodeInstance};
use lockstep_proto::view::{Standing, View};
use serde_json::json;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::follow::Follow;
use super::loglevel::{self, LogLevelArgs};
use super::output::Voice;
use super::show::{self, ShowArgs};
use super::status::{NodeReport, collect};
use super::{Global, block_on, connect, stdout_error};

/// Between two looks at the view, which the client library keeps up to date.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Between two times that progress is shown.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Arguments of `lockstep node`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum NodeCommand {
    /// Show all there is to say about one data node
    Show(ShowArgs),
    /// Show or change what the log of a running process shows
    LogLevel(LogLevelArgs),
    /// Take a data node out in good order; its process ends
    Stop(NodeArgs),
    /// Let a data node leave and come back with its own files; returns when it is in sync again
    Restart(NodeArgs),
}

/// Arguments of commands on one data node.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct NodeArgs {
    /// The node id, as `lockstep status` shows it
    #[arg(value_name = "NODE", value_parser = super::node_id)]
    node: u16,
    /// Also if it is the last one in sync of its node group: the whole cluster stops then
    #[arg(long)]
    force: bool,
}

/// Arguments of `lockstep cluster`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum ClusterCommand {
    /// Show the cluster's id, shape, arbitrator and settings
    Info,
    /// Restart all data nodes while the cluster serves
    Restart(RestartArgs),
}

/// Arguments of `lockstep cluster restart`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RestartArgs {
    /// One after the other, each when all others are in sync
    #[arg(long, required = true)]
    rolling: bool,
}

pub(super) fn run(global: &Global, command: &NodeCommand) -> CliResult<ExitKind> {
    let voice = global.voice();
    block_on(async {
        match command {
            NodeCommand::LogLevel(args) => loglevel::run(global, args),
            NodeCommand::Show(args) => show::node(global, args).await,
            NodeCommand::Stop(args) => {
                let client = connect::client(global).await?;
                stop(global, &voice, &client, args).await
            }
            NodeCommand::Restart(args) => {
                let client = connect::client(global).await?;
                let view = client.view().await?;
                let before = member(&view, args.node)?;
                refuse_last(&view, before, args.force)?;
                let started = Instant::now();
                restart(global, &client, before).await?;
                let seconds = started.elapsed().as_secs_f64();
                let json = json!({
                    "schema": "lockstep.node-restart/v1", "node": args.node, "seconds": seconds,
                });
                let text = || format!("data node {} is in sync again, {seconds:.2} s\n", args.node);
                voice.data(&json, text).map_err(stdout_error)?;
                Ok(ExitKind::Done)
            }
        }
    })
}

pub(super) fn run_cluster(global: &Global, command: &ClusterCommand) -> CliResult<ExitKind> {
    match command {
        ClusterCommand::Info => show::cluster(global),
        ClusterCommand::Restart(RestartArgs { rolling: _ }) => restart_rolling(global),
    }
}

fn restart_rolling(global: &Global) -> CliResult<ExitKind> {
    let voice = global.voice();
    block_on(async {
        let client = connect::client(global).await?;
        let started = Instant::now();
        let view = client.view().await?;
        let nodes: Vec<u16> = view.members.iter().map(|m| m.instance.node.0).collect();
        let mut restarted = Vec::new();
        for node in nodes {
            let view = in_sync(global, &client, |_| true).await?;
            let before = member(&view, node)?;
            refuse_last(&view, before, false)?;
            let begun = Instant::now();
            restart(global, &client, before).await?;
            let seconds = begun.elapsed().as_secs_f64();
            voice.say(format!("data node {node} is in sync again, {seconds:.2} s"));
            restarted.push(json!({ "node": node, "seconds": seconds }));
        }
        let seconds = started.elapsed().as_secs_f64();
        let count = restarted.len();
        let json = json!({
            "schema": "lockstep.cluster-restart/v1", "restarted": restarted, "seconds": seconds,
        });
        let text = || format!("{count} data nodes restarted, {seconds:.2} s\n");
        voice.data(&json, text).map_err(stdout_error)?;
        Ok(ExitKind::Done)
    })
}

async fn stop(
    global: &Global,
    voice: &Voice,
    client: &Client,
    args: &NodeArgs,
) -> CliResult<ExitKind> {
    let view = client.view().await?;
    let life = member(&view, args.node)?;
    refuse_last(&view, life, args.force)?;
    leave(client, life, false).await?;
    let gone = |view: &View| !view.contains(life);
    let last = is_last(&view, life);
    if !last {
        wait(global, client, gone, || format!("data node {} has not left", args.node)).await?;
    }
    let json = json!({ "schema": "lockstep.node-stop/v1", "node": args.node });
    let text = || {
        let node = args.node;
        match last {
            true => format!("data node {node}, the last of its node group, was asked to leave\n"),
            false => format!("data node {node} has left\n"),
        }
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// Asks a node to leave. It may be gone before its answer is here, which is as good.
async fn leave(client: &Client, life: NodeInstance, again: bool) -> CliResult {
    let Err(error) = client.leave(life.node, again).await else { return Ok(()) };
    match client.view().await?.contains(life) {
        true => Err(error.into()),
        false => Ok(()),
    }
}

/// Lets a node leave and waits for its next life to be in sync.
async fn restart(global: &Global, client: &Client, before: NodeInstance) -> CliResult {
    leave(client, before, true).await?;
    let back = |view: &View| {
        let member = view.member(before.node);
        member.is_some_and(|m| {
            m.instance.incarnation > before.incarnation && m.standing == Standing::InSync
        })
    };
    in_sync(global, client, back).await.map(drop)
}

/// Waits until everybody who is wanted is in sync, and `also` holds.
pub(super) async fn in_sync(
    global: &Global,
    client: &Client,
    also: impl Fn(&View) -> bool,
) -> CliResult<Arc<View>> {
    let whole = |view: &View| {
        let wanted = usize::from(view.config.replicas);
        let full = |group| view.in_sync().filter(|m| m.group == group).count() >= wanted;
        view.groups().into_iter().all(full) && also(view)
    };
    wait(global, client, whole, || "not all data nodes are in sync".to_owned()).await
}

async fn wait(
    global: &Global,
    client: &Client,
    done: impl Fn(&View) -> bool,
    what: impl Fn() -> String,
) -> CliResult<Arc<View>> {
    let deadline = Instant::now() + global.timeout;
    let looking = async {
        loop {
            let view = client.view().await?;
            if done(&view) {
                return Ok(view);
            }
            if Instant::now() >= deadline {
                return Err(CliError::new(Trouble::TimedOut, what())
                    .why(format!("waited {:?}", global.timeout))
                    .then("`lockstep status` shows who is there; wait longer with --timeout"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        found = looking => found,
        never = tell_progress(global, client) => match never {},
    }
}

/// Shows what is missing, for as long as it is waited for. Asking takes its time when nodes are
/// silent, so it is done beside the waiting.
async fn tell_progress(global: &Global, client: &Client) -> Infallible {
    let mut follow = Follow::new(global.voice());
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let Ok(page) = collect(client).await else { continue };
        let joining = page.nodes.iter().filter_map(NodeReport::describe_join);
        let told: Vec<String> = joining.collect();
        follow.tell(&if told.is_empty() { page.troubles().join("; ") } else { told.join("; ") });
    }
}

fn member(view: &View, node: u16) -> CliResult<NodeInstance> {
    let found = view.member(NodeId(node)).map(|m| m.instance);
    found.ok_or_else(|| {
        let ids: Vec<String> = view.members.iter().map(|m| m.instance.node.0.to_string()).collect();
        CliError::new(Trouble::NoSuchNode, format!("data node {node} is not in the cluster"))
            .why(format!("its data nodes are {}", ids.join(", ")))
    })
}

fn is_last(view: &View, life: NodeInstance) -> bool {
    let group = view.member(life.node).map(|m| m.group);
    !view.in_sync().any(|m| Some(m.group) == group && m.instance != life)
}

fn refuse_last(view: &View, life: NodeInstance, force: bool) -> CliResult {
    if force || !is_last(view, life) {
        return Ok(());
    }
    let what = format!("data node {} is the last one in sync of its node group", life.node.0);
    Err(CliError::new(Trouble::Refused, what)
        .why("without it the cluster stops: half the data is not served")
        .then("wait for the others, see `lockstep status`; or add --force"))
}
