//! The pages in docs and the command line cannot drift apart: every command they name is there.

use clap::{Command, CommandFactory};

use super::Cli;

/// Walks down a command line; says which word is wrong.
fn check(words: &str) -> Result<(), String> {
    let root = Cli::command();
    let mut at = &root;
    let mut flags = Vec::new();
    for word in words.split_whitespace() {
        if let Some(flag) = word.strip_prefix("--") {
            flags.push(flag.split('=').next().unwrap_or(flag));
            continue;
        }
        if !at.has_subcommands() {
            continue;
        }
        if word == "help" {
            // The command line has it only once it is built; what follows is looked up alike.
            continue;
        }
        at = at.find_subcommand(word).ok_or_else(|| format!("`{words}`: {word:?} is none"))?;
    }
    let known = |command: &Command, flag: &str| {
        command.get_arguments().any(|arg| {
            arg.get_long() == Some(flag)
                || arg.get_all_aliases().is_some_and(|all| all.contains(&flag))
        })
    };
    match flags.iter().find(|flag| !known(at, flag) && !known(&root, flag) && **flag != "help") {
        Some(flag) => Err(format!("`{words}`: there is no --{flag}")),
        None => Ok(()),
    }
}

/// What a page says to type: quoted words, and lines of blocks, up to whatever a shell makes of
/// the rest.
fn typed(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block = false;
    for line in page.lines() {
        if line.starts_with("```") {
            block = !block;
            continue;
        }
        let pieces: Vec<&str> = match block {
            true => vec![line.split('#').next().unwrap_or_default().trim()],
            false => line.split('`').skip(1).step_by(2).collect(),
        };
        for piece in pieces.iter().flat_map(|piece| piece.split(['|', ';', '&', '>', '<', ')'])) {
            if let Some(words) = piece.trim().strip_prefix("lockstep ") {
                found.push(words.trim_end_matches('\\').trim().to_owned());
            }
        }
    }
    found
}

#[test]
fn every_command_in_the_docs_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).expect("docs") {
        pages.push(entry.expect("an entry").path());
    }
    let mut commands = 0;
    let mut wrong = Vec::new();
    for page in pages.iter().filter(|page| page.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(page).expect("a page");
        for words in typed(&text) {
            commands += 1;
            if let Err(why) = check(&words) {
                wrong.push(format!("{}: {why}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(commands > 50, "only {commands} found: they are not recognised any more");
}

#[test]
fn a_command_that_is_none_is_found() {
    assert_eq!(check("node show 3 -o json"), Ok(()));
    assert_eq!(check("dev start --groups 2 --timeout 3s"), Ok(()));
    assert!(check("node shew 3").is_err() && check("status --wach").is_err());
    assert_eq!(
        typed("a `lockstep top` b\n```\nlockstep health | grep x # y\n```"),
        ["top", "health"]
    );
}
