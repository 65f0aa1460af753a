//! The `lockstep` binary once more, in the package whose tests start it: cargo builds a package's
//! own binaries for its tests, not those of other packages.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_mgmt::cli::main()
}
