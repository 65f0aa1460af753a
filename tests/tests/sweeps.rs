//! A part of every crash-point sweep; `lockstep-sim --sweep NAME` makes the whole of each.

use lockstep_tests::sim::sweep::{Choice, Swept, sweep};

/// Sweeps every `every`-th crash point, which must go well and reach the branches named.
fn check(what: Swept, every: u64, owed: &[&str]) {
    let sweep = sweep(what, 1, Choice::Every(every), 2);
    assert!(sweep.failed.is_empty(), "{:#?}", sweep.failed);
    assert!(sweep.runs >= 40, "only {} runs", sweep.runs);
    let missing: Vec<&&str> = owed.iter().filter(|mark| !sweep.marks.contains(**mark)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?} in {:?}", sweep.marks);
}

#[test]
fn a_node_fails_at_steps_of_commits() {
    let owed = ["takeover_commits", "coordinator_asks_anew"];
    check(Swept::Commit, 16, &owed);
}

#[test]
fn another_node_fails_at_steps_of_a_view_change() {
    let owed = ["president_takeover", "proposal_superseded"];
    check(Swept::View, 30, &owed);
}

#[test]
fn another_node_fails_while_a_silent_one_is_dropped() {
    check(Swept::Silence, 45, &["suspected_by_silence", "half_done_proposal"]);
}

#[test]
fn a_node_or_the_arbitrator_fails_while_two_halves_ask() {
    check(Swept::Arbitration, 30, &["arbitrator_granted", "arbitrator_refused"]);
}

#[test]
fn a_node_fails_while_two_want_the_configuration_changed() {
    check(Swept::Config, 7, &["config_change_drafted", "config_change_outdated"]);
}

#[test]
fn a_node_or_the_new_arbitrator_fails_while_it_is_named() {
    check(Swept::Handover, 60, &["arbitrator_replaced", "arbitrator_appointed"]);
}

#[test]
fn the_power_goes_at_steps_of_the_redo_log() {
    check(Swept::Redo, 17, &["answered_when_durable", "tick_hurried", "redo_disk_full"]);
}

#[test]
fn the_node_that_ticks_fails_between_seal_and_close() {
    check(Swept::Epoch, 20, &["president_takeover", "answered_when_durable"]);
}

#[test]
fn another_node_fails_while_one_comes_back() {
    check(Swept::Rejoin, 211, &["join_admitted", "join_promoted", "primaries_move_back"]);
}

#[test]
fn somebody_fails_while_a_newcomer_takes_a_place() {
    check(Swept::Admit, 151, &["join_seated", "join_spare", "leave_lost_seat"]);
}

#[test]
fn somebody_fails_while_a_partition_moves() {
    check(Swept::Move, 101, &["transfer_attached", "transfer_handed_over", "copy_let_go"]);
}

#[test]
fn the_power_goes_at_steps_of_checkpoints() {
    check(Swept::Checkpoint, 89, &["checkpoint_done", "node_restored", "restart_of_all"]);
}

#[test]
fn a_node_or_its_manager_fails_at_each_step_of_a_backup() {
    let owed = ["backup_done", "backup_files_removed", "backup_given_up", "backup_writer_lost"];
    check(Swept::Backup, 23, &owed);
}

#[test]
fn a_node_or_all_power_fails_while_a_cluster_starts_again() {
    check(Swept::Restart, 89, &["restart_of_all", "restart_of_a_part"]);
}
