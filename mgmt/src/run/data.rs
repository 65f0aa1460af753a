//! `lockstep run data`: one data node. It has an identity, or asks for one as a newcomer; one that
//! was here before first finds its cluster again.

use std::sync::Arc;
use std::time::Duration;

use lockstep_cluster::control::exit_code;
use lockstep_cluster::newcomer::{NewcomerCore, NewcomerOptions};
use lockstep_cluster::{
    ControlCore, ControlOptions, LogIdentity, RestartCore, RestartOptions, Restored, ShardCore,
    ShardOptions,
};
use lockstep_proto::ids::{Epoch, MgmtId, ShardId};
use lockstep_proto::limits::KEPT_BYTES_MAX;
use lockstep_proto::recovery::last_cut;
use lockstep_proto::roster::Newcomer;
use lockstep_proto::stored::StoredIdentity;
use lockstep_proto::view::{Member, Standing, View};
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{EndSignals, HostOptions, clock, run_node, run_single};

use super::args::RunDataArgs;
use super::door::Door;
use super::home::Home;
use super::recovery::FileRecoverer;
use super::{begin, config_error, ended, random, recovery, settings, thread_error};
use crate::admin::Admin;
use crate::admin::snapshot::Kind;
use crate::cli::error::{CliError, CliResult, ExitKind, Trouble};
use crate::config::{DATA_KEYS, DataConfig};

/// How long a node that was started again waits for all members of a stopped cluster before a part
/// of them may start it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the process has for its whole life.
struct Site {
    door: Door,
    home: Home,
    admin: Admin,
    config: DataConfig,
    signals: Arc<EndSignals>,
}

/// What the process goes on with as a data node.
struct Seat {
    identity: StoredIdentity,
    view: View,
    /// Rows from its own files.
    restored: Option<Restored>,
}

/// Runs until it leaves, or is told to stop, or cannot go on. A node that the others went on
/// without comes back to them by itself.
///
/// # Errors
/// What is wrong with the configuration, the directory or the port, or why the node gave up.
pub fn run_data(args: &RunDataArgs) -> CliResult<ExitKind> {
    let settings = settings(DATA_KEYS, &args.process, args.flags())?;
    let config = DataConfig::from_settings(&settings).map_err(config_error)?;
    begin(&args.process, &config.place.log)?;
    let home = Home::open(&config.place.dir)?;
    home.refuse_mgmts()?;
    let used = home.stored::<StoredIdentity>()?.is_some();
    if used && args.volatile {
        let what = "a node that writes nothing cannot come back";
        return Err(CliError::new(Trouble::Usage, what).then("start it on an empty directory"));
    }
    if used && args.initial {
        tracing::warn!("--initial: removing this node's own data; its group has it all");
        recovery::forget(home.dir())?;
    }
    recovery::make_directories(home.dir())?;
    let door = Door::open(&config.place)?;
    let admin = Admin::open(config.place.admin.as_deref(), Kind::Data)?;
    if let Some(ready_file) = &args.process.ready_file {
        door.tell(ready_file, admin.addr)?;
    }
    let site = Site { door, home, admin, config, signals: Arc::default() };
    let mut seat = if used { None } else { Some(come_new(&site, args)?) };
    loop {
        let taken = match seat.take().flatten() {
            Some(seat) => Some(seat),
            None if used_now(&site.home)? => come_back(&site, args)?,
            None => None,
        };
        // It was stopped, or refused, before it became anybody.
        let Some(Seat { identity, view, mut restored }) = taken else {
            return Ok(ExitKind::Done);
        };
        if site.signals.told_to_end() {
            tracing::info!("told to end before it was part of its cluster");
            return Ok(ExitKind::Done);
        }
        let mut host = site.host(Speaker::Control(identity.instance), args)?;
        host.cluster = Some(identity.cluster);
        let base = restored.as_ref().map_or(Epoch(0), |restored| restored.epoch);
        let redo = LogIdentity {
            cluster: view.cluster,
            node: identity.instance.node,
            generation: view.restart_generation,
            shards: site.config.shards,
            base,
            joined: view.joins(identity.instance.node),
        };
        let redo = (!args.volatile).then_some(redo);
        let shards = shards(identity, site.config.shards, redo, restored.as_mut());
        drop(restored);
        let control = ControlCore::new(ControlOptions {
            instance: identity.instance,
            view,
            mgmt: mgmts(&site.config),
            shards: site.config.shards,
            canary: None,
        });
        let exit = run_node(control, shards, host).map_err(|error| thread_error(&error))?;
        match exit.code {
            // The signal came when it was too late for the cores to heed it.
            exit_code::EXCLUDED | exit_code::AGAIN if site.signals.told_to_end() => {
                tracing::info!("{}; told to end, it does not come back", exit.reason);
                return Ok(ExitKind::Done);
            }
            exit_code::EXCLUDED => tracing::warn!("{}; coming back", exit.reason),
            exit_code::AGAIN => tracing::info!("{}; coming back", exit.reason),
            _ => return ended(exit),
        }
    }
}

fn used_now(home: &Home) -> CliResult<bool> {
    Ok(home.stored::<StoredIdentity>()?.is_some())
}

fn mgmts(config: &DataConfig) -> Vec<(MgmtId, String)> {
    (1..).map(MgmtId).zip(config.mgmt.iter().cloned()).collect()
}

/// Asks for a place in a cluster that is being created.
fn come_new(site: &Site, args: &RunDataArgs) -> CliResult<Option<Seat>> {
    let newcomer = newcomer(&site.config, &site.door, args)?;
    let (home, host) = (&site.home, site.host(Speaker::Newcomer, args)?);
    let (exit, _) = run_single(newcomer, host).map_err(|error| thread_error(&error))?;
    let identity = home.stored::<StoredIdentity>()?;
    ended(exit)?;
    let Some(identity) = identity else { return Ok(None) };
    let view = stored_view(home)?;
    if !view.contains(identity.instance) {
        // It has a seat, and comes to its cluster like one that was here before.
        return Ok(None);
    }
    Ok(Some(Seat { identity, view, restored: None }))
}

fn stored_view(home: &Home) -> CliResult<View> {
    home.stored::<View>()?.ok_or_else(|| {
        CliError::new(Trouble::File, "the directory has an identity but no view")
            .then("start the node anew on an empty directory")
    })
}

/// Finds the cluster again that this directory is part of, as a new life of its node.
fn come_back(site: &Site, args: &RunDataArgs) -> CliResult<Option<Seat>> {
    let Site { door, home, config, .. } = site;
    let identity = home.next_life()?;
    let view = stored_view(home)?;
    let node = identity.instance.node;
    let group = view.member(node).map(|member| member.group);
    let Some(group) = group.or_else(|| view.roster.seat(node).map(|seat| seat.group)) else {
        let what = format!("the newest view in {} does not have {node}", home.dir().display());
        return Err(CliError::new(Trouble::File, what).then("start it on an empty directory"));
    };
    let member = Member {
        instance: identity.instance,
        group,
        zone: config.zone.clone(),
        addr: door.addr.clone(),
        shards: config.shards,
        seniority: 0,
        standing: Standing::Copying,
    };
    tracing::info!("{} is back, looking for cluster {}", identity.instance, identity.cluster);
    let place = (node, member.group);
    let recoverer = FileRecoverer::new(home.dir(), &view, place, config.shards);
    let recoverer = Arc::new(recoverer.forced(args.force_start));
    let core = RestartCore::new(RestartOptions {
        member,
        view,
        mgmt: mgmts(config),
        patience: PATIENCE,
        force: args.force_start,
        canary: None,
    });
    let mut host = site.host(Speaker::Control(identity.instance), args)?;
    host.cluster = Some(identity.cluster);
    host.recoverer = Some(recoverer.clone());
    let (exit, _) = run_single(core, host).map_err(|error| thread_error(&error))?;
    ended(exit)?;
    let view = stored_view(home)?;
    if !view.contains(identity.instance) {
        return Ok(None);
    }
    let restored = recoverer.take()?;
    let in_sync = view.member(node).is_some_and(|member| member.standing == Standing::InSync);
    if in_sync && restored.is_none() && last_cut(&view) > Epoch(0) {
        return Err(CliError::new(Trouble::Process, "what was restored has gone astray")
            .why(format!("{node} is in sync in view {}, and has no rows", view.number))
            .then("start it again"));
    }
    Ok(Some(Seat { identity, view, restored }))
}

fn newcomer(config: &DataConfig, door: &Door, args: &RunDataArgs) -> CliResult<NewcomerCore> {
    let process = u64::try_from(random()? >> 64).expect("half of the bits");
    let options = NewcomerOptions {
        mgmts: mgmts(config),
        newcomer: Newcomer {
            addr: door.addr.clone(),
            zone: config.zone.clone(),
            shards: config.shards,
            process,
            wanted: config.id,
            group: config.group,
        },
    };
    tracing::info!("asking for a place in the cluster of {}", config.mgmt.join(", "));
    if !args.peers.is_empty() {
        tracing::info!("other addresses for {} peers", args.peers.len());
    }
    Ok(NewcomerCore::new(options))
}

impl Site {
    /// What the next core or cores of the process run with.
    fn host(&self, speaker: Speaker, args: &RunDataArgs) -> CliResult<HostOptions> {
        let mut host = HostOptions::new(self.door.take()?, self.home.dir().to_owned(), speaker);
        host.peer_addrs = args.peers.clone();
        host.signals = Some(Arc::clone(&self.signals));
        host.cores = Arc::clone(&self.admin.cores);
        host.counters = Arc::clone(&self.admin.counters);
        Ok(host)
    }
}

/// The shard cores; they share the node's memory evenly.
fn shards(
    identity: StoredIdentity,
    count: u16,
    redo: Option<LogIdentity>,
    mut restored: Option<&mut Restored>,
) -> Vec<ShardCore> {
    let boot_ms = clock::now().0 / 1_000_000;
    let wall_offset_ms = clock::wall_ms().saturating_sub(boot_ms);
    let shard = |shard: u16| {
        let core = ShardCore::new(ShardOptions {
            instance: identity.instance,
            shard: ShardId(shard),
            shards: count,
            wall_offset_ms,
            redo,
            kept_max: KEPT_BYTES_MAX,
            canary: None,
        });
        match &mut restored {
            Some(restored) => core.with_restored(restored.take_shard(ShardId(shard), count)),
            None => core,
        }
    };
    (0..count).map(shard).collect()
}
