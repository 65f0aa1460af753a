//! Logs of processes: at the end of a test no line may be a WARN or ERROR that the test did not
//! expect. A warning that is normal is a warning that nobody reads.

/// The lines of a log that should not be there. A line is excused when it contains one of
/// `expected`.
#[must_use]
pub fn unexpected<'a>(log: &'a str, expected: &[&str]) -> Vec<&'a str> {
    log.lines()
        .filter(|line| is_loud(line))
        .filter(|line| !expected.iter().any(|part| line.contains(part)))
        .collect()
}

/// Whether a line wants attention: its level, or the words of a panic.
fn is_loud(line: &str) -> bool {
    let level = line.split_whitespace().take(3).any(|word| word == "WARN" || word == "ERROR");
    level || line.contains("panicked at") || line.contains("assertion")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loud_lines_are_found_and_excused() {
        let log = "2026-11-20T10:00:00Z  INFO n1: serving\n\
                   2026-11-20T10:00:01Z  WARN n1: n2 is silent\n\
                   2026-11-20T10:00:02Z ERROR n1: lost to view v3\n\
                   2026-11-20T10:00:03Z  INFO n1: forwarded a WARNING of the client\n\
                   thread 's0' panicked at cluster/src/shard/log.rs:1:1:\n";
        let loud = unexpected(log, &[]);
        assert_eq!(loud.len(), 3, "{loud:?}");
        let rest = unexpected(log, &["is silent", "lost to view"]);
        assert_eq!(rest, ["thread 's0' panicked at cluster/src/shard/log.rs:1:1:"]);
    }
}
