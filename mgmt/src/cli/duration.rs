//! Times on the command line: `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.

use std::time::Duration;

/// Reads a time.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let number: f64 = number.parse().map_err(|_| refusal(text))?;
    let seconds = match unit {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(refusal(text)),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| refusal(text))
}

fn refusal(text: &str) -> String {
    format!("{text:?} is not a time; write 500ms, 30s, 2m or 1h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_with_units() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "5 parsecs", "-1s", "1e3s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
