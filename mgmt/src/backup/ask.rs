//! A word with a management server: one connection, one question at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use lockstep_client::Client;
use lockstep_proto::ids::{BackupId, MgmtId};
use lockstep_proto::limits::FRAME_BYTES_MAX;
use lockstep_proto::view::Arbitrator;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord};
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::{codec, kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::error::{CliError, CliResult, ExitKind, Trouble};

/// How long a management server may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// A management server that answers.
pub struct Server {
    /// Which one.
    pub id: MgmtId,
    stream: TcpStream,
}

/// The management servers of a cluster that can be reached, those that the view names first; then
/// those that the user has named.
///
/// # Errors
/// If there is none.
pub async fn servers(client: &Client) -> CliResult<Vec<Server>> {
    let view = client.view().await?;
    let named = view.arbitrators_possible.iter().filter_map(|arbitrator| match arbitrator {
        Arbitrator::Mgmt { id, addr } if !id.is_api() => Some(addr),
        _ => None,
    });
    let mut servers: Vec<Server> = Vec::new();
    let mut why = "the cluster names none".to_owned();
    for addr in named.chain(client.addresses()) {
        match tokio::time::timeout(PATIENCE, Server::connect(addr)).await {
            Ok(Ok(Some(server))) if servers.iter().all(|other| other.id != server.id) => {
                servers.push(server);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => why = format!("{addr}: {error}"),
            Err(_) => why = format!("{addr} does not answer"),
        }
    }
    if servers.is_empty() {
        let error = CliError::new(Trouble::NoCluster, "no management server can be reached");
        let error = CliError { exit: ExitKind::Unreachable, retryable: true, ..error };
        return Err(error.why(why).then("backups wait for one: start it again"));
    }
    Ok(servers)
}

/// A backup, and whether the management server it is the business of answers.
pub struct Known {
    /// What is known.
    pub record: BackupRecord,
    /// See there.
    pub answers: bool,
}

/// All backups that any management server knows, oldest first.
///
/// # Errors
/// If none answers.
pub async fn list(client: &Client) -> CliResult<Vec<Known>> {
    let mut all: BTreeMap<BackupId, Known> = BTreeMap::new();
    let mut servers = servers(client).await?;
    let ids: Vec<MgmtId> = servers.iter().map(|server| server.id).collect();
    for server in &mut servers {
        for record in server.list().await? {
            let answers = ids.contains(&record.by);
            // The later one is the true one; of what goes on, its owner knows most.
            let rank = |record: &BackupRecord, from: bool| (record.turn, record.by, from);
            let from = record.by == server.id;
            let known = all.get(&record.backup).map(|known| rank(&known.record, false));
            if known.is_none_or(|known| rank(&record, from) > known) {
                all.insert(record.backup, Known { record, answers });
            }
        }
    }
    Ok(all.into_values().collect())
}

/// The management server to ask about a backup, and what is known: the one whose business it is, or
/// another if that does not answer.
///
/// # Errors
/// If nobody knows it.
pub async fn find(client: &Client, backup: BackupId) -> CliResult<(Server, Known)> {
    let known = list(client).await?.into_iter().find(|known| known.record.backup == backup);
    let mut found = None;
    if let Some(known) = known {
        for mut server in servers(client).await? {
            let of = known.record.by == server.id;
            let knows = server.list().await?.iter().any(|record| record.backup == backup);
            if of || (found.is_none() && knows) {
                found = Some(server);
            }
            if of {
                break;
            }
        }
        if let Some(server) = found {
            return Ok((server, known));
        }
    }
    Err(CliError::new(Trouble::Refused, format!("no management server knows backup {backup}"))
        .then(
            "`lockstep backup list`; a backup made elsewhere is read by `lockstep backup verify`",
        ))
}

fn broken(error: impl std::fmt::Display) -> CliError {
    let error =
        CliError::new(Trouble::NoCluster, "a management server broke off").why(error.to_string());
    CliError { exit: ExitKind::Unreachable, retryable: true, ..error }
}

impl Server {
    /// `None` if somebody else answers there.
    async fn connect(addr: &str) -> Result<Option<Self>, String> {
        let mut stream = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
        let (from, to) = (Speaker::Client, Wanted::Any);
        let hello = Hello { magic: MAGIC, version: WIRE_VERSION, cluster: None, from, to };
        let mut buffer = BytesMut::new();
        codec::frame_cold(&mut buffer, kind::HELLO, &hello);
        stream.write_all(&buffer).await.map_err(|error| error.to_string())?;
        let frame = receive(&mut stream).await.map_err(|error| error.to_string())?;
        match frame.split_first().map(|(_, body)| codec::decode::<Welcome>(body)) {
            Some(Ok(Welcome::Accepted { by: Speaker::Mgmt(id), .. })) => {
                Ok(Some(Self { id, stream }))
            }
            Some(Ok(Welcome::Accepted { .. })) => Ok(None),
            Some(Ok(Welcome::Refused { text, .. })) => Err(text),
            _ => Err("no management server answers there".to_owned()),
        }
    }

    /// Says something and hands back the answer.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn ask(&mut self, message: &BackupMessage) -> CliResult<BackupMessage> {
        let mut buffer = BytesMut::new();
        codec::frame_cold(&mut buffer, kind::BACKUP, message);
        let asked = async {
            self.stream.write_all(&buffer).await?;
            receive(&mut self.stream).await
        };
        let frame = tokio::time::timeout(PATIENCE, asked).await.map_err(broken)?;
        match frame.map_err(broken)?.split_first() {
            Some((&kind::BACKUP, body)) => BackupMessage::parse(body).map_err(broken),
            _ => Err(broken("it says something else")),
        }
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// Why it will not be.
    pub async fn order(&mut self, message: &BackupMessage) -> CliResult {
        match self.ask(message).await? {
            BackupMessage::Done { refused: None, .. } => Ok(()),
            BackupMessage::Done { refused: Some(why), .. } => {
                Err(CliError::new(Trouble::Refused, "the management server refuses").why(why))
            }
            _ => Err(broken("it answers another question")),
        }
    }

    /// The backups this server knows.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn list(&mut self) -> CliResult<Vec<BackupRecord>> {
        match self.ask(&BackupMessage::List).await? {
            BackupMessage::Backups { list } => Ok(list),
            _ => Err(broken("it answers another question")),
        }
    }

    /// What this server knows of a backup.
    ///
    /// # Errors
    /// If it does not answer, or knows nothing.
    pub async fn record(&mut self, backup: BackupId) -> CliResult<BackupRecord> {
        let found = self.list().await?.into_iter().find(|record| record.backup == backup);
        found.ok_or_else(|| broken(format!("it has forgotten backup {backup}")))
    }
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32_le().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}
