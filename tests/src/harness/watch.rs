//! Watching views like the simplest client there is: one blocking socket, no library.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lockstep_proto::view::View;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted, Welcome};
use lockstep_proto::wire::{codec, kind};

use super::wait::PATIENCE;

/// A connection on which views arrive.
#[derive(Debug)]
pub struct ViewWatch {
    stream: TcpStream,
}

impl ViewWatch {
    /// Asks the process at `addr` for its views.
    ///
    /// # Errors
    /// When it cannot be reached or does not welcome clients.
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let mut watch = Self { stream };
        let hello = Hello {
            magic: MAGIC,
            version: WIRE_VERSION,
            cluster: None,
            from: Speaker::Client,
            to: Wanted::Any,
        };
        let mut frames = BytesMut::new();
        codec::frame_cold(&mut frames, kind::HELLO, &hello);
        watch.stream.write_all(&frames)?;
        watch.stream.set_read_timeout(Some(PATIENCE))?;
        let welcome = watch.read_frame()?;
        match codec::decode(&welcome[1..]).map_err(io::Error::other)? {
            Welcome::Accepted { .. } => {}
            Welcome::Refused { text, .. } => return Err(io::Error::other(text)),
        }
        let mut frames = BytesMut::new();
        codec::frame_cold(&mut frames, kind::CLIENT, &ClientMessage::WatchView);
        watch.stream.write_all(&frames)?;
        Ok(watch)
    }

    /// The next view for which `wanted` holds, and how long it took.
    ///
    /// # Panics
    /// When it does not come in time.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&View) -> bool) -> (View, Duration) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let frame = self.read_frame().unwrap_or_else(|e| panic!("waiting for {what}: {e}"));
            let message = codec::decode(&frame[1..]).expect("a well-formed message");
            if let ClientMessage::View { view } = message
                && wanted(&view)
            {
                return (*view, start.elapsed());
            }
        }
        panic!("waited {PATIENCE:?} in vain for {what}");
    }

    fn read_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let mut frame = vec![0; u32::from_le_bytes(prefix) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }
}
