//! `lockstep run arbitrator`: an API node that does nothing but stand in as arbitrator, where no
//! application has offered itself.

use std::time::Duration;

use lockstep_client::Client;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::{Global, block_on, connect, interrupt};
use crate::dev::process::die_with_parent;
use crate::run::args::RunArbitratorArgs;

/// How often it looks whether the view names it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(global: &Global, args: &RunArbitratorArgs) -> CliResult<ExitKind> {
    if args.die_with_parent {
        die_with_parent().map_err(|error| {
            CliError::new(Trouble::Process, "cannot tie this process to the one that started it")
                .why(error.to_string())
        })?;
    }
    let voice = global.voice();
    let url = connect::url(global)?;
    block_on(async {
        let builder = Client::at(&url).deadline(global.timeout).arbitrator(&args.name);
        let client = builder.connect().await.map_err(CliError::from)?;
        let cluster = client.view().await?.cluster;
        voice.say(format!("{} offers itself as arbitrator to cluster {cluster}", args.name));
        let mut ended = std::pin::pin!(interrupt::ended());
        let mut named = false;
        loop {
            tokio::select! {
                () = &mut ended => return Ok(ExitKind::Done),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if client.arbitrates() != named {
                named = !named;
                let what =
                    if named { "is the arbitrator" } else { "is not the arbitrator any more" };
                voice.say(format!("{} {what}", args.name));
            }
        }
    })
}
