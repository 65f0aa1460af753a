//! docs/RUNBOOKS.md, typed as it stands there.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lockstep_tests::harness::commands::User;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");
const PAGE: &str = include_str!("../../docs/RUNBOOKS.md");

/// A fenced block of commands, and what stands behind `sh` in its fence.
struct Block {
    section: String,
    tag: String,
    commands: String,
}

fn blocks() -> Vec<Block> {
    let (mut found, mut section) = (Vec::<Block>::new(), String::new());
    let mut open = false;
    for line in PAGE.lines() {
        match (open, line.strip_prefix("```")) {
            (false, Some(fence)) => {
                let tag = fence.strip_prefix("sh").expect("all blocks are commands").trim();
                let (section, tag) = (section.clone(), tag.to_owned());
                found.push(Block { section, tag, commands: String::new() });
                open = true;
            }
            (true, Some(_)) => open = false,
            (true, None) => {
                let block = found.last_mut().expect("one is open");
                block.commands += line;
                block.commands.push('\n');
            }
            (false, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut section);
                }
            }
        }
    }
    found
}

/// Runs commands as a shell of this user does; the first that fails ends it.
fn shell(user: &User, commands: &str) -> Output {
    let bin = user.home().join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).expect("made");
        symlink(BINARY, bin.join("lockstep")).expect("linked");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.args(["-e", "-u", "-c", commands]).current_dir(user.home());
    shell.env("PATH", format!("{}:{path}", bin.display())).env_remove("LOCKSTEP_URL");
    shell.env("XDG_STATE_HOME", user.home().join("state"));
    shell.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shell = shell.spawn().expect("a shell");
    let group = format!("-{}", shell.id());
    let output = shell.wait_with_output().expect("it ends");
    // What a runbook has left in the background when a command of it failed.
    let _gone = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    output
}

/// What a rehearsal has mounted; detached when dropped.
struct Mounts<'a>(&'a User);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        let mounted = self.0.home().join("cluster/node-2");
        let _detached = Command::new("umount").arg("-l").arg(mounted).output();
    }
}

fn may_mount(user: &User) -> bool {
    let probe = "mkdir probe && mount -t tmpfs -o size=1m lockstep-probe probe && umount probe";
    shell(user, probe).status.success()
}

fn rehearse(section: &str) {
    let all = blocks();
    let user = User::new(Path::new(BINARY));
    let rehearsed: Vec<&Block> = all.iter().filter(|block| block.section == section).collect();
    assert!(!rehearsed.is_empty(), "there is no runbook {section:?}");
    let needs_root = rehearsed.iter().any(|block| block.tag.ends_with("as root"));
    if needs_root && !may_mount(&user) {
        eprintln!("SKIPPED: may not mount a file system, so no disk can be filled");
        return;
    }
    let _mounts = Mounts(&user);
    let setup = all.iter().filter(|block| block.tag == "setup");
    for block in setup.chain(rehearsed) {
        let Output { status, stdout, stderr } = shell(&user, &block.commands);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}\n{}", text(&stdout), text(&stderr));
        assert!(status.success(), "{section}: {status}\n{}\n{said}", block.commands);
    }
    let stopped = user.runs("dev stop");
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
}

macro_rules! runbooks {
    ($($test:ident: $section:literal;)*) => {
        $(
            #[test]
            fn $test() {
                rehearse($section);
            }
        )*

        #[test]
        fn every_runbook_has_a_test() {
            let mut sections: Vec<String> = blocks().into_iter().map(|b| b.section).collect();
            sections.dedup();
            assert_eq!(sections, ["", $($section),*]);
        }
    };
}

runbooks! {
    lose_a_data_node: "Lose a data node";
    lose_a_zone: "Lose a zone";
    lose_all_management_servers: "Lose all management servers";
    replace_the_machine_of_a_management_server: "Replace the machine of a management server";
    replace_a_disk: "Replace a disk";
    upgrade: "Upgrade";
    grow: "Grow";
    shrink: "Shrink";
    a_disk_is_full: "A disk is full";
    after_a_loss_of_power: "After a loss of power";
    restore: "Restore";
    find_out_why_it_is_slow: "Find out why it is slow";
}
