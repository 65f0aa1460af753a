//! `lockstep version`.

use lockstep_proto::wire::hello::WIRE_VERSION;
use serde_json::json;

use super::error::{CliResult, ExitKind};
use super::{Global, stdout_error};

pub(super) fn run(global: &Global) -> CliResult<ExitKind> {
    let version = env!("CARGO_PKG_VERSION");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let json = json!({
        "schema": "lockstep.version/v1",
        "version": version,
        "wire": WIRE_VERSION,
        "profile": profile,
    });
    global
        .voice()
        .data(&json, || format!("lockstep {version} (wire {WIRE_VERSION}, {profile} build)\n"))
        .map_err(stdout_error)?;
    Ok(ExitKind::Done)
}
