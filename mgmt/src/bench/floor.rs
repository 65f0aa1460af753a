//! The floor: what the same journey costs with nobody doing anything on the way.
//!
//! A chain of bare tokio processes passes fixed-size frames along and back: two hops are one
//! process that answers, four hops two processes, six hops three. A frame says how many processes
//! it still has to visit, so that one chain serves a mix. The driver keeps as many frames under way
//! on its one socket as the bench has tasks.
//!
//! Invariant: nothing here knows the protocol; a change there cannot move the floor.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::cpu;
use super::measure::{Latencies, Measured};
use crate::dev::process::{Tie, die_with_parent, log_tail, spawn_self};
use crate::dev::ready;

/// Bytes a commit of one row has on the wire beside key and value: headers and operation.
pub const FRAME_OVERHEAD_BYTES: usize = 64;

/// The word that makes a process a link of the chain instead of the `lockstep` command.
pub const LINK_WORD: &str = "__floor-link";

const READ_BUFFER_BYTES: usize = 64 << 10;
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Frames under way at any time.
    pub tasks: usize,
    /// How long.
    pub time: Duration,
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Processes a write visits; its hops are twice that.
    pub depth_write: u8,
    /// Percentage of frames that are writes; the others visit one process.
    pub write_percent: u8,
}

impl Plan {
    fn depth_of(&self, number: u64) -> u8 {
        // The writes are spread evenly: number × percent crosses a hundred at each write.
        let percent = u64::from(self.write_percent);
        let is_write = (number + 1) * percent / 100 > number * percent / 100;
        if is_write { self.depth_write } else { 1 }
    }
}

/// A running chain of processes; killed when dropped.
pub struct Chain {
    children: Vec<Child>,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Chain {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Already gone is fine; a zombie must not stay.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Chain {
    /// Starts `depth` processes, the last one first, for frames of `frame_bytes`.
    ///
    /// # Errors
    /// If a process does not come up.
    pub fn start(depth: u8, frame_bytes: usize) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut children = Vec::new();
        let mut next: Option<SocketAddr> = None;
        for position in (0..depth.max(1)).rev() {
            let ready = dir.path().join(format!("ready-{position}"));
            let log = dir.path().join(format!("log-{position}"));
            let mut args = vec![
                LINK_WORD.into(),
                ready.clone().into_os_string(),
                frame_bytes.to_string().into(),
            ];
            args.extend(next.map(|addr| addr.to_string().into()));
            children.push(spawn_self(&args, dir.path(), &log, Tie::Child)?);
            let text = ready::wait(&ready, Instant::now() + START_TIMEOUT, || true)
                .map_err(|e| io::Error::other(format!("{e}: {}", log_tail(&log, 3))))?;
            next = Some(text.trim().parse().map_err(io::Error::other)?);
        }
        let addr = next.expect("at least one process was started");
        Ok(Self { children, addr, _dir: dir })
    }

    fn cpu(&self) -> io::Result<Duration> {
        self.children.iter().map(|child| cpu::of(child.id().cast_signed())).sum()
    }

    /// Sends frames that visit `depth` processes, one after the other; returns how long all took.
    ///
    /// # Errors
    /// Those of the sockets.
    pub async fn ping(&self, depth: u8, frame_bytes: usize, count: u64) -> io::Result<Duration> {
        let (time, write_percent) = (Duration::ZERO, 100);
        let plan = Plan { tasks: 1, time, frame_bytes, depth_write: depth, write_percent };
        let mut driver = Driver::connect(self.addr, plan).await?;
        let started = Instant::now();
        for _ in 0..count {
            driver.drive(Duration::ZERO).await?;
        }
        Ok(started.elapsed())
    }

    /// Drives frames through the chain.
    ///
    /// # Errors
    /// Those of the sockets.
    pub async fn run(&self, plan: &Plan) -> io::Result<Measured> {
        let mut driver = Driver::connect(self.addr, *plan).await?;
        driver.drive(plan.time / 10).await?;
        driver.latencies = Latencies::default();
        let cpu_before = self.cpu()? + cpu::own()?;
        let started = Instant::now();
        driver.drive(plan.time).await?;
        let time = started.elapsed();
        let cpu = (self.cpu()? + cpu::own()?).saturating_sub(cpu_before);
        let (ops, latencies) = (driver.latencies.count(), driver.latencies);
        Ok(Measured { ops, time, latencies, cpu: Some(cpu) })
    }
}

/// The client end: a window of frames under way.
struct Driver {
    stream: TcpStream,
    plan: Plan,
    sent_at: Vec<Instant>,
    next: u64,
    latencies: Latencies,
}

impl Driver {
    async fn connect(addr: SocketAddr, plan: Plan) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let sent_at = vec![Instant::now(); plan.tasks];
        Ok(Self { stream, plan, sent_at, next: 0, latencies: Latencies::default() })
    }

    /// Keeps the window full for `time`, then lets it run empty.
    async fn drive(&mut self, time: Duration) -> io::Result<()> {
        let frame_bytes = self.plan.frame_bytes;
        let deadline = Instant::now() + time;
        let mut out = Vec::with_capacity(self.plan.tasks * frame_bytes);
        (0..self.plan.tasks).for_each(|task| self.push_frame(task, &mut out));
        let mut under_way = self.plan.tasks;
        let mut inbox = Inbox::new(frame_bytes);
        while under_way > 0 {
            if !out.is_empty() {
                self.stream.write_all(&out).await?;
                out.clear();
            }
            inbox.fill(&mut self.stream).await?;
            let now = Instant::now();
            for frame in inbox.whole().chunks_exact(frame_bytes) {
                let number = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
                let task = number as usize;
                self.latencies.record(now - self.sent_at[task]);
                if now < deadline {
                    self.push_frame(task, &mut out);
                } else {
                    under_way -= 1;
                }
            }
            inbox.consume();
        }
        Ok(())
    }

    fn push_frame(&mut self, task: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.plan.frame_bytes, 0x5a);
        out[start] = self.plan.depth_of(self.next);
        let number = u32::try_from(task).expect("tasks are few");
        out[start + 1..start + 5].copy_from_slice(&number.to_le_bytes());
        self.next += 1;
        self.sent_at[task] = Instant::now();
    }
}

/// Runs this process as a link of the chain if its arguments say so.
#[must_use]
pub fn link_main(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if args.nth(1)? != LINK_WORD {
        return None;
    }
    let words: Vec<String> = args.map(|word| word.to_string_lossy().into_owned()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let result = runtime.and_then(|runtime| runtime.block_on(link(&words)));
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    })
}

/// One link: answers frames that end here, passes the others on and their answers back.
async fn link(words: &[String]) -> io::Result<()> {
    let [ready_file, frame_bytes, next @ ..] = words else {
        return Err(io::Error::other("usage: READY-FILE FRAME-BYTES [NEXT]"));
    };
    die_with_parent()?;
    let frame_bytes: usize = frame_bytes.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready::write(Path::new(ready_file), &listener.local_addr()?.to_string())?;
    loop {
        let (back, _) = listener.accept().await?;
        let forward = match next.first() {
            None => None,
            Some(addr) => Some(TcpStream::connect(addr.as_str()).await?),
        };
        // One driver at a time; the end of its stream ends its turn, not this process.
        let _ = serve(back, forward, frame_bytes).await;
    }
}

async fn serve(
    mut back: TcpStream,
    mut forward: Option<TcpStream>,
    frame_bytes: usize,
) -> io::Result<()> {
    back.set_nodelay(true)?;
    if let Some(next) = &forward {
        next.set_nodelay(true)?;
    }
    let mut from_back = Inbox::new(frame_bytes);
    let mut from_next = Inbox::new(frame_bytes);
    let (mut to_back, mut to_next) = (Vec::new(), Vec::new());
    loop {
        match &mut forward {
            None => from_back.fill(&mut back).await?,
            Some(next) => tokio::select! {
                result = from_back.fill(&mut back) => result?,
                result = from_next.fill(next) => result?,
            },
        }
        for frame in from_back.whole().chunks_exact(frame_bytes) {
            let out = if frame[0] <= 1 { &mut to_back } else { &mut to_next };
            let start = out.len();
            out.extend_from_slice(frame);
            out[start] = frame[0].saturating_sub(1);
        }
        from_back.consume();
        to_back.extend_from_slice(from_next.whole());
        from_next.consume();
        if let Some(next) = forward.as_mut().filter(|_| !to_next.is_empty()) {
            next.write_all(&to_next).await?;
            to_next.clear();
        }
        if !to_back.is_empty() {
            back.write_all(&to_back).await?;
            to_back.clear();
        }
    }
}

/// Bytes read from a stream, handed on in whole frames.
struct Inbox {
    buffer: Vec<u8>,
    filled: usize,
    frame_bytes: usize,
}

impl Inbox {
    fn new(frame_bytes: usize) -> Self {
        let buffer = vec![0; READ_BUFFER_BYTES.max(2 * frame_bytes)];
        Self { buffer, filled: 0, frame_bytes }
    }

    /// Waits for more bytes. Cancel-safe: a single read.
    async fn fill(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        match stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }

    fn whole_bytes(&self) -> usize {
        self.filled - self.filled % self.frame_bytes
    }

    /// The whole frames received so far.
    fn whole(&self) -> &[u8] {
        &self.buffer[..self.whole_bytes()]
    }

    /// Forgets the whole frames.
    fn consume(&mut self) {
        let whole = self.whole_bytes();
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_spread_evenly() {
        let plan = |write_percent| Plan {
            tasks: 1,
            time: Duration::ZERO,
            frame_bytes: 100,
            depth_write: 2,
            write_percent,
        };
        for percent in [0, 1, 30, 50, 100] {
            let writes = (0..1000).filter(|n| plan(percent).depth_of(*n) == 2).count();
            assert_eq!(writes, usize::from(percent) * 10, "{percent} %");
        }
        let first_ten: Vec<u8> = (0..10).map(|n| plan(20).depth_of(n)).collect();
        assert_eq!(first_ten, [1, 1, 1, 1, 2, 1, 1, 1, 1, 2]);
    }
}
