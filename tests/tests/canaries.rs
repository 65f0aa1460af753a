//! Every known bug is found, by the checks that every run is held to.

use lockstep_tests::sim::canaries;

#[test]
fn every_canary_is_caught() {
    let missed: Vec<&str> = canaries::find_all(2)
        .into_iter()
        .filter(|(_, caught)| caught.is_none())
        .map(|(canary, _)| canary.name())
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
