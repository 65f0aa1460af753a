//! The tables and the product's source name the same marks, and whoever is said to reach a mark
//! that no profile owes says so itself.

use std::collections::BTreeSet;

use super::*;
use crate::tidy::{Tree, root};

/// Who reaches a mark that no profile owes.
enum Reached {
    /// A test in this file, which asserts it.
    Test(&'static str),
    /// This script, which expects it.
    Script(&'static str),
    /// Nothing that simulated clusters do, for this reason.
    Not(&'static str),
}

use Reached::{Not, Script, Test};

const MGMT: Reached = Test("mgmt/src/core/tests.rs");
const BACKUP: Reached = Test("mgmt/src/core/backup/tests.rs");
const CONTROL: Reached = Test("cluster/tests/control.rs");
const ARBITRATORS: Reached = Test("cluster/tests/control_net/arbitrators.rs");
const ROSTER: Reached = Test("cluster/tests/control_net/roster.rs");
const SHARDS: Reached = Test("cluster/tests/shards.rs");
const RESTART: Reached = Test("cluster/tests/restart.rs");
const BORN: Reached = Not("simulated clusters begin with view 1 on disk; creation has unit tests");
const RUBBISH: Reached = Not("nobody in the simulator sends what is no message; real sockets do");
const RACE: Reached = Not("a race within one round of agreement that no fault is aimed at");

/// Marks that no profile owes.
const ELSEWHERE: &[(&str, Reached)] = &[
    // The arbitrator and its register.
    ("arbitrator_asked_again", MGMT),
    ("arbitrator_asked_in_vain", MGMT),
    ("arbitrator_without_register", Script("arbitrator_loses_its_directory_between_two_requests")),
    ("registration_refused", MGMT),
    ("arbitrator_unreachable", Script("split_in_halves_reached_by_none")),
    ("arbitrator_kept", RACE),
    ("arbitrator_register_lagged", RACE),
    ("arbitrator_showed_own_view", RACE),
    ("api_node_offers_itself", Script("api_node_arbitrates")),
    ("api_arbitrator_appointed", Script("api_node_arbitrates")),
    ("api_arbitrator_granted", Script("api_node_arbitrates")),
    ("api_arbitrator_refused", ARBITRATORS),
    ("api_arbitrator_silent", Script("api_node_restarts_between_two_requests")),
    // Birth of a cluster.
    ("cluster_created", MGMT),
    ("mgmt_copy_received", MGMT),
    ("newcomer_admitted_again", MGMT),
    ("newcomer_refused", MGMT),
    ("newcomer_link_lost", BORN),
    ("mgmt_watched_before_creation", BORN),
    // Agreement: what a president told some and not others before it died.
    ("number_taken", CONTROL),
    ("view_adopted_from_peer", CONTROL),
    ("proposal_ignored", Script("president_dies_after_telling_one")),
    ("view_from_refused", Script("split_while_the_arbitrator_changes")),
    ("suspected_stuck", Not("a member that answers heartbeats and no proposal has a defect")),
    ("config_change_astray", RACE),
    // Leaving, and shards that do not answer.
    ("leave_last_of_group", CONTROL),
    ("leave_ends_left_out", CONTROL),
    ("told_while_leaving", ROSTER),
    ("shard_stuck", CONTROL),
    ("peer_suspected_by_stream", Script("split_in_halves_reached_by_one")),
    ("shard_suspects", Script("split_in_halves_reached_by_one")),
    // Disks.
    ("durability_lost", Script("disk_fails_at_the_last_of_a_group")),
    ("disk_lost_of_the_last", RACE),
    ("quiet_ends", Script("quiet_cluster_wakes")),
    // Backups.
    ("backup_writer_lost", Script("backup_under_load_loses_a_node")),
    ("backup_files_removed", Script("backup_is_given_up_with_its_management_server")),
    ("backup_leftovers_removed", Script("backup_loses_its_management_server")),
    ("backup_part_goes_to_another", BACKUP),
    ("backup_pin_refused", BACKUP),
    ("backup_shard_silent", BACKUP),
    ("backup_part_has_moved", Script("backup_begun_while_a_partition_moves")),
    ("backup_part_failed", Not("a disk that fails in the milliseconds in which a part is written")),
    ("backup_refused_beside_another", Not("two management servers that begin at one moment")),
    ("backup_removal_refused", Not("needs a removal by one server while another one goes on")),
    ("backup_taken_over", Script("backup_is_taken_over")),
    ("backup_takes_over", Script("backup_is_taken_over")),
    ("backup_message_too_late", Not("needs a server that was silent and is heard again")),
    ("backup_clearing_dropped", Not("so many backups are given up only if the disk hangs")),
    // Reads without a lease.
    ("answer_waits_for_lease", SHARDS),
    ("read_check_without_lease", Script("heartbeats_alone_are_lost")),
    ("scan_waits_for_prepared", Not("the workload scans tables when everything else is done")),
    ("client_read_batch_sent_again", Not("the workload reads by look-ups, and batches write")),
    // What only a defect or a stranger sends.
    ("append_from_non_primary_ignored", RUBBISH),
    ("control_frame_malformed", RUBBISH),
    ("control_message_misplaced", RUBBISH),
    ("frame_of_stranger_ignored", RUBBISH),
    ("malformed_frame", RUBBISH),
    ("mgmt_message_misplaced", RUBBISH),
    ("shard_message_misplaced", RUBBISH),
    // Nodes that come back.
    ("known_dead_by_successor", Script("rejoin_under_load")),
    ("join_message_misplaced", RUBBISH),
    ("join_stream_cut", Script("joiners_that_fall_behind")),
    ("joiner_cut_off", Script("joiners_that_fall_behind")),
    ("join_tail_dropped", Not("needs a primary to die in the milliseconds of an attached joiner")),
    ("join_wants_checkpoint_again", Not("a checkpoint of a joiner fails only if its disk does")),
    ("attached_joiner_lost_its_place", Not("it cannot be: what is stable is stable with it")),
    ("moves_given_up", Not("a primary that cannot make its log stable is suspected long before")),
    ("return_without_a_seat", Not("needs a removal in the milliseconds before an admission")),
    ("restart_of_removed", Script("a_removed_node_wants_to_come_back")),
    // What operators want of the roster: drawn, and too rarely to be owed.
    ("lost_seat_of_the_last", RACE),
    ("order_remove", Script("join_beyond_the_replicas")),
    ("order_replicas", Script("fewer_replicas_and_more_again")),
    ("order_refused", ROSTER),
    ("order_rebalance", Script("partitions_move_when_it_is_said")),
    ("order_automatic", Script("partitions_move_when_it_is_said")),
    ("files_dropped_early", Not("a canary makes it, and scenarios are run without any")),
    ("restart_files_of_another_group", Script("fewer_replicas_and_more_again")),
    ("joiner_alone", Not("a race of its first view with its exclusion; the sweep rejoin finds it")),
    // Clusters that come back from their disks.
    ("restart_asks_anew", RESTART),
    ("restart_refused", RESTART),
    ("restart_without_arbitrator", RESTART),
    (
        "client_clock_set_back",
        Not("power fails for simulated clients too; the demo has one live on"),
    ),
    ("client_snapshot_lost", Not("simulated clients do not outlive the cluster they work with")),
    ("checkpoint_without_tombstones", Not("needs as many deletes as a machine has room for")),
    ("removal_of_files_failed", Script("checkpoint_of_a_first_copy_cannot_be_removed")),
    ("mgmt_answer_dropped", Not("so many answers wait for a disk only if it hangs")),
];

/// The marks in the shipped source, and how many calls name none in place.
fn in_source(tree: &Tree) -> (BTreeSet<String>, usize) {
    let (mut marks, mut unnamed) = (BTreeSet::new(), 0);
    let shipped = |path: &str| {
        ["cluster/", "client/src/", "mgmt/src/"].iter().any(|start| path.starts_with(start))
            && path.ends_with(".rs")
            && !path.contains("/tests")
    };
    for file in tree.files().filter(|file| shipped(&file.path)) {
        for call in file.text.split(".mark(").skip(1) {
            match call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                Some(name) => {
                    marks.insert(name.to_owned());
                }
                None => unnamed += 1,
            }
        }
    }
    (marks, unnamed)
}

#[test]
fn every_mark_is_owed_or_reached_elsewhere_and_none_is_made_up() {
    let tree = Tree::load(&root()).expect("the tree can be read");
    let (marks, unnamed) = in_source(&tree);
    assert!(marks.len() > 80, "only {} marks were found", marks.len());
    assert_eq!(unnamed, 0, "a mark is named where it is made, or this test cannot find it");
    let elsewhere = ELSEWHERE.iter().map(|(name, _)| *name);
    let listed: Vec<&str> = [ALWAYS, LOSSES, CUTS, DEATHS, RETURNS, OPERATIONS, DISKS, BLACKOUTS]
        .into_iter()
        .flatten()
        .copied()
        .chain(elsewhere)
        .collect();
    let known: BTreeSet<String> = listed.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(known.len(), listed.len(), "a mark stands in two tables");
    let unknown: Vec<_> = marks.difference(&known).collect();
    assert!(unknown.is_empty(), "say who reaches them: {unknown:?}");
    let gone: Vec<_> = known.difference(&marks).collect();
    assert!(gone.is_empty(), "nobody makes them any more: {gone:?}");
}

#[test]
fn whoever_is_said_to_reach_a_mark_names_it() {
    let tree = Tree::load(&root()).expect("the tree can be read");
    for (mark, reached) in ELSEWHERE {
        let (path, text) = match reached {
            Test(path) => ((*path).to_owned(), format!("\"{mark}\"")),
            Script(name) => {
                (format!("tests/scenarios/{name}.txt"), format!("expect mark {mark}\n"))
            }
            Not(reason) => {
                assert!(reason.len() > 20, "{mark}: say why");
                continue;
            }
        };
        let file = tree.file(&path).unwrap_or_else(|| panic!("{mark}: no file {path}"));
        assert!(file.text.contains(&text), "{path} does not look for {mark}");
    }
}

#[test]
fn scripts_name_marks_that_there_are() {
    let tree = Tree::load(&root()).expect("the tree can be read");
    let (marks, _) = in_source(&tree);
    let scripts = tree.files().filter(|file| file.path.starts_with("tests/scenarios/"));
    for script in scripts {
        let expected = script.text.lines().filter_map(|line| {
            let line = line.strip_prefix("expect ")?;
            line.strip_prefix("mark ").or_else(|| line.strip_prefix("never "))
        });
        for name in expected {
            let name = name.split_whitespace().next().unwrap_or_default();
            // The simulator has some of its own.
            let own = format!("marks.entry(\"{name}\")");
            let simulated = tree
                .files()
                .any(|file| file.path.starts_with("tests/src/sim/") && file.text.contains(&own));
            assert!(simulated || marks.contains(name), "{}: no mark {name}", script.path);
        }
    }
}
