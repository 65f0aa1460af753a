//! The admin port over real sockets, with whatever others may send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lockstep_proto::ids::{ClusterId, ViewNumber};
use lockstep_proto::report::ViewReport;

use super::snapshot::{Kind, StandIn};
use super::{Admin, http};

fn open() -> (Admin, SocketAddr) {
    let admin = Admin::open(Some("127.0.0.1:0"), Kind::Data).expect("opened");
    let addr = admin.addr.expect("an address");
    (admin, addr)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    stream
}

/// Sends bytes as they are and returns all that comes back; a reset ends it, too.
fn say(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(addr);
    // The other side may have closed it before everything was sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(addr: SocketAddr, path: &str) -> String {
    say(addr, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
}

#[test]
fn a_process_without_cores_is_alive_and_not_ready() {
    let (_admin, addr) = open();
    assert!(get(addr, "/livez").starts_with("HTTP/1.1 200 "));
    let ready = get(addr, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("between two steps"), "{ready}");
    assert!(get(addr, "/startupz").starts_with("HTTP/1.1 503 "));
    let metrics = get(addr, "/metrics");
    assert!(metrics.contains("\nprocess_cpu_seconds_total "), "{metrics}");
    assert!(metrics.contains("\nlockstep_thread_cpu_seconds_total{thread=\"admin\"} "));
    assert!(metrics.contains("text/plain; version=0.0.4"));
    let status = get(addr, "/status.json");
    let body = status.split("\r\n\r\n").nth(1).expect("a body");
    let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!((&json["schema"], &json["ready"]), (&"lockstep.process/v1".into(), &false.into()));
    assert!(get(addr, "/").starts_with("HTTP/1.1 404 "));
}

#[test]
fn nonsense_ends_the_conversation_and_nothing_else() {
    let (_admin, addr) = open();
    let many_headers: String = (0..1000).map(|n| format!("h{n}: x\r\n")).collect();
    let requests: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"GET".to_vec(),
        b"\0\xff\xfe\x80 nothing at all\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /metrics HTTP/1.1\r\n{many_headers}\r\n").into_bytes(),
        [b"GET /".as_slice(), &vec![b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat(),
        b"GET /metrics HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        b"GET http://[::1 HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for request in requests {
        let answer = say(addr, &request);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        // A body that makes no sense is not looked at.
        assert!(refused || shown.contains("transfer-encoding"), "{shown:?}: {answer}");
    }
    let posted = say(addr, b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    assert!(get(addr, "/livez").starts_with("HTTP/1.1 200 "));
}

#[test]
fn idle_connections_are_bounded_and_end() {
    let (_admin, addr) = open();
    let mut idle: Vec<TcpStream> = (0..http::CONNECTIONS_MAX).map(|_| connect(addr)).collect();
    // One more is turned away while those are there.
    assert_eq!(get(addr, "/livez"), "");
    // They are given up for saying nothing.
    let mut byte = [0; 256];
    for stream in &mut idle {
        while stream.read(&mut byte).is_ok_and(|read| read > 0) {}
    }
    assert!(get(addr, "/livez").starts_with("HTTP/1.1 200 "));
}

#[test]
fn it_can_be_switched_off_and_a_taken_port_is_named() {
    assert_eq!(Admin::open(None, Kind::Mgmt).expect("nothing to open").addr, None);
    let (_admin, addr) = open();
    let error = Admin::open(Some(&addr.to_string()), Kind::Mgmt).expect_err("taken");
    assert!(error.what.contains(&addr.to_string()), "{error}");
}

#[test]
fn a_stand_in_is_ready_when_it_has_found_its_cluster() {
    let admin = Admin::open(Some("127.0.0.1:0"), Kind::Arbitrator).expect("opened");
    let addr = admin.addr.expect("an address");
    let ready = get(addr, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("looking for"), "{ready}");
    let view = ViewReport {
        cluster: ClusterId(7),
        view: ViewNumber(3),
        groups: 2,
        replicas: 2,
        in_sync: 4,
        attached: 0,
        copying: 0,
        smallest_group: 2,
    };
    admin.stand_in.send_replace(Some(StandIn { view, arbitrates: true }));
    let found = || get(addr, "/readyz").starts_with("HTTP/1.1 200 ");
    let waited = Instant::now();
    while !found() {
        assert!(waited.elapsed() < Duration::from_secs(10), "a page is shown again for 0.1 s only");
        std::thread::yield_now();
    }
    let metrics = get(addr, "/metrics");
    assert!(metrics.contains("\nlockstep_stand_in_arbitrator 1\n"), "{metrics}");
    assert!(get(addr, "/status.json").contains("\"arbitrator\":{\"arbitrates\":true}"));
}
