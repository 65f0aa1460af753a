//! The admin port of every process: how it is, for monitors and for people with `curl`.
//!
//! * [`snapshot`]: what the process knows about itself now;
//! * [`metrics`]: the table of metrics, and its page;
//! * `pages`: probes and `/status.json`;
//! * `http`: serving them;
//! * [`ask`]: getting a page, for commands and tests;
//! * [`process`]: what the kernel knows.
//!
//! Invariants: a page tells what this process knows and asks no other; it is made on a thread of
//! its own, when somebody wants it; a core is asked at most once at a time and otherwise does not
//! know that there is an admin port.

pub mod ask;
mod http;
pub mod metrics;
mod pages;
pub mod process;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use lockstep_runtime::{Cores, Counters};

use crate::cli::error::{CliError, CliResult, Trouble};
use snapshot::{Kind, Source, StandIn};
use tokio::sync::watch;

/// A process's admin port, and what it tells of.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens; `None` if it is switched off.
    pub addr: Option<SocketAddr>,
    /// To be filled by the hosts of the process's cores.
    pub cores: Arc<Cores>,
    /// The same.
    pub counters: Arc<Counters>,
    /// To be told by a stand-in arbitrator, which has no cores.
    pub stand_in: watch::Sender<Option<StandIn>>,
}

impl Admin {
    /// Listens at `listen`, if that is anything, and serves on a thread of its own until the
    /// process ends.
    ///
    /// # Errors
    /// If it cannot listen there, or the thread cannot be started.
    pub fn open(listen: Option<&str>, kind: Kind) -> CliResult<Self> {
        let (cores, counters) = (Arc::default(), Arc::default());
        let (stand_in, told) = watch::channel(None);
        let Some(listen) = listen else {
            return Ok(Self { addr: None, cores, counters, stand_in });
        };
        let refused = |error: std::io::Error| {
            CliError::new(Trouble::Process, format!("cannot listen at {listen}, the admin port"))
                .why(error.to_string())
                .then("choose another address with --admin; port 0 takes any free one, off none")
        };
        let addrs: Vec<SocketAddr> = listen.to_socket_addrs().map_err(refused)?.collect();
        let listener = TcpListener::bind(&addrs[..]).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let source = Source::new(kind, Arc::clone(&cores), Arc::clone(&counters), told);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(refused)?;
        let serve = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => http::serve(listener, Arc::new(source)).await,
                    Err(error) => tracing::error!("there is no admin port: {error}"),
                }
            });
        };
        std::thread::Builder::new().name("admin".into()).spawn(serve).map_err(refused)?;
        tracing::info!("admin port at http://{addr}");
        Ok(Self { addr: Some(addr), cores, counters, stand_in })
    }
}
