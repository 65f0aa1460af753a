//! One word per thing: words the glossary refuses, and names that say nothing.

use super::{Complaint, SourceFile, Tree};

/// A word and what we say instead.
const WORDS: &[(&str, &str)] = &[
    ("master", "primary, president or management server"),
    ("masters", "primaries"),
    ("slave", "backup"),
    ("slaves", "backups"),
    ("leader", "primary or president"),
    ("leaders", "primaries"),
    ("follower", "backup"),
    ("followers", "backups"),
    ("quorum", "survival rules"),
    ("wal", "partition log or redo log"),
    ("journal", "partition log or redo log"),
    ("journals", "partition logs or redo logs"),
    ("cohort", "participants"),
    ("cohorts", "participants"),
];

/// Where the words may stand: pages that explain why we do not use them, and this rule.
const WORDS_ALLOWED: &[&str] =
    &["docs/GLOSSARY.md", "docs/decisions/", "tests/src/tidy/", "LICENSE"];

/// Names of modules and files that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "shared"];

/// Where `get` is not a getter but what a client asks of a database.
const GETS: &str = "client/src/";

/// Ends of type names that say nothing about what the type is.
const EMPTY_ENDINGS: &[&str] = &["Manager", "Helper", "Util", "Utils"];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.files() {
        if !WORDS_ALLOWED.iter().any(|prefix| file.path.starts_with(prefix)) {
            check_words(file, &mut complaints);
        }
        if file.path.ends_with(".rs") {
            check_file_name(file, &mut complaints);
            check_names(file, &mut complaints);
        }
    }
    complaints
}

fn check_words(file: &SourceFile, complaints: &mut Vec<Complaint>) {
    for (number, line) in file.lines() {
        for word in words_of(line) {
            let Some((_, instead)) = WORDS.iter().find(|(bad, _)| *bad == word) else { continue };
            let what = format!("`{word}`: the glossary says {instead}");
            complaints.push(Complaint::new(&file.path, number, what));
        }
    }
}

fn check_file_name(file: &SourceFile, complaints: &mut Vec<Complaint>) {
    let parts = file.path.trim_end_matches(".rs").split('/');
    for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
        let what = format!("`{part}` says nothing about what is inside");
        complaints.push(Complaint::new(&file.path, 0, what));
    }
}

fn check_names(file: &SourceFile, complaints: &mut Vec<Complaint>) {
    for (number, line) in (1..).zip(&file.rust) {
        let words: Vec<&str> = line
            .code
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            let [before, name] = *pair else { continue };
            let what = match before {
                "fn" if name.starts_with("get_") && !file.path.starts_with(GETS) => {
                    "a getter is named by what it returns"
                }
                "struct" | "enum" | "trait" | "type"
                    if EMPTY_ENDINGS.iter().any(|ending| name.ends_with(ending)) =>
                {
                    "a type is named by what it is, not by what it does to others"
                }
                "mod" if EMPTY_NAMES.contains(&name) => "a module is named by what is inside",
                _ => continue,
            };
            complaints.push(Complaint::new(&file.path, number, format!("`{name}`: {what}")));
        }
    }
}

/// Words in lower case; `TwoWords` and `two_words` are two words each.
fn words_of(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous_lower = false;
    for c in line.chars() {
        let starts_word = c.is_uppercase() && previous_lower;
        if starts_word || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
        previous_lower = c.is_lowercase();
    }
    words
}
