//! `lockstep run arbitrator`: an API node that does nothing but stand in as arbitrator, where no
//! application has offered itself.

use std::time::Duration;

use lockstep_client::Client;
use lockstep_proto::report::ViewReport;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::{Global, block_on, connect, interrupt};
use crate::admin::Admin;
use crate::admin::snapshot::{Kind, StandIn};
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
    let admin = Admin::open((args.admin != "off").then_some(&args.admin), Kind::Arbitrator)?;
    if let Some(addr) = admin.addr {
        voice.say(format!("admin port at http://{addr}"));
    }
    block_on(async {
        let builder = Client::at(&url).deadline(global.timeout).arbitrator(&args.name);
        let client = builder.connect().await.map_err(CliError::from)?;
        let view = client.view().await?;
        let cluster = view.cluster;
        let (mut view, mut named) = (ViewReport::of(&view), false);
        admin.stand_in.send_replace(Some(StandIn { view: view.clone(), arbitrates: named }));
        voice.say(format!("{} offers itself as arbitrator to cluster {cluster}", args.name));
        let mut ended = std::pin::pin!(interrupt::ended());
        loop {
            tokio::select! {
                () = &mut ended => return Ok(ExitKind::Done),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let (now, names_it) = (ViewReport::of(&*client.view().await?), client.arbitrates());
            if now == view && names_it == named {
                continue;
            }
            admin.stand_in.send_replace(Some(StandIn { view: now.clone(), arbitrates: names_it }));
            view = now;
            if names_it != named {
                named = names_it;
                let what =
                    if named { "is the arbitrator" } else { "is not the arbitrator any more" };
                voice.say(format!("{} {what}", args.name));
            }
        }
    })
}
