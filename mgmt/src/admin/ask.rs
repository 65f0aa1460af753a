//! Getting a page from an admin port, as `lockstep doctor` does.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A page: its status code and its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The status code.
    pub code: u16,
    /// What it says.
    pub body: String,
}

/// How long it may take to connect, and between two pieces of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// More is no page of an admin port.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// Gets a page.
///
/// # Errors
/// If nobody answers there, or not in HTTP.
pub fn get(addr: &str, path: &str) -> io::Result<Page> {
    converse(addr, "GET", path, "")
}

/// Puts a text somewhere.
///
/// # Errors
/// If nobody answers there, or not in HTTP.
pub fn put(addr: &str, path: &str, text: &str) -> io::Result<Page> {
    converse(addr, "PUT", path, text)
}

fn converse(addr: &str, method: &str, path: &str, text: &str) -> io::Result<Page> {
    let nowhere = || io::Error::other(format!("{addr} is no address"));
    let to = addr.to_socket_addrs()?.next().ok_or_else(nowhere)?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = text.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{text}"
    )?;
    let mut bytes = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let parsed = || {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some(Page { code, body: body.to_owned() })
    };
    parsed().ok_or_else(|| io::Error::other(format!("{addr} does not answer in HTTP")))
}
