//! Tests of the world itself, with processes that only send numbers to each other.

use lockstep_proto::process::{Effect, Input, LinkEnd, LinkId, Outputs, Process, Target};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::frame;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::clock::HostClock;
use super::core::Core;
use super::disk::HostDisk;
use super::host::{Host, HostId, Life, Role};
use super::net::Cut;
use super::world::World;

/// What a toy has seen.
#[derive(Default, Debug)]
struct Seen {
    numbers: Vec<u64>,
    ends: Vec<LinkEnd>,
    failures: usize,
}

/// Sends an increasing number every millisecond on its link; dials again when the link is down.
struct Toy {
    dial: Option<String>,
    link: Option<LinkId>,
    dialling: bool,
    next: u64,
    due: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl Process for Toy {
    fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        let mut seen = self.seen.lock().unwrap();
        match input {
            Input::LinkUp { link, .. } => {
                self.dialling = false;
                self.link = Some(link);
            }
            Input::LinkDown { link, end } => {
                seen.ends.push(end);
                if self.link == Some(link) {
                    self.link = None;
                }
            }
            Input::Frame { bytes, .. } => {
                seen.numbers.push(u64::from_le_bytes(bytes[..8].try_into().unwrap()));
            }
            Input::DialFailed { .. } => {
                self.dialling = false;
                seen.failures += 1;
            }
            Input::Timeout => {
                self.due = now + Duration::from_millis(1);
                match (self.link, &self.dial) {
                    (Some(link), Some(_)) => {
                        self.next += 1;
                        let number = self.next.to_le_bytes();
                        if let Some(buffer) = out.buffer(link) {
                            frame(buffer, |body| body.extend_from_slice(&number));
                        }
                    }
                    (None, Some(addr)) if !self.dialling => {
                        self.dialling = true;
                        out.effect(Effect::Dial { to: Target::Any, addr: addr.clone() });
                    }
                    _ => {}
                }
            }
            Input::Stored { .. }
            | Input::Disk { .. }
            | Input::Measured { .. }
            | Input::Recovered { .. }
            | Input::Terminate => {}
        }
    }

    fn settle(&mut self, _now: Instant, _out: &mut Outputs) {}

    fn next_timeout(&self) -> Option<Instant> {
        Some(self.due)
    }
}

fn host(name: &str, clock: HostClock) -> Host {
    Host {
        name: name.into(),
        role: Role::Toy,
        zone: 0,
        addr: name.into(),
        clock,
        life: Life::Running,
        procs: Vec::new(),
        files: BTreeMap::new(),
        stores: VecDeque::new(),
        store_ns: (1, 2),
        disk: HostDisk::default(),
        shards: 0,
        owner: None,
        restored: None,
        slowness: 1,
        turns: 0,
        knocks: Vec::new(),
        holding: false,
        exit: None,
    }
}

/// Two hosts; `a` dials `b` and sends.
fn pair(seed: u64) -> (World, [HostId; 2], [Arc<Mutex<Seen>>; 2]) {
    let mut world = World::new(seed);
    let a = world.add_host(host("a", HostClock { offset_ns: 77, drift_ppm: 300 }));
    let b = world.add_host(host("b", HostClock { offset_ns: 9_000_000, drift_ppm: -300 }));
    let seen = [Arc::<Mutex<Seen>>::default(), Arc::default()];
    for (at, (host, dial)) in [(a, Some("b".to_owned())), (b, None)].into_iter().enumerate() {
        let due = world.host(host).clock.read(0);
        let toy = Toy { dial, link: None, dialling: false, next: 0, due, seen: seen[at].clone() };
        let proc = world.add_proc(host, format!("toy{at}"), Core::Toy(Box::new(toy)));
        world.plan_next_turn(proc);
    }
    for (from, to) in [(a, b), (b, a)] {
        let path = world.net.path_mut(from, to);
        path.delay_ns = 50_000;
        path.jitter_ns = 3_000_000;
    }
    (world, [a, b], seen)
}

fn run_until(world: &mut World, time: u64) {
    while world.agenda.next_time().is_some_and(|at| at <= time) {
        world.step();
    }
    world.now = time;
}

const MS: u64 = 1_000_000;

#[test]
fn bytes_arrive_in_order_and_a_seed_repeats_itself() {
    let run = |seed| {
        let (mut world, _, seen) = pair(seed);
        run_until(&mut world, 500 * MS);
        let numbers = seen[1].lock().unwrap().numbers.clone();
        (world.hash, numbers)
    };
    let (hash, numbers) = run(1);
    assert!(numbers.len() > 400, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert_eq!(run(1).0, hash);
    assert_ne!(run(2).0, hash);
}

#[test]
fn a_silent_cut_only_delays_and_a_killed_process_ends_in_order() {
    let (mut world, [a, b], seen) = pair(3);
    run_until(&mut world, 100 * MS);
    world.cut(a, b, Cut::Silent);
    run_until(&mut world, 110 * MS);
    let before = seen[1].lock().unwrap().numbers.len();
    run_until(&mut world, 300 * MS);
    assert_eq!(seen[1].lock().unwrap().numbers.len(), before);
    world.mend(a, b);
    run_until(&mut world, 800 * MS);
    {
        let seen = seen[1].lock().unwrap();
        assert!(seen.numbers.len() > before + 300);
        assert!(seen.numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
    world.kill(a);
    run_until(&mut world, 900 * MS);
    assert_eq!(seen[1].lock().unwrap().ends, vec![LinkEnd::Fin]);
}

#[test]
fn a_killed_listener_refuses_and_a_stopped_one_bursts() {
    let (mut world, [a, b], seen) = pair(4);
    run_until(&mut world, 100 * MS);
    world.pause(b, false);
    let before = seen[1].lock().unwrap().numbers.len();
    run_until(&mut world, 200 * MS);
    assert_eq!(seen[1].lock().unwrap().numbers.len(), before);
    world.resume(b);
    run_until(&mut world, 201 * MS);
    assert!(seen[1].lock().unwrap().numbers.len() > before + 90);
    world.kill(b);
    run_until(&mut world, 400 * MS);
    let seen = seen[0].lock().unwrap();
    assert_eq!(seen.ends.len(), 1);
    assert!(seen.failures > 10, "{}", seen.failures);
    assert!(world.runs(a));
}
