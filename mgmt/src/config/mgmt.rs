//! What `lockstep run mgmt` is told: who it is, and what cluster to create.

use std::collections::BTreeSet;

use lockstep_proto::ids::MgmtId;
use lockstep_proto::limits::{ADDR_BYTES_MAX, NODES_MAX, PARTITIONS_MAX, REPLICAS_MAX};
use lockstep_proto::view::ClusterConfig;

use super::error::ConfigError;
use super::layers::{Key, Settings};
use super::{MGMT_LISTEN_DEFAULT, Place, PlaceKeys, value};
use crate::core::plan::ClusterPlan;

/// The settings of a management server.
pub const MGMT_KEYS: &[Key] = &[
    Key { name: "mgmt.dir", is: "the server's own directory", example: "\"/var/lib/lockstep/m1\"" },
    Key { name: "mgmt.listen", is: "where the server listens", example: "\"127.0.0.1:1186\"" },
    Key {
        name: "mgmt.advertise",
        is: "where others reach the server, if not where it listens",
        example: "\"10.0.0.5:1186\"",
    },
    Key {
        name: "mgmt.insecure",
        is: "consent to listen beyond this machine without TLS",
        example: "true",
    },
    Key { name: "mgmt.id", is: "the server's place in `cluster.mgmt`, from 1", example: "1" },
    Key { name: "cluster.groups", is: "how many node groups share the data", example: "2" },
    Key { name: "cluster.replicas", is: "how many nodes hold each row", example: "2" },
    Key { name: "cluster.zones", is: "the availability zones", example: "[\"a\", \"b\"]" },
    Key { name: "cluster.partitions", is: "how many slices each table has", example: "64" },
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
        name: "cluster.peer_death",
        is: "whether a connection's end proves a death (fin), or not, as with proxies (never)",
        example: "\"fin\"",
    },
    Key {
        name: "cluster.mgmt",
        is: "all management servers, m1 first",
        example: "[\"127.0.0.1:1186\"]",
    },
    Key {
        name: "admin.listen",
        is: "where the admin port listens, or off",
        example: "\"127.0.0.1:9186\"",
    },
    Key { name: "log.filter", is: "what the log shows", example: "\"info\"" },
];

/// A management server's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MgmtConfig {
    /// Directory, address, log.
    pub place: Place,
    /// Which one it is.
    pub id: MgmtId,
    /// The other management servers, best arbitrator first.
    pub others: Vec<(MgmtId, String)>,
    /// The cluster to create.
    pub plan: ClusterPlan,
}

impl MgmtConfig {
    /// Reads the configuration out of its settings.
    ///
    /// # Errors
    /// The first setting that is missing or makes no sense.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let place = Place::read(
            settings,
            &PlaceKeys {
                dir: "mgmt.dir",
                listen: "mgmt.listen",
                listen_default: MGMT_LISTEN_DEFAULT,
                advertise: "mgmt.advertise",
                insecure: "mgmt.insecure",
            },
        )?;
        let id = settings.optional("mgmt.id", |word| small(word, 255))?;
        let id = MgmtId(id.unwrap_or(1));
        let all = settings.list("cluster.mgmt", value::addr)?;
        if !all.is_empty() && usize::from(id.0) > all.len() {
            let why = format!("the server is number {} of a list of {}", id.0, all.len());
            return Err(settings.misfit("mgmt.id", why));
        }
        let others = (1..).map(MgmtId).zip(all).filter(|(other, _)| *other != id).collect();
        Ok(Self { place, id, others, plan: read_plan(settings)? })
    }
}

fn read_plan(settings: &Settings) -> Result<ClusterPlan, ConfigError> {
    let groups = settings.optional("cluster.groups", |word| small(word, NODES_MAX))?;
    let groups = groups.unwrap_or(1);
    let zones = settings.list("cluster.zones", |word| match word.len() {
        0 | ADDR_BYTES_MAX.. => Err("a zone needs a short name".to_owned()),
        _ => Ok(word.to_owned()),
    })?;
    if zones.iter().collect::<BTreeSet<_>>().len() < zones.len() {
        return Err(settings.misfit("cluster.zones", "a zone is named twice"));
    }
    let config = read_cluster(settings)?;
    if usize::from(groups) * usize::from(config.replicas) > NODES_MAX {
        let why = format!("groups × replicas may not exceed {NODES_MAX} nodes");
        return Err(settings.misfit("cluster.groups", why));
    }
    if config.partitions < groups {
        let why = format!("{groups} groups need at least as many partitions");
        return Err(settings.misfit("cluster.partitions", why));
    }
    Ok(ClusterPlan { groups, zones, config })
}

fn read_cluster(settings: &Settings) -> Result<ClusterConfig, ConfigError> {
    let default = ClusterConfig::default();
    let millis = |name, default, max| -> Result<u32, ConfigError> {
        let written = settings.optional(name, |word| value::millis(word, 1..=max))?;
        Ok(written.unwrap_or(default))
    };
    let replicas = settings.optional("cluster.replicas", |word| small(word, REPLICAS_MAX))?;
    let partitions = settings.optional("cluster.partitions", |word| {
        let partitions: u16 = small(word, PARTITIONS_MAX)?;
        match partitions.is_power_of_two() {
            true => Ok(partitions),
            false => Err("it must be a power of two".to_owned()),
        }
    })?;
    let peer_death = settings.optional("cluster.peer_death", |word| match word {
        "fin" => Ok(true),
        "never" => Ok(false),
        _ => Err("it must be fin or never".to_owned()),
    })?;
    let memory =
        settings.optional("cluster.data_memory", |word| value::bytes(word, 1 << 20..=u64::MAX))?;
    let config = ClusterConfig {
        partitions: partitions.unwrap_or(default.partitions),
        replicas: replicas.unwrap_or(default.replicas),
        heartbeat_ms: millis("cluster.heartbeat", default.heartbeat_ms, 60_000)?,
        suspicion_ms: millis("cluster.suspicion", default.suspicion_ms, 600_000)?,
        tick_ms: millis("cluster.tick", default.tick_ms, 10_000)?,
        transaction_idle_ms: millis(
            "cluster.transaction_idle",
            default.transaction_idle_ms,
            86_400_000,
        )?,
        checkpoint_interval_ms: millis(
            "cluster.checkpoint_interval",
            default.checkpoint_interval_ms,
            86_400_000,
        )?,
        drift_ppm: default.drift_ppm,
        peer_death_by_fin: peer_death.unwrap_or(default.peer_death_by_fin),
        data_memory: memory.unwrap_or(default.data_memory),
        primary_zone: default.primary_zone,
    };
    if config.suspicion_ms < config.heartbeat_ms.saturating_mul(2) {
        let why = format!(
            "one late heartbeat ({}ms) would be taken for a death; at least twice that",
            config.heartbeat_ms
        );
        return Err(settings.misfit("cluster.suspicion", why));
    }
    Ok(config)
}

/// A number from 1 to `max` in sixteen bits.
fn small(word: &str, max: usize) -> Result<u16, String> {
    let number = value::number(word, 1..=max as u64)?;
    Ok(u16::try_from(number).expect("limits of counts fit sixteen bits"))
}
