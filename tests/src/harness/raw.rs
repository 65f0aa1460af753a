//! A client that speaks the wire language by hand, on one blocking socket: for saying things the
//! library never says, and for looking at answers the library would handle quietly.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use lockstep_proto::ids::ClusterId;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::data::Message;
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::{codec, kind};

use super::wait::PATIENCE;

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// An orderly end of the stream.
    Fin,
    /// A reset.
    Reset,
}

/// One end of a connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
}

impl RawClient {
    /// Connects, and says nothing.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Connects as a client to `wanted`, with a correct handshake.
    ///
    /// # Errors
    /// Those of the socket, or the words of the refusal.
    pub fn welcomed(addr: SocketAddr, wanted: Wanted) -> io::Result<Self> {
        let mut client = Self::connect(addr)?;
        match client.greet(&hello(None, Speaker::Client, wanted))? {
            Welcome::Accepted { .. } => Ok(client),
            Welcome::Refused { text, .. } => Err(io::Error::other(text)),
        }
    }

    /// Says hello and reads the answer.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn greet(&mut self, hello: &Hello) -> io::Result<Welcome> {
        let mut frame = BytesMut::new();
        codec::frame_cold(&mut frame, kind::HELLO, hello);
        self.send(&frame)?;
        let answer = self.frame()?;
        codec::decode(&answer[1..]).map_err(io::Error::other)
    }

    /// Sends a cold message.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn say(&mut self, message: &ClientMessage) -> io::Result<()> {
        let mut frame = BytesMut::new();
        codec::frame_cold(&mut frame, kind::CLIENT, message);
        self.send(&frame)
    }

    /// Sends a hot message.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn ask(&mut self, message: &Message<'_>) -> io::Result<()> {
        let mut frame = BytesMut::new();
        message.encode(&mut frame);
        self.send(&frame)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes if the other side takes them within a moment; `false` if it does not, after
    /// some of them may have left.
    #[must_use]
    pub fn offer(&mut self, bytes: &[u8]) -> bool {
        let moment = Some(Duration::from_millis(200));
        let sent = self.stream.set_write_timeout(moment).and_then(|()| self.send(bytes));
        sent.is_ok()
    }

    /// The next frame: kind byte and body.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let mut frame = vec![0; u32::from_le_bytes(prefix) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// The next frame that comes within `patience`; `None` if none does.
    ///
    /// # Errors
    /// Those of the socket, the end of the stream among them.
    pub fn frame_within(&mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        self.stream.set_read_timeout(Some(patience))?;
        let frame = self.frame();
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match frame {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the other side ends the connection, and says how.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn end(mut self) -> End {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return End::Fin,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => panic!("the connection was not ended"),
                Err(_) => return End::Reset,
            }
        }
    }

    /// Disappears like a killed process behind a broken network: by reset.
    pub fn vanish(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
    }
}

/// A hello of this version.
#[must_use]
pub fn hello(cluster: Option<ClusterId>, from: Speaker, to: Wanted) -> Hello {
    Hello { magic: MAGIC, version: WIRE_VERSION, cluster, from, to }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
