//! Bad samples, one for each thing tidy looks at, and the good ones beside them: a rule that
//! never complains would look just like a clean tree.

use super::{Complaint, Tree, check};

/// What tidy says about a tree, without the paths.
fn said(files: &[(&str, &str)]) -> Vec<String> {
    check(&Tree::of(files)).into_iter().map(|Complaint { what, .. }| what).collect()
}

/// Tidy complains exactly once, and the complaint contains `part`.
#[track_caller]
fn complains(files: &[(&str, &str)], part: &str) {
    let said = said(files);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(part), "{:?} should contain {part:?}", said[0]);
}

#[track_caller]
fn is_content(files: &[(&str, &str)]) {
    assert_eq!(said(files), Vec::<String>::new());
}

#[test]
fn files_lines_and_openings() {
    let long = format!("//! Long.\n{}", "\n".repeat(600));
    complains(&[("storage/src/a.rs", &long)], "601 lines");
    complains(&[("storage/src/a.rs", "fn main() {}\n")], "opens with");
    let wide = format!("//! Wide.\n// {}\n", "x".repeat(100));
    complains(&[("storage/src/a.rs", &wide)], "103 characters");
    complains(&[("docs/a.md", "x ".repeat(60).trim_end())], "119 characters");
    complains(&[("docs/a.md", "x \n")], "blanks");
    complains(&[("storage/src/a.rs", "//! A.\nconst A: &str = \"a\0b\";\n")], "control character");
    is_content(&[(
        "docs/a.md",
        &format!("| {} |\n```\n{}\n```\n", "x".repeat(200), "y".repeat(200)),
    )]);
}

#[test]
fn calls_that_nobody_makes() {
    complains(&[("mgmt/src/a.rs", "//! A.\nfn a() { todo!() }\n")], "todo!");
    complains(&[("mgmt/src/a.rs", "//! A.\nfn a() { b().unwrap() }\n")], ".unwrap()");
    complains(&[("mgmt/src/a.rs", "//! A.\n#[ignore = \"slow\"]\nfn a() {}\n")], "#[ignore");
    complains(&[("tests/src/a.rs", "//! A.\nfn a() { std::thread::sleep(b) }\n")], "sleep");
    complains(&[("client/src/a.rs", "//! A.\nuse bincode::Encode;\n")], "one codec");
    is_content(&[("mgmt/src/a.rs", "//! A.\n// todo!()\nfn a() -> &'static str { \"dbg!\" }\n")]);
    is_content(&[(
        "mgmt/src/a.rs",
        "//! A.\n#[cfg(test)]\nmod t {\n fn a() { b().unwrap() }\n}\n",
    )]);
}

#[test]
fn pure_code_stays_pure() {
    for (code, part) in [
        ("use std::time::Instant;", "std::time::Instant"),
        ("let t = SystemTime::now();", "SystemTime"),
        ("use std::net::TcpStream;", "std::net"),
        ("use std::collections::HashMap;", "random"),
        ("use tokio::sync::mpsc;", "tokio"),
        ("let n = rand::random();", "rand::"),
        ("async fn a() {}", "async fn"),
    ] {
        for path in ["storage/src/a.rs", "cluster/src/shard/a.rs", "client/src/core/a.rs"] {
            complains(&[(path, &format!("//! A.\n{code}\n"))], part);
        }
        is_content(&[("cluster/runtime/src/a.rs", &format!("//! A.\n{code}\n"))]);
    }
    is_content(&[("storage/src/a.rs", "//! A.\nuse lockstep_proto::time::Instant;\n")]);
    is_content(&[("storage/src/a.rs", "//! A.\nlet operand::B = c;\n")]);
}

#[test]
fn words_and_names() {
    complains(&[("mgmt/src/a.rs", "//! The leader.\n")], "primary or president");
    complains(&[("mgmt/src/a.rs", "//! A.\nstruct FollowerSet;\n")], "backup");
    complains(&[("mgmt/src/a.rs", "//! A.\nconst WAL_BYTES: u8 = 0;\n")], "redo log");
    complains(&[("docs/a.md", "A Quorum decides.\n")], "survival rules");
    complains(&[("mgmt/src/a.rs", "//! A.\nfn get_row() {}\n")], "what it returns");
    complains(&[("mgmt/src/a.rs", "//! A.\nstruct ViewManager;\n")], "what it is");
    complains(&[("mgmt/src/a.rs", "//! A.\nmod util {}\n")], "what is inside");
    complains(&[("mgmt/src/common.rs", "//! A.\n")], "what is inside");
    is_content(&[("docs/GLOSSARY.md", "Do not write leader.\n")]);
    is_content(&[("mgmt/src/a.rs", "//! Walk: leads to a masterpiece.\nfn target_row() {}\n")]);
}

#[test]
fn manifests() {
    let pure = "[package]\nname = \"lockstep-storage\"\n\n[dependencies]\ntokio.workspace = true\n";
    complains(&[("storage/Cargo.toml", pure)], "tokio");
    let root = "[workspace.dependencies]\nlockstep-proto = { path = \"a\" }\nleftpad = \"1\"\n";
    complains(&[("Cargo.toml", root)], "`leftpad` is not explained");
    is_content(&[("Cargo.toml", root), ("docs/DEPENDENCIES.md", "| `leftpad` | why |\n")]);
}

#[test]
fn promises_name_tests_that_exist() {
    let page = "docs/PROTOCOL.md";
    let code = ("tests/src/a.rs", "//! A.\nfn it_holds() {}\n");
    complains(&[(page, "* **P1** Nothing is lost.\n")], "P1 names no test");
    complains(
        &[(page, "* **P1** Nothing is lost. [test: tests/src/a.rs::it_breaks]\n"), code],
        "there is no test",
    );
    complains(&[(page, "* **P1** A.\n  [scenario: power_cut]\n")], "there is no scenario");
    complains(&[(page, "* **P1** A. [canary: tail]\n")], "there is no canary");
    complains(&[("tests/scenarios/power_cut.txt", "x\n")], "no promise");
    complains(&[(page, "See [there](other.md).\n")], "leads nowhere");
    is_content(&[
        (page, "* **P1** Nothing\n  is lost.\n  [test: tests/src/a.rs::it_holds]\n\nText.\n"),
        code,
    ]);
    is_content(&[
        (page, "* **P1** A. [scenario: power_cut] [code](../tests/src/a.rs#x)\n"),
        ("tests/scenarios/power_cut.txt", "x\n"),
        code,
    ]);
}
