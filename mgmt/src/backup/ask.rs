//! A word with a management server: one connection, one question at a time.

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

/// The management servers of a cluster that can be reached, the first of its list first.
///
/// # Errors
/// If there is none.
pub async fn servers(client: &Client) -> CliResult<Vec<Server>> {
    let view = client.view().await?;
    let mut servers = Vec::new();
    let mut why = "the cluster names none".to_owned();
    for arbitrator in &view.arbitrators_possible {
        let Arbitrator::Mgmt { id, addr } = arbitrator else { continue };
        match tokio::time::timeout(PATIENCE, Server::connect(*id, addr)).await {
            Ok(Ok(server)) => servers.push(server),
            Ok(Err(error)) => why = format!("{id} at {addr}: {error}"),
            Err(_) => why = format!("{id} at {addr} does not answer"),
        }
    }
    if servers.is_empty() {
        let error = CliError::new(Trouble::NoCluster, "no management server can be reached");
        let error = CliError { exit: ExitKind::Unreachable, retryable: true, ..error };
        return Err(error.why(why).then("backups wait for one: start it again"));
    }
    Ok(servers)
}

/// All backups that any management server knows, with who knows them, oldest first.
///
/// # Errors
/// If none answers.
pub async fn list(client: &Client) -> CliResult<Vec<(MgmtId, BackupRecord)>> {
    let mut all = Vec::new();
    for mut server in servers(client).await? {
        let list = server.list().await?;
        all.extend(list.into_iter().map(|record| (server.id, record)));
    }
    all.sort_by_key(|(_, record)| record.backup);
    Ok(all)
}

/// The management server that knows a backup, and what it knows.
///
/// # Errors
/// If none does.
pub async fn find(client: &Client, backup: BackupId) -> CliResult<(Server, BackupRecord)> {
    for mut server in servers(client).await? {
        let list = server.list().await?;
        if let Some(record) = list.into_iter().find(|record| record.backup == backup) {
            return Ok((server, record));
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
    async fn connect(id: MgmtId, addr: &str) -> Result<Self, String> {
        let mut stream = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
        let (from, to) = (Speaker::Client, Wanted::Mgmt(id));
        let hello = Hello { magic: MAGIC, version: WIRE_VERSION, cluster: None, from, to };
        let mut buffer = BytesMut::new();
        codec::frame_cold(&mut buffer, kind::HELLO, &hello);
        stream.write_all(&buffer).await.map_err(|error| error.to_string())?;
        let frame = receive(&mut stream).await.map_err(|error| error.to_string())?;
        match frame.split_first().map(|(_, body)| codec::decode::<Welcome>(body)) {
            Some(Ok(Welcome::Accepted { .. })) => Ok(Self { id, stream }),
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
