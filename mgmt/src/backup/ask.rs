//! A word with a management server: one connection, one question at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use lockstep_client::Client;
use lockstep_proto::events::ClusterEvent;
use lockstep_proto::ids::{BackupId, ClusterId, MgmtId};
use lockstep_proto::limits::FRAME_BYTES_MAX;
use lockstep_proto::view::Arbitrator;
use lockstep_proto::wire::backup::{BackupMessage, BackupRecord};
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::codec::frame_cold;
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::{codec, kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cli::error::{CliError, CliResult, Trouble};

/// How long a management server may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// A management server that answers.
pub struct Server {
    /// Which one.
    pub id: MgmtId,
    cluster: ClusterId,
    addr: String,
    stream: TcpStream,
}

/// The management servers of a cluster that can be reached: those that its view names and those
/// among the addresses that the client was given, by number.
///
/// # Errors
/// If there is none.
pub async fn servers(client: &Client) -> CliResult<Vec<Server>> {
    let view = client.view().await?;
    let named = view.arbitrator.iter().chain(&view.arbitrators_possible);
    let mut addrs: Vec<String> = named.filter_map(addr_of_server).collect();
    addrs.extend(client.addresses().iter().cloned());
    addrs.sort_unstable();
    addrs.dedup();
    // All at once: one that is silent costs no more than its own time.
    let mut asked = JoinSet::new();
    for addr in addrs {
        asked.spawn(Server::connect(view.cluster, addr));
    }
    let (mut servers, mut why) = (Vec::new(), Vec::new());
    for one in asked.join_all().await {
        match one {
            Ok(Some(server)) => servers.push(server),
            Ok(None) => {}
            Err(error) => why.push(error),
        }
    }
    why.sort_unstable();
    servers.sort_by_key(|server: &Server| server.id);
    servers.dedup_by_key(|server| server.id);
    if servers.is_empty() {
        let error = CliError::new(Trouble::NoServer, "no management server can be reached");
        let error = CliError { retryable: true, ..error };
        return Err(error
            .why(why.join("; "))
            .then("backups and the event log wait for one: start it again"));
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

fn addr_of_server(arbitrator: &Arbitrator) -> Option<String> {
    match arbitrator {
        Arbitrator::Mgmt { addr, .. } => Some(addr.clone()),
        Arbitrator::Api { .. } => None,
    }
}

fn broken(error: impl std::fmt::Display) -> CliError {
    let error =
        CliError::new(Trouble::NoServer, "a management server broke off").why(error.to_string());
    CliError { retryable: true, ..error }
}

impl Server {
    /// The management server at an address; `None` if a data node is there.
    pub(crate) async fn connect(cluster: ClusterId, addr: String) -> Result<Option<Self>, String> {
        let connected = async {
            let mut stream = TcpStream::connect(&addr).await?;
            let (from, to) = (Speaker::Client, Wanted::Any);
            let cluster = Some(cluster);
            let hello = Hello { magic: MAGIC, version: WIRE_VERSION, cluster, from, to };
            let mut buffer = BytesMut::new();
            frame_cold(&mut buffer, kind::HELLO, &hello);
            stream.write_all(&buffer).await?;
            let frame = receive(&mut stream).await?;
            std::io::Result::Ok((stream, frame))
        };
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        let (stream, frame) = connected
            .map_err(|_| format!("{addr} does not answer"))?
            .map_err(|error| format!("{addr}: {error}"))?;
        match frame.split_first().map(|(_, body)| codec::decode::<Welcome>(body)) {
            Some(Ok(Welcome::Accepted { by: Speaker::Mgmt(id), .. })) => {
                Ok(Some(Self { id, cluster, addr, stream }))
            }
            Some(Ok(Welcome::Accepted { .. })) => Ok(None),
            Some(Ok(Welcome::Refused { text, .. })) => Err(format!("{addr}: {text}")),
            _ => Err(format!("{addr} answers something else")),
        }
    }

    /// Connects anew, after it has been started again perhaps; false if it is not there.
    pub async fn reconnect(&mut self) -> bool {
        match Self::connect(self.cluster, self.addr.clone()).await {
            Ok(Some(server)) if server.id == self.id => {
                *self = server;
                true
            }
            _ => false,
        }
    }

    /// Says something and hands back the answer.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn ask(&mut self, message: &BackupMessage) -> CliResult<BackupMessage> {
        let mut buffer = BytesMut::new();
        frame_cold(&mut buffer, kind::BACKUP, message);
        match self.exchange(&buffer).await?.split_first() {
            Some((&kind::BACKUP, body)) => BackupMessage::parse(body).map_err(broken),
            _ => Err(broken("it says something else")),
        }
    }

    async fn exchange(&mut self, question: &[u8]) -> CliResult<Vec<u8>> {
        let asked = async {
            self.stream.write_all(question).await?;
            receive(&mut self.stream).await
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(broken)?.map_err(broken)
    }

    /// The events after a number in the log of this server.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn events(&mut self, mut after: u64) -> CliResult<Vec<ClusterEvent>> {
        let mut all: Vec<ClusterEvent> = Vec::new();
        loop {
            let mut question = BytesMut::new();
            frame_cold(&mut question, kind::CLIENT, &ClientMessage::GetEvents { after });
            let answer = self.exchange(&question).await?;
            let events = match answer.split_first().map(|(_, body)| codec::decode(body)) {
                Some(Ok(ClientMessage::Events { events })) => events,
                _ => return Err(broken("it says something else")),
            };
            let last = events.last().map_or(after, |event| event.number);
            all.extend(events);
            // Newer ones may push out older ones meanwhile, so the log is asked till its end.
            if last <= after {
                return Ok(all);
            }
            after = last;
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
