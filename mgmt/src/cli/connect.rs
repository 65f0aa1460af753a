//! Which cluster a command speaks to, and what its errors become.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::core::{Call, Outcome, ReadFrom};
use lockstep_client::{Client, Error};
use lockstep_proto::durability::DiskState;
use lockstep_proto::ids::{Epoch, SchemaVersion, ShardId};
use lockstep_proto::schema::CATALOG;
use lockstep_proto::view::View;
use lockstep_proto::wire::client::DiskStatus;

use super::Global;
use super::error::{CliError, CliResult, Trouble};
use crate::dev::state::StateDir;

/// How long one data node may take to tell its status.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at the view, which the client library keeps up to date.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What serves a partition is asked for one row only.
const PROBE_ROWS_MAX: u32 = 1;

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let number = error.code();
        let text = error.to_string();
        let what = text.strip_prefix(&format!("{number}: ")).unwrap_or(&text).to_owned();
        let told = Self::from_code(error.error_code(), what);
        let retryable = error.is_retryable();
        let told = Self { retryable, ..told };
        match (error.hint(), error.outcome()) {
            (_, Outcome::Unknown) => told.then("read the rows before trying again"),
            (Some(hint), _) => told.then(hint),
            (None, _) => told,
        }
    }
}

/// The URL in use: `--url` or `LOCKSTEP_URL`, else the running dev cluster's.
///
/// # Errors
/// If there is none.
pub fn url(global: &Global) -> CliResult<String> {
    if let Some(url) = &global.url {
        return Ok(url.clone());
    }
    let none = || {
        CliError::new(Trouble::NoCluster, "no cluster is named and no dev cluster is running")
            .then("start one with `lockstep dev start`, or name one: `--url lockstep://host:port`")
    };
    let home = StateDir::of_user().map_err(|_| none())?;
    let state = home.load().map_err(|e| CliError::file("read", &home.file(), &e))?;
    let state = state.ok_or_else(none)?;
    if state.is_alive() {
        return Ok(state.url_now());
    }
    Err(CliError::new(Trouble::NoCluster, "all processes of the dev cluster are gone")
        .then("start them again: `lockstep dev revive --all`; or forget it: `lockstep dev stop`"))
}

/// Connects to the cluster in use.
///
/// # Errors
/// If there is none, or it cannot be reached within `--timeout`.
pub async fn client(global: &Global) -> CliResult<Client> {
    connect(&url(global)?, global.timeout).await
}

/// Connects to a cluster; calls get `timeout` as their deadline.
///
/// # Errors
/// If it cannot be reached within `timeout`.
pub async fn connect(url: &str, timeout: Duration) -> CliResult<Client> {
    let client = Client::at(url).deadline(timeout).name("lockstep-cli").connect().await;
    client.map_err(|error| {
        let error = CliError::from(error);
        CliError { what: format!("cannot reach a cluster at {url}"), why: error.what, ..error }
    })
}

/// The newest view that a data node acts in. What management servers hand out follows it some
/// milliseconds later, and a command must see what the one before it has done.
///
/// # Errors
/// Those of the library.
pub async fn newest_view(client: &Client) -> CliResult<Arc<View>> {
    let view = client.view().await?;
    for member in view.in_sync() {
        let asked = client.status(member.instance.node, ShardId(0));
        let Ok(Ok(status)) = tokio::time::timeout(ASK_WITHIN, asked).await else { continue };
        let deadline = Instant::now() + ASK_WITHIN;
        loop {
            let view = client.view().await?;
            if view.number >= status.view || Instant::now() >= deadline {
                return Ok(view);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(client.view().await?)
}

/// Waits until every partition of a cluster answers at its primary, and its logs have begun.
///
/// # Errors
/// If it does not within `timeout`.
pub async fn wait_until_serving(url: &str, timeout: Duration) -> CliResult<Arc<View>> {
    let started = Instant::now();
    let client = connect(url, timeout).await?;
    for partition in client.partitions() {
        let probe = Call::Scan {
            table: CATALOG,
            schema: SchemaVersion(1),
            partition,
            from: ReadFrom::Primary,
            after: Vec::new(),
            rows_max: PROBE_ROWS_MAX,
            at: None,
        };
        client.call(probe).await.map_err(|error| {
            let waited = started.elapsed().as_secs_f32();
            CliError::new(Trouble::TimedOut, "the cluster does not serve")
                .why(format!("{error} for {partition}, after {waited:.1} s"))
                .then("read the logs of its processes")
        })?;
    }
    let view = client.view().await?;
    wait_for_logs(&client, &view, started + timeout).await;
    Ok(view)
}

/// Waits until something of every redo log is on disk: from then on a cluster that has just been
/// made can be started again. Not for nodes that have gone or whose disks are in trouble.
async fn wait_for_logs(client: &Client, view: &View, until: Instant) {
    let begun = |disk: DiskStatus| disk.durable > Epoch(0) || disk.state != DiskState::Well;
    for member in view.in_sync() {
        for shard in (0..member.shards).map(ShardId) {
            while let Ok(status) = client.status(member.instance.node, shard).await
                && !status.disk.is_none_or(begun)
                && Instant::now() < until
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}
