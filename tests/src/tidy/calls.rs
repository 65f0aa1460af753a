//! What code may not call: anywhere, or in the crates that are pure.
//!
//! A pure crate is a deterministic function of its inputs, or the simulator proves nothing. Its
//! `clippy.toml` says the same to whoever types the call; this scan also sees macros and
//! conditional code.

use super::{Complaint, SourceFile, Tree};

/// A pattern, where it is allowed all the same, and what to say.
struct Ban {
    pattern: &'static str,
    allowed: &'static [&'static str],
    tests_too: bool,
    instead: &'static str,
}

/// Directories whose code is pure, and the parts of them that are not.
pub(super) const PURE: &[(&str, &[&str])] = &[
    ("storage/src/", &[]),
    ("cluster/proto/src/", &[]),
    ("cluster/src/", &[]),
    ("client/src/core/", &[]),
    ("mgmt/src/core/", &[]),
];

const EVERYWHERE: &[Ban] = &[
    Ban {
        pattern: "#[ignore",
        allowed: &[],
        tests_too: true,
        instead: "a test runs or is deleted; one that needs a missing thing says so and ends",
    },
    Ban {
        pattern: "todo!",
        allowed: &[],
        tests_too: true,
        instead: "do it, or leave the whole thing out",
    },
    Ban { pattern: "dbg!", allowed: &[], tests_too: true, instead: "remove it" },
    Ban {
        pattern: ".unwrap()",
        allowed: &["tests/", "benches/"],
        tests_too: false,
        instead: "expect(\"why it cannot fail\") or an error",
    },
    Ban {
        pattern: "thread::sleep",
        allowed: SLEEPERS,
        tests_too: true,
        instead: "wait for a condition with a deadline (tests: harness::wait)",
    },
    Ban {
        pattern: "bincode::",
        allowed: &["cluster/proto/src/wire/codec.rs"],
        tests_too: true,
        instead: "the one codec module limits sizes and refuses trailing bytes; use it",
    },
    Ban {
        pattern: "std::collections::hash_map::RandomState",
        allowed: &[],
        tests_too: true,
        instead: "a map without random order",
    },
];

/// Loops that look again after a pause, with a deadline; each is listed so that none slips in.
const SLEEPERS: &[&str] = &[
    // A child process says that it serves by a file; there is nothing to wait on but the file.
    "mgmt/src/dev/",
    // The one place where tests wait: for a condition, with a deadline.
    "tests/src/harness/wait.rs",
];

/// What pure code may not name.
const IMPURE: &[(&str, &str)] = &[
    ("std::time::Instant", "time comes in as an argument (proto::time::Instant)"),
    ("SystemTime", "time comes in as an argument"),
    ("std::net", "bytes come in as inputs and leave as outputs"),
    ("std::fs", "files are effects"),
    ("std::thread", "a core has no threads"),
    ("std::process", "the driver ends the process; a core asks with Effect::Exit"),
    ("std::env", "settings come in as options"),
    ("thread_local!", "a core has no hidden state"),
    ("std::sync::Mutex", "a core has one owner"),
    ("std::collections::HashMap", "its order is random; use proto::hash::IdMap or a BTreeMap"),
    ("std::collections::HashSet", "its order is random; use a BTreeSet"),
    ("collections::{HashMap", "its order is random; use proto::hash::IdMap or a BTreeMap"),
    ("RandomState", "hashing must be the same in every run"),
    ("rand::", "draw in the driver, hand the number in"),
    ("getrandom", "draw in the driver, hand the number in"),
    ("tokio", "the driver awaits, a core does not"),
    ("async fn", "the driver awaits, a core does not"),
    ("println!", "a core logs with Effect::Log"),
    ("tracing::", "a core logs with Effect::Log"),
];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.ending(".rs") {
        check_everywhere(file, &mut complaints);
        if is_pure(&file.path) {
            check_pure(file, &mut complaints);
        }
    }
    complaints
}

fn check_everywhere(file: &SourceFile, complaints: &mut Vec<Complaint>) {
    for ban in EVERYWHERE {
        if ban.allowed.iter().any(|prefix| file.path.starts_with(prefix)) {
            continue;
        }
        let test_file = !ban.tests_too && is_test_file(&file.path);
        for (number, line) in (1..).zip(&file.rust) {
            let excused = test_file || (line.test && !ban.tests_too);
            if !excused && line.code.contains(ban.pattern) {
                let what = format!("`{}`: {}", ban.pattern, ban.instead);
                complaints.push(Complaint::new(&file.path, number, what));
            }
        }
    }
}

fn check_pure(file: &SourceFile, complaints: &mut Vec<Complaint>) {
    for (number, line) in (1..).zip(&file.rust) {
        let impure = IMPURE.iter().filter(|(pattern, _)| names(&line.code, pattern));
        for (pattern, instead) in impure.filter(|_| !line.test && !is_test_file(&file.path)) {
            let what = format!("`{pattern}` in pure code: {instead}");
            complaints.push(Complaint::new(&file.path, number, what));
        }
    }
}

/// Whether code names a path, not another that ends alike.
fn names(code: &str, pattern: &str) -> bool {
    let boundary = |c: char| !(c.is_alphanumeric() || c == '_');
    code.match_indices(pattern).any(|(at, _)| code[..at].chars().next_back().is_none_or(boundary))
}

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|(directory, without)| {
        path.starts_with(directory) && !without.iter().any(|part| path.starts_with(part))
    })
}

/// A file that is never shipped: a module compiled for tests only (its parent says so, which the
/// file does not show), an integration test, an example.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || path.contains("/tests/")
        || path.contains("/examples/")
}
