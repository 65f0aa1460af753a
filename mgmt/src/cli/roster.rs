//! Commands that change who belongs to the cluster, and to what: they name a state, repeat it until
//! a view shows it, and wait until the nodes are there too.
//!
//! Invariant: what would be refused by the cluster is refused here with the same words, because
//! both ask the same function of the view.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::{GroupId, NodeId, ShardId};
use lockstep_proto::orders::{Ground, Order, Refusal};
use lockstep_proto::roster::Seat;
use lockstep_proto::view::{Standing, View};
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{Voice, table};
use super::parts::{drained_spares, listed};
use super::{Global, connect, stdout_error};

/// Between two looks at the view, which the client library keeps up to date.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a view may speak against a command before it is refused: the first view a client has
/// may be some moments old.
const REFUSED_AFTER: Duration = Duration::from_millis(500);

/// Between two times that the cluster is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Arguments of commands on several data nodes.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct NodesArgs {
    /// The node ids, as `lockstep node list` shows them
    #[arg(value_name = "NODE", value_parser = super::node_id, required = true)]
    nodes: Vec<u16>,
}

/// Arguments of `lockstep node join`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct JoinArgs {
    /// The node id of a spare, as `lockstep node list` shows it
    #[arg(value_name = "NODE", value_parser = super::node_id)]
    node: u16,
    /// The node group
    #[arg(long, value_name = "G")]
    group: u16,
}

/// Arguments of `lockstep node remove`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct RemoveArgs {
    /// The node id, as `lockstep node list` shows it
    #[arg(value_name = "NODE", value_parser = super::node_id)]
    node: u16,
    /// Also if its group has fewer replicas in sync than are wanted afterwards
    #[arg(long)]
    force: bool,
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { ground, what, why, then } = refusal;
        let trouble = match ground {
            Ground::NoSuchNode => Trouble::NoSuchNode,
            Ground::NoSuchGroup => Trouble::NoSuchGroup,
            Ground::State => Trouble::Unsafe,
        };
        Self::new(trouble, what).why(why).then(then)
    }
}

/// The view that some data node acts in now, or a newer one.
pub(super) async fn newest_view(client: &Client) -> CliResult<Arc<View>> {
    let view = client.view().await?;
    let Some(member) = view.in_sync().next() else { return Ok(view) };
    let asked = client.status(member.instance.node, ShardId(0));
    let Ok(Ok(status)) = tokio::time::timeout(REFUSED_AFTER, asked).await else {
        return Ok(view);
    };
    let started = Instant::now();
    loop {
        let view = client.view().await?;
        if view.number >= status.view || started.elapsed() >= REFUSED_AFTER {
            return Ok(view);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Refuses a command if the newest view speaks against it, and goes on with that view if not.
pub(super) async fn unless_refused(
    client: &Client,
    refused: impl Fn(&View) -> Option<CliError>,
) -> CliResult<Arc<View>> {
    let started = Instant::now();
    loop {
        let view = newest_view(client).await?;
        match refused(&view) {
            None => return Ok(view),
            Some(error) if started.elapsed() >= REFUSED_AFTER => return Err(error),
            Some(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Gives an order and waits until it is carried out and `done` holds.
pub(super) async fn order(
    global: &Global,
    client: &Client,
    order: Order,
    done: impl Fn(&View) -> bool,
) -> CliResult<Arc<View>> {
    let deadline = Instant::now() + global.timeout;
    let mut told: Option<Instant> = None;
    let mut obeyed = false;
    loop {
        let view = client.view().await?;
        obeyed |= view.obeys(&order);
        if obeyed && done(&view) {
            return Ok(view);
        }
        if !obeyed && told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            let refused = |view: &View| view.refusal(&order).map(CliError::from);
            unless_refused(client, refused).await?;
            client.order(order.clone()).await?;
            told = Some(Instant::now());
        }
        if Instant::now() >= deadline {
            let what = match obeyed {
                true => "it was ordered, and is not done yet",
                false => "the data nodes have not agreed on it",
            };
            return Err(CliError::new(Trouble::TimedOut, what)
                .why(format!("waited {:?}", global.timeout))
                .then("`lockstep node list` shows how far it is; wait longer with --timeout"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) fn tell(voice: &Voice, json: &Value, text: String) -> CliResult<ExitKind> {
    voice.data(json, || text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// `node drain` and `node undrain`.
pub(super) async fn drain(global: &Global, node: u16, drained: bool) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let id = NodeId(node);
    let leads = |view: &View| view.placements.iter().filter(|p| p.primary == id).count();
    let could_move = |view: &View| {
        let led = view.placements.iter().filter(|p| p.primary == id);
        led.filter(|p| view.preferred_primary(p) != Some(id)).count()
    };
    let wanted = Order::Drain { node: id, drained };
    let view = order(global, &client, wanted, |view| !drained || could_move(view) == 0).await?;
    let left = leads(&view);
    let json = json!({
        "schema": "lockstep.node-drain/v1", "node": node, "drained": drained,
        "partitions_led": left,
    });
    let text = match (drained, left) {
        (false, _) => format!("data node {node} may lead partitions again\n"),
        (true, 0) => format!("data node {node} leads no partition; it stays a replica\n"),
        (true, left) => format!("data node {node} leads {left} partitions that nobody else can\n"),
    };
    tell(&global.voice(), &json, text)
}

/// `node ok-to-stop`.
pub(super) async fn ok_to_stop(global: &Global, args: &NodesArgs) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let nodes: Vec<NodeId> = args.nodes.iter().copied().map(NodeId).collect();
    let names: Vec<String> = args.nodes.iter().map(u16::to_string).collect();
    let what = format!("refusing to stop node {}", names.join(", "));
    let refused = |view: &View| {
        let known = |node: &NodeId| Order::Drain { node: *node, drained: true };
        let unknown = nodes.iter().find_map(|node| view.refusal(&known(node)));
        let unknown = unknown
            .map(|refusal| CliError::new(Trouble::NoSuchNode, refusal.what).why(refusal.why));
        unknown.or_else(|| view.last_of_group(&nodes, &what).map(CliError::from))
    };
    let view = unless_refused(&client, refused).await?;
    let left: Vec<(GroupId, usize)> = view
        .owners()
        .into_iter()
        .map(|group| {
            let stays = view.in_sync().filter(|m| m.group == group);
            (group, stays.filter(|m| !nodes.contains(&m.instance.node)).count())
        })
        .collect();
    let groups: Vec<Value> =
        left.iter().map(|(group, count)| json!({ "group": group.0, "in_sync": count })).collect();
    let json = json!({
        "schema": "lockstep.node-ok-to-stop/v1", "nodes": args.nodes, "ok": true,
        "groups": groups,
    });
    let mut text = format!("node {} can be stopped\n", names.join(", "));
    for (group, _) in left.iter().filter(|(_, count)| *count == 1) {
        text += &format!("until it is back, group {} does not survive another failure\n", group.0);
    }
    tell(&global.voice(), &json, text)
}

fn not_running(JoinArgs { node, group }: &JoinArgs) -> CliError {
    let what = format!("data node {node} belongs to node group {group} already, and is not there");
    CliError::new(Trouble::Unsafe, what)
        .why("it comes back to its group by itself")
        .then("start it again, on its directory; `lockstep node list` shows how far it is")
}

/// `node join`: a spare becomes a replica.
pub(super) async fn join(global: &Global, args: &JoinArgs) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let (node, group) = (NodeId(args.node), GroupId(args.group));
    let there = |view: &View| {
        let member = view.member(node);
        member.is_some_and(|m| m.group == group && m.standing == Standing::InSync)
    };
    let wanted = Order::Join { node, group };
    let refused = |view: &View| {
        let away = view.obeys(&wanted) && view.member(node).is_none();
        let refusal = || view.refusal(&wanted).map(CliError::from);
        if away { Some(not_running(args)) } else { refusal() }
    };
    unless_refused(&client, refused).await?;
    let started = Instant::now();
    order(global, &client, wanted, there).await?;
    let seconds = started.elapsed().as_secs_f64();
    let json = json!({
        "schema": "lockstep.node-join/v1", "node": args.node, "group": args.group,
        "seconds": seconds,
    });
    let text = format!(
        "data node {} is in sync in node group {}, {seconds:.2} s\n",
        args.node, args.group
    );
    tell(&global.voice(), &json, text)
}

/// Waits until a node that was just started has its place: in sync, or a spare.
pub(super) async fn joined(global: &Global, url: &str, node: u16) -> CliResult<Arc<View>> {
    let client = connect::connect(url, global.timeout).await?;
    let deadline = Instant::now() + global.timeout;
    loop {
        let view = client.view().await?;
        let seat = view.roster.seat(NodeId(node));
        let there = view.member(NodeId(node)).is_some_and(|member| {
            let waits = seat.is_some_and(|seat| seat.group == GroupId::NONE)
                && view.spares_to_join().is_empty();
            member.standing == Standing::InSync || waits
        });
        if there {
            return Ok(view);
        }
        if Instant::now() >= deadline {
            return Err(CliError::new(
                Trouble::TimedOut,
                format!("data node {node} has no place yet"),
            )
            .why(format!("waited {:?}", global.timeout))
            .then("read its log; `lockstep node list` shows how far it is"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `node spare`: a replica leaves its group and comes back without one.
pub(super) async fn spare(global: &Global, node: u16) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let id = NodeId(node);
    let out = |view: &View| view.member(id).is_none_or(|m| m.group == GroupId::NONE);
    order(global, &client, Order::Spare { node: id }, out).await?;
    let json = json!({ "schema": "lockstep.node-spare/v1", "node": node });
    tell(&global.voice(), &json, format!("data node {node} belongs to no node group now\n"))
}

/// `node remove`: a node leaves for good.
pub(super) async fn remove(global: &Global, args: &RemoveArgs) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let node = NodeId(args.node);
    let refused = |view: &View| {
        if node == NodeId(0) || view.roster.was_never_given(node) {
            let what = format!("there is and was no data node {}", args.node);
            return Some(CliError::new(Trouble::NoSuchNode, what).then("see `lockstep node list`"));
        }
        // Who is gone already is no mistake of a script that tries again.
        view.roster.seat(node)?;
        if let Some(refusal) = view.refusal(&Order::Remove { node }) {
            return Some(CliError::from(refusal));
        }
        let wanted = usize::from(view.config.replicas);
        let member = view.member(node).filter(|m| m.standing == Standing::InSync)?;
        let group = member.group;
        let left = view.in_sync().filter(|m| m.group == group && m.instance.node != node).count();
        if args.force || left >= wanted {
            return None;
        }
        let what = format!(
            "refusing to remove node {}: group {} would have {left} of {wanted} replicas",
            args.node, group.0
        );
        let then = format!(
            "first add its successor: `lockstep run data --group {}` on the new machine; or add \
             --force",
            group.0
        );
        let why = "until another node is in sync it survives fewer failures";
        Some(CliError::new(Trouble::Unsafe, what).why(why).then(then))
    };
    unless_refused(&client, refused).await?;
    let question = format!("remove data node {} for good, with what is on its disk?", args.node);
    global.confirm(&question)?;
    let gone = |view: &View| view.member(node).is_none();
    order(global, &client, Order::Remove { node }, gone).await?;
    let json = json!({ "schema": "lockstep.node-remove/v1", "node": args.node });
    let text = format!(
        "data node {} does not belong to the cluster any more; its directory is of no more use\n",
        args.node
    );
    tell(&global.voice(), &json, text)
}

/// `cluster replicas`: how many replicas each partition has.
pub(super) async fn replicas(global: &Global, count: u16) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let gone = |view: &View| {
        let misplaced = |m: &lockstep_proto::view::Member| {
            let seat = view.roster.seat(m.instance.node);
            seat.is_none_or(|seat| seat.group != m.group)
        };
        !view.members.iter().any(misplaced)
    };
    let view = order(global, &client, Order::Replicas { count }, gone).await?;
    let lacks = |group: &GroupId| view.roster.of_group(*group).count() < usize::from(count);
    let lacking: Vec<u16> = view.owners().into_iter().filter(lacks).map(|g| g.0).collect();
    let json = json!({
        "schema": "lockstep.cluster-replicas/v1", "replicas": count, "groups_lacking": lacking,
    });
    let mut text = format!("partitions are to have {count} replicas\n");
    if !lacking.is_empty() {
        text += &match &drained_spares(&view)[..] {
            [] => format!(
                "groups {lacking:?} have fewer nodes: start more with `lockstep run data`; they \
                 join by themselves\n"
            ),
            spares => format!(
                "groups {lacking:?} have fewer nodes, and data nodes {} are drained spares: \
                 `lockstep node undrain` each, and they join by themselves\n",
                listed(spares)
            ),
        };
    }
    tell(&global.voice(), &json, text)
}

/// `cluster primary-zone`: where primaries are, if they can.
pub(super) async fn primary_zone(global: &Global, zone: &str) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let wanted = Order::PrimaryZone { zone: zone.to_owned() };
    let moved = |view: &View| {
        let well = |p: &lockstep_proto::view::Placement| {
            !view.is_complete(p.group) || view.preferred_primary(p) == Some(p.primary)
        };
        view.placements.iter().all(well)
    };
    order(global, &client, wanted, moved).await?;
    let json = json!({ "schema": "lockstep.cluster-primary-zone/v1", "zone": zone });
    let text = match zone {
        "" => "replicas of no zone in particular lead\n".to_owned(),
        zone => format!("replicas in zone {zone} lead where they can\n"),
    };
    tell(&global.voice(), &json, text)
}

fn state_of(view: &View, seat: &Seat) -> &'static str {
    let member = view.member(seat.node);
    match member.map(|m| (m.group, m.standing)) {
        None => "not there",
        Some((group, _)) if group != seat.group => "leaving its group",
        Some((GroupId::NONE, _)) => "spare",
        Some((_, Standing::Copying)) => "copying",
        Some((_, Standing::Attached)) => "catching up",
        Some((_, Standing::InSync)) => "in sync",
    }
}

/// `node list`: everybody who belongs to the cluster, here or not.
pub(super) async fn list(global: &Global) -> CliResult<ExitKind> {
    let client = connect::client(global).await?;
    let view = newest_view(&client).await?;
    let led = |node| view.placements.iter().filter(|p| p.primary == node).count();
    let group = |seat: &Seat| seat.group.number();
    let nodes: Vec<Value> = view
        .roster
        .seats
        .iter()
        .map(|seat| {
            json!({
                "node": seat.node.0, "group": group(seat), "zone": seat.zone,
                "addr": seat.addr, "state": state_of(&view, seat), "drained": seat.drained,
                "partitions_led": led(seat.node),
            })
        })
        .collect();
    let shared = view.zones_shared();
    let warnings: Vec<String> = shared
        .iter()
        .map(|(group, zone)| {
            format!(
                "node group {} has several nodes in zone {zone}: it may be lost with it",
                group.0
            )
        })
        .collect();
    let json = json!({
        "schema": "lockstep.node-list/v1", "view": view.number.0, "nodes": nodes,
        "warnings": warnings,
    });
    let row = |seat: &Seat| {
        let state = state_of(&view, seat);
        let state = if seat.drained { format!("{state}, drained") } else { state.to_owned() };
        let group = group(seat).map_or_else(|| "-".to_owned(), |group| group.to_string());
        let led = led(seat.node).to_string();
        vec![seat.node.0.to_string(), group, seat.zone.clone(), state, led, seat.addr.clone()]
    };
    let rows: Vec<Vec<String>> = view.roster.seats.iter().map(row).collect();
    let mut text = table(&["node", "group", "zone", "state", "leads", "address"], &rows);
    for warning in &warnings {
        text += &format!("\nwarning: {warning}");
    }
    text.push('\n');
    tell(&global.voice(), &json, text)
}
