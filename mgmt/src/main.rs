//! The `lockstep` binary: an allocator and a door to [`lockstep_mgmt::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lockstep_mgmt::cli::main()
}
