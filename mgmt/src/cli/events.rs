//! `lockstep events`: what has happened to the cluster, as the management servers have written it
//! down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_proto::events::{ClusterEvent, Happening};
use lockstep_proto::ids::{GroupId, MgmtId};
use lockstep_proto::view::Arbitrator;
use serde_json::{Value, json};

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::output::{Format, Voice, moment, table, thousands};
use super::{Global, block_on, connect, duration, stdout_error};
use crate::backup::ask::{self, Server};

/// How often news are asked for.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  lockstep events --since 10m
  lockstep events --node 2 --event node_lost --event node_in_sync
  lockstep events --follow -o jsonl";

/// Arguments of `lockstep events`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct EventsArgs {
    /// Only those of this time until now
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    since: Option<Duration>,
    /// Only those about this data node
    #[arg(long, value_name = "NODE", value_parser = super::node_id)]
    node: Option<u16>,
    /// Only those of this name; may be given again for another
    #[arg(long, value_name = "NAME", value_parser = name)]
    event: Vec<String>,
    /// The log of this management server, such as m2 [default: of the one that knows most]
    #[arg(long, value_name = "SERVER", value_parser = server_id)]
    server: Option<u16>,
    /// Only the last ones, so many
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    /// Go on with what happens from now on, until interrupted
    #[arg(long)]
    follow: bool,
}

fn name(text: &str) -> Result<String, String> {
    if Happening::NAMES.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("the events are {}", Happening::NAMES.join(", ")))
}

fn server_id(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix('m').unwrap_or(text);
    digits.parse().map_err(|_| "a management server is a number, such as 2 or m2".to_owned())
}

impl EventsArgs {
    fn wants(&self, event: &ClusterEvent, since_ms: u64) -> bool {
        let node = |node| event.what.node().is_some_and(|one| one.0 == node);
        event.when_ms >= since_ms
            && self.node.is_none_or(node)
            && (self.event.is_empty() || self.event.iter().any(|name| name == event.what.name()))
    }
}

pub(super) fn run(global: &Global, args: &EventsArgs) -> CliResult<ExitKind> {
    let voice = global.voice();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = args.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
    let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    block_on(async {
        let client = connect::client(global).await?;
        let mut servers = ask::servers(&client).await?;
        if let Some(id) = args.server {
            servers.retain(|server| server.id.0 == id);
            if servers.is_empty() {
                let what = format!("management server {id} does not answer");
                return Err(CliError::new(Trouble::NoServer, what)
                    .then("leave out --server to ask those that do"));
            }
        }
        let (mut server, all) = fullest(servers).await?;
        let mut told = all.last().map_or(0, |event| event.number);
        let wants = |event: &ClusterEvent| args.wants(event, since_ms);
        let mut wanted: Vec<ClusterEvent> = all.into_iter().filter(wants).collect();
        if let Some(last) = args.last {
            wanted.drain(..wanted.len().saturating_sub(last));
        }
        if !args.follow {
            return list(&voice, server.id, &wanted);
        }
        show(&voice, &wanted)?;
        let mut ended = std::pin::pin!(super::interrupt::ended());
        loop {
            tokio::select! {
                () = &mut ended => return Ok(ExitKind::Done),
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
            }
            // A server that was started again has its log; one that is gone is waited for.
            let mut answer = server.events(told).await;
            if answer.is_err() && server.reconnect().await {
                answer = server.events(told).await;
            }
            let Ok(news) = answer else { continue };
            told = news.last().map_or(told, |event| event.number);
            let news: Vec<ClusterEvent> = news.into_iter().filter(wants).collect();
            show(&voice, &news)?;
        }
    })
}

/// The server that knows most: one that was away, or has lost its directory, knows less.
async fn fullest(servers: Vec<Server>) -> CliResult<(Server, Vec<ClusterEvent>)> {
    let mut best: Option<(Server, Vec<ClusterEvent>)> = None;
    let mut failed = None;
    for mut server in servers {
        match server.events(0).await {
            Ok(events) if best.as_ref().is_none_or(|(_, known)| known.len() < events.len()) => {
                best = Some((server, events));
            }
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
    }
    let none = || CliError::usage("the cluster names no management server".to_owned());
    best.ok_or_else(|| failed.unwrap_or_else(none))
}

fn list(voice: &Voice, server: MgmtId, events: &[ClusterEvent]) -> CliResult<ExitKind> {
    let rows: Vec<Value> = events.iter().map(event_json).collect();
    if voice.format == Format::Jsonl {
        show(voice, events)?;
        return Ok(ExitKind::Done);
    }
    let json = json!({
        "schema": "lockstep.events/v1", "management_server": server.to_string(), "events": rows,
    });
    let text = || {
        let lines: Vec<Vec<String>> = events.iter().map(line).collect();
        table(&["when", "view", "event"], &lines)
    };
    voice.data(&json, text).map_err(stdout_error)?;
    Ok(ExitKind::Done)
}

/// Each event as a line of its own: what follows is not known yet.
fn show(voice: &Voice, events: &[ClusterEvent]) -> CliResult {
    for event in events {
        let text = || format!("{}\n", line(event).join("  "));
        voice.data(&event_json(event), text).map_err(stdout_error)?;
    }
    Ok(())
}

fn arbitrator_text(arbitrator: Option<&Arbitrator>) -> String {
    match arbitrator {
        Some(Arbitrator::Mgmt { id, .. }) => format!("management server {}", id.0),
        Some(Arbitrator::Api { name, .. }) => format!("API node {name}"),
        None => "nobody".to_owned(),
    }
}

fn line(event: &ClusterEvent) -> Vec<String> {
    let text = match &event.what {
        Happening::Met { nodes } => format!("the cluster is there, with {nodes} data nodes"),
        Happening::NodeLost { node, group: GroupId::NONE, .. } => {
            format!("{node}, a spare, is gone")
        }
        Happening::NodeLost { node, group, why: Some(why) } => {
            format!("{node} of group {group} is gone: {}", why.text())
        }
        Happening::NodeLost { node, group, why: None } => {
            format!("{node} of group {group} is gone")
        }
        Happening::NodeAdmitted { node, group: GroupId::NONE } => {
            format!("{node} is there, as a spare")
        }
        Happening::NodeAdmitted { node, group } => {
            format!("{node} comes to group {group}: it copies")
        }
        Happening::NodeSeated { node, group: GroupId::NONE } => {
            format!("{node} belongs to the cluster, as a spare")
        }
        Happening::NodeSeated { node, group } => {
            format!("{node} belongs to the cluster, in group {group}")
        }
        Happening::NodePlaced { node, group: GroupId::NONE } => format!("{node} is a spare now"),
        Happening::NodePlaced { node, group } => format!("{node} belongs to group {group} now"),
        Happening::NodeDrained { node, drained: true } => format!("{node} is drained"),
        Happening::NodeDrained { node, drained: false } => format!("{node} may lead again"),
        Happening::NodeRemoved { node } => format!("{node} is removed for good"),
        Happening::NodeAttached { node } => format!("{node} has copied everything"),
        Happening::NodeInSync { node } => format!("{node} is in sync"),
        Happening::GroupCreated { group } => format!("node group {group} is created"),
        Happening::GroupDropBegun { group } => format!("node group {group} is to own nothing"),
        Happening::GroupDropped { group } => format!("node group {group} is no more"),
        Happening::RebalanceBegun => "partitions begin to move between node groups".to_owned(),
        Happening::RebalanceEnded { partitions: 1 } => {
            "partitions move no more; 1 has another node group".to_owned()
        }
        Happening::RebalanceEnded { partitions } => {
            format!("partitions move no more; {partitions} have another node group")
        }
        Happening::PrimariesMoved { partitions: 1 } => "1 partition has another primary".to_owned(),
        Happening::PrimariesMoved { partitions } => {
            format!("{partitions} partitions have other primaries")
        }
        Happening::ArbitratorNamed { arbitrator } => {
            format!("the arbitrator is {}", arbitrator_text(arbitrator.as_ref()))
        }
        Happening::Configured { version, who } => {
            format!("version {} of the configuration, by {who}", version.0)
        }
        Happening::Restarted { .. } => "the cluster was started again from its disks".to_owned(),
        Happening::RegisterLost => "this server has lost the arbitrator's register".to_owned(),
        Happening::BackupBegun { backup } => format!("backup {backup} is begun"),
        Happening::BackupDone { backup, epoch, rows } => {
            format!("backup {backup} is whole: {} rows as of {epoch}", thousands(*rows))
        }
        Happening::BackupFailed { backup, why } => format!("backup {backup} has failed: {why}"),
        Happening::BackupDeleted { backup } => format!("backup {backup} is removed"),
        Happening::ReplicasSet { replicas } => format!("rows are to have {replicas} replicas"),
        Happening::PrimaryZoneSet { zone } => match zone.as_str() {
            "" => "primaries may be in any zone".to_owned(),
            zone => format!("primaries are to be in zone {zone}"),
        },
        Happening::RebalancingSet { automatic } => {
            let when = if *automatic { "by themselves" } else { "only when it is said" };
            format!("partitions move between node groups {when}")
        }
    };
    vec![moment(event.when_ms), event.view.0.to_string(), text]
}

fn event_json(event: &ClusterEvent) -> Value {
    let mut object = json!({
        "number": event.number, "when": moment(event.when_ms), "when_ms": event.when_ms,
        "view": event.view.0, "event": event.what.name(), "text": line(event).pop(),
    });
    let of = |group: GroupId| (group != GroupId::NONE).then_some(group.0);
    let more = match &event.what {
        Happening::NodeLost { node, group, why } => json!({
            "node": node.node.0, "incarnation": node.incarnation.0, "group": of(*group),
            "why": why.map(|why| why.text()),
        }),
        Happening::NodeAdmitted { node, group } => json!({
            "node": node.node.0, "incarnation": node.incarnation.0, "group": of(*group),
        }),
        Happening::NodeAttached { node } | Happening::NodeInSync { node } => json!({
            "node": node.node.0, "incarnation": node.incarnation.0,
        }),
        Happening::NodeSeated { node, group } | Happening::NodePlaced { node, group } => {
            json!({ "node": node.0, "group": of(*group) })
        }
        Happening::NodeDrained { node, .. } | Happening::NodeRemoved { node } => {
            json!({ "node": node.0 })
        }
        Happening::GroupCreated { group }
        | Happening::GroupDropBegun { group }
        | Happening::GroupDropped { group } => json!({ "group": group.0 }),
        Happening::RebalanceEnded { partitions } | Happening::PrimariesMoved { partitions } => {
            json!({ "partitions": partitions })
        }
        Happening::ArbitratorNamed { arbitrator } => {
            json!({ "arbitrator": arbitrator.as_ref().map(|a| arbitrator_text(Some(a))) })
        }
        Happening::Configured { version, who } => json!({ "version": version.0, "who": who }),
        Happening::Restarted { generation } => json!({ "generation": generation.0 }),
        Happening::Met { nodes } => json!({ "nodes": nodes }),
        Happening::RegisterLost | Happening::RebalanceBegun => json!({}),
        Happening::BackupBegun { backup } | Happening::BackupDeleted { backup } => {
            json!({ "backup": backup.to_string() })
        }
        Happening::BackupDone { backup, epoch, rows } => {
            json!({ "backup": backup.to_string(), "epoch": epoch.0, "rows": rows })
        }
        Happening::BackupFailed { backup, why } => {
            json!({ "backup": backup.to_string(), "why": why })
        }
        Happening::ReplicasSet { replicas } => json!({ "replicas": replicas }),
        Happening::PrimaryZoneSet { zone } => json!({ "zone": zone }),
        Happening::RebalancingSet { automatic } => json!({ "automatic": automatic }),
    };
    if let (Some(all), Value::Object(more)) = (object.as_object_mut(), more) {
        all.extend(more);
    }
    object
}
