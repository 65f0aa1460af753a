//! Frames over real sockets: any split, any size, and bytes that are no frames.

use std::io::Write;
use std::net::TcpStream;

use lockstep_proto::ids::MgmtId;
use lockstep_proto::limits::FRAME_BYTES_MAX;
use lockstep_proto::process::StoredFile;
use lockstep_proto::wire::hello::{Speaker, Wanted};
use lockstep_runtime::counters::Count;
use lockstep_runtime::files;

use crate::cores::{Server, order};
use crate::raw;

fn client(server: &Server) -> TcpStream {
    raw::link(server.addr, Speaker::Client, Wanted::Mgmt(MgmtId(1)))
}

pub(crate) fn ask(stream: &mut TcpStream, body: &[u8]) -> Vec<u8> {
    stream.write_all(&raw::framed(body)).unwrap();
    raw::read_frame(stream).unwrap()
}

/// A body that differs from its neighbours at every place.
pub(crate) fn body(length: usize) -> Vec<u8> {
    let mut body: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    body[0] = order::ECHO;
    body
}

#[test]
fn frames_arrive_whole_however_they_are_split() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let bodies: Vec<_> = [1, 2, 3, 100, 5000].map(body).into();
    let bytes: Vec<u8> = bodies.iter().flat_map(|body| raw::framed(body)).collect();
    for piece in [1, 2, 3, 5, 7, 64, 1000, bytes.len()] {
        let mut stream = client(&server);
        for part in bytes.chunks(piece) {
            stream.write_all(part).unwrap();
        }
        for body in &bodies {
            assert_eq!(&raw::read_frame(&mut stream).unwrap(), body, "pieces of {piece}");
        }
    }
}

#[test]
fn large_frames_pass_among_small_ones() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut stream = client(&server);
    let sizes = [10, 65_531, 65_532, 65_533, 70_000, 10, 131_072, 1 << 20, FRAME_BYTES_MAX, 10];
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for size in sizes {
            writer.write_all(&raw::framed(&body(size))).unwrap();
        }
    });
    for size in sizes {
        assert!(raw::read_frame(&mut stream).unwrap() == body(size), "frame of {size} bytes");
    }
    writing.join().unwrap();
}

#[test]
fn impossible_lengths_end_the_link_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut good = client(&server);
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
    for (number, bad) in [[0; 4], too_long, [0xff; 4]].iter().enumerate() {
        let mut stream = client(&server);
        stream.write_all(bad).unwrap();
        raw::end_of(&mut stream).expect_err("a live process ends links by reset");
        let downs = u8::try_from(number + 1).unwrap();
        assert_eq!(ask(&mut good, &[order::DOWNS]), [order::DOWNS, downs]);
        assert_eq!(server.counters.number(Count::FrameMalformed), u64::from(downs));
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (mut deaf, mut good) = (client(&server), client(&server));
    // Far more than socket buffers and the limit: the answers of one order cannot leave, those of
    // the second are beyond the limit.
    deaf.write_all(&raw::framed(&[order::FLOOD, 60])).unwrap();
    while server.counters.number(Count::ClientNotReading) == 0 {
        let flood = deaf.write_all(&raw::framed(&[order::FLOOD, 60]));
        assert_eq!(ask(&mut good, &body(9)), body(9));
        if flood.is_err() {
            break;
        }
    }
    assert_eq!(server.counters.number(Count::ClientNotReading), 1);
    raw::end_of(&mut deaf).expect_err("reset");
    assert_eq!(ask(&mut good, &[order::DOWNS]), [order::DOWNS, 1]);
}

#[test]
fn a_slow_client_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut stream = client(&server);
    // More answers than the kernel takes, so that reading is paused and goes on later.
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for _ in 0..64 {
            writer.write_all(&raw::framed(&body(300_000))).unwrap();
        }
    });
    for _ in 0..64 {
        assert!(raw::read_frame(&mut stream).unwrap() == body(300_000));
    }
    writing.join().unwrap();
}

#[test]
fn orders_that_need_the_world_are_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut stream = client(&server);
    assert_eq!(ask(&mut stream, &[order::STORE, 1, 2, 3]), [order::STORE]);
    assert_eq!(files::load(dir.path(), StoredFile::View).unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(ask(&mut stream, &[order::MEASURE])[0], order::MEASURE);
    assert_eq!(ask(&mut stream, &[order::LATER]), [order::LATER]);
    assert_eq!(ask(&mut stream, &[order::LATER]), [order::LATER]);
    assert_eq!(ask(&mut stream, &[order::CLOSE]), [order::CLOSE]);
    raw::end_of(&mut stream).expect_err("a live process ends links by reset");
    let mut stream = client(&server);
    assert_eq!(ask(&mut stream, &[order::DOWNS]), [order::DOWNS, 1]);
    assert_eq!(ask(&mut stream, &[order::EXIT]), [order::EXIT]);
    raw::end_of(&mut stream).expect_err("a live process ends links by reset");
    assert_eq!(server.exit().code, 7);
}
