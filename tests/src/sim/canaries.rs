//! Known bugs, switched on one at a time: a simulator that does not find them proves nothing.
//!
//! Each is hunted where it can show: most under drawn faults, some only in one execution, which a
//! scenario script describes. A seed that fails without the bug too proves nothing and is passed
//! over, so whatever is found is the bug's doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use lockstep_proto::canary::Canary;
use serde_json::{Map, Value, json};

use super::plan::Profile;
use super::run::{Options, run};
use super::scenario;
use super::script::Script;

/// Seeds a hunt may take. About three times what each took when it was written down.
const SEEDS_MAX: u64 = 240;

/// Simulated seconds of a run under drawn faults.
const SECONDS: u64 = 8;

/// Where a canary shows.
enum Hunt {
    /// Under drawn faults.
    Drawn(Profile),
    /// In this execution.
    Scripted(&'static str, &'static str),
}

macro_rules! scripted {
    ($name:literal) => {
        Hunt::Scripted($name, include_str!(concat!("../../scenarios/", $name, ".txt")))
    };
}

fn hunt(canary: Canary) -> Hunt {
    match canary {
        Canary::AcknowledgeBeforeBackup
        | Canary::CommitBeforePreparesStable
        | Canary::ArbitratorAnswersTwice
        | Canary::MinorityGoesOn
        | Canary::IgnoreWoundOfPrepared
        | Canary::AbortWithAllVotes => Hunt::Drawn(Profile::Mixed),
        Canary::JoinerVotes | Canary::CopyBeforeStream | Canary::CopyWithoutPrepares => {
            Hunt::Drawn(Profile::Crash)
        }
        Canary::SnapshotOfOpenEpoch | Canary::ConfigWithoutCompare | Canary::BackupOfNow => {
            Hunt::Drawn(Profile::Calm)
        }
        Canary::SkipFsync | Canary::TrimRedoTooEarly => Hunt::Drawn(Profile::Disk),
        Canary::HandOverBeforeRegister => scripted!("api_node_arbitrates"),
        Canary::MakeUpRegister => scripted!("arbitrator_loses_its_directory_between_two_requests"),
        Canary::NoFencing => scripted!("live_coordinator_loses_a_participant"),
        Canary::ReadUnstable => scripted!("read_right_after_the_answer"),
        Canary::AbortBeforeStable => scripted!("coordinator_answers_abort_and_dies"),
        Canary::AcceptOldIncarnation => scripted!("ghost_of_an_earlier_life"),
        Canary::ApplyTwice => scripted!("write_that_lingers_until_it_was_asked_for"),
        Canary::CloseEpochWithOrphan => scripted!("take_over_across_a_close"),
        Canary::DropPrepareAtExpiry => scripted!("vote_that_outlasts_its_id"),
        Canary::SeatToldEarly => scripted!("president_dies_with_a_seat"),
        Canary::TrustBadChecksum => scripted!("bits_flip_in_checkpoints"),
        Canary::TidyBehindOwnFiles => scripted!("power_fails_before_the_files_of_a_joiner"),
        Canary::SilenceAmidProposal => scripted!("president_cut_off_amid_its_proposal"),
        Canary::LinkIsLife => scripted!("arbitrator_hangs"),
        Canary::KeepFirstCopy => scripted!("copied_to_twice_and_the_power_fails"),
        Canary::CountBeforeRemoved => scripted!("checkpoint_of_a_first_copy_cannot_be_removed"),
        Canary::IgnoreCopied => scripted!("power_fails_between_copy_and_promotion"),
        Canary::TakeOverBeyondOthers => scripted!("no_disk_left_in_another_group"),
        Canary::HandOverBeforeBarrier => scripted!("partition_moves_over_a_slow_link"),
        Canary::ReadHandedOver => scripted!("reader_where_a_partition_was"),
        Canary::TakeOverOnLostDisk => scripted!("disk_fails_where_a_partition_goes"),
        Canary::MoveDuringBackup => scripted!("backup_while_partitions_move"),
        Canary::PartsBeforeRecord => scripted!("backup_whose_record_is_slow_to_the_disk"),
        Canary::DropBeforeStored => scripted!("power_fails_at_a_hand_over"),
        Canary::SkipLeaseWait => scripted!("reader_at_a_dropped_backup"),
        Canary::ReadWithoutLease | Canary::ClockBeforeSocket => {
            scripted!("sleeping_node_and_its_cut_off_reader")
        }
    }
}

/// How a bug showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catch {
    /// Under which seed.
    pub seed: u64,
    /// In which script, if in one.
    pub scenario: Option<&'static str>,
    /// The first violation.
    pub how: String,
}

/// The first seed that finds the bug, and how it shows.
///
/// # Panics
/// If the canary's script is none.
#[must_use]
pub fn find(canary: Canary) -> Option<Catch> {
    let (scenario, healthy) = match hunt(canary) {
        Hunt::Drawn(profile) => (None, drawn(profile)),
        Hunt::Scripted(name, text) => {
            let script = Arc::new(Script::parse(name, text).expect("the scenarios test reads it"));
            (Some(name), scenario::options(&script, 0, None))
        }
    };
    (1..=SEEDS_MAX).find_map(|seed| {
        let healthy = Options { seed, ..healthy.clone() };
        let verdict = run(&Options { canary: Some(canary), ..healthy.clone() });
        let how = verdict.tally.violations.first()?.lines().next()?.to_owned();
        let innocent = run(&healthy).tally.violations.is_empty();
        innocent.then_some(Catch { seed, scenario, how })
    })
}

fn drawn(profile: Profile) -> Options {
    Options {
        seed: 0,
        seconds: SECONDS,
        profile,
        shape: None,
        shards: None,
        canary: None,
        script: None,
        trap: None,
        trace: false,
        print: false,
    }
}

/// Hunts every canary on so many threads.
#[must_use]
pub fn find_all(threads: usize) -> Vec<(Canary, Option<Catch>)> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(canary) = Canary::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = find(*canary);
                    eprintln!("{}: {caught:?}", canary.name());
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.push((*canary, caught));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(canary, _)| *canary);
    found
}

/// Hunts every canary and reports; true if all were caught.
#[must_use]
pub fn command(threads: usize) -> bool {
    let found = find_all(threads);
    let told = |caught: &Option<Catch>| match caught {
        Some(Catch { seed, scenario, how }) => {
            json!({ "caught": true, "seed": seed, "scenario": scenario, "how": how })
        }
        None => json!({ "caught": false }),
    };
    let canaries: Map<String, Value> =
        found.iter().map(|(canary, caught)| (canary.name().to_owned(), told(caught))).collect();
    let missed: Vec<&str> =
        found.iter().filter(|(_, caught)| caught.is_none()).map(|(c, _)| c.name()).collect();
    let json = json!({
        "schema": "lockstep.sim.canaries/v1",
        "canaries": canaries,
        "caught": found.len() - missed.len(),
        "missed": missed,
    });
    println!("{json}");
    missed.is_empty()
}
