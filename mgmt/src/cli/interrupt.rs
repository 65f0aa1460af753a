//! Ctrl-C and SIGTERM for commands that have something to clean up.

use tokio::signal::unix::{SignalKind, signal};

use super::error::{CliError, CliResult, Trouble};

/// Until the user wants to stop.
pub(super) async fn ended() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        // Signals do what they always do, then.
        _ => std::future::pending().await,
    }
}

/// Does the work, or gives it up when the user wants to stop: whatever it holds is dropped then,
/// child processes and directories among it.
pub(super) async fn or_interrupted<T>(work: impl Future<Output = CliResult<T>>) -> CliResult<T> {
    let failed = |error: std::io::Error| {
        CliError::new(Trouble::Process, "cannot hear signals").why(error.to_string())
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Err(CliError::new(Trouble::Interrupted, "interrupted")),
        _ = terminate.recv() => Err(CliError::new(Trouble::Interrupted, "terminated")),
    }
}
