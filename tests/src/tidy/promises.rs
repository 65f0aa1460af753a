//! docs/PROTOCOL.md promises; every promise names what would fail if it were broken.
//!
//! A promise is a list item that begins with a bold number: `* **P7** …`. Until the next item it
//! must name at least one of
//! * `[test: path::name]`: a function `name` in that file;
//! * `[scenario: name]`: a script `tests/scenarios/name.txt`;
//! * `[canary: name]`: a known bug that the simulator must catch;
//! * `[sim: name]`: a check of the simulator, by the name it has in its source.

use super::{Complaint, Tree};

const PROTOCOL: &str = "docs/PROTOCOL.md";
const SCENARIOS: &str = "tests/scenarios/";
const CANARIES: &str = "cluster/proto/src/canary.rs";
const SIMULATOR: &str = "tests/src/sim/";

struct Promise {
    line: usize,
    number: String,
    text: String,
}

pub(super) fn check_promises(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for promise in promises(tree) {
        let references = references(&promise.text);
        if references.is_empty() {
            let what = format!("{} names no test", promise.number);
            complaints.push(Complaint::new(PROTOCOL, promise.line, what));
        }
        for (kind, name) in references {
            if !exists(tree, kind, name) {
                let what = format!("{}: there is no {kind} `{name}`", promise.number);
                complaints.push(Complaint::new(PROTOCOL, promise.line, what));
            }
        }
    }
    complaints
}

/// Every scenario belongs to a promise, or nobody knows what it is for.
pub(super) fn check_scenarios(tree: &Tree) -> Vec<Complaint> {
    let promised = tree.file(PROTOCOL).map_or("", |file| file.text.as_str());
    let scripts = tree.files().filter_map(|file| {
        let name = file.path.strip_prefix(SCENARIOS)?.strip_suffix(".txt")?;
        Some((file, name))
    });
    let lonely = scripts.filter(|(_, name)| !promised.contains(&format!("[scenario: {name}]")));
    lonely
        .map(|(file, name)| {
            Complaint::new(&file.path, 0, format!("no promise of {PROTOCOL} names `{name}`"))
        })
        .collect()
}

/// Links between our own pages lead somewhere.
pub(super) fn check_links(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for page in tree.ending(".md") {
        let directory = page.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for (number, line) in page.lines() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || path.contains("://") {
                    continue;
                }
                if !tree.has(&resolve(directory, path)) {
                    let what = format!("the link to `{target}` leads nowhere");
                    complaints.push(Complaint::new(&page.path, number, what));
                }
            }
        }
    }
    complaints
}

fn promises(tree: &Tree) -> Vec<Promise> {
    let Some(page) = tree.file(PROTOCOL) else { return Vec::new() };
    let mut promises: Vec<Promise> = Vec::new();
    let mut open = false;
    for (line, text) in page.lines() {
        if let Some(rest) = text.strip_prefix("* **P") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            promises.push(Promise { line, number: format!("P{digits}"), text: text.to_owned() });
            open = true;
        } else if text.is_empty() || text.starts_with(['*', '#']) {
            open = false;
        } else if open && let Some(promise) = promises.last_mut() {
            promise.text.push(' ');
            promise.text.push_str(text.trim());
        }
    }
    promises
}

fn references(text: &str) -> Vec<(&str, &str)> {
    const KINDS: &[&str] = &["test", "scenario", "canary", "sim"];
    let brackets = text.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    brackets
        .filter_map(|(inside, _)| inside.split_once(": "))
        .filter(|(kind, _)| KINDS.contains(kind))
        .collect()
}

fn exists(tree: &Tree, kind: &str, name: &str) -> bool {
    match kind {
        "test" => name.split_once("::").is_some_and(|(path, function)| {
            let function = function.rsplit("::").next().unwrap_or(function);
            let file = tree.file(path);
            file.is_some_and(|file| file.text.contains(&format!("fn {function}(")))
        }),
        "scenario" => tree.file(&format!("{SCENARIOS}{name}.txt")).is_some(),
        "canary" => {
            tree.file(CANARIES).is_some_and(|file| file.text.contains(&format!("\"{name}\"")))
        }
        "sim" => tree
            .files()
            .filter(|file| file.path.starts_with(SIMULATOR))
            .any(|file| file.text.contains(&format!("fn {name}"))),
        _ => false,
    }
}

fn resolve(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
