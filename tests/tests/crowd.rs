//! Two thousand clients come back at the same moment, to management servers that have just been
//! started again: everybody is served, with the threads there were and with bounded memory.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lockstep_mgmt::dev::process::Signal;
use lockstep_proto::wire::client::ClientMessage;
use lockstep_proto::wire::hello::{Hello, MAGIC, Speaker, WIRE_VERSION, Wanted};
use lockstep_proto::wire::{codec, kind};
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// How many come at once.
const CLIENTS: usize = 2_000;
/// Until when all of them must have a view.
const WITHIN: Duration = Duration::from_secs(5);
/// Threads of a server, however many clients it has: its core's, its disk's, its admin port's.
const THREADS_MAX: u64 = 6;
/// What a server may need for all of them together.
const MEMORY_MAX_KIB: u64 = 64 << 10;

/// A number that the kernel tells of a process.
fn told(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a line of this name");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}

async fn frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32_le().await?;
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Connects, says hello and waits for a view, as the library does, but only once: the server
/// listens, and nobody may be turned away.
async fn served(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let mut words = BytesMut::new();
    let (from, to) = (Speaker::Client, Wanted::Any);
    let hello = Hello { magic: MAGIC, version: WIRE_VERSION, cluster: None, from, to };
    codec::frame_cold(&mut words, kind::HELLO, &hello);
    codec::frame_cold(&mut words, kind::CLIENT, &ClientMessage::WatchView);
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(&words).await?;
    let _welcome = frame(&mut stream).await?;
    let view = frame(&mut stream).await?;
    assert_eq!(view[0], kind::CLIENT);
    Ok(stream)
}

/// All of them at once; returns how long it took.
async fn all_served(servers: [SocketAddr; 2]) -> (Vec<TcpStream>, Duration) {
    let start = Instant::now();
    let one = |index: usize| tokio::spawn(served(servers[index % servers.len()]));
    let tasks: Vec<_> = (0..CLIENTS).map(one).collect();
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(task.await.expect("a client").expect("a view"));
    }
    (streams, start.elapsed())
}

#[test]
fn two_thousand_clients_come_back_at_once_after_all_management_servers_have_restarted() {
    lockstep_runtime::placement::raise_open_files().expect("a few thousand sockets");
    let mut cluster = Cluster::start(Path::new(BINARY), &Form { mgmts: 2, ..Form::pair() });
    let servers = [cluster.mgmt_addr, cluster.others[0].1];
    for server in servers {
        ViewWatch::open(server).expect("it listens").until("a view", |_| true);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (before, _) = runtime.block_on(all_served(servers));
    cluster.mgmt.signal(Signal::Kill);
    cluster.others[0].0.signal(Signal::Kill);
    cluster.mgmt.ended();
    cluster.others[0].0.ended();
    drop(before);
    cluster.restart_mgmt();
    cluster.restart_others(str::to_owned);
    let alone = |pid: u32| (told(pid, "Threads"), told(pid, "VmRSS"));
    let pids = [cluster.mgmt.pid(), cluster.others[0].0.pid()];
    let idle = pids.map(alone);
    let (after, took) = runtime.block_on(all_served(servers));
    let crowded = pids.map(alone);
    println!("{CLIENTS} clients served in {took:?}; (threads, KiB) {idle:?} -> {crowded:?}");
    assert_eq!(after.len(), CLIENTS);
    assert!(took < WITHIN, "{took:?}");
    for (threads, memory) in crowded {
        assert!(threads <= THREADS_MAX, "{threads} threads");
        assert!(memory < MEMORY_MAX_KIB, "{memory} KiB");
    }
    let hear = |server| ViewWatch::open(server).map(|mut w| w.until("a view", |_| true).0).ok();
    until("the servers to know the same view", || {
        let [one, other] = servers.map(hear);
        (one.is_some() && one == other).then_some(())
    });
}
