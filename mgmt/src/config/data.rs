//! What `lockstep run data` is told.

use std::num::NonZero;

use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::limits::SHARDS_MAX;

use super::error::ConfigError;
use super::layers::{Key, Settings};
use super::{DATA_LISTEN_DEFAULT, Place, PlaceKeys, value};

/// The settings of a data node.
pub const DATA_KEYS: &[Key] = &[
    Key { name: "node.dir", is: "the node's own directory", example: "\"/var/lib/lockstep/n1\"" },
    Key { name: "node.listen", is: "where the node listens", example: "\"127.0.0.1:0\"" },
    Key {
        name: "node.advertise",
        is: "where others reach the node, if not where it listens",
        example: "\"10.0.0.7:1187\"",
    },
    Key {
        name: "node.insecure",
        is: "consent to listen beyond this machine without TLS",
        example: "true",
    },
    Key { name: "node.zone", is: "the node's availability zone", example: "\"a\"" },
    Key { name: "node.id", is: "the node id to wish for", example: "1" },
    Key { name: "node.group", is: "the node group to join, if not the one in need", example: "1" },
    Key { name: "node.shards", is: "how many threads share the node's data", example: "4" },
    Key {
        name: "cluster.mgmt",
        is: "the management servers, m1 first",
        example: "[\"127.0.0.1:1186\"]",
    },
    Key {
        name: "admin.listen",
        is: "where the admin port listens, or off",
        example: "\"127.0.0.1:9186\"",
    },
    Key { name: "log.filter", is: "what the log shows", example: "\"info\"" },
];

/// A data node's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataConfig {
    /// Directory, address, log.
    pub place: Place,
    /// Its availability zone; empty if none.
    pub zone: String,
    /// The node id to wish for.
    pub id: Option<NodeId>,
    /// The node group to join.
    pub group: Option<GroupId>,
    /// How many shard cores it runs.
    pub shards: u16,
    /// The management servers: the first is m1, the second m2.
    pub mgmt: Vec<String>,
}

impl DataConfig {
    /// Reads the configuration out of its settings.
    ///
    /// # Errors
    /// The first setting that is missing or makes no sense.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let place = Place::read(
            settings,
            &PlaceKeys {
                dir: "node.dir",
                listen: "node.listen",
                listen_default: DATA_LISTEN_DEFAULT,
                advertise: "node.advertise",
                insecure: "node.insecure",
            },
        )?;
        let zone = settings.optional("node.zone", |word| Ok(word.to_owned()))?;
        let id = settings.optional("node.id", |word| {
            let id = value::number(word, 1..=u64::from(u16::MAX))?;
            Ok(NodeId(u16::try_from(id).expect("in range")))
        })?;
        let group = settings.optional("node.group", |word| {
            let group = value::number(word, 1..=u64::from(u16::MAX) - 1)?;
            Ok(GroupId(u16::try_from(group).expect("in range")))
        })?;
        let shards = settings.optional("node.shards", |word| {
            let shards = value::number(word, 1..=u64::from(SHARDS_MAX))?;
            Ok(u16::try_from(shards).expect("in range"))
        })?;
        let mgmt = settings.list("cluster.mgmt", value::addr)?;
        if mgmt.is_empty() {
            return Err(settings.absent("cluster.mgmt"));
        }
        Ok(Self {
            place,
            zone: zone.unwrap_or_default(),
            id,
            group,
            shards: shards.unwrap_or_else(shards_default),
            mgmt,
        })
    }
}

/// One shard per processor this process may use.
fn shards_default() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    u16::try_from(processors).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
}
