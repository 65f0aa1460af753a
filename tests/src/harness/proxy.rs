//! A TCP proxy that spoils connections on purpose: for each direction bytes pass, come late, are
//! held back, or vanish; and all connections can be reset.
//!
//! What a proxy cannot do is die like a process: it ends connections by reset only, so it never
//! forges the orderly end by which nodes know that a peer's process is dead. Clusters behind
//! proxies still run with `peer_death = never`, because a killed node's address goes on answering.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{oneshot, watch};

/// What happens to bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flow {
    /// They pass.
    #[default]
    Clear,
    /// They pass this much later.
    Late(Duration),
    /// They wait until the flow is another one; nothing is lost.
    Held,
    /// They vanish. A stream that lost bytes is broken: reset it before it is clear again.
    Lost,
}

/// The state of a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Weather {
    to_target: Flow,
    from_target: Flow,
    /// New connections are reset, and so are those of earlier numbers.
    refusing: bool,
    resets: u64,
    /// `None` until it is known: connections wait for it.
    target: Option<SocketAddr>,
}

/// A proxy before one address. Dropping it resets its connections.
pub struct Proxy {
    addr: SocketAddr,
    weather: watch::Sender<Weather>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy before `target` on a free loopback port.
    ///
    /// # Errors
    /// When there is no port, or no thread.
    pub fn to(target: SocketAddr) -> io::Result<Self> {
        let proxy = Self::unaimed()?;
        proxy.aim(target);
        Ok(proxy)
    }

    /// Starts a proxy whose address can be handed out before its target is known.
    ///
    /// # Errors
    /// When there is no port, or no thread.
    pub fn unaimed() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread =
            std::thread::Builder::new().name(format!("proxy {addr}")).spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, seen) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self { addr, weather, stop: Some(stop), thread: Some(thread) })
    }

    /// Names the target; connections that wait for it go on.
    pub fn aim(&self, target: SocketAddr) {
        self.weather.send_modify(|weather| weather.target = Some(target));
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what happens to bytes on the way to the target.
    pub fn to_target(&self, flow: Flow) {
        self.weather.send_modify(|weather| weather.to_target = flow);
    }

    /// Changes what happens to bytes on the way back.
    pub fn from_target(&self, flow: Flow) {
        self.weather.send_modify(|weather| weather.from_target = flow);
    }

    /// Changes both directions.
    pub fn both(&self, flow: Flow) {
        self.to_target(flow);
        self.from_target(flow);
    }

    /// Resets all connections there are.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// Resets all connections and every new one, until [`Proxy::mend`].
    pub fn refuse(&self) {
        self.weather.send_modify(|weather| {
            weather.refusing = true;
            weather.resets += 1;
        });
    }

    /// Lets bytes and connections pass again. Connections that lost bytes are reset.
    pub fn mend(&self) {
        self.weather.send_modify(|weather| {
            let lossy = [weather.to_target, weather.from_target].contains(&Flow::Lost);
            let resets = weather.resets + u64::from(lossy);
            *weather = Weather { resets, target: weather.target, ..Weather::default() };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the proxy has been printed; a second one here would abort the test.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, weather: watch::Receiver<Weather>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime runs");
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        end_by_reset(&client);
        let mut weather = weather.clone();
        // The task must count from the weather it was born in, or miss a reset before its start.
        let born = *weather.borrow_and_update();
        if !born.refusing {
            tokio::spawn(connect(client, born.resets, weather));
        }
    }
}

async fn connect(client: TcpStream, born: u64, mut weather: watch::Receiver<Weather>) {
    let aimed = weather.wait_for(|weather| weather.target.is_some()).await;
    let Some(target) = aimed.ok().and_then(|weather| weather.target) else { return };
    let Ok(server) = TcpStream::connect(target).await else { return };
    end_by_reset(&server);
    carry(client, server, born, weather).await;
}

/// Dropping the socket sends a reset; it also shall not wait for more bytes before it sends.
fn end_by_reset(socket: &TcpStream) {
    // If the peer is gone already, there is nothing left to end.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    let _ = socket.set_nodelay(true);
}

/// Carries bytes both ways until either side ends or a reset is ordered.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    born: u64,
    weather: watch::Receiver<Weather>,
) {
    let mut resets = weather.clone();
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    tokio::select! {
        // First: not one byte may pass after a reset was ordered.
        biased;
        _ = resets.wait_for(|weather| weather.resets != born) => {}
        () = pump(client_read, server_write, weather.clone(), |weather| weather.to_target) => {}
        () = pump(server_read, client_write, weather, |weather| weather.from_target) => {}
    }
}

/// Carries bytes one way. Ends with the stream.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    flow_of: fn(&Weather) -> Flow,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let passing = weather.wait_for(|weather| flow_of(weather) != Flow::Held).await;
        let Ok(flow) = passing.map(|weather| flow_of(&weather)) else { return };
        if let Flow::Late(delay) = flow {
            tokio::time::sleep(delay).await;
        }
        if flow != Flow::Lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;
    use crate::harness::wait::{PATIENCE, until};

    /// Sends back what it gets, until the stream ends.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(socket.read(&mut byte), Ok(1)) && socket.write(&byte).is_ok() {}
                });
            }
        });
        addr
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let socket = TcpStream::connect(proxy.addr()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn ask(socket: &mut TcpStream, byte: u8) -> io::Result<u8> {
        socket.write_all(&[byte])?;
        answer(socket)
    }

    fn answer(socket: &mut TcpStream) -> io::Result<u8> {
        let mut back = [0];
        socket.read_exact(&mut back)?;
        Ok(back[0])
    }

    /// Whether nothing comes for a little while. Only ever used where a byte would be a failure.
    fn is_silent(socket: &mut TcpStream) -> bool {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let silent = matches!(answer(socket), Err(error) if error.kind() == ErrorKind::WouldBlock);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    #[test]
    fn bytes_pass_late_or_are_held() {
        let proxy = Proxy::to(echo()).unwrap();
        let mut socket = connect(&proxy);
        assert_eq!(ask(&mut socket, 1).unwrap(), 1);
        proxy.to_target(Flow::Late(Duration::from_millis(30)));
        let started = Instant::now();
        assert_eq!(ask(&mut socket, 2).unwrap(), 2);
        assert!(started.elapsed() >= Duration::from_millis(30));
        proxy.both(Flow::Held);
        socket.write_all(&[3]).unwrap();
        assert!(is_silent(&mut socket));
        proxy.mend();
        assert_eq!(answer(&mut socket).unwrap(), 3);
    }

    #[test]
    fn one_direction_can_be_lost_alone() {
        let proxy = Proxy::to(echo()).unwrap();
        let mut socket = connect(&proxy);
        proxy.from_target(Flow::Lost);
        socket.write_all(&[1]).unwrap();
        assert!(is_silent(&mut socket));
        proxy.mend();
        let error = ask(&mut socket, 2).expect_err("the stream had lost a byte");
        assert!(is_reset(&error), "{error}");
        assert_eq!(ask(&mut connect(&proxy), 3).unwrap(), 3);
    }

    #[test]
    fn connections_end_by_reset_only() {
        let proxy = Proxy::to(echo()).unwrap();
        let mut socket = connect(&proxy);
        assert_eq!(ask(&mut socket, 1).unwrap(), 1);
        proxy.reset();
        let error = answer(&mut socket).expect_err("a reset");
        assert!(is_reset(&error), "{error}");
        assert_eq!(ask(&mut connect(&proxy), 2).unwrap(), 2);
        proxy.refuse();
        until("a refused connection", || ask(&mut connect(&proxy), 3).err());
        proxy.mend();
        until("a connection again", || ask(&mut connect(&proxy), 4).ok());
    }

    #[test]
    fn connections_wait_for_the_target() {
        let proxy = Proxy::unaimed().unwrap();
        let mut socket = connect(&proxy);
        socket.write_all(&[1]).unwrap();
        assert!(is_silent(&mut socket));
        proxy.aim(echo());
        assert_eq!(answer(&mut socket).unwrap(), 1);
    }

    #[test]
    fn a_dead_target_looks_like_a_reset_not_like_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).unwrap();
        let mut socket = connect(&proxy);
        let (target, _) = listener.accept().unwrap();
        drop(target);
        let error = answer(&mut socket).expect_err("a reset");
        assert!(is_reset(&error), "{error}");
    }

    fn is_reset(error: &io::Error) -> bool {
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
    }
}
