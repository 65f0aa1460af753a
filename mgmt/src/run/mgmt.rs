//! `lockstep run mgmt`: one management server.

use std::sync::Arc;

use lockstep_proto::events::EventLog;
use lockstep_proto::stored::{StoredBackups, StoredCluster, StoredRegister};
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{HostOptions, clock, run_single};

use super::args::RunMgmtArgs;
use super::door::Door;
use super::home::Home;
use super::{begin, config_error, ended, random, settings, thread_error};
use crate::admin::Admin;
use crate::admin::snapshot::Kind;
use crate::cli::error::{CliResult, ExitKind};
use crate::config::{MGMT_KEYS, MgmtConfig};
use crate::core::{MgmtCore, MgmtOptions, MgmtStored};

/// Runs until it is told to stop.
///
/// # Errors
/// What is wrong with the configuration, the directory or the port, or why the server gave up.
pub fn run_mgmt(args: &RunMgmtArgs) -> CliResult<ExitKind> {
    let settings = settings(MGMT_KEYS, &args.process, args.flags())?;
    let MgmtConfig { place, id, others, plan } =
        MgmtConfig::from_settings(&settings).map_err(config_error)?;
    begin(&args.process, &place.log)?;
    let home = Home::open(&place.dir)?;
    home.refuse_data_nodes()?;
    let stored = MgmtStored {
        cluster: home.stored::<StoredCluster>()?,
        register: home.stored::<StoredRegister>()?,
        backups: home.stored::<StoredBackups>()?,
        events: events(&home),
    };
    let door = Door::open(&place)?;
    let admin = Admin::open(place.admin.as_deref(), Kind::Mgmt)?;
    if let Some(ready_file) = &args.process.ready_file {
        door.tell(ready_file, admin.addr)?;
    }
    match stored.cluster_id() {
        Some(cluster) => tracing::info!("management server {id} of cluster {cluster}"),
        None => tracing::info!("management server {id}: waiting for {} data nodes", plan.nodes()),
    }
    let mut host = HostOptions::new(door.listener, home.dir().to_owned(), Speaker::Mgmt(id));
    host.cluster = stored.cluster_id();
    host.signals = Some(Arc::default());
    (host.cores, host.counters) = (admin.cores, admin.counters);
    let core = MgmtCore::new(MgmtOptions {
        id,
        addr: door.addr,
        others,
        plan,
        stored,
        wall_offset_ms: clock::wall_ms().saturating_sub(clock::now().0 / 1_000_000),
        cluster_id_seed: random()?,
        canary: None,
    });
    let (exit, _listener) = run_single(core, host).map_err(|error| thread_error(&error))?;
    ended(exit)
}

/// The event log of an earlier life. Nothing depends on it, so one that cannot be read is no reason
/// not to start.
fn events(home: &Home) -> Option<EventLog> {
    home.stored::<EventLog>().unwrap_or_else(|error| {
        tracing::warn!("the event log begins anew: {error}");
        None
    })
}
