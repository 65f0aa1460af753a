//! The settings of a running cluster as people write them: in a file with a `[cluster]` section, or
//! `name=value` on the command line.

use std::collections::BTreeMap;
use std::path::Path;

use lockstep_proto::configuration::{Setting, Unit};

use super::error::ConfigError;
use super::layers::{Key, Settings};
use super::{MGMT_KEYS, MgmtConfig, value};

/// What a file may set, and what it may not although it is a setting of the cluster.
pub const CLUSTER_KEYS: &[Key] = &[
    Key { name: "cluster.heartbeat", is: "the time between heartbeats", example: "\"50ms\"" },
    Key {
        name: "cluster.suspicion",
        is: "the silence after which a node is given up",
        example: "\"400ms\"",
    },
    Key { name: "cluster.tick", is: "the length of an epoch", example: "\"10ms\"" },
    Key {
        name: "cluster.transaction_idle",
        is: "how long an open transaction may be idle",
        example: "\"10s\"",
    },
    Key {
        name: "cluster.checkpoint_interval",
        is: "how often changed partitions are written to checkpoints",
        example: "\"30s\"",
    },
    Key { name: "cluster.data_memory", is: "how much data a node may hold", example: "\"8GiB\"" },
    Key {
        name: "cluster.mgmt",
        is: "all management servers, m1 first",
        example: "[\"127.0.0.1:1186\"]",
    },
    Key { name: "cluster.groups", is: "how many node groups share the data", example: "2" },
    Key { name: "cluster.replicas", is: "how many nodes hold each row", example: "2" },
    Key { name: "cluster.zones", is: "the availability zones", example: "[\"a\", \"b\"]" },
    Key { name: "cluster.partitions", is: "how many slices each table has", example: "64" },
    Key { name: "cluster.peer_death", is: "what proves a death", example: "\"fin\"" },
];

/// What a file may not change in a running cluster, and why.
const FIXED: &[(&str, &str)] = &[
    ("cluster.partitions", "it was decided when the cluster was created, for ever"),
    ("cluster.peer_death", "it was decided when the cluster was created, for ever"),
    ("cluster.zones", "it is for the creation of the cluster; data nodes name their zones since"),
    ("cluster.groups", "it is for the creation of the cluster; then see `lockstep group`"),
    ("cluster.replicas", "it is for the creation of the cluster; then `lockstep cluster replicas`"),
    ("cluster.mgmt", "each process has it in its own file"),
];

/// Reads the settings that a file changes in a running cluster.
///
/// # Errors
/// The first mistake in it.
pub fn read_file(path: &Path) -> Result<BTreeMap<Setting, u64>, ConfigError> {
    let settings = Settings::read(CLUSTER_KEYS, Some(path), std::iter::empty(), Vec::new())?;
    for (name, why) in FIXED {
        if !settings.list(name, |word| Ok(word.to_owned()))?.is_empty() {
            let then = "leave it out here; `lockstep config check` reads it".to_owned();
            return Err(ConfigError { then, ..settings.misfit(name, *why) });
        }
    }
    changeable(&settings)
}

/// Reads the file of a management server, or a part of it: how many settings it has, and those of
/// them that can be changed later.
///
/// # Errors
/// The first mistake in it.
pub fn check_file(path: &Path) -> Result<(usize, BTreeMap<Setting, u64>), ConfigError> {
    let mut settings = Settings::read(MGMT_KEYS, Some(path), std::iter::empty(), Vec::new())?;
    let count = settings.count();
    // The directory may come from a flag, and a file of settings alone has none.
    settings.fill("mgmt.dir", ".");
    MgmtConfig::from_settings(&settings)?;
    Ok((count, changeable(&settings)?))
}

fn changeable(settings: &Settings) -> Result<BTreeMap<Setting, u64>, ConfigError> {
    let mut read = BTreeMap::new();
    for setting in Setting::ALL {
        let key = CLUSTER_KEYS.iter().find(|key| key.name.ends_with(&dotted(*setting)));
        let Some(key) = key else { continue };
        if let Some(value) = settings.optional(key.name, |word| parse(*setting, word))? {
            read.insert(*setting, value);
        }
    }
    Ok(read)
}

fn dotted(setting: Setting) -> String {
    format!(".{}", setting.name())
}

/// Reads `name=value`.
///
/// # Errors
/// In words, what would be right.
pub fn read_pair(text: &str) -> Result<(Setting, u64), String> {
    let names = || Setting::ALL.iter().map(|setting| setting.name()).collect::<Vec<_>>().join(", ");
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as tick=20ms")?;
    let name = name.trim().trim_start_matches("cluster.");
    let setting = Setting::named(name)
        .ok_or_else(|| format!("`{name}` cannot be changed; these can: {}", names()))?;
    parse(setting, value.trim()).map(|value| (setting, value))
}

fn parse(setting: Setting, word: &str) -> Result<u64, String> {
    let (least, most) = setting.bounds();
    match setting.unit() {
        Unit::Millis => value::millis(word, least..=most).map(u64::from),
        Unit::Bytes => value::bytes(word, least..=most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_may_change_can_be_written_in_a_file() {
        for setting in Setting::ALL {
            let named = |key: &&Key| key.name.ends_with(&dotted(*setting));
            assert_eq!(CLUSTER_KEYS.iter().filter(named).count(), 1, "{setting:?}");
        }
    }

    #[test]
    fn pairs_are_read_with_their_units() {
        assert_eq!(read_pair("tick=20ms"), Ok((Setting::Tick, 20)));
        assert_eq!(read_pair("cluster.data_memory = 2GiB"), Ok((Setting::DataMemory, 2 << 30)));
        for (bad, told) in [
            ("tick", "NAME=VALUE"),
            ("tack=1ms", "these can: heartbeat"),
            ("partitions=8", "these can"),
            ("tick=20", "with its unit"),
            ("tick=1m", "to 10000ms"),
            ("data_memory=1KiB", "at least"),
        ] {
            let error = read_pair(bad).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn a_file_changes_what_may_change_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_file(&path)
        };
        let read_well = read("[cluster]\ntick = \"20ms\"\ndata_memory = \"1GiB\"\n").unwrap();
        assert_eq!(read_well, [(Setting::Tick, 20), (Setting::DataMemory, 1 << 30)].into());
        let fixed = read("[cluster]\npartitions = 8\n").unwrap_err();
        assert!(fixed.why.contains("when the cluster was created"), "{fixed}");
        let groups = read("[cluster]\ngroups = 2\n").unwrap_err();
        assert!(groups.why.contains("`lockstep group`"), "{groups}");
        let unknown = read("[cluster]\ntck = \"20ms\"\n").unwrap_err();
        assert!(unknown.then.contains("did you mean `cluster.tick`"), "{unknown}");
    }

    #[test]
    fn the_file_of_a_management_server_is_checked_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.toml");
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            check_file(&path)
        };
        let cluster = "[cluster]\nmgmt = [\"m1:1\", \"m2:1\"]\ngroups = 2\nreplicas = 2\n\
                       zones = [\"a\", \"b\"]\npartitions = 64\npeer_death = \"fin\"\n\
                       tick = \"20ms\"\n";
        assert_eq!(check(cluster).unwrap(), (7, [(Setting::Tick, 20)].into()));
        let whole = format!("{cluster}[mgmt]\nid = 2\ndir = \"m2\"\n[log]\nfilter = \"info\"\n");
        assert_eq!(check(&whole).unwrap().0, 10);
        for (bad, told) in [
            ("[cluster]\npartitions = 65\n", "a power of two"),
            ("[cluster]\ngroups = 4\npartitions = 2\n", "at least as many partitions"),
            ("[cluster]\nmgmt = [\"m1:1\"]\n[mgmt]\nid = 2\n", "number 2 of a list of 1"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.why.contains(told), "{bad}: {error}");
        }
        let absent = check_file(&dir.path().join("none.toml")).unwrap_err();
        assert!(absent.to_string().contains("none.toml: the configuration file"), "{absent}");
    }
}
