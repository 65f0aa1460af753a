//! What packages depend on: pure ones on nothing that could make them impure, and nobody on
//! anything that docs/DEPENDENCIES.md does not explain.

use super::{Complaint, SourceFile, Tree};

/// Packages that are pure as a whole, and all they may depend on.
const PURE: &[(&str, &[&str])] = &[
    (
        "cluster/proto/Cargo.toml",
        &["bytes", "serde", "bincode", "thiserror", "hashbrown", "xxhash-rust", "crc32c"],
    ),
    (
        "storage/Cargo.toml",
        &["lockstep-proto", "bytes", "hashbrown", "crc32c", "lz4_flex", "thiserror", "xxhash-rust"],
    ),
    (
        "cluster/Cargo.toml",
        &["lockstep-proto", "lockstep-storage", "bytes", "hashbrown", "thiserror"],
    ),
];

pub(super) fn check(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, allowed) in PURE {
        let Some(manifest) = tree.file(path) else { continue };
        for (number, name) in section(manifest, "[dependencies]") {
            if !allowed.contains(&name) {
                let what = format!("a pure package may not depend on `{name}`");
                complaints.push(Complaint::new(path, number, what));
            }
        }
    }
    let pages = "docs/DEPENDENCIES.md";
    if let Some(manifest) = tree.file("Cargo.toml") {
        let explained = tree.file(pages).map_or("", |file| file.text.as_str());
        for (number, name) in section(manifest, "[workspace.dependencies]") {
            let ours = name.starts_with("lockstep-");
            if !ours && !explained.contains(&format!("`{name}`")) {
                let what = format!("`{name}` is not explained in {pages}");
                complaints.push(Complaint::new("Cargo.toml", number, what));
            }
        }
    }
    complaints
}

/// The names in one section of a manifest, with their lines.
fn section<'a>(manifest: &'a SourceFile, header: &str) -> Vec<(usize, &'a str)> {
    let lines = manifest.lines().skip_while(move |(_, line)| line.trim() != header).skip(1);
    lines
        .take_while(|(_, line)| !line.starts_with('['))
        .filter_map(|(number, line)| {
            let name = line.split(['=', '.', ' ']).next()?.trim();
            (!name.is_empty() && !name.starts_with('#')).then_some((number, name))
        })
        .collect()
}
