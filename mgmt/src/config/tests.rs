//! Configurations as people write them, right and wrong.

use std::path::Path;

use lockstep_proto::ids::{MgmtId, NodeId};

use super::error::Origin;
use super::layers::FlagSetting;
use super::*;

const DATA: &str = "[node]\ndir = \"/tmp/n1\"\n\n[cluster]\nmgmt = [\"127.0.0.1:1186\"]\n";

fn read(
    keys: &'static [layers::Key],
    text: &str,
    variables: &[(&str, &str)],
    flags: Vec<FlagSetting>,
) -> Result<Settings, ConfigError> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), text).expect("written");
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::read(keys, Some(file.path()), variables, flags)
}

fn data(text: &str) -> Result<DataConfig, ConfigError> {
    DataConfig::from_settings(&read(DATA_KEYS, text, &[], Vec::new())?)
}

fn mgmt(text: &str) -> Result<MgmtConfig, ConfigError> {
    let text = format!("[mgmt]\ndir = \"m\"\n{text}");
    MgmtConfig::from_settings(&read(MGMT_KEYS, &text, &[], Vec::new())?)
}

fn flag(key: &'static str, value: &str) -> FlagSetting {
    FlagSetting { key, flag: "--flag", values: vec![value.to_owned()] }
}

#[test]
fn the_smallest_configurations_have_sensible_defaults() {
    let config = data(DATA).expect("fine");
    assert_eq!(config.place.dir, Path::new("/tmp/n1"));
    assert_eq!(config.place.listen, DATA_LISTEN_DEFAULT);
    assert_eq!((config.zone.as_str(), config.id), ("", None));
    assert!(config.shards >= 1);
    let config = mgmt("").expect("fine");
    assert_eq!((config.id, config.plan.groups, config.plan.config.replicas), (MgmtId(1), 1, 2));
    assert_eq!(config.plan.config, lockstep_proto::view::ClusterConfig::default());
}

#[test]
fn every_setting_of_a_full_configuration_arrives() {
    let text = "id = 2\nlisten = \"[::1]:7\"\nadvertise = \"m:7\"\ninsecure = true\n\
                [cluster]\ngroups = 2\nreplicas = 3\nzones = [\"a\", \"b\"]\npartitions = 128\n\
                heartbeat = \"20ms\"\nsuspicion = \"1s\"\ntick = \"5ms\"\n\
                data_memory = \"2GiB\"\npeer_death = \"never\"\nmgmt = [\"m1:7\", \"m2:7\"]\n\
                [log]\nfilter = \"debug\"\n";
    let config = mgmt(text).expect("fine");
    assert_eq!(config.place.advertise.as_deref(), Some("m:7"));
    assert!(config.place.insecure);
    assert_eq!(config.others, [(MgmtId(1), "m1:7".to_owned())]);
    assert_eq!((config.plan.groups, config.plan.zones), (2, vec!["a".to_owned(), "b".to_owned()]));
    let cluster = config.plan.config;
    assert_eq!((cluster.partitions, cluster.replicas), (128, 3));
    assert_eq!((cluster.heartbeat_ms, cluster.suspicion_ms, cluster.tick_ms), (20, 1_000, 5));
    assert_eq!((cluster.data_memory, cluster.peer_death_by_fin), (2 << 30, false));
    let text = "[node]\ndir = \"d\"\nzone = \"a\"\nid = 3\nshards = 4\n[cluster]\nmgmt = \"m:1\"";
    let config = data(text).expect("fine");
    assert_eq!((config.zone.as_str(), config.id, config.shards), ("a", Some(NodeId(3)), 4));
    assert_eq!(config.mgmt, ["m:1"]);
}

#[test]
fn flags_beat_the_environment_and_that_beats_the_file() {
    let text = "[node]\ndir = \"file\"\nzone = \"file\"\nshards = 1\n[cluster]\nmgmt = [\"f:1\"]";
    let variables = [
        ("LOCKSTEP__NODE__ZONE", "variable"),
        ("LOCKSTEP__NODE__SHARDS", "2"),
        ("LOCKSTEP__CLUSTER__MGMT", "a:1, b:2"),
        ("LOCKSTEP_URL", "not a setting"),
        ("PATH", "/bin"),
    ];
    let settings = read(DATA_KEYS, text, &variables, vec![flag("node.shards", "3")]);
    let config = DataConfig::from_settings(&settings.expect("fine")).expect("fine");
    assert_eq!(config.place.dir, Path::new("file"));
    assert_eq!((config.zone.as_str(), config.shards), ("variable", 3));
    assert_eq!(config.mgmt, ["a:1", "b:2"]);
}

#[test]
fn a_typing_mistake_is_named_with_its_line_and_what_was_meant() {
    let cases = [
        ("[node]\ndir = \"d\"\nzonne = \"a\"", 3, "did you mean `node.zone`?"),
        ("[node]\nmgmt = \"m:1\"", 2, "did you mean `cluster.mgmt`?"),
        ("[nod]\ndir = \"d\"", 2, "did you mean `node.dir`?"),
        ("\ndir = \"d\"", 2, "did you mean `node.dir`?"),
        ("[node]\n\nport = 7", 3, "known are node.dir, node.listen, node.advertise"),
        ("[node]\n[node.dir]\nx = 1", 2, "did you mean `node.dir`?"),
    ];
    for (text, expected, then) in cases {
        let error = data(text).expect_err(text);
        assert!(matches!(error.origin, Origin::File { line, .. } if line == expected), "{error}");
        assert!(error.then.starts_with(then), "{error}");
    }
    let variables = [("LOCKSTEP__NODE__ZOEN", "a")];
    let error = read(DATA_KEYS, DATA, &variables, Vec::new()).expect_err("unknown variable");
    assert_eq!(error.origin, Origin::Environment("LOCKSTEP__NODE__ZOEN".to_owned()));
    assert_eq!(error.then, "did you mean `node.zone`?");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let cases = [
        ("[cluster]\nheartbeat = 50", "it must be a time with its unit"),
        ("[cluster]\ndata_memory = \"2\"", "it must be a size with its unit"),
        ("[cluster]\npartitions = 48", "it must be a power of two"),
        ("[cluster]\nreplicas = 5", "it must be a whole number from 1 to 4"),
        ("[cluster]\nzones = [\"a\", \"a\"]", "a zone is named twice"),
        ("[cluster]\npeer_death = \"maybe\"", "it must be fin or never"),
        ("[cluster]\nsuspicion = \"60ms\"", "one late heartbeat"),
        ("[cluster]\ngroups = 8\npartitions = 4", "8 groups need at least"),
        ("[cluster]\ngroups = 144", "groups × replicas"),
        ("listen = \"somewhere\"", "it must be host:port"),
        ("listen = [\"a:1\", \"b:1\"]", "it must be one value"),
        ("insecure = \"yes\"", "it must be true or false"),
        ("id = 2\n[cluster]\nmgmt = [\"m:1\"]", "the server is number 2 of a list of 1"),
    ];
    for (text, why) in cases {
        let error = mgmt(text).expect_err(text);
        assert!(error.why.starts_with(why), "{text:?}: {error}");
        assert!(matches!(error.origin, Origin::File { .. }), "{error}");
        assert!(error.then.starts_with("write for example `"), "{error}");
    }
}

#[test]
fn what_is_missing_is_named_in_all_its_spellings() {
    let error = data("[node]\ndir = \"d\"").expect_err("no management server");
    assert_eq!(error.origin, Origin::Absent);
    assert_eq!(error.what, "`cluster.mgmt` is not set");
    assert!(error.then.contains("LOCKSTEP__CLUSTER__MGMT"), "{error}");
    let error = data("[cluster]\nmgmt = \"m:1\"").expect_err("no directory");
    assert!(
        error.then.starts_with("write `dir = \"/var/lib/lockstep/n1\"` under [node]"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_toml_or_not_there_is_told_apart() {
    let error = data("[node]\ndir = ").expect_err("cut off");
    assert_eq!(error.what, "not TOML");
    assert!(matches!(error.origin, Origin::File { line: 2, .. }), "{error}");
    let path = Path::new("/nowhere/data.toml");
    let error = Settings::read(DATA_KEYS, Some(path), std::iter::empty(), Vec::new());
    assert_eq!(error.expect_err("absent").what, "the configuration file cannot be read");
}

#[test]
fn the_manual_has_every_setting_with_its_example() {
    let manual = include_str!("../../../docs/CONFIGURATION.md");
    for key in DATA_KEYS.iter().chain(MGMT_KEYS) {
        let row = |line: &&str| line.starts_with(&format!("| `{}` |", key.name));
        let rows: Vec<&str> = manual.lines().filter(row).collect();
        let example = format!("| `{}` |", key.example);
        assert!(rows.iter().any(|row| row.contains(&example)), "{}: {rows:?}", key.name);
    }
}

#[test]
fn a_file_cut_anywhere_is_read_or_refused() {
    let text = "[node]\ndir = \"d\"\nshards = 4 # four\n[cluster]\nmgmt = [\"m:1\", 'n:2']\n";
    let understood = (0..=text.len()).filter(|cut| data(&text[..*cut]).is_ok()).count();
    assert!((1..10).contains(&understood), "{understood} prefixes are whole configurations");
}
