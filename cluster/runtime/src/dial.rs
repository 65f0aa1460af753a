//! One attempt to reach somebody: connect, hello, welcome; a short-lived task that ends in a
//! notice to the core's reactor.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use lockstep_proto::ids::{ClusterId, NodeId};
use lockstep_proto::process::{DialError, Peer, Target};
use lockstep_proto::wire::codec;
use lockstep_proto::wire::hello::{Hello, MAGIC, Refusal, Speaker, WIRE_VERSION, Welcome};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::handshake;
use crate::limits::{DIAL_TIME_MAX, UNACKNOWLEDGED_MAX};
use crate::link::reset_on_drop;

/// What every dial of one core has in common.
pub(crate) struct Dialler {
    /// As whom the core speaks.
    pub(crate) speaker: Speaker,
    /// The cluster it belongs to; a client learns it from the first who answers.
    pub(crate) cluster: Mutex<Option<ClusterId>>,
    /// Addresses to use instead of those the view names.
    pub(crate) peer_addrs: BTreeMap<NodeId, String>,
}

impl Dialler {
    /// Tries once.
    pub(crate) async fn dial(
        self: Arc<Self>,
        to: &Target,
        addr: &str,
    ) -> Result<(TcpStream, Peer), DialError> {
        let addr = self.override_of(to).unwrap_or(addr);
        let attempt = async {
            let mut stream = connect(addr).await?;
            let answer = self.shake_hands(&mut stream, to).await;
            if answer.is_err() {
                reset_on_drop(&stream);
            }
            answer.map(|peer| (stream, peer))
        };
        match tokio::time::timeout(DIAL_TIME_MAX, attempt).await {
            Ok(result) => result,
            Err(_late) => Err(DialError::Failed),
        }
    }

    async fn shake_hands(&self, stream: &mut TcpStream, to: &Target) -> Result<Peer, DialError> {
        let wanted = handshake::wanted_of(to);
        let hello = Hello {
            magic: MAGIC,
            version: WIRE_VERSION,
            cluster: *self.cluster.lock(),
            from: handshake::speaker_for(self.speaker, to),
            to: wanted,
        };
        let exchange = async {
            handshake::send(stream, &hello).await?;
            handshake::receive(stream).await
        };
        let body = exchange.await.map_err(|_broken| DialError::Failed)?;
        match codec::decode(&body).map_err(|_garbage| DialError::Failed)? {
            Welcome::Accepted { cluster, by } => {
                if !self.is_own_cluster(cluster) {
                    return Err(DialError::WrongCluster);
                }
                if !handshake::is_wanted(wanted, by) {
                    return Err(DialError::Failed);
                }
                Ok(handshake::peer_of(by))
            }
            Welcome::Refused { reason, text } => {
                tracing::info!(?to, ?reason, "dial refused: {text}");
                Err(match reason {
                    Refusal::LaterIncarnation => DialError::LaterIncarnation,
                    Refusal::WrongCluster => DialError::WrongCluster,
                    Refusal::WrongVersion => DialError::WrongVersion,
                    Refusal::WrongNode | Refusal::OldIncarnation | Refusal::Unavailable => {
                        DialError::Failed
                    }
                })
            }
        }
    }

    fn is_own_cluster(&self, other: Option<ClusterId>) -> bool {
        let mut own = self.cluster.lock();
        match (*own, other) {
            (Some(own), Some(other)) => own == other,
            (None, Some(other)) if self.speaker == Speaker::Client => {
                *own = Some(other);
                true
            }
            _ => true,
        }
    }

    fn override_of(&self, to: &Target) -> Option<&str> {
        let node = match to {
            Target::Control(instance) | Target::Watch(instance) | Target::Shard(instance, _) => {
                instance.node
            }
            Target::Node(node) => *node,
            Target::Mgmt(_) | Target::Any => return None,
        };
        self.peer_addrs.get(&node).map(String::as_str)
    }
}

async fn connect(addr: &str) -> Result<TcpStream, DialError> {
    let connected = TcpStream::connect(addr).await.and_then(|stream| {
        // Nobody listens there, but the kernel happened to give our own end that very port.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        Ok(stream)
    });
    connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        _ => DialError::Failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dialled_link_does_not_wait_for_acknowledgements_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let stream = connect(&addr).await.unwrap();
        let limit = socket2::SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(limit, Some(UNACKNOWLEDGED_MAX));
        assert!(stream.nodelay().unwrap());
    }
}
