//! Known bugs, switched on one at a time: a simulator that does not find them proves nothing.

use serde_json::json;

use lockstep_proto::canary::Canary;

use super::plan::Profile;
use super::run::{Options, run};

/// Where a canary shows: profile, shape, and how many seeds it may take.
struct Hunt {
    profile: Profile,
    shape: Option<(u16, u16)>,
    seeds: u64,
    seconds: u64,
}

fn hunt(_canary: Canary) -> Hunt {
    Hunt { profile: Profile::Mixed, shape: None, seeds: 100, seconds: 8 }
}

/// The first seed that finds the bug, and how it shows.
#[must_use]
pub fn find(canary: Canary) -> Option<(u64, String)> {
    let hunt = hunt(canary);
    for seed in 1..=hunt.seeds {
        let verdict = run(&Options {
            seed,
            seconds: hunt.seconds,
            profile: hunt.profile,
            shape: hunt.shape,
            shards: None,
            canary: Some(canary),
            script: None,
            trace: false,
            print: false,
        });
        if let Some(first) = verdict.tally.violations.first() {
            let line = first.lines().next().unwrap_or_default().to_owned();
            return Some((seed, line));
        }
    }
    None
}

/// Hunts every canary and reports; true if all were caught.
#[must_use]
pub fn command(threads: usize) -> bool {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(std::collections::BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(canary) = Canary::ALL.get(at) else { break };
                    let caught = find(*canary);
                    eprintln!("{}: {caught:?}", canary.name());
                    found.lock().expect("no holder panics").insert(canary.name(), caught);
                }
            });
        }
    });
    let found = found.into_inner().expect("no holder panics");
    let missed: Vec<&str> =
        found.iter().filter(|(_, caught)| caught.is_none()).map(|(name, _)| *name).collect();
    let canaries: serde_json::Map<String, serde_json::Value> = found
        .iter()
        .map(|(name, caught)| {
            let value = match caught {
                Some((seed, how)) => json!({ "caught": true, "seed": seed, "how": how }),
                None => json!({ "caught": false }),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    let json = json!({
        "schema": "lockstep.sim.canaries/v1",
        "canaries": canaries,
        "caught": found.len() - missed.len(),
        "missed": missed,
    });
    println!("{json}");
    missed.is_empty()
}
