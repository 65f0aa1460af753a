//! The table itself: one row per metric.

use super::{Kind, Metric, Read, one_if, seconds};

const fn counter(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric { name, kind: Kind::Counter, help, read }
}

const fn gauge(name: &'static str, help: &'static str, read: Read) -> Metric {
    Metric { name, kind: Kind::Gauge, help, read }
}

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    gauge(
        "lockstep_build_info",
        "Always 1; the label says which release runs",
        Read::Labelled(&["version"], super::build),
    ),
    gauge(
        "lockstep_node_info",
        "Always 1; the labels say which data node it is, in which life, and where",
        Read::Labelled(&["cluster", "node", "incarnation", "group", "zone"], super::node),
    ),
    gauge(
        "lockstep_ready",
        "1 if the process does its work now, as `/readyz` says",
        Read::Labelled(&[], super::ready),
    ),
    // The cluster, as this process sees it.
    gauge(
        "lockstep_view_number",
        "Number of the newest view the process knows",
        Read::View(|view| view.view.0 as f64),
    ),
    gauge("lockstep_groups", "Node groups", Read::View(|view| f64::from(view.groups))),
    gauge(
        "lockstep_replicas_wanted",
        "Replicas that each partition should have",
        Read::View(|view| f64::from(view.replicas)),
    ),
    gauge(
        "lockstep_members",
        "Data nodes in the view, by how far they are",
        Read::Labelled(&["standing"], super::members),
    ),
    gauge(
        "lockstep_smallest_group_members",
        "Data nodes in sync in the node group that has the fewest",
        Read::View(|view| f64::from(view.smallest_group)),
    ),
    gauge(
        "lockstep_president",
        "1 if this node leads changes of the view",
        Read::Control(|control| one_if(control.president)),
    ),
    gauge(
        "lockstep_members_silent",
        "Members this node has not heard from for the suspicion time",
        Read::Control(|control| f64::from(control.silent)),
    ),
    gauge(
        "lockstep_epoch_closed",
        "The highest closed epoch the node knows",
        Read::Control(|control| control.closed.0 as f64),
    ),
    // Work.
    counter(
        "lockstep_transactions_total",
        "Transactions this shard coordinated that came to an end, by outcome",
        Read::Labelled(&["shard", "outcome"], super::transactions),
    ),
    counter(
        "lockstep_reads_total",
        "Reads outside transactions that were answered",
        Read::Shard(|shard| shard.reads as f64),
    ),
    gauge(
        "lockstep_transactions_open",
        "Transactions this shard coordinates now",
        Read::Shard(|shard| shard.open as f64),
    ),
    gauge(
        "lockstep_client_connections",
        "Connections of clients",
        Read::Shard(|shard| f64::from(shard.clients)),
    ),
    counter(
        "lockstep_malformed_frames_total",
        "Frames of clients and nodes that were refused as malformed",
        Read::Shard(|shard| shard.malformed as f64),
    ),
    counter(
        "lockstep_edge_events_total",
        "What went wrong with connections: handshakes, frames, clients that do not read",
        Read::Labelled(&["event"], super::edge),
    ),
    // Data.
    gauge(
        "lockstep_partitions",
        "Partitions held, by role",
        Read::Labelled(&["shard", "role"], super::partitions),
    ),
    gauge("lockstep_rows", "Rows held", Read::Shard(|shard| shard.rows as f64)),
    gauge(
        "lockstep_data_bytes",
        "Row data held, as counted against the limit",
        Read::Shard(|shard| shard.data_bytes as f64),
    ),
    gauge(
        "lockstep_data_limit_bytes",
        "How much row data may be held",
        Read::Shard(|shard| shard.data_bytes_max as f64),
    ),
    // Disks.
    gauge(
        "lockstep_disk_state",
        "1 for the state the disk is in, 0 for the others",
        Read::Labelled(&["shard", "state"], super::disk_states),
    ),
    gauge(
        "lockstep_epoch_durable",
        "Everything up to this epoch is on the disk",
        Read::Disk(|disk| Some(disk.durable.0 as f64)),
    ),
    gauge(
        "lockstep_epoch_durable_everywhere",
        "Everything up to this epoch is on the disks of all members",
        Read::Disk(|disk| Some(disk.durable_everywhere.0 as f64)),
    ),
    gauge(
        "lockstep_epoch_worked",
        "The last epoch with anything in it: all is durable if the others are not less",
        Read::Disk(|disk| Some(disk.worked.0 as f64)),
    ),
    gauge(
        "lockstep_redo_waiting_bytes",
        "Redo that is not on the disk yet",
        Read::Disk(|disk| Some(disk.redo_waiting_bytes as f64)),
    ),
    gauge(
        "lockstep_redo_request_seconds",
        "How long the disk has been busy with what it was asked last",
        Read::Disk(|disk| disk.redo_request_ms.map(seconds)),
    ),
    gauge(
        "lockstep_checkpoint_epoch",
        "All partitions are in checkpoints as of this epoch or later ones",
        Read::Disk(|disk| disk.checkpointed.map(|epoch| epoch.0 as f64)),
    ),
    gauge(
        "lockstep_checkpoint_age_seconds",
        "Time since the last checkpoint was finished",
        Read::Disk(|disk| disk.checkpoint_age_ms.map(seconds)),
    ),
    counter(
        "lockstep_disk_written_bytes_total",
        "Bytes written to data files",
        Read::Lane(|counts| &counts.written_bytes, 1.0),
    ),
    counter(
        "lockstep_disk_syncs_total",
        "Syncs of data files that came to an end",
        Read::Lane(|counts| &counts.syncs, 1.0),
    ),
    counter(
        "lockstep_disk_sync_seconds_total",
        "Time spent in these syncs",
        Read::Lane(|counts| &counts.sync_us, 1e-6),
    ),
    counter(
        "lockstep_disk_failures_total",
        "Steps on data files that failed, a full disk among them",
        Read::Lane(|counts| &counts.failed, 1.0),
    ),
    // Coming back.
    gauge(
        "lockstep_join_finished",
        "1 if what came back is in sync",
        Read::Join(|join| Some(one_if(join.finished))),
    ),
    gauge(
        "lockstep_join_partitions",
        "Partitions that came back or come back",
        Read::Join(|join| Some(f64::from(join.partitions))),
    ),
    gauge(
        "lockstep_join_partitions_copied",
        "Those of them that have all rows",
        Read::Join(|join| Some(f64::from(join.partitions_copied))),
    ),
    counter(
        "lockstep_join_rows_total",
        "Rows received in copies",
        Read::Join(|join| Some(join.rows as f64)),
    ),
    counter(
        "lockstep_join_received_bytes_total",
        "Bytes of these rows",
        Read::Join(|join| Some(join.bytes as f64)),
    ),
    gauge(
        "lockstep_join_elapsed_seconds",
        "Time since it began; if finished, the time it took",
        Read::Join(|join| Some(seconds(join.elapsed_ms))),
    ),
    gauge(
        "lockstep_join_left_seconds",
        "Time until it will be finished, about",
        Read::Join(|join| join.left_ms.map(seconds)),
    ),
    // Stand-in arbitrators.
    gauge(
        "lockstep_stand_in_arbitrator",
        "1 if the view names this stand-in as the arbitrator",
        Read::StandIn(|it| one_if(it.arbitrates)),
    ),
    // Management servers.
    gauge(
        "lockstep_mgmt_arbitrator",
        "1 if the view names this server as the arbitrator",
        Read::Mgmt(|mgmt| one_if(mgmt.arbitrates)),
    ),
    gauge(
        "lockstep_mgmt_data_nodes_connected",
        "Data nodes that are connected to this server",
        Read::Mgmt(|mgmt| f64::from(mgmt.data_nodes)),
    ),
    gauge(
        "lockstep_mgmt_clients_connected",
        "Clients that are connected to this server",
        Read::Mgmt(|mgmt| f64::from(mgmt.clients)),
    ),
    // The process.
    counter(
        "lockstep_log_lines_total",
        "Lines written to the log, by level; an error means that a person must look",
        Read::Labelled(&["level"], super::log_lines),
    ),
    counter(
        "lockstep_thread_cpu_seconds_total",
        "CPU time by thread; a shard whose thread uses a whole CPU is at its limit",
        Read::Labelled(&["thread"], super::threads),
    ),
    counter(
        "process_cpu_seconds_total",
        "CPU time of the process",
        Read::Process(|process| process.cpu.as_secs_f64()),
    ),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory",
        Read::Process(|process| process.resident_bytes as f64),
    ),
    gauge(
        "process_open_fds",
        "Open file descriptors",
        Read::Process(|process| process.open_files as f64),
    ),
    gauge(
        "process_max_fds",
        "How many file descriptors may be open",
        Read::Process(|process| process.open_files_max as f64),
    ),
    gauge(
        "process_start_time_seconds",
        "When the process was started, in seconds since 1970",
        Read::Labelled(&[], super::started),
    ),
];
