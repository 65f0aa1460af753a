//! Ports of this machine for processes that come back to where they were.
//!
//! Invariant: where there is room beside it, none lies where the kernel takes the ports of outgoing
//! connections from; and no process draws one twice. While somebody is dead, a port of the kernel's
//! may be given to anybody, and be it to who dials the dead one, and is then connected to himself:
//! the dead one could not come back.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use parking_lot::Mutex;

/// Below are those of well-known services.
const LOWEST: u16 = 10_000;

/// Ranges that are narrower are not drawn from.
const ENOUGH: u16 = 1_000;

/// How many ports that are taken are tried before giving up.
const TRIES: usize = 1_000;

/// Where the kernel takes the ports of outgoing connections from: two numbers, both included.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What this process has drawn: who is to listen there may not be up yet, or be dead just now.
static DRAWN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Loopback addresses that nobody listens at just now, and that this process has not drawn before.
/// Another process that draws hardly ever has the same: they are random.
///
/// # Errors
/// If the kernel refuses, or all that were tried are taken.
pub fn draw(count: u16) -> io::Result<Vec<SocketAddr>> {
    let range = fs::read_to_string(OUTGOING).ok().and_then(|text| beside(&text));
    let mut drawn = DRAWN.lock();
    (0..count).map(|_| draw_one(range.as_ref(), &mut drawn)).collect()
}

fn draw_one(
    range: Option<&RangeInclusive<u16>>,
    drawn: &mut BTreeSet<u16>,
) -> io::Result<SocketAddr> {
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = range.map_or(0, random_of);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|bound| bound.local_addr()) {
            Ok(addr) if drawn.insert(addr.port()) => return Ok(addr),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

fn random_of(range: &RangeInclusive<u16>) -> u16 {
    let width = u64::from(range.end() - range.start()) + 1;
    // Every state hashes nothing to something else.
    let beyond = RandomState::new().hash_one(()) % width;
    range.start() + u16::try_from(beyond).expect("less than the width of u16s")
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
    fn they_are_all_different_and_free() {
        let drawn = [draw(50).expect("drawn"), draw(50).expect("drawn")].concat();
        let ports: BTreeSet<u16> = drawn.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), 100);
        let outgoing = fs::read_to_string(OUTGOING).expect("Linux has it");
        if let Some(range) = beside(&outgoing) {
            assert!(ports.iter().all(|port| range.contains(port)), "{ports:?} in {range:?}");
        }
        let again = TcpListener::bind(drawn[0]).expect("free again");
        assert_eq!(again.local_addr().expect("bound"), drawn[0]);
    }
}
