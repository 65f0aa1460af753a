//! The first frame either way on every connection, before a core hears of it. Knows who speaks and
//! who is wanted; nothing about what they will say.

use std::io;

use bytes::BytesMut;
use lockstep_proto::process::{Peer, Target};
use lockstep_proto::wire::codec;
use lockstep_proto::wire::hello::{Speaker, Wanted};
use lockstep_proto::wire::kind;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::PREFIX_BYTES;
use crate::limits::HELLO_BYTES_MAX;

/// Writes one handshake frame.
pub(crate) async fn send<T: Serialize>(stream: &mut TcpStream, message: &T) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    codec::frame_cold(&mut buffer, kind::HELLO, message);
    stream.write_all(&buffer).await
}

/// Reads one handshake frame and not a byte more: what follows belongs to the core.
pub(crate) async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let length = u32::from_le_bytes(prefix) as usize;
    if !(2..=HELLO_BYTES_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if body.remove(0) != kind::HELLO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(body)
}

/// What a hello says is at the speaker's end.
pub(crate) fn peer_of(speaker: Speaker) -> Peer {
    match speaker {
        Speaker::Control(instance) => Peer::Control(instance),
        Speaker::Watch(instance) => Peer::Watch(instance),
        Speaker::Shard(instance, shard) => Peer::Shard(instance, shard),
        Speaker::Mgmt(id) => Peer::Mgmt(id),
        Speaker::Newcomer => Peer::Newcomer,
        Speaker::Client => Peer::Client,
    }
}

/// Whom a hello asks for when a core dials `target`.
pub(crate) fn wanted_of(target: &Target) -> Wanted {
    match *target {
        Target::Control(instance) => Wanted::Control(instance),
        Target::Watch(instance) => Wanted::Watch(instance),
        Target::Shard(instance, shard) => Wanted::Shard(instance, shard),
        Target::Node(node) => Wanted::Node(node),
        Target::Mgmt(id) => Wanted::Mgmt(id),
        Target::Any => Wanted::Any,
    }
}

/// As whom a core speaks when it dials: the control core keeps the death-watch, too.
pub(crate) fn speaker_for(own: Speaker, target: &Target) -> Speaker {
    match (own, target) {
        (Speaker::Control(instance), Target::Watch(_)) => Speaker::Watch(instance),
        _ => own,
    }
}

/// Whether the answerer is the one that was wanted.
pub(crate) fn is_wanted(wanted: Wanted, by: Speaker) -> bool {
    match wanted {
        Wanted::Control(instance) => by == Speaker::Control(instance),
        Wanted::Watch(instance) => by == Speaker::Watch(instance),
        Wanted::Shard(instance, shard) => by == Speaker::Shard(instance, shard),
        Wanted::Node(node) => matches!(by, Speaker::Control(life) if life.node == node),
        Wanted::Mgmt(id) => by == Speaker::Mgmt(id),
        Wanted::Any => !matches!(by, Speaker::Newcomer | Speaker::Client | Speaker::Watch(_)),
    }
}
