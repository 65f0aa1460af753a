//! Who is let in, and what the others are told.

use std::io::Write;

use lockstep_proto::ids::{ClusterId, MgmtId, ShardId};
use lockstep_proto::wire::hello::{Refusal, Speaker, Wanted, Welcome};
use lockstep_runtime::counters::Count;

use crate::cores::{Server, instance};
use crate::raw;

fn refusal(server: &Server, hello: &lockstep_proto::wire::hello::Hello) -> Refusal {
    let mut stream = raw::connect(server.addr);
    match raw::greet(&mut stream, hello) {
        Welcome::Refused { reason, text } => {
            assert!(!text.is_empty());
            raw::end_of(&mut stream).expect("an orderly end, so that the words arrive");
            reason
        }
        Welcome::Accepted { by, .. } => panic!("let in by {by:?}"),
    }
}

#[test]
fn the_wrong_ones_are_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let mine = Some(ClusterId(1));
    let server = Server::start_as(dir.path(), Speaker::Mgmt(MgmtId(1)), mine);
    let client = Speaker::Client;
    let hello = raw::hello(client, Wanted::Any, Some(ClusterId(2)));
    assert_eq!(refusal(&server, &hello), Refusal::WrongCluster);
    let mut hello = raw::hello(client, Wanted::Any, mine);
    hello.version += 1;
    assert_eq!(refusal(&server, &hello), Refusal::WrongVersion);
    for wanted in [
        Wanted::Mgmt(MgmtId(2)),
        Wanted::Control(instance(1, 1)),
        Wanted::Shard(instance(1, 1), ShardId(0)),
    ] {
        let hello = raw::hello(client, wanted, mine);
        assert_eq!(refusal(&server, &hello), Refusal::WrongNode);
    }
    assert_eq!(server.counters.number(Count::HelloRefused), 5);
    let mut stream = raw::connect(server.addr);
    let welcome = raw::greet(&mut stream, &raw::hello(client, Wanted::Any, None));
    let by = Speaker::Mgmt(MgmtId(1));
    assert_eq!(welcome, Welcome::Accepted { cluster: mine, by });
}

#[test]
fn a_newcomer_asks_everybody_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_as(dir.path(), Speaker::Newcomer, None);
    let hello = raw::hello(Speaker::Client, Wanted::Any, None);
    assert_eq!(refusal(&server, &hello), Refusal::Unavailable);
}

#[test]
fn garbage_and_half_a_hello_are_thrown_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut half = raw::connect(server.addr);
    half.write_all(&[40, 0, 0, 0, 131]).unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &raw::framed(&[131, 1, 2, 3])] {
        let mut stream = raw::connect(server.addr);
        stream.write_all(garbage).unwrap();
        raw::end_of(&mut stream).expect_err("reset");
    }
    assert_eq!(server.counters.number(Count::HelloMalformed), 3);
    raw::end_of(&mut half).expect_err("reset when its time is over");
    assert_eq!(server.counters.number(Count::HelloLate), 1);
}
