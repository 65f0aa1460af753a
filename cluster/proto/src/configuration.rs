//! The cluster's configuration as a value that changes while the cluster serves: which settings
//! may, within which bounds, and how one version follows another.
//!
//! A version lies in the view, and only a change of view makes the next one. Whoever wants a change
//! names the version it was made for; a president drafts it for exactly that version, and of two
//! changes made for one version the second finds another one in force and does nothing. As views do
//! not fork, neither does the configuration, whoever asks where.
//!
//! Invariant: every version but the first is one entry of the history, made for the version before
//! it, and the settings are what the entries say.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::ConfigVersion;
use crate::limits::{CONFIG_HISTORY_MAX, CONFIG_TEXT_BYTES_MAX};
use crate::view::ClusterConfig;

/// A setting that may change while the cluster serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Setting {
    /// Time between heartbeats.
    Heartbeat,
    /// Silence after which a node is given up.
    Suspicion,
    /// Length of an epoch.
    Tick,
    /// How long an open transaction may be idle.
    TransactionIdle,
    /// How often changed partitions are written to checkpoints.
    CheckpointInterval,
    /// How much data a node may hold.
    DataMemory,
}

/// What a setting's number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Milliseconds.
    Millis,
    /// Bytes.
    Bytes,
}

impl Setting {
    /// All of them, as people see them.
    pub const ALL: &'static [Self] = &[
        Self::Heartbeat,
        Self::Suspicion,
        Self::Tick,
        Self::TransactionIdle,
        Self::CheckpointInterval,
        Self::DataMemory,
    ];

    /// Its name in files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Suspicion => "suspicion",
            Self::Tick => "tick",
            Self::TransactionIdle => "transaction_idle",
            Self::CheckpointInterval => "checkpoint_interval",
            Self::DataMemory => "data_memory",
        }
    }

    /// The setting of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|setting| setting.name() == name)
    }

    /// What its number counts.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::DataMemory => Unit::Bytes,
            _ => Unit::Millis,
        }
    }

    /// The smallest and the largest value.
    #[must_use]
    pub fn bounds(self) -> (u64, u64) {
        match self {
            Self::Heartbeat => (1, 60_000),
            Self::Suspicion => (2, 600_000),
            Self::Tick => (1, 10_000),
            Self::TransactionIdle => (1, 86_400_000),
            Self::CheckpointInterval => (1, 86_400_000),
            Self::DataMemory => (1 << 20, 1 << 50),
        }
    }

    /// Its value.
    #[must_use]
    pub fn of(self, config: &ClusterConfig) -> u64 {
        match self {
            Self::Heartbeat => config.heartbeat_ms.into(),
            Self::Suspicion => config.suspicion_ms.into(),
            Self::Tick => config.tick_ms.into(),
            Self::TransactionIdle => config.transaction_idle_ms.into(),
            Self::CheckpointInterval => config.checkpoint_interval_ms.into(),
            Self::DataMemory => config.data_memory,
        }
    }

    fn set(self, config: &mut ClusterConfig, value: u64) {
        let millis = u32::try_from(value).unwrap_or(u32::MAX);
        match self {
            Self::Heartbeat => config.heartbeat_ms = millis,
            Self::Suspicion => config.suspicion_ms = millis,
            Self::Tick => config.tick_ms = millis,
            Self::TransactionIdle => config.transaction_idle_ms = millis,
            Self::CheckpointInterval => config.checkpoint_interval_ms = millis,
            Self::DataMemory => config.data_memory = value,
        }
    }

    /// A value as people write it, with the largest unit that needs no fraction.
    #[must_use]
    pub fn show(self, value: u64) -> String {
        let units: &[(u64, &str)] = match self.unit() {
            Unit::Millis => &[(60_000, "m"), (1_000, "s"), (1, "ms")],
            Unit::Bytes => {
                &[(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
            }
        };
        let fits = |(factor, _): &&(u64, &str)| value >= *factor && value.is_multiple_of(*factor);
        match (units.iter().find(fits), self.unit()) {
            (Some((factor, unit)), _) => format!("{}{unit}", value / factor),
            (None, Unit::Millis) => format!("{value}ms"),
            (None, Unit::Bytes) => format!("{value} bytes"),
        }
    }
}

/// Why settings cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// A value is out of its bounds.
    Bounds(Setting, u64),
    /// The silence that gives a node up would be taken for a late heartbeat.
    SuspicionTooShort {
        /// Milliseconds between heartbeats.
        heartbeat: u64,
        /// Milliseconds of silence.
        suspicion: u64,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bounds(setting, value) => {
                let (least, most) = setting.bounds();
                let (name, value) = (setting.name(), setting.show(*value));
                let (least, most) = (setting.show(least), setting.show(most));
                write!(f, "`{name}` cannot be {value}: it is from {least} to {most}")
            }
            Self::SuspicionTooShort { heartbeat, suspicion } => write!(
                f,
                "`suspicion` cannot be {suspicion}ms with heartbeats every {heartbeat}ms: one late \
                 heartbeat would be taken for a death; at least twice that"
            ),
        }
    }
}

/// Whether settings make sense, each for itself and together.
///
/// # Errors
/// The first that does not.
pub fn check(config: &ClusterConfig) -> Result<(), Unfit> {
    for setting in Setting::ALL {
        let (value, (least, most)) = (setting.of(config), setting.bounds());
        if !(least..=most).contains(&value) {
            return Err(Unfit::Bounds(*setting, value));
        }
    }
    let (heartbeat, suspicion) = (u64::from(config.heartbeat_ms), u64::from(config.suspicion_ms));
    if suspicion < heartbeat * 2 {
        return Err(Unfit::SuspicionTooShort { heartbeat, suspicion });
    }
    Ok(())
}

/// A change somebody wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Drawn by whoever wants it: the same change may be asked for many times.
    pub id: u128,
    /// The version it was made for, and which it follows.
    pub base: ConfigVersion,
    /// Who wants it, as they say.
    pub who: String,
    /// When, in milliseconds since 1970 by their clock.
    pub when_ms: u64,
    /// Why, in words; may be empty.
    pub why: String,
    /// The new values.
    pub settings: BTreeMap<Setting, u64>,
}

impl ConfigChange {
    /// The settings after it.
    ///
    /// # Errors
    /// If they make no sense.
    pub fn applied_to(&self, config: &ClusterConfig) -> Result<ClusterConfig, Unfit> {
        let mut next = config.clone();
        for (setting, value) in &self.settings {
            let (least, most) = setting.bounds();
            if !(least..=most).contains(value) {
                return Err(Unfit::Bounds(*setting, *value));
            }
            setting.set(&mut next, *value);
        }
        check(&next).map(|()| next)
    }

    /// Whether it is short enough to be passed on and kept.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.who.len() <= CONFIG_TEXT_BYTES_MAX && self.why.len() <= CONFIG_TEXT_BYTES_MAX
    }
}

/// What one version changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// The version it made.
    pub version: ConfigVersion,
    /// The change's own number.
    pub id: u128,
    /// Who wanted it.
    pub who: String,
    /// When, in milliseconds since 1970 by their clock.
    pub when_ms: u64,
    /// Why; may be empty.
    pub why: String,
    /// Each setting with its value before and after.
    pub changes: Vec<(Setting, u64, u64)>,
}

/// Where the configuration is: its version, and how it came there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigState {
    /// The version in force.
    pub version: ConfigVersion,
    /// The last changes, oldest first.
    pub history: Vec<ConfigEntry>,
}

impl ConfigState {
    /// Makes the next version, if the change was made for this one and the settings make sense.
    /// Returns whether it did.
    pub fn apply(&mut self, config: &mut ClusterConfig, change: &ConfigChange) -> bool {
        if change.base != self.version || !change.is_short() {
            return false;
        }
        let Ok(next) = change.applied_to(config) else { return false };
        let before = std::mem::replace(config, next);
        let changed = |setting: &Setting| {
            let (from, to) = (setting.of(&before), setting.of(config));
            (from != to).then_some((*setting, from, to))
        };
        self.version = self.version.next();
        if self.history.len() >= CONFIG_HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push(ConfigEntry {
            version: self.version,
            id: change.id,
            who: change.who.clone(),
            when_ms: change.when_ms,
            why: change.why.clone(),
            changes: change.settings.keys().filter_map(changed).collect(),
        });
        true
    }

    /// The entry of a change, if it is in force or was.
    #[must_use]
    pub fn entry_of(&self, id: u128) -> Option<&ConfigEntry> {
        self.history.iter().find(|entry| entry.id == id)
    }

    /// The settings as they were at an earlier version; `None` if that is further back than the
    /// history, or still to come.
    #[must_use]
    pub fn at(&self, version: ConfigVersion, config: &ClusterConfig) -> Option<ClusterConfig> {
        let oldest = self.history.first().map_or(self.version.0, |entry| entry.version.0 - 1);
        if version.0 < oldest || version > self.version {
            return None;
        }
        let mut then = config.clone();
        for entry in self.history.iter().rev().take_while(|entry| entry.version > version) {
            for (setting, before, _) in &entry.changes {
                setting.set(&mut then, *before);
            }
        }
        Some(then)
    }

    /// The last entry that set a setting.
    #[must_use]
    pub fn origin(&self, setting: Setting) -> Option<&ConfigEntry> {
        let sets = |entry: &&ConfigEntry| entry.changes.iter().any(|(s, _, _)| *s == setting);
        self.history.iter().rev().find(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: u128, base: u64, settings: &[(Setting, u64)]) -> ConfigChange {
        ConfigChange {
            id,
            base: ConfigVersion(base),
            who: "test".to_owned(),
            when_ms: 1,
            why: String::new(),
            settings: settings.iter().copied().collect(),
        }
    }

    #[test]
    fn of_two_changes_for_one_version_the_first_wins_and_a_repetition_does_nothing() {
        let (mut config, mut state) = (ClusterConfig::default(), ConfigState::default());
        let first = change(1, 0, &[(Setting::Tick, 20)]);
        let second = change(2, 0, &[(Setting::Tick, 30)]);
        assert!(state.apply(&mut config, &first));
        assert!(!state.apply(&mut config, &second));
        assert!(!state.apply(&mut config, &first));
        assert_eq!((config.tick_ms, state.version), (20, ConfigVersion(1)));
        assert_eq!(state.entry_of(1).unwrap().changes, [(Setting::Tick, 10, 20)]);
        assert_eq!(state.entry_of(2), None);
    }

    #[test]
    fn earlier_versions_can_be_made_out_as_far_as_the_history_goes() {
        let (mut config, mut state) = (ClusterConfig::default(), ConfigState::default());
        let many = u64::try_from(CONFIG_HISTORY_MAX).unwrap() + 5;
        for version in 0..many {
            let wanted = change(version.into(), version, &[(Setting::Tick, 100 + version)]);
            assert!(state.apply(&mut config, &wanted));
        }
        assert_eq!(state.history.len(), CONFIG_HISTORY_MAX);
        let tick = |version| state.at(ConfigVersion(version), &config).map(|c| c.tick_ms);
        assert_eq!(tick(many), Some(u32::try_from(99 + many).unwrap()));
        assert_eq!(tick(6), Some(105));
        assert_eq!(tick(5), Some(104));
        assert_eq!(tick(4), None);
        assert_eq!(tick(many + 1), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_changes_nothing() {
        let (mut config, mut state) = (ClusterConfig::default(), ConfigState::default());
        for (bad, why) in [
            (change(1, 0, &[(Setting::Tick, 0)]), "`tick` cannot be 0ms: it is from 1ms to 10s"),
            (change(2, 0, &[(Setting::Heartbeat, 300)]), "at least twice that"),
            (change(3, 0, &[(Setting::DataMemory, u64::MAX)]), "from 1MiB to 1024TiB"),
        ] {
            let error = bad.applied_to(&config).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!state.apply(&mut config, &bad));
        }
        let long = ConfigChange { who: "x".repeat(1000), ..change(4, 0, &[(Setting::Tick, 20)]) };
        assert!(!state.apply(&mut config, &long));
        assert_eq!((config, state), (ClusterConfig::default(), ConfigState::default()));
    }

    #[test]
    fn values_are_shown_with_their_unit() {
        assert_eq!(Setting::Tick.show(1_500), "1500ms");
        assert_eq!(Setting::Tick.show(90_000), "90s");
        assert_eq!(Setting::TransactionIdle.show(120_000), "2m");
        assert_eq!(Setting::DataMemory.show(8 << 30), "8GiB");
        assert_eq!(Setting::Heartbeat.show(0), "0ms");
    }
}
