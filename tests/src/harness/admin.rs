//! The admin port of a process as a monitor sees it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A page: its status code and its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The status code.
    pub code: u16,
    /// What it says.
    pub body: String,
}

/// How long a monitor waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gets a page.
///
/// # Errors
/// If nobody answers there, or not in HTTP.
pub fn get(addr: &str, path: &str) -> io::Result<Page> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let parsed = || {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some(Page { code, body: body.to_owned() })
    };
    parsed().ok_or_else(|| io::Error::other(format!("not an answer in HTTP: {text:?}")))
}

/// The values on a page of metrics, by name and labels as they stand there.
///
/// # Panics
/// If a line is none of the text form of Prometheus, or tells a value twice.
#[must_use]
pub fn values(page: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let value: f64 = value.parse().expect("a number");
        assert_eq!(values.insert(name.to_owned(), value), None, "{name} twice");
    }
    values
}

/// The sum of a metric over its labels; `None` if it is not there.
#[must_use]
pub fn sum(values: &BTreeMap<String, f64>, metric: &str) -> Option<f64> {
    let of = |name: &str| name.split('{').next() == Some(metric);
    let found: Vec<f64> =
        values.iter().filter(|(name, _)| of(name)).map(|(_, value)| *value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}
