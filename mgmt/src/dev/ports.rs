//! Ports of this machine for processes that come back to where they were.
//!
//! Invariant: none lies where the kernel takes the ports of outgoing connections from. While a
//! process is dead, such a port may be given to anybody, and be it to who dials the dead one, and
//! is then connected to himself: the process could not come back.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

/// Below are those of well-known services.
const LOWEST: u16 = 10_000;

/// Ranges that are narrower are not drawn from.
const ENOUGH: u16 = 1_000;

/// How many ports that are taken are tried before giving up.
const TRIES: usize = 1_000;

/// Where the kernel takes the ports of outgoing connections from: two numbers, both included.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Loopback addresses that nobody listens at just now, all different. Drawn at random: somebody
/// else who draws, or whoever is dead just now, hardly ever has the same.
///
/// # Errors
/// If the kernel refuses, or all that were tried are taken.
pub fn draw(count: u16) -> io::Result<Vec<SocketAddr>> {
    let range = fs::read_to_string(OUTGOING).ok().and_then(|text| beside(&text));
    // Each is held until the last one is found.
    let listeners = (0..count).map(|_| match &range {
        Some(range) => listen_within(range),
        None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
    });
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

fn listen_within(range: &RangeInclusive<u16>) -> io::Result<TcpListener> {
    let width = u64::from(range.end() - range.start()) + 1;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        // Every state hashes nothing to something else.
        let beyond = RandomState::new().hash_one(()) % width;
        let port = range.start() + u16::try_from(beyond).expect("less than the width of u16s");
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
            bound => return bound,
        }
    }
    Err(refused)
}

/// The wider of the ranges below and above that of outgoing connections; none if both are narrow.
fn beside(outgoing: &str) -> Option<RangeInclusive<u16>> {
    let mut words = outgoing.split_whitespace().map(|word| word.parse::<u16>().ok());
    let (low, high) = (words.next()??, words.next()??);
    let below = LOWEST..=low.saturating_sub(1);
    let above = high.saturating_add(1).max(LOWEST)..=u16::MAX;
    let width = |range: &RangeInclusive<u16>| range.end().saturating_sub(*range.start());
    let wider = if width(&below) >= width(&above) { below } else { above };
    (width(&wider) >= ENOUGH).then_some(wider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_lie_beside_those_of_outgoing_connections() {
        assert_eq!(beside("32768\t60999\n"), Some(10_000..=32_767));
        assert_eq!(beside("1024 40000"), Some(40_001..=65_535));
        assert_eq!(beside("1024 65535"), None);
        assert_eq!(beside(""), None);
        assert_eq!(beside("a b"), None);
    }

    #[test]
    fn those_of_one_draw_are_different_and_free() {
        let drawn = draw(50).expect("drawn");
        let ports: std::collections::BTreeSet<u16> = drawn.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), 50);
        let outgoing = fs::read_to_string(OUTGOING).expect("Linux has it");
        if let Some(range) = beside(&outgoing) {
            assert!(ports.iter().all(|port| range.contains(port)), "{ports:?} in {range:?}");
        }
        let again = TcpListener::bind(drawn[0]).expect("free again");
        assert_eq!(again.local_addr().expect("bound"), drawn[0]);
    }
}
