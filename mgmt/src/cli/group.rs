//! `lockstep group`: node groups come and go, and partitions move between them while the cluster
//! serves.
//!
//! Invariant: a command names a state and waits for it; ended early, it has started what goes on
//! without it, and the same command waits for the rest.

use std::cell::RefCell;
use std::time::Instant;

use lockstep_client::Client;
use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::orders::Order;
use lockstep_proto::view::{Standing, View};
use serde_json::json;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::follow::Follow;
use super::roster::{newest_view, order, tell, unless_refused};
use super::{Global, block_on, connect, show};

/// Arguments of `lockstep group`.
#[derive(clap::Subcommand, Clone, Debug)]
pub(super) enum GroupCommand {
    /// Show the node groups: who is in each, what it holds, and what is on its way
    List,
    /// Make a node group of spares; returns when they are in sync, and partitions begin to move
    Create(CreateArgs),
    /// Move partitions until all node groups have their share; returns when they have
    Rebalance(RebalanceArgs),
    /// Move all partitions of a node group to others; its nodes are spares in the end
    Drop(DropArgs),
}

/// Arguments of `lockstep group create`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct CreateArgs {
    /// The node ids of spares [default: as many as there are replicas, of different zones]
    #[arg(long, value_name = "NODE,…", value_delimiter = ',', value_parser = super::node_id)]
    nodes: Vec<u16>,
}

/// Arguments of `lockstep group rebalance`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RebalanceArgs {
    /// Whether partitions move by themselves from now on, when groups come or go
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    auto: Option<String>,
}

/// Arguments of `lockstep group drop`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct DropArgs {
    /// The node group, as `lockstep group list` shows it
    #[arg(value_name = "GROUP")]
    group: u16,
}

pub(super) fn run(global: &Global, command: &GroupCommand) -> CliResult<ExitKind> {
    match command {
        GroupCommand::List => show::groups(global),
        GroupCommand::Create(args) => block_on(create(global, args)),
        GroupCommand::Rebalance(args) => block_on(rebalance(global, args)),
        GroupCommand::Drop(args) => block_on(drop_group(global, args.group)),
    }
}

/// The spares that make a group: of as many zones as can be.
fn choose(view: &View) -> CliResult<Vec<NodeId>> {
    let wanted = usize::from(view.config.replicas);
    let mut spares: Vec<_> = view.members.iter().filter(|m| m.group == GroupId::NONE).collect();
    let found = spares.len();
    let (mut nodes, mut zones) = (Vec::new(), Vec::new());
    while nodes.len() < wanted {
        let together = |zone: &String| zones.iter().filter(|other| *other == zone).count();
        let best = spares.iter().min_by_key(|m| (together(&m.zone), m.instance.node));
        let Some(best) = best.map(|m| m.instance.node) else {
            let what = format!("a node group needs {wanted} spares, and {found} are there");
            return Err(CliError::new(Trouble::Unsafe, what)
                .why("each partition is to have as many replicas")
                .then("start more with `lockstep run data`, or name fewer with --nodes"));
        };
        zones.extend(view.member(best).map(|member| member.zone.clone()));
        nodes.push(best);
        spares.retain(|m| m.instance.node != best);
    }
    nodes.sort_unstable();
    Ok(nodes)
}

/// The node ids that were named, in order.
fn named(nodes: &[u16]) -> CliResult<Vec<NodeId>> {
    let mut nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
    nodes.sort_unstable();
    match nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(nodes),
        Some(pair) => Err(CliError::usage(format!("--nodes names node {} twice", pair[0].0))
            .then("name each spare once")),
    }
}

/// Whether these nodes are a group that was created and is not in sync yet: the command ended
/// early, and is given again.
fn is_on_its_way(view: &View, nodes: &[NodeId]) -> bool {
    let group = nodes.first().and_then(|node| view.roster.seat(*node)).map(|seat| seat.group);
    view.obeys(&Order::CreateGroup { nodes: nodes.to_vec() })
        && group.is_some_and(|group| view.owned_by(group) == 0 && !view.is_complete(group))
}

async fn create(global: &Global, args: &CreateArgs) -> CliResult<ExitKind> {
    let mut nodes = named(&args.nodes)?;
    let client = connect::client(global).await?;
    if nodes.is_empty() {
        let view = unless_refused(&client, |view| choose(view).err()).await?;
        nodes = choose(&view)?;
    }
    let wanted = Order::CreateGroup { nodes: nodes.clone() };
    let refused = |view: &View| match is_on_its_way(view, &nodes) {
        true => None,
        false => view.refusal(&wanted).map(CliError::from),
    };
    unless_refused(&client, refused).await?;
    let there = |view: &View| {
        let in_sync = |node: &NodeId| {
            let member = view.member(*node);
            member.is_some_and(|m| m.standing == Standing::InSync && m.group != GroupId::NONE)
        };
        nodes.iter().all(in_sync)
    };
    let started = Instant::now();
    let view = order(global, &client, wanted, there).await?;
    created(global, &view, &nodes, started.elapsed().as_secs_f64())
}

fn created(global: &Global, view: &View, nodes: &[NodeId], seconds: f64) -> CliResult<ExitKind> {
    let group = nodes.first().and_then(|node| view.roster.seat(*node)).map(|seat| seat.group);
    let group = group.unwrap_or(GroupId::NONE);
    let shared = view.zones_shared();
    let zone = shared.iter().find(|(of, _)| *of == group).map(|(_, zone)| zone.clone());
    // Spares that joined it by themselves belong to it too.
    let ids: Vec<u16> = view.roster.of_group(group).map(|seat| seat.node.0).collect();
    let json = json!({
        "schema": "lockstep.group-create/v1", "group": group.0, "nodes": ids,
        "zone_shared": zone, "seconds": seconds,
    });
    let in_sync: Vec<u16> = nodes.iter().map(|node| node.0).collect();
    let mut text = format!("node group {} of data nodes {in_sync:?} is in sync", group.0);
    text += &match view.roster.manual {
        true => "; partitions move there with `lockstep group rebalance`\n".to_owned(),
        false => "; partitions move there now: `lockstep group list`\n".to_owned(),
    };
    let joined: Vec<u16> = ids.iter().copied().filter(|id| !in_sync.contains(id)).collect();
    if !joined.is_empty() {
        text += &format!("spares {joined:?} joined it by themselves: it lacked replicas\n");
    }
    if let Some(zone) = zone {
        text += &format!("warning: several of them are in zone {zone}: it may be lost with it\n");
    }
    let wanted = usize::from(view.config.replicas);
    if ids.len() < wanted {
        text += &format!(
            "warning: partitions that move there have {} of {wanted} replicas: \
             `lockstep node join NODE --group {}` adds one\n",
            ids.len(),
            group.0
        );
    }
    tell(&global.voice(), &json, text)
}

/// How far it is, in words.
fn progress(view: &View) -> String {
    let groups = view.node_groups();
    let owned = groups.iter().map(|group| {
        format!("group {} has {} of {}", group.0, view.owned_by(*group), view.share_of(*group))
    });
    let owned: Vec<String> = owned.collect();
    let away: Vec<String> = groups
        .iter()
        .filter(|group| !view.is_complete(**group))
        .map(|group| format!("group {} is not in sync, nothing moves there", group.0))
        .collect();
    owned.into_iter().chain(away).collect::<Vec<_>>().join("; ")
}

/// Whether nothing is on its way, and nothing should be.
fn settled(view: &View) -> bool {
    view.moving().is_none() && view.is_balanced()
}

async fn rebalance(global: &Global, args: &RebalanceArgs) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    if let Some(auto) = &args.auto {
        let on = auto == "on";
        order(global, &client, Order::Automatic { on }, |_| true).await?;
        if !on {
            return told(global, &client, 0, 0.0).await;
        }
    }
    let before = newest_view(&client).await?;
    let started = Instant::now();
    let follow = RefCell::new(Follow::new(global.voice()));
    let done = |view: &View| {
        follow.borrow_mut().tell(&progress(view));
        settled(view)
    };
    let view = order(global, &client, Order::Rebalance, done).await?;
    drop(follow);
    let moved = before.placements.iter().zip(&view.placements);
    let moved = moved.filter(|(before, now)| before.group != now.group).count();
    told(global, &client, moved, started.elapsed().as_secs_f64()).await
}

async fn told(global: &Global, client: &Client, moved: usize, seconds: f64) -> CliResult<ExitKind> {
    let view = client.view().await?;
    let auto = if view.roster.manual { "off" } else { "on" };
    let json = json!({
        "schema": "lockstep.group-rebalance/v1", "moved": moved, "seconds": seconds,
        "balanced": view.is_balanced(), "auto": auto,
    });
    let text = match view.is_balanced() {
        true => format!("all node groups have their share, {moved} partitions moved\n"),
        false => "partitions stay where they are until `lockstep group rebalance`\n".to_owned(),
    };
    tell(&global.voice(), &json, text)
}

async fn drop_group(global: &Global, number: u16) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let group = GroupId(number);
    let wanted = Order::DropGroup { group };
    let view = unless_refused(&client, |view| view.refusal(&wanted).map(CliError::from)).await?;
    let nodes: Vec<u16> = view.roster.of_group(group).map(|seat| seat.node.0).collect();
    let partitions = view.owned_by(group);
    global.confirm(&format!(
        "move {partitions} partitions from node group {number} to others and make spares of its \
         data nodes {nodes:?}?"
    ))?;
    let started = Instant::now();
    let follow = RefCell::new(Follow::new(global.voice()));
    let done = |view: &View| {
        follow.borrow_mut().tell(&progress(view));
        let left = nodes.iter().filter_map(|node| view.member(NodeId(*node)));
        !view.has_group(group) && left.into_iter().all(|member| member.group != group)
    };
    order(global, &client, wanted, done).await?;
    drop(follow);
    let seconds = started.elapsed().as_secs_f64();
    let json = json!({
        "schema": "lockstep.group-drop/v1", "group": number, "nodes": nodes,
        "moved": partitions, "seconds": seconds,
    });
    let text = format!(
        "node group {number} is gone: {partitions} partitions moved, data nodes {nodes:?} are \
         spares\n"
    );
    tell(&global.voice(), &json, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_once() {
        assert_eq!(named(&[6, 5]).unwrap(), [NodeId(5), NodeId(6)]);
        let error = named(&[5, 6, 5]).unwrap_err();
        assert_eq!((error.exit, error.number), (ExitKind::Usage, 4001));
        assert_eq!(error.what, "--nodes names node 5 twice");
    }
}
