//! The size of files and lines, and the text every Rust file opens with. Clippy watches the size
//! of functions (`clippy.toml`).

use super::{Complaint, SourceFile, Tree};

const FILE_LINES_MAX: usize = 600;
const LINE_CHARS_MAX: usize = 100;

/// Files that may be longer, and the decision that says why.
const LONG_FILES: &[(&str, &str)] = &[];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in tree.ending(".rs") {
        complaints.extend(file_length(file));
        complaints.extend(opening(file));
        complaints.extend(line_lengths(file, |_, _| false));
    }
    for file in tree.ending(".md") {
        let mut fenced = false;
        complaints.extend(line_lengths(file, |_, line| {
            fenced ^= line.trim_start().starts_with("```");
            fenced
                || line.starts_with('|')
                || line.contains("](")
                || line.contains("://")
                || line.contains("[test: ")
        }));
    }
    complaints
}

fn file_length(file: &SourceFile) -> Option<Complaint> {
    let count = file.text.lines().count();
    let named = LONG_FILES.iter().any(|(path, _)| *path == file.path);
    let what = format!("{count} lines; cut it by concern, {FILE_LINES_MAX} are the limit");
    (count > FILE_LINES_MAX && !named).then(|| Complaint::new(&file.path, 0, what))
}

fn opening(file: &SourceFile) -> Option<Complaint> {
    let what = "a file opens with `//!`: what it is, why it exists, its invariant";
    let opens = file.text.starts_with("//! ") || file.text.starts_with("#!");
    (!opens).then(|| Complaint::new(&file.path, 1, what))
}

fn line_lengths(file: &SourceFile, mut excused: impl FnMut(usize, &str) -> bool) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (number, line) in file.lines() {
        let chars = line.chars().count();
        if !excused(number, line) && chars > LINE_CHARS_MAX {
            let what = format!("{chars} characters; {LINE_CHARS_MAX} are the limit");
            complaints.push(Complaint::new(&file.path, number, what));
        }
        if line.chars().any(|c| c.is_control()) {
            let what = "a control character; write it as an escape";
            complaints.push(Complaint::new(&file.path, number, what));
        }
        if line.ends_with(' ') {
            complaints.push(Complaint::new(&file.path, number, "blanks at the end of the line"));
        }
    }
    complaints
}
