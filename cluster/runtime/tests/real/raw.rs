//! The other end of a socket, by hand: blocking, byte by byte if need be.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use lockstep_proto::ids::ClusterId;
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::{codec, kind};

/// Connects; reads fail after a time that no test should need.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A hello of this version.
pub(crate) fn hello(from: Speaker, to: Wanted, cluster: Option<ClusterId>) -> Hello {
    Hello { magic: MAGIC, version: WIRE_VERSION, cluster, from, to }
}

/// Says hello and returns the answer.
pub(crate) fn greet(stream: &mut TcpStream, hello: &Hello) -> Welcome {
    let mut buffer = BytesMut::new();
    codec::frame_cold(&mut buffer, kind::HELLO, hello);
    stream.write_all(&buffer).unwrap();
    let body = read_frame(stream).unwrap();
    assert_eq!(body[0], kind::HELLO);
    codec::decode(&body[1..]).unwrap()
}

/// An accepted link.
pub(crate) fn link(addr: SocketAddr, from: Speaker, to: Wanted) -> TcpStream {
    let mut stream = connect(addr);
    let welcome = greet(&mut stream, &hello(from, to, None));
    assert!(matches!(welcome, Welcome::Accepted { .. }), "{welcome:?}");
    stream
}

/// One frame as it goes over the wire.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads one whole frame.
pub(crate) fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// How a stream ends, whatever comes before: `Ok` in order, `Err` by reset.
pub(crate) fn end_of(stream: &mut TcpStream) -> io::Result<()> {
    let mut sink = vec![0; 1 << 16];
    while stream.read(&mut sink)? > 0 {}
    Ok(())
}
