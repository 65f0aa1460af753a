//! What several commands and pages print of a shard or a node, in one form.

use lockstep_proto::durability::DiskState;
use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::roster::Seat;
use lockstep_proto::view::View;
use lockstep_proto::wire::client::DiskStatus;
use lockstep_proto::wire::progress::JoinProgress;
use serde_json::{Value, json};

pub(crate) fn disk_word(state: DiskState) -> &'static str {
    match state {
        DiskState::Well => "ok",
        DiskState::Slow => "slow",
        DiskState::Full => "full",
        DiskState::Stuck => "stalled",
        DiskState::Broken => "broken",
    }
}

pub(crate) fn disk_json(disk: &DiskStatus) -> Value {
    json!({
        "state": disk_word(disk.state),
        "durable_epoch": disk.durable.0,
        "redo_waiting_bytes": disk.redo_waiting_bytes,
        "redo_request_ms": disk.redo_request_ms,
        "checkpoint_epoch": disk.checkpointed.map(|epoch| epoch.0),
        "checkpoint_age_ms": disk.checkpoint_age_ms,
    })
}

pub(crate) fn join_json(join: &JoinProgress) -> Value {
    json!({
        "finished": join.finished,
        "kind": join.kind(),
        "restored_epoch": join.restored.0,
        "partitions": join.partitions,
        "partitions_copied": join.partitions_copied,
        "partitions_kept": join.partitions_kept,
        "rows": join.rows,
        "rows_expected": join.rows_expected,
        "bytes": join.bytes,
        "records": join.records,
        "records_behind": join.records_behind,
        "elapsed_ms": join.elapsed_ms,
        "left_ms": join.left_ms,
    })
}

/// The spares that are here and do not join by themselves.
pub(crate) fn drained_spares(view: &View) -> Vec<NodeId> {
    let is_here = |seat: &&Seat| view.member(seat.node).is_some_and(|m| m.group == GroupId::NONE);
    let seats = view.roster.seats.iter().filter(|s| s.group == GroupId::NONE && s.drained);
    seats.filter(is_here).map(|seat| seat.node).collect()
}

/// Node ids, for a sentence.
pub(crate) fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(", ")
}
