//! Small cores to drive: an echo that also obeys a few orders.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::BufMut;
use lockstep_proto::ids::{ClusterId, Incarnation, MgmtId, NodeId, NodeInstance};
use lockstep_proto::process::{Effect, Exit, Input, LinkId, Outputs, Process, StoredFile};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::frame;
use lockstep_proto::wire::hello::Speaker;
use lockstep_runtime::{Counters, HostOptions, run_single};

/// Orders an [`Echo`] takes: the first byte of a frame.
pub(crate) mod order {
    /// Send it back.
    pub(crate) const ECHO: u8 = 1;
    /// Answer with so many mebibytes (second byte).
    pub(crate) const FLOOD: u8 = 2;
    /// Answer, then end the process.
    pub(crate) const EXIT: u8 = 3;
    /// Answer, then end the link.
    pub(crate) const CLOSE: u8 = 4;
    /// Store the rest as the view, then answer.
    pub(crate) const STORE: u8 = 5;
    /// Measure, then answer with the resident bytes.
    pub(crate) const MEASURE: u8 = 6;
    /// Answer after 20 ms.
    pub(crate) const LATER: u8 = 7;
    /// Answer with how many links have gone down.
    pub(crate) const DOWNS: u8 = 8;
}

/// Sends back what it gets. See [`order`].
#[derive(Default)]
pub(crate) struct Echo {
    downs: u8,
    waiting: Option<LinkId>,
    wake_at: Option<Instant>,
}

impl Echo {
    fn on_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8], out: &mut Outputs) {
        match bytes[0] {
            order::ECHO => answer(out, link, bytes),
            order::FLOOD => {
                let block = vec![order::FLOOD; 1 << 20];
                (0..bytes[1]).for_each(|_| answer(out, link, &block));
            }
            order::EXIT => {
                answer(out, link, bytes);
                out.effect(Effect::Exit(Exit { code: 7, reason: "ordered".into() }));
            }
            order::CLOSE => {
                answer(out, link, bytes);
                out.effect(Effect::Close { link, why: "ordered" });
            }
            order::STORE => {
                self.waiting = Some(link);
                let bytes = bytes[1..].to_vec();
                out.effect(Effect::Store { token: 5, file: StoredFile::View, bytes });
            }
            order::MEASURE => {
                self.waiting = Some(link);
                out.effect(Effect::Measure { token: 6 });
            }
            order::LATER => {
                self.waiting = Some(link);
                self.wake_at = Some(now + std::time::Duration::from_millis(20));
            }
            order::DOWNS => answer(out, link, &[order::DOWNS, self.downs]),
            other => panic!("no such order: {other}"),
        }
    }

    fn answer_waiting(&mut self, out: &mut Outputs, bytes: &[u8]) {
        let link = self.waiting.take().expect("somebody waits");
        answer(out, link, bytes);
    }
}

impl Process for Echo {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { .. } => {}
            Input::LinkDown { .. } => self.downs = self.downs.saturating_add(1),
            Input::Frame { link, bytes } => self.on_frame(now, link, bytes, out),
            Input::Stored { token, ok } => {
                assert_eq!((token, ok), (5, true));
                self.answer_waiting(out, &[order::STORE]);
            }
            Input::Disk { .. } => panic!("it writes no data files"),
            Input::Measured { token, cpu_us, rss_bytes } => {
                assert!(token == 6 && cpu_us > 0 && rss_bytes > 0);
                let rss = rss_bytes.to_le_bytes();
                self.answer_waiting(out, &[&[order::MEASURE], &rss[..]].concat());
            }
            Input::Timeout => {
                assert!(self.wake_at.take().is_some_and(|at| at <= now));
                self.answer_waiting(out, &[order::LATER]);
            }
            Input::Terminate => {
                out.effect(Effect::Exit(Exit { code: 0, reason: "asked to leave".into() }));
            }
            Input::DialFailed { .. } | Input::Recovered { .. } => {
                unreachable!("an echo dials nobody and has no files")
            }
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        self.wake_at
    }
}

fn answer(out: &mut Outputs, link: LinkId, bytes: &[u8]) {
    if let Some(buffer) = out.buffer(link) {
        frame(buffer, |body| body.put_slice(bytes));
    }
}

/// A node's life.
pub(crate) fn instance(node: u16, incarnation: u32) -> NodeInstance {
    NodeInstance { node: NodeId(node), incarnation: Incarnation(incarnation) }
}

/// A listener on a free loopback port.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An echo that runs as management server 1 on a thread of the test.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    thread: JoinHandle<Exit>,
}

impl Server {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_as(dir, Speaker::Mgmt(MgmtId(1)), None)
    }

    pub(crate) fn start_as(dir: &Path, speaker: Speaker, cluster: Option<ClusterId>) -> Self {
        let (listener, addr) = listener();
        let options =
            HostOptions { cluster, ..HostOptions::new(listener, dir.to_path_buf(), speaker) };
        let counters = Arc::clone(&options.counters);
        let thread = std::thread::spawn(move || {
            let (exit, listener) = run_single(Echo::default(), options).unwrap();
            assert_eq!(listener.local_addr().unwrap(), addr);
            exit
        });
        Self { addr, counters, thread }
    }

    /// Waits until an order has ended it.
    pub(crate) fn exit(self) -> Exit {
        self.thread.join().unwrap()
    }
}
