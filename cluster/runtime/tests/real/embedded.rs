//! A core inside the tests' own tokio runtime, used by many tasks.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Poll, Waker};

use bytes::BufMut;
use lockstep_proto::process::{Effect, Input, LinkId, Outputs, Peer, Process, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::frame;
use lockstep_runtime::{Embedded, EmbeddedOptions};

use crate::cores::{Server, order};
use crate::raw;

/// Asks an echo; answers are matched by a number.
#[derive(Default)]
struct Asker {
    link: Option<LinkId>,
    /// What was asked before the link was up.
    early: Vec<u64>,
    waiting: BTreeMap<u64, Option<Waker>>,
    next: u64,
    settles: usize,
}

impl Asker {
    fn new() -> Self {
        Self::default()
    }

    fn ask(&mut self, addr: SocketAddr, out: &mut Outputs) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, None);
        match self.link {
            Some(link) => send(out, link, self.next),
            None => {
                if self.early.is_empty() {
                    out.effect(Effect::Dial { to: Target::Any, addr: addr.to_string() });
                }
                self.early.push(self.next);
            }
        }
        self.next
    }
}

fn send(out: &mut Outputs, link: LinkId, number: u64) {
    frame(out.buffer(link).expect("up"), |body| {
        body.put_u8(order::ECHO);
        body.put_u64_le(number);
    });
}

impl Process for Asker {
    fn handle(&mut self, _now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::LinkUp { link, peer } => {
                assert!(matches!(peer, Peer::Mgmt(_)));
                self.link = Some(link);
                self.early.drain(..).for_each(|number| send(out, link, number));
            }
            Input::Frame { bytes, .. } => {
                let number = u64::from_le_bytes(bytes[1..].try_into().expect("eight bytes"));
                let waker = self.waiting.remove(&number).expect("asked once");
                waker.into_iter().for_each(Waker::wake);
            }
            other => panic!("an asker hears nothing else: {other:?}"),
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {
        self.settles += 1;
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

async fn ask(client: &Embedded<Asker>, addr: SocketAddr) {
    let number = client.with(|_, asker, out| asker.ask(addr, out));
    poll_fn(|cx| {
        client.look(|asker| match asker.waiting.get_mut(&number) {
            Some(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
    })
    .await;
}

async fn many_tasks_ask(addr: SocketAddr) -> usize {
    let client = Embedded::spawn(Asker::new(), EmbeddedOptions::default());
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    ask(&client, addr).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    client.look(|asker| asker.settles)
}

#[test]
fn many_tasks_share_one_link_and_its_writes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let turns = runtime.block_on(many_tasks_ask(server.addr));
    // 6,400 requests. A turn per request would be more than that; tasks that were woken together
    // must share a turn, and with it a write.
    assert!(turns < 3200, "{turns} turns");
}

#[test]
fn many_threads_share_one_link() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(many_tasks_ask(server.addr));
}

#[test]
fn the_last_handle_ends_the_link_after_its_last_words() {
    let (listener, addr) = crate::cores::listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        raw::read_frame(&mut stream).unwrap();
        let by = lockstep_proto::wire::hello::Speaker::Mgmt(lockstep_proto::ids::MgmtId(1));
        let welcome = lockstep_proto::wire::hello::Welcome::Accepted { cluster: None, by };
        let mut answer = bytes::BytesMut::new();
        let kind = lockstep_proto::wire::kind::HELLO;
        lockstep_proto::wire::codec::frame_cold(&mut answer, kind, &welcome);
        std::io::Write::write_all(&mut stream, &answer).unwrap();
        for _ in 0..2 {
            assert_eq!(raw::read_frame(&mut stream).unwrap()[0], order::ECHO);
        }
        raw::end_of(&mut stream).expect("in order");
    });
    runtime.block_on(async {
        let client = Embedded::spawn(Asker::new(), EmbeddedOptions::default());
        client.with(|_, asker, out| asker.ask(addr, out));
        while client.look(|asker| asker.link.is_none()) {
            tokio::task::yield_now().await;
        }
        client.clone().with(|_, asker, out| asker.ask(addr, out));
        drop(client);
        // The driving task has its last turn when this one waits.
        tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
    });
}
