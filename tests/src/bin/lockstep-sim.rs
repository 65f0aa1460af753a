//! The simulator's command; see `lockstep_tests::sim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_tests::sim::cli::main()
}
