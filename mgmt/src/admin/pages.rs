//! The pages of the admin port, but for the metrics.

use lockstep_proto::report::{Report, ViewReport};
use lockstep_runtime::Said;
use serde_json::{Value, json};

use super::metrics::standing_name;
use super::snapshot::{Kind, Snapshot};
use crate::cli::{disk_json, join_json};

/// What a probe finds: whether all is well, and a line that says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    pub(super) ok: bool,
    pub(super) text: String,
}

impl Probe {
    fn of(trouble: Option<String>) -> Self {
        match trouble {
            None => Self { ok: true, text: "ok\n".to_owned() },
            Some(why) => Self { ok: false, text: format!("{why}\n") },
        }
    }
}

/// Whether its threads still take turns. If not, only a new process helps.
pub(super) fn live(at: &Snapshot) -> Probe {
    Probe::of(at.stuck().next().map(|core| format!("{core} does not answer")))
}

/// Whether it does its work now.
pub(super) fn ready(at: &Snapshot) -> Probe {
    Probe::of(at.not_ready())
}

/// Whether it has been ready once since the process was started.
pub(super) fn startup(at: &Snapshot) -> Probe {
    let waits = || at.not_ready().unwrap_or_else(|| "not started yet".to_owned());
    Probe::of((!at.has_started).then(waits))
}

/// Everything the process knows about itself.
pub(super) fn status(at: &Snapshot) -> Value {
    let cores = at.cores.iter().map(|(name, said)| {
        let state = match said {
            Said::Report(_) => "running",
            Said::Nothing => "ending",
            Said::Silent => "stuck",
        };
        json!({ "name": name, "state": state })
    });
    let node = at.control().map(|control| {
        json!({
            "node": control.instance.node.0,
            "incarnation": control.instance.incarnation.0,
            "group": control.group.number(),
            "zone": control.zone,
            "standing": standing_name(control.standing),
            "acts": control.acts,
            "president": control.president,
            "members_silent": control.silent,
            "epoch_closed": control.closed.0,
        })
    });
    let mgmt = at.mgmt().map(|mgmt| {
        json!({
            "arbitrates": mgmt.arbitrates,
            "data_nodes": mgmt.data_nodes,
            "clients": mgmt.clients,
        })
    });
    let process = &at.process;
    json!({
        "schema": "lockstep.process/v1",
        "kind": at.kind.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "started": at.started,
        "live": live(at).ok,
        "ready": ready(at).ok,
        "startup": startup(at).ok,
        "waits_for": at.not_ready(),
        "phase": phase(at),
        "process": {
            "pid": process.pid,
            "cpu_seconds": process.cpu.as_secs_f64(),
            "rss_bytes": process.resident_bytes,
            "open_files": process.open_files,
            "open_files_max": process.open_files_max,
        },
        "cores": cores.collect::<Vec<_>>(),
        "view": at.view().map(view_json),
        "node": node,
        "shards": at.shards().map(shard_json).collect::<Vec<_>>(),
        "mgmt": mgmt,
        "arbitrator": at.stand_in.as_ref().map(|it| json!({ "arbitrates": it.arbitrates })),
    })
}

/// What the process is about.
fn phase(at: &Snapshot) -> &'static str {
    if at.kind == Kind::Arbitrator {
        return if at.stand_in.is_some() { "standing_in" } else { "looking" };
    }
    let reports = at.cores.iter().filter_map(|(_, said)| match said {
        Said::Report(report) => Some(report),
        Said::Nothing | Said::Silent => None,
    });
    let phases = reports.map(|report| match report {
        Report::Newcomer { .. } => "asking",
        Report::Returning { .. } => "returning",
        Report::Control(_) | Report::Shard(_) => "member",
        Report::Mgmt(mgmt) if mgmt.view.is_none() => "creating",
        Report::Mgmt(_) => "managing",
    });
    phases.into_iter().next().unwrap_or("changing")
}

fn view_json(view: &ViewReport) -> Value {
    json!({
        "cluster": view.cluster.to_string(),
        "number": view.view.0,
        "groups": view.groups,
        "replicas": view.replicas,
        "in_sync": view.in_sync,
        "attached": view.attached,
        "copying": view.copying,
        "smallest_group": view.smallest_group,
    })
}

fn shard_json(shard: &lockstep_proto::wire::client::ShardStatus) -> Value {
    json!({
        "shard": shard.shard.0,
        "view": shard.view.0,
        "epoch": shard.epoch.0,
        "partitions_primary": shard.partitions_primary,
        "partitions_backup": shard.partitions_backup,
        "rows": shard.rows,
        "data_bytes": shard.data_bytes,
        "data_bytes_max": shard.data_bytes_max,
        "committed": shard.committed,
        "aborted": shard.aborted,
        "reads": shard.reads,
        "open": shard.open,
        "clients": shard.clients,
        "malformed": shard.malformed,
        "disk": shard.disk.as_ref().map(disk_json),
        "join": shard.join.as_ref().map(join_json),
    })
}
