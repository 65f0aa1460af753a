//! `lockstep run data`: one data node, first as a newcomer, then with its identity.

use std::net::TcpListener;

use lockstep_cluster::newcomer::{NewcomerCore, NewcomerOptions};
use lockstep_cluster::{ControlCore, ControlOptions, LogIdentity, ShardCore, ShardOptions};
use lockstep_proto::ids::{Epoch, MgmtId, ShardId};
use lockstep_proto::stored::StoredIdentity;
use lockstep_proto::view::View;
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{HostOptions, clock, run_node, run_single};

use super::args::RunDataArgs;
use super::door::Door;
use super::home::Home;
use super::{begin, config_error, ended, random, settings, thread_error};
use crate::cli::error::{CliError, CliResult, ExitKind, Trouble};
use crate::config::{DATA_KEYS, DataConfig};

/// Runs until it leaves, is excluded, or is told to stop.
///
/// # Errors
/// What is wrong with the configuration, the directory or the port, or why the node gave up.
pub fn run_data(args: &RunDataArgs) -> CliResult<ExitKind> {
    let settings = settings(DATA_KEYS, &args.process, args.flags())?;
    let config = DataConfig::from_settings(&settings).map_err(config_error)?;
    begin(&args.process, &config.place.log)?;
    let home = Home::open(&config.place.dir)?;
    home.refuse_used()?;
    let door = Door::open(&config.place, args.process.ready_file.as_deref())?;
    let newcomer = newcomer(&config, &door, args)?;
    let mut host = host(door.listener, &home, Speaker::Newcomer, args);
    let (exit, listener) = run_single(newcomer, host).map_err(|error| thread_error(&error))?;
    let Some(identity) = home.stored::<StoredIdentity>()? else {
        // It was refused, or stopped before it became anybody.
        return ended(exit);
    };
    ended(exit)?;
    let view = home.stored::<View>()?.ok_or_else(|| {
        CliError::new(Trouble::File, "the directory has an identity but no view")
            .then("start the node anew on an empty directory")
    })?;
    host = self::host(listener, &home, Speaker::Control(identity.instance), args);
    host.cluster = Some(identity.cluster);
    let shards = shards(identity, &view, config.shards);
    let control = ControlCore::new(ControlOptions {
        instance: identity.instance,
        view,
        mgmt: (1..).map(MgmtId).zip(config.mgmt).collect(),
        shards: config.shards,
        canary: None,
    });
    let exit = run_node(control, shards, host).map_err(|error| thread_error(&error))?;
    ended(exit)
}

fn newcomer(config: &DataConfig, door: &Door, args: &RunDataArgs) -> CliResult<NewcomerCore> {
    let first = config.mgmt.first().expect("a configuration without servers is refused");
    let process = u64::try_from(random()? >> 64).expect("half of the bits");
    let options = NewcomerOptions {
        mgmt: (MgmtId(1), first.clone()),
        addr: door.addr.clone(),
        zone: config.zone.clone(),
        shards: config.shards,
        wanted: config.id,
        process,
    };
    tracing::info!("asking m1 at {first} for a place in its cluster");
    if !args.peers.is_empty() {
        tracing::info!("other addresses for {} peers", args.peers.len());
    }
    Ok(NewcomerCore::new(options))
}

fn host(listener: TcpListener, home: &Home, speaker: Speaker, args: &RunDataArgs) -> HostOptions {
    let mut host = HostOptions::new(listener, home.dir().to_owned(), speaker);
    host.peer_addrs = args.peers.clone();
    host.handle_signals = true;
    host
}

/// The shard cores; they share the node's memory evenly.
fn shards(identity: StoredIdentity, view: &View, count: u16) -> Vec<ShardCore> {
    let boot_ms = clock::now().0 / 1_000_000;
    let wall_offset_ms = clock::wall_ms().saturating_sub(boot_ms);
    let redo = LogIdentity {
        cluster: view.cluster,
        node: identity.instance.node,
        generation: view.restart_generation,
        shards: count,
        base: Epoch(0),
    };
    let shard = |shard: u16| {
        ShardCore::new(ShardOptions {
            instance: identity.instance,
            shard: ShardId(shard),
            shards: count,
            data_memory: view.config.data_memory / u64::from(count),
            wall_offset_ms,
            redo: Some(redo),
            canary: None,
        })
    };
    (0..count).map(shard).collect()
}
