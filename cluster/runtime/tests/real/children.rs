//! What only another operating-system process can show: how the kernel ends the links of one that
//! was killed, and signals.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lockstep_proto::process::Target;
use lockstep_proto::wire::hello::{Speaker, Wanted};
use lockstep_runtime::{HostOptions, placement, run_node};

use crate::cores::{Echo, instance, listener, order};
use crate::frames::{ask, body};
use crate::nodes::{Idle, probe};
use crate::raw;

const CHILD: &str = "LOCKSTEP_RUNTIME_TEST_CHILD";

/// Not a test of its own: the child that the tests below start.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (listener, addr) = listener();
    println!("\nlistening on {addr}");
    let own = Speaker::Control(instance(1, 1));
    let options = HostOptions {
        signals: Some(Arc::default()),
        ..HostOptions::new(listener, dir.path().into(), own)
    };
    let exit = run_node(Echo::default(), vec![Idle], options).unwrap();
    std::process::exit(exit.code);
}

fn start_child() -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "children::child", "--nocapture"]).env(CHILD, "1");
    placement::die_with_parent(&mut command);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening on ").map(|addr| addr.parse().unwrap()))
        .expect("the child says where it listens");
    (child, addr)
}

fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: sends a signal to a child that has not been waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

#[test]
fn a_killed_process_ends_its_death_watch_in_order() {
    let (mut child, addr) = start_child();
    let mut by_hand =
        raw::link(addr, Speaker::Watch(instance(3, 1)), Wanted::Watch(instance(1, 1)));
    let watch = probe(Target::Watch(instance(1, 1)), addr);
    assert_eq!(watch.recv().unwrap(), "up Watch(n1.1)");
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    raw::end_of(&mut by_hand).expect("in order");
    assert_eq!(watch.recv().unwrap(), "fin");
    assert_eq!(probe(Target::Watch(instance(1, 1)), addr).recv().unwrap(), "refused");
}

#[test]
fn a_terminated_process_is_asked_first() {
    let (mut child, addr) = start_child();
    let mut watch = raw::link(addr, Speaker::Watch(instance(3, 1)), Wanted::Watch(instance(1, 1)));
    signal(&child, libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    raw::end_of(&mut watch).expect_err("reset");
}

/// Its own process, because other tests of this one use memory meanwhile.
#[test]
fn idle_clients_cost_little() {
    const CLIENTS: u64 = 500;
    assert!(placement::raise_open_files().unwrap() > 2 * CLIENTS);
    let (_child, addr) = start_child();
    let link = || raw::link(addr, Speaker::Client, Wanted::Control(instance(1, 1)));
    let mut asker = link();
    let mut resident = || {
        let answer = ask(&mut asker, &[order::MEASURE]);
        u64::from_le_bytes(answer[1..].try_into().unwrap())
    };
    let before = resident();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| link()).collect();
    let idle = (resident() - before) / CLIENTS;
    assert!(idle < 4 << 10, "{idle} bytes for a client that said nothing");
    for client in &mut clients {
        assert!(ask(client, &body(200_000)) == body(200_000));
    }
    let used = (resident() - before) / CLIENTS;
    assert!(used < 16 << 10, "{used} bytes for a client that was busy once");
}
