//! From text to values: numbers in their range, times and sizes with their units. Every refusal
//! says what would be right.

use std::ops::RangeInclusive;

/// A whole number within `range`.
pub(super) fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = text.replace('_', "").parse::<u64>().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| {
        format!("it must be a whole number from {} to {}", range.start(), range.end())
    })
}

/// A whole number of milliseconds within `range`, written with a unit.
pub(super) fn millis(text: &str, range: RangeInclusive<u64>) -> Result<u32, String> {
    const UNITS: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let millis = with_unit(text, &UNITS).filter(|ms| range.contains(ms));
    millis.and_then(|ms| u32::try_from(ms).ok()).ok_or_else(|| {
        format!(
            "it must be a time with its unit (ms, s, m) from {}ms to {}ms",
            range.start(),
            range.end()
        )
    })
}

/// A number of bytes within `range`, written with a unit.
pub(super) fn bytes(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    with_unit(text, &UNITS).filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        format!(
            "it must be a size with its unit (KiB, MiB, GiB, TiB, kB, MB, GB) of at least {} KiB",
            range.start() >> 10
        )
    })
}

/// `host:port`.
pub(super) fn addr(text: &str) -> Result<String, String> {
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(_))) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("it must be host:port".to_owned()),
    }
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "it must be true or false".to_owned())
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_required() {
        assert_eq!(millis("50ms", 1..=100), Ok(50));
        assert_eq!(millis("2 s", 1..=10_000), Ok(2_000));
        assert_eq!(bytes("2GiB", 1..=u64::MAX), Ok(2 << 30));
        assert_eq!(bytes("1_000 kB", 1..=u64::MAX), Ok(1_000_000));
        for wrong in ["50", "ms", "50 parsecs", "-5ms", "101ms", "99999999999999999999s", ""] {
            assert!(millis(wrong, 1..=100).is_err(), "{wrong:?}");
        }
        for wrong in ["2", "2gib", "2GiBs", "99999999999TiB", "1.5GiB"] {
            assert!(bytes(wrong, 1..=u64::MAX).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_and_addresses_are_checked() {
        assert_eq!(number("1_024", 1..=4096), Ok(1024));
        assert!(number("0", 1..=4096).is_err() && number("four", 1..=4).is_err());
        assert_eq!(addr("[::1]:7"), Ok("[::1]:7".to_owned()));
        assert!(addr("localhost").is_err() && addr(":1").is_err() && addr("a:99999").is_err());
    }
}
