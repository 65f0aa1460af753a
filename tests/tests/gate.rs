//! The gate's own command line: a typo must not pass for a green gate.

use std::process::Command;

fn gate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lockstep-gate")).args(arguments).output();
    let output = output.expect("the gate starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn unknown_words_are_refused() {
    for arguments in [&[][..], &["chek"], &["fix", "tidy"], &["check", "tidy", "clipy"]] {
        let (code, stdout, stderr) = gate(arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert_eq!(stdout, "");
        assert!(!stderr.is_empty());
    }
}

#[test]
fn one_step_alone_is_timed_and_summed_up() {
    let (code, stdout, _) = gate(&["check", "tidy"]);
    assert_eq!(code, Some(0), "{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("tidy       ok"), "{stdout}");
    assert!(lines[1].starts_with("gate ok in"), "{stdout}");
}
