//! `lockstep node` and `lockstep cluster`: data nodes leave in good order and come back.
//!
//! Invariant: a command never takes the last node in sync out of a node group, unless it is told
//! to; a rolling restart goes on only when everybody is in sync again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::{GroupId, NodeId, NodeInstance};
use lockstep_proto::view::{Standing, View};
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::follow::Follow;
use super::loglevel::{self, LogLevelArgs};
use super::output::Voice;
use super::roster::{self, JoinArgs, NodesArgs, RemoveArgs};
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
    /// Show everybody who belongs to the cluster, here or not
    List,
    /// Say whether these data nodes can be stopped together, and what that would leave
    OkToStop(NodesArgs),
    /// Move a data node's primaries away; it stays a replica
    Drain(OneArgs),
    /// Let a drained data node lead partitions again
    Undrain(OneArgs),
    /// Put a spare into a node group; returns when it is in sync
    Join(JoinArgs),
    /// Take a data node out of its node group, without leaving the cluster
    Spare(OneArgs),
    /// Take a data node out of the cluster for good
    Remove(RemoveArgs),
}

/// Arguments of commands on one data node that cost nothing.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct OneArgs {
    /// The node id, as `lockstep node list` shows it
    #[arg(value_name = "NODE", value_parser = super::node_id)]
    node: u16,
}

/// Arguments of commands on one data node.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct NodeArgs {
    /// The node id, as `lockstep status` shows it
    #[arg(value_name = "NODE", value_parser = super::node_id)]
    node: u16,
    /// Also if it is the last one in sync of its node group: the whole cluster stops then
    #[arg(long, visible_alias = "force-unavailable")]
    force: bool,
}

/// Arguments of `lockstep cluster`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum ClusterCommand {
    /// Show the cluster's id, shape, arbitrator and settings
    Info,
    /// Restart all data nodes while the cluster serves
    Restart(RestartArgs),
    /// Set how many replicas each partition has; spares join, surplus nodes become spares
    Replicas {
        /// How many
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4))]
        count: u16,
    },
    /// Let replicas in a zone lead where they can; "" for no zone in particular
    PrimaryZone {
        /// The zone
        #[arg(value_name = "ZONE")]
        zone: String,
    },
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
            NodeCommand::List => roster::list(global).await,
            NodeCommand::OkToStop(args) => roster::ok_to_stop(global, args).await,
            NodeCommand::Drain(args) => roster::drain(global, args.node, true).await,
            NodeCommand::Undrain(args) => roster::drain(global, args.node, false).await,
            NodeCommand::Join(args) => roster::join(global, args).await,
            NodeCommand::Spare(args) => roster::spare(global, args.node).await,
            NodeCommand::Remove(args) => roster::remove(global, args).await,
            NodeCommand::Stop(args) => {
                let client = connect::client(global).await?;
                stop(global, &voice, &client, args).await
            }
            NodeCommand::Restart(args) => {
                let client = connect::client(global).await?;
                let before = unless_last(&client, args).await?;
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
        ClusterCommand::Replicas { count } => block_on(roster::replicas(global, *count)),
        ClusterCommand::PrimaryZone { zone } => block_on(roster::primary_zone(global, zone)),
    }
}

fn restart_rolling(global: &Global) -> CliResult<ExitKind> {
    let voice = global.voice();
    block_on(async {
        let client = connect::client(global).await?;
        let started = Instant::now();
        let restarted = restart_all(global, &client).await?;
        let seconds = started.elapsed().as_secs_f64();
        let count = restarted.len();
        let restarted: Vec<Value> = restarted
            .into_iter()
            .map(|(node, time)| json!({ "node": node, "seconds": time.as_secs_f64() }))
            .collect();
        let json = json!({
            "schema": "lockstep.cluster-restart/v1", "restarted": restarted, "seconds": seconds,
        });
        let text = || format!("{count} data nodes restarted, {seconds:.2} s\n");
        voice.data(&json, text).map_err(stdout_error)?;
        Ok(ExitKind::Done)
    })
}

/// Restarts one data node after the other, each when all others are in sync; tells how long each
/// took.
pub(super) async fn restart_all(
    global: &Global,
    client: &Client,
) -> CliResult<Vec<(u16, Duration)>> {
    let view = client.view().await?;
    let nodes: Vec<u16> = view.members.iter().map(|m| m.instance.node.0).collect();
    let mut restarted = Vec::new();
    for node in nodes {
        let view = in_sync(global, client, |_| true).await?;
        let before = member(&view, node)?;
        if let Some(refusal) = last(&view, before) {
            return Err(refusal);
        }
        let begun = Instant::now();
        restart(global, client, before).await?;
        let time = begun.elapsed();
        let seconds = time.as_secs_f64();
        global.voice().say(format!("data node {node} is in sync again, {seconds:.2} s"));
        restarted.push((node, time));
    }
    Ok(restarted)
}

async fn stop(
    global: &Global,
    voice: &Voice,
    client: &Client,
    args: &NodeArgs,
) -> CliResult<ExitKind> {
    let life = unless_last(client, args).await?;
    let view = client.view().await?;
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
            let there = m.standing == Standing::InSync || m.group == GroupId::NONE;
            m.instance.incarnation > before.incarnation && there
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
    let whole =
        |view: &View| view.owners().into_iter().all(|group| view.is_complete(group)) && also(view);
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
    view.last_of_group(&[life.node], "").is_some()
}

/// The life of the node, unless it is the last in sync of its group and may not go.
async fn unless_last(client: &Client, args: &NodeArgs) -> CliResult<NodeInstance> {
    let refused = |view: &View| match member(view, args.node) {
        Ok(life) => last(view, life).filter(|_| !args.force),
        Err(unknown) => Some(unknown),
    };
    let view = roster::unless_refused(client, refused).await?;
    member(&view, args.node)
}

/// Why a node must not be stopped; `None` if it may.
fn last(view: &View, life: NodeInstance) -> Option<CliError> {
    let what = format!("refusing to stop node {}", life.node.0);
    let refusal = view.last_of_group(&[life.node], &what)?;
    let then = format!("{}; or force with data unavailable: --force", refusal.then);
    Some(CliError::from(refusal).then(then))
}
