//! Configuration: one small TOML file per process, and the same settings from the environment and
//! from flags (`default < file < LOCKSTEP__SECTION__KEY < flag`).
//!
//! * `[node]` and `[mgmt]` say who and where a process is;
//! * `[cluster]` tells a data node where its management servers are, and a management server what
//!   cluster to create; once it exists, its settings live in the view.
//!
//! Invariant: a configuration is either understood as a whole or refused with the place, the
//! reason and what to write instead; nothing is guessed.

pub mod cluster;
mod data;
pub mod error;
pub mod layers;
mod mgmt;
mod suggest;
#[cfg(test)]
mod tests;
mod value;

pub use data::{DATA_KEYS, DataConfig};
pub use mgmt::{MGMT_KEYS, MgmtConfig};

use std::path::PathBuf;

use error::ConfigError;
use layers::Settings;

/// The address a management server listens on unless told otherwise.
pub const MGMT_LISTEN_DEFAULT: &str = "127.0.0.1:1186";

/// The address a data node listens on unless told otherwise: any free port.
pub const DATA_LISTEN_DEFAULT: &str = "127.0.0.1:0";

/// Where a process's admin port is unless told otherwise: on this machine, at any free port.
pub const ADMIN_LISTEN_DEFAULT: &str = "127.0.0.1:0";

/// What a log shows unless told otherwise.
const LOG_DEFAULT: &str = "info";

/// Where a process keeps its files, listens and logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: String,
    /// Where others reach it, if that is not where it listens.
    pub advertise: Option<String>,
    /// Whether it may listen where strangers can connect.
    pub insecure: bool,
    /// Where the admin port listens; `None` if there is to be none.
    pub admin: Option<String>,
    /// What the log shows: a level, or `tracing` directives.
    pub log: String,
}

/// The settings of a [`Place`] in the section of one kind of process.
struct PlaceKeys {
    dir: &'static str,
    listen: &'static str,
    listen_default: &'static str,
    advertise: &'static str,
    insecure: &'static str,
}

impl Place {
    fn read(settings: &Settings, keys: &PlaceKeys) -> Result<Self, ConfigError> {
        let text = |word: &str| Ok(word.to_owned());
        let listen = settings.optional(keys.listen, value::addr)?;
        let dir = settings.required(keys.dir, |word| match word {
            "" => Err("it must not be empty".to_owned()),
            path => Ok(PathBuf::from(path)),
        })?;
        Ok(Self {
            dir,
            listen: listen.unwrap_or_else(|| keys.listen_default.to_owned()),
            advertise: settings.optional(keys.advertise, value::addr)?,
            insecure: settings.optional(keys.insecure, value::flag)?.unwrap_or(false),
            admin: match settings.optional("admin.listen", admin_addr)? {
                Some(listen) => listen,
                None => Some(ADMIN_LISTEN_DEFAULT.to_owned()),
            },
            log: settings.optional("log.filter", text)?.unwrap_or_else(|| LOG_DEFAULT.to_owned()),
        })
    }
}

/// `host:port`, or `off`.
fn admin_addr(word: &str) -> Result<Option<String>, String> {
    match word {
        "off" => Ok(None),
        addr => value::addr(addr).map(Some).map_err(|why| format!("{why}, or off")),
    }
}
