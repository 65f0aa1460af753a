//! What the reactor costs beside a bare tokio ping-pong over the same two hops between the same
//! two operating-system processes. Run it pinned, as the product's figures are:
//! `taskset -c 0 cargo run --release -p lockstep-runtime --example pingpong [-- ROUNDS]`.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::task::{Poll, Waker};
use std::time::Instant as Stopwatch;

use bytes::BufMut;
use lockstep_proto::ids::MgmtId;
use lockstep_proto::process::{Effect, Input, LinkId, Outputs, Process, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::frame;
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{Embedded, EmbeddedOptions, HostOptions, clock, placement, run_single};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of a message, its length included.
const MESSAGE_BYTES: usize = 128;

/// Sends back what it gets.
struct Echo;

impl Process for Echo {
    fn handle(&mut self, _now: Instant, input: Input<'_>, out: &mut Outputs) {
        if let Input::Frame { link, bytes } = input {
            if bytes.len() == 9 {
                let cpu_us = u64::try_from(clock::cpu_time().as_micros()).unwrap();
                frame(out.buffer(link).unwrap(), |body| body.put_u64_le(cpu_us));
            } else {
                frame(out.buffer(link).unwrap(), |body| body.put_slice(bytes));
            }
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Asks; answers come in the order of the questions.
#[derive(Default)]
struct Asker {
    link: Option<LinkId>,
    asked: u64,
    answered: u64,
    waiting: VecDeque<Option<Waker>>,
    server_cpu_us: u64,
}

impl Process for Asker {
    fn handle(&mut self, _now: Instant, input: Input<'_>, _out: &mut Outputs) {
        match input {
            Input::LinkUp { link, .. } => self.link = Some(link),
            Input::Frame { bytes, .. } => {
                if bytes.len() == 8 {
                    self.server_cpu_us = u64::from_le_bytes(bytes.try_into().unwrap());
                }
                self.answered += 1;
                self.waiting.pop_front().unwrap().into_iter().for_each(Waker::wake);
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

async fn ask(client: &Embedded<Asker>, body_bytes: usize) {
    let number = client.with(|_, asker, out| {
        let link = asker.link.unwrap();
        frame(out.buffer(link).unwrap(), |body| body.put_bytes(7, body_bytes));
        asker.waiting.push_back(None);
        asker.asked += 1;
        asker.asked
    });
    poll_fn(|cx| {
        client.look(|asker| {
            if asker.answered >= number {
                return Poll::Ready(());
            }
            let place = usize::try_from(number - asker.answered - 1).unwrap();
            asker.waiting[place] = Some(cx.waker().clone());
            Poll::Pending
        })
    })
    .await;
}

/// One figure of one kind of client against one kind of server.
struct Figure {
    p50_us: f64,
    cpu_us_per_round: f64,
}

fn figure(mut rounds: Vec<u64>, cpu_us: u64) -> Figure {
    rounds.sort_unstable();
    let p50_us = rounds[rounds.len() / 2] as f64 / 1000.0;
    Figure { p50_us, cpu_us_per_round: cpu_us as f64 / rounds.len() as f64 }
}

async fn with_reactor(addr: SocketAddr, rounds: usize, tasks: usize) -> Figure {
    let client = Embedded::spawn(Asker::default(), EmbeddedOptions::default());
    client.with(|_, _, out| {
        out.effect(Effect::Dial { to: Target::Any, addr: addr.to_string() });
    });
    while client.look(|asker| asker.link.is_none()) {
        tokio::task::yield_now().await;
    }
    ask(&client, 9).await;
    let cpu_before = client.look(|asker| asker.server_cpu_us) + own_cpu_us();
    let workers: Vec<_> = (0..tasks)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(rounds / tasks);
                for _ in 0..rounds / tasks {
                    let start = Stopwatch::now();
                    ask(&client, MESSAGE_BYTES - 4).await;
                    times.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await.unwrap());
    }
    ask(&client, 9).await;
    let cpu_after = client.look(|asker| asker.server_cpu_us) + own_cpu_us();
    figure(times, cpu_after - cpu_before)
}

async fn bare(addr: SocketAddr, rounds: usize) -> Figure {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let message = [7; MESSAGE_BYTES];
    let mut buffer = [0; 4096];
    let cpu_before = server_cpu_us(&mut stream).await + own_cpu_us();
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Stopwatch::now();
        stream.write_all(&message).await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), MESSAGE_BYTES);
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
    }
    let cpu_after = server_cpu_us(&mut stream).await + own_cpu_us();
    figure(times, cpu_after - cpu_before)
}

async fn server_cpu_us(stream: &mut TcpStream) -> u64 {
    stream.write_all(&[1]).await.unwrap();
    stream.read_u64_le().await.unwrap()
}

fn own_cpu_us() -> u64 {
    u64::try_from(clock::cpu_time().as_micros()).unwrap()
}

async fn serve_bare(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return,
            1 => stream.write_u64_le(own_cpu_us()).await.unwrap(),
            count => stream.write_all(&buffer[..count]).await.unwrap(),
        }
    }
}

fn serve(kind: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    if kind == "bare" {
        // As on the client's side: a spawned task, not the runtime's root.
        runtime().block_on(async { tokio::spawn(serve_bare(listener)).await.unwrap() });
    } else {
        let dir = std::env::temp_dir();
        run_single(Echo, HostOptions::new(listener, dir, Speaker::Mgmt(MgmtId(1)))).unwrap();
    }
}

fn start_server(kind: &str) -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    placement::die_with_parent(command.args(["serve", kind]).stdout(Stdio::piped()));
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "serve") {
        return serve(&args[2]);
    }
    let rounds: usize = args.get(1).map_or(50_000, |arg| arg.parse().unwrap());
    let (mut server, addr) = start_server("reactor");
    // In turns, so that what the machine does beside hits both.
    for _ in 0..3 {
        let (mut bare_server, bare_addr) = start_server("bare");
        let floor =
            runtime().block_on(async { tokio::spawn(bare(bare_addr, rounds)).await.unwrap() });
        bare_server.wait().unwrap();
        let one = runtime().block_on(with_reactor(addr, rounds, 1));
        let many = runtime().block_on(with_reactor(addr, rounds * 4, 64));
        print("bare tokio, 1 task", &floor, &floor);
        print("reactor, 1 task", &one, &floor);
        print("reactor, 64 tasks", &many, &floor);
        let spread = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let many = spread.block_on(with_reactor(addr, rounds * 4, 64));
        print("64 tasks, all cores", &many, &floor);
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

fn print(what: &str, figure: &Figure, floor: &Figure) {
    println!(
        "{what:20} round trip p50 {:7.2} us ({:.2} x)   cpu {:6.2} us per round ({:.2} x)",
        figure.p50_us,
        figure.p50_us / floor.p50_us,
        figure.cpu_us_per_round,
        figure.cpu_us_per_round / floor.cpu_us_per_round
    );
}
