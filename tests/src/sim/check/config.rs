//! The configuration never forks: of two views in force that follow each other, the later one has
//! every change that the earlier one had, and each change was made for the version before it.

use lockstep_proto::configuration;
use lockstep_proto::view::{ClusterConfig, View};

use crate::sim::workload::config::reason;

/// What is wrong with the configuration of a view, by itself.
#[must_use]
pub fn of_view(view: &View) -> Option<String> {
    let configured = &view.configured;
    let number = view.number;
    if let Err(unfit) = configuration::check(&view.config) {
        return Some(format!("configuration: {number} has settings that cannot be: {unfit}"));
    }
    let last = configured.history.last().map_or(configured.version, |entry| entry.version);
    if last != configured.version {
        return Some(format!("configuration: {number} ends its history at {last}"));
    }
    for (entry, next) in configured.history.iter().zip(configured.history.iter().skip(1)) {
        if next.version != entry.version.next() {
            return Some(format!(
                "configuration: in {number} version {} follows {}",
                next.version, entry.version
            ));
        }
    }
    let blind = configured.history.iter().find(|e| e.why != reason(e.version.0 - 1))?;
    Some(format!(
        "configuration: version {} was {}, whose author had not seen the one before",
        blind.version, blind.why
    ))
}

/// What is wrong between two views in force, the earlier one first.
#[must_use]
pub fn between(older: &View, newer: &View) -> Option<String> {
    let (before, after) = (&older.configured, &newer.configured);
    let forks = || {
        let (a, b) = (older.number, newer.number);
        Some(format!(
            "configuration: {} of {a} is not what {} of {b} comes from",
            before.version, after.version
        ))
    };
    if after.version < before.version {
        return forks();
    }
    for entry in &before.history {
        let same = after.history.iter().find(|other| other.version == entry.version);
        if same.is_some_and(|other| other.id != entry.id) {
            return forks();
        }
    }
    // Orders set these two, and have no versions.
    let unordered = |config: &ClusterConfig| ClusterConfig {
        replicas: 0,
        primary_zone: String::new(),
        ..config.clone()
    };
    let then = after.at(before.version, &newer.config);
    let changed = then.is_some_and(|then| unordered(&then) != unordered(&older.config));
    if changed { forks() } else { None }
}
