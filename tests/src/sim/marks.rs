//! Marks: every rare branch of the product says when it is reached. Here stands for each one which
//! profiles owe it, or what else reaches it. A test reads the product's source: a mark that is not
//! in these tables fails it, and so does one that is in them and no longer in the product.
//!
//! What is owed is owed by 500 seeds of 20 seconds; one seed owes nothing.

use super::plan::Profile;

/// Owed by every profile: what happens when nothing goes wrong.
const ALWAYS: &[&str] = &[
    "abort_after_prepare",
    "answered_when_durable",
    "backup_begun",
    "backup_done",
    "backup_ends_with_its_link",
    "backup_given_up",
    "backup_part_written",
    "backup_removal_begun",
    "backup_waits_for_close",
    "checkpoint_begun",
    "checkpoint_done",
    "client_link_probed",
    "client_retry",
    "client_view_followed",
    "commit_on_several_partitions",
    "config_change_came_second",
    "config_change_drafted",
    "config_change_outdated",
    "epoch_closed",
    "full_checkpoint_begun",
    "open_transaction_cancelled",
    "open_transaction_wounded",
    "participant_refused",
    "prepared_transaction_wounded",
    "read_waits",
    "read_waits_for_close",
    "read_waits_for_prepared",
    "snapshot_waits_for_close",
    "tick_hurried",
    "transaction_waits_for_lock",
    "view_entered",
    "wound_of_decided_ignored",
];

/// Owed wherever members are lost, be it by death or by the network.
const LOSSES: &[&str] = &[
    "arbitrator_asked",
    "arbitrator_granted",
    "asymmetric_loss",
    "client_asked_outcome",
    "client_first_step_sent_again",
    "client_link_silent",
    "client_outcome_aborted",
    "client_outcome_committed",
    "client_outcome_unknown",
    "client_read_fallback",
    "coordinator_asks_anew",
    "coordinator_decides_anew",
    "excluded",
    "forward_refused",
    "frame_of_newer_view_held",
    "frame_of_older_view_ignored",
    "group_lost",
    "inquiry_makes_tombstone",
    "known_dead_by_fin",
    "locks_end_with_coordinator",
    "open_transaction_aborted",
    "open_transaction_aborted_by_view",
    "orphan_resolved_by_anchor",
    "outcome_makes_tombstone",
    "outcome_waits_for_decision",
    "president_takeover",
    "proposal_superseded",
    "read_waits_for_lease",
    "report_waits_for_orphan",
    "shard_entered_view",
    "stalled_stream_reset",
    "suspected_by_death",
    "suspected_by_silence",
    "takeover_aborts",
    "takeover_begun",
    "takeover_commits",
    "takeover_repeats_decision",
    "view_announced",
    "view_change_failure",
];

/// Owed where the network fails: sides that live on and do not hear each other. Most of these can
/// also follow from deaths, but too rarely to be owed.
const CUTS: &[&str] = &[
    "arbitrator_refused",
    "client_outcome_forgotten",
    "client_transaction_lost",
    "half_done_proposal",
    "known_dead_too_late",
    "lease_wait",
    "outcome_asked_too_late",
    "stranger_told_view",
];

/// Owed where processes end, stop and are asked to end.
const DEATHS: &[&str] = &[
    "arbitrator_appointed",
    "arbitrator_replaced",
    "leave_begins",
    "leaver_answers",
    "stalled_grace",
    "view_change_leave",
];

/// Owed where disks are slow, full and broken.
const DISKS: &[&str] = &[
    "checkpoint_abandoned",
    "checkpoint_failed",
    "joiner_waits_for_the_disks_of_others",
    "leave_for_disk",
    "redo_disk_broken",
    "redo_disk_full",
    "redo_retried",
];

/// Owed wherever nodes come back: from being dead to leading again.
const RETURNS: &[&str] = &[
    "copy_begins",
    "join_admitted",
    "join_attached",
    "join_delta_copy",
    "join_finished",
    "join_full_copy",
    "join_promoted",
    "join_resumed",
    "join_takes_prepared",
    "join_whole",
    "joiner_attached",
    "joiner_copies",
    "partition_stops_to_move",
    "primaries_move_back",
    "restart_files_unusable",
    "restart_newer_view",
    "returned_ignored",
];

/// Owed where all power fails and comes back.
const BLACKOUTS: &[&str] = &[
    "restart_formed",
    "restart_granted",
    "restart_of_a_part",
    "restart_of_all",
    "restart_restore_failed",
];

/// Owed wherever something goes wrong: an operator is at work in half of these runs, who adds nodes
/// and groups, takes them away, and wants backups.
const OPERATIONS: &[&str] = &[
    "backup_started_anew",
    "copy_let_go",
    "hand_over_made",
    "join_seated",
    "join_spare",
    "leave_lost_seat",
    "newcomer_admitted",
    "newcomer_asks_for_seat",
    "newcomer_seated",
    "order_create_group",
    "order_drain",
    "order_drop_group",
    "order_primary_zone",
    "order_spare",
    "partition_let_go",
    "seat_told",
    "seat_waits_for_members",
    "transfer_attached",
    "transfer_begins",
    "transfer_handed_over",
    "transfer_waits_for_backup",
];

/// What a profile owes.
pub fn owed(profile: Profile) -> impl Iterator<Item = &'static str> {
    let (losses, cuts, deaths) = match profile {
        Profile::Calm | Profile::Disk => (false, false, false),
        Profile::Network => (true, true, false),
        Profile::Crash => (true, false, true),
        Profile::Mixed | Profile::Hell => (true, true, true),
    };
    let disks = matches!(profile, Profile::Disk | Profile::Hell);
    let blackout = profile == Profile::Hell;
    let lists = [
        (true, ALWAYS),
        (losses, LOSSES),
        (losses, RETURNS),
        (cuts, CUTS),
        (profile != Profile::Calm, OPERATIONS),
        (deaths, DEATHS),
        (disks, DISKS),
        (blackout, BLACKOUTS),
    ];
    lists.into_iter().filter(|(owes, _)| *owes).flat_map(|(_, list)| list).copied()
}

#[cfg(test)]
mod tests;
