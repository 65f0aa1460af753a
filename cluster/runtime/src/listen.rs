//! The listening port of one operating-system process: accepts, shakes hands, and hands the socket
//! to the thread of the core that is wanted.
//!
//! A newcomer on the port costs one short task with a deadline; an established link costs none.

use std::io;
use std::sync::Arc;

use lockstep_proto::ids::{ClusterId, MgmtId, NodeInstance};
use lockstep_proto::wire::codec;
use lockstep_proto::wire::hello::{Hello, MAGIC, Refusal, Speaker, WIRE_VERSION, Wanted, Welcome};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::{Count, Counters};
use crate::handshake;
use crate::host::AbortOnPanic;
use crate::limits::{
    ACCEPT_BACK_OFF, CLIENT_UNACKNOWLEDGED_MAX, HANDSHAKES_MAX, HELLO_TIME_MAX, KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL, UNACKNOWLEDGED_MAX,
};
use crate::link::reset_on_drop;
use crate::ready::{Notice, ReadyQueue};

/// The cores behind a port.
pub(crate) enum Doors {
    /// A data node.
    Node { instance: NodeInstance, control: Arc<ReadyQueue>, shards: Vec<Arc<ReadyQueue>> },
    /// A management server.
    Mgmt { id: MgmtId, queue: Arc<ReadyQueue> },
    /// A data node that was started again and serves nobody yet: only others that came back find
    /// it.
    Returned { instance: NodeInstance, queue: Arc<ReadyQueue> },
    /// Nobody yet: everybody is asked to come back.
    Closed,
}

/// Everything the accept loop needs.
pub(crate) struct Listener {
    pub(crate) doors: Doors,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) handshakes: Arc<Semaphore>,
}

type Refused = (Refusal, String);

impl Listener {
    pub(crate) fn new(
        doors: Doors,
        cluster: Option<ClusterId>,
        counters: Arc<Counters>,
        connections_max: usize,
    ) -> Self {
        let connections = Arc::new(Semaphore::new(connections_max));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Self { doors, cluster, counters, connections, handshakes }
    }

    /// Accepts for ever.
    pub(crate) async fn run(self: Arc<Self>, socket: TcpListener) {
        let _abort = AbortOnPanic;
        loop {
            match socket.accept().await {
                Ok((stream, _from)) => self.on_accepted(stream),
                Err(error) => {
                    self.counters.add(Count::AcceptFailed, || format!("accept failed: {error}"));
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }

    fn on_accepted(self: &Arc<Self>, stream: TcpStream) {
        let place = Arc::clone(&self.handshakes).try_acquire_owned();
        let permit = Arc::clone(&self.connections).try_acquire_owned();
        let (Ok(place), Ok(permit)) = (place, permit) else {
            self.counters.add(Count::ConnectionsFull, || "too many connections".into());
            reset_on_drop(&stream);
            return;
        };
        let listener = Arc::clone(self);
        tokio::spawn(async move {
            let _abort = AbortOnPanic;
            listener.meet(stream, permit).await;
            drop(place);
        });
    }

    async fn meet(&self, mut stream: TcpStream, permit: OwnedSemaphorePermit) {
        let first = tokio::time::timeout(HELLO_TIME_MAX, handshake::receive(&mut stream)).await;
        let body = match first {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                let count = Count::HelloMalformed;
                self.counters.add(count, || format!("closed a connection without hello: {error}"));
                return reset_on_drop(&stream);
            }
            Err(_late) => {
                let count = Count::HelloLate;
                self.counters.add(count, || "closed a connection that sent no hello".into());
                return reset_on_drop(&stream);
            }
        };
        let Some(hello) = self.parse(&body) else {
            let count = Count::HelloMalformed;
            self.counters.add(count, || "closed a connection that sent garbage".into());
            return reset_on_drop(&stream);
        };
        match hello.and_then(|hello| self.admit(&hello).map(|(queue, by)| (hello, queue, by))) {
            Ok((hello, queue, by)) => {
                let welcome = Welcome::Accepted { cluster: self.cluster, by };
                if let Err(error) = self.hand_over(stream, &welcome, &hello, queue, permit).await {
                    tracing::debug!("a connection ended in its handshake: {error}");
                }
            }
            Err((reason, text)) => {
                self.counters.add(Count::HelloRefused, || format!("refused a hello: {text}"));
                // An orderly end, so that the words arrive; no link exists that it could end.
                let refusal = Welcome::Refused { reason, text };
                let _gone = handshake::send(&mut stream, &refusal).await;
            }
        }
    }

    /// `None` for what no version of this language would send.
    fn parse(&self, body: &[u8]) -> Option<Result<Hello, Refused>> {
        let (magic, version) = codec::decode_front::<([u8; 4], u16)>(body).ok()?;
        if magic != MAGIC {
            return None;
        }
        if version != WIRE_VERSION {
            let text = format!(
                "this process speaks version {WIRE_VERSION} of the wire language, not {version}: \
                 use the same release of Lockstep on both sides"
            );
            return Some(Err((Refusal::WrongVersion, text)));
        }
        let hello: Hello = codec::decode(body).ok()?;
        match (self.cluster, hello.cluster) {
            (Some(own), Some(other)) if own != other => {
                let text = format!("this is cluster {own}, not {other}: check the address");
                Some(Err((Refusal::WrongCluster, text)))
            }
            _ => Some(Ok(hello)),
        }
    }

    /// Finds the wanted core.
    fn admit(&self, hello: &Hello) -> Result<(Arc<ReadyQueue>, Speaker), Refused> {
        match &self.doors {
            Doors::Closed => {
                let text = "this process is still starting: try again".into();
                Err((Refusal::Unavailable, text))
            }
            Doors::Returned { instance, queue } => match hello.to {
                Wanted::Node(node)
                    if node == instance.node && matches!(hello.from, Speaker::Control(_)) =>
                {
                    Ok((Arc::clone(queue), Speaker::Control(*instance)))
                }
                Wanted::Control(wanted) | Wanted::Watch(wanted) | Wanted::Shard(wanted, _)
                    if wanted.node == instance.node
                        && wanted.incarnation < instance.incarnation =>
                {
                    let text = format!("{wanted} is gone, {instance} is starting: try again");
                    Err((Refusal::LaterIncarnation, text))
                }
                _ => {
                    let text = format!("data node {instance} is still starting: try again");
                    Err((Refusal::Unavailable, text))
                }
            },
            Doors::Mgmt { id, queue } => match hello.to {
                Wanted::Any => Ok((Arc::clone(queue), Speaker::Mgmt(*id))),
                Wanted::Mgmt(wanted) if wanted == *id => {
                    Ok((Arc::clone(queue), Speaker::Mgmt(*id)))
                }
                _ => {
                    let text = format!("management server {id} listens here: check the address");
                    Err((Refusal::WrongNode, text))
                }
            },
            Doors::Node { instance, control, shards } => {
                admit_to_node(*instance, control, shards, hello)
            }
        }
    }

    async fn hand_over(
        &self,
        mut stream: TcpStream,
        welcome: &Welcome,
        hello: &Hello,
        queue: Arc<ReadyQueue>,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        if hello.from == Speaker::Client {
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(KEEPALIVE_IDLE)
                .with_interval(KEEPALIVE_INTERVAL);
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(CLIENT_UNACKNOWLEDGED_MAX))?;
        } else {
            socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        }
        handshake::send(&mut stream, welcome).await?;
        let peer = handshake::peer_of(hello.from);
        queue.post(Notice::Accepted { stream: stream.into_std()?, peer, permit });
        Ok(())
    }
}

fn admit_to_node(
    own: NodeInstance,
    control: &Arc<ReadyQueue>,
    shards: &[Arc<ReadyQueue>],
    hello: &Hello,
) -> Result<(Arc<ReadyQueue>, Speaker), Refused> {
    let from_watch = matches!(hello.from, Speaker::Watch(_));
    if from_watch != matches!(hello.to, Wanted::Watch(_)) {
        return Err((Refusal::WrongNode, "a death-watch joins two death-watches only".into()));
    }
    let shard = |index: u16| shards.get(usize::from(index)).map(Arc::clone);
    let wrong = || (Refusal::WrongNode, format!("data node {own} listens here: ask for the view"));
    match hello.to {
        Wanted::Any if hello.from == Speaker::Client => {
            let by = Speaker::Shard(own, lockstep_proto::ids::ShardId(0));
            shard(0).map(|queue| (queue, by)).ok_or_else(wrong)
        }
        Wanted::Any => Ok((Arc::clone(control), Speaker::Control(own))),
        Wanted::Control(wanted) | Wanted::Watch(wanted) | Wanted::Shard(wanted, _)
            if wanted.node == own.node && wanted.incarnation < own.incarnation =>
        {
            let text = format!("{wanted} is gone, {own} listens here: ask for the view");
            Err((Refusal::LaterIncarnation, text))
        }
        Wanted::Control(wanted) if wanted == own => {
            Ok((Arc::clone(control), Speaker::Control(own)))
        }
        Wanted::Node(node) if node == own.node => Ok((Arc::clone(control), Speaker::Control(own))),
        Wanted::Watch(wanted) if wanted == own => Ok((Arc::clone(control), Speaker::Watch(own))),
        Wanted::Shard(wanted, index) if wanted == own => {
            shard(index.0).map(|queue| (queue, Speaker::Shard(own, index))).ok_or_else(wrong)
        }
        Wanted::Control(_)
        | Wanted::Watch(_)
        | Wanted::Shard(..)
        | Wanted::Node(_)
        | Wanted::Mgmt(_) => Err(wrong()),
    }
}
