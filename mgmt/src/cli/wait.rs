//! `lockstep wait`: until the cluster or a node is as it should be.

use std::time::{Duration, Instant};

use lockstep_client::Client;
use lockstep_proto::ids::NodeId;
use lockstep_proto::view::View;
use serde_json::json;

use super::error::{CliError, CliResult, ExitKind, Trouble};
use super::follow::Follow;
use super::roster::newest_view;
use super::status::{Health, Page, SPARE, collect};
use super::{Global, block_on, connect, interrupt, stdout_error};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long one attempt to reach a cluster may take: it may be starting meanwhile.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);

const NOTES: &str = "\
Examples:
  lockstep wait --for healthy                        every replica is there
  lockstep wait --for node=3:started --timeout 10m   node 3 is in sync
  lockstep wait --for node=3:stopped                 the cluster goes on without node 3
  lockstep wait --for node=5:spare                   node 5 is there, and in no node group

Waits for --timeout (30s), also for a cluster that cannot be reached yet. Exit codes: 0 it is so,
5 it can never be so, 6 it was not so in time.";

/// Arguments of `lockstep wait`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = NOTES)]
pub(super) struct WaitArgs {
    /// healthy, node=N:started, node=N:stopped or node=N:spare; may be repeated, then all of them
    #[arg(long = "for", value_name = "WHAT", value_parser = goal, required = true)]
    goals: Vec<Goal>,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    Healthy,
    Started(u16),
    Stopped(u16),
    Spare(u16),
}

fn goal(text: &str) -> Result<Goal, String> {
    let refusal = || "write healthy, node=N:started, node=N:stopped or node=N:spare".to_owned();
    if text == "healthy" {
        return Ok(Goal::Healthy);
    }
    let (node, state) =
        text.strip_prefix("node=").and_then(|rest| rest.split_once(':')).ok_or_else(refusal)?;
    let node = super::node_id(node)?;
    match state {
        "started" => Ok(Goal::Started(node)),
        "stopped" => Ok(Goal::Stopped(node)),
        "spare" => Ok(Goal::Spare(node)),
        _ => Err(refusal()),
    }
}

impl Goal {
    fn name(self) -> String {
        match self {
            Self::Healthy => "healthy".to_owned(),
            Self::Started(node) => format!("node={node}:started"),
            Self::Stopped(node) => format!("node={node}:stopped"),
            Self::Spare(node) => format!("node={node}:spare"),
        }
    }

    /// What is missing; `None` if it is so.
    fn missing(self, page: &Page) -> Option<String> {
        match self {
            Self::Healthy if page.health() == Health::Healthy => None,
            Self::Healthy => {
                Some(format!("{}: {}", page.health().name(), page.troubles().join("; ")))
            }
            Self::Started(node) => {
                let found = page.nodes.iter().find(|n| n.member.instance.node == NodeId(node));
                match found {
                    None => Some(format!("node {node} is not in the cluster")),
                    Some(found) if found.is_serving() => None,
                    Some(found) => Some(
                        found
                            .describe_join()
                            .unwrap_or_else(|| format!("node {node} is {}", found.state())),
                    ),
                }
            }
            Self::Stopped(node) => {
                let there = page.view.member(NodeId(node)).is_some();
                there.then(|| format!("node {node} is in the cluster"))
            }
            Self::Spare(node) => {
                let found = page.nodes.iter().find(|n| n.member.instance.node == NodeId(node));
                match found {
                    None => Some(format!("node {node} is not in the cluster")),
                    Some(found) if found.state() == SPARE => None,
                    Some(found) => Some(format!("node {node} is {}", found.state())),
                }
            }
        }
    }

    /// The node that cannot be waited to stop, because there never was one of this number.
    fn never_was(self, view: &View) -> Option<CliError> {
        let Self::Stopped(node) = self else { return None };
        view.roster.was_never_given(NodeId(node)).then(|| {
            CliError::new(Trouble::NoSuchNode, format!("there is and was no data node {node}"))
                .then("see `lockstep node list`")
        })
    }
}

pub(super) fn run(global: &Global, args: &WaitArgs) -> CliResult<ExitKind> {
    let started = Instant::now();
    let url = connect::url(global)?;
    block_on(interrupt::or_interrupted(async {
        let deadline = started + global.timeout;
        let mut follow = Follow::new(global.voice());
        let mut client: Option<Client> = None;
        let missing = loop {
            let missing = match look(&url, &mut client, deadline, &args.goals).await {
                Ok(None) => break None,
                Ok(Some(missing)) => missing,
                Err(error) if error.number == Trouble::NoSuchNode as u16 => return Err(error),
                Err(error) => match error.why.as_str() {
                    "" => error.what,
                    why => format!("{}: {why}", error.what),
                },
            };
            if Instant::now() >= deadline {
                break Some(missing);
            }
            follow.tell(&format!("waiting: {missing}"));
            tokio::time::sleep(LOOK_EVERY).await;
        };
        drop(follow);
        let names: Vec<String> = args.goals.iter().map(|goal| goal.name()).collect();
        if let Some(missing) = missing {
            let what = format!("waited {:?} in vain for {}", global.timeout, names.join(", "));
            return Err(CliError::new(Trouble::TimedOut, what)
                .why(missing)
                .then("`lockstep doctor` says what may be wrong; wait longer with --timeout"));
        }
        let seconds = started.elapsed().as_secs_f64();
        let json = json!({ "schema": "lockstep.wait/v1", "for": names, "seconds": seconds });
        let text = || format!("{}, after {seconds:.1} s\n", names.join(", "));
        global.voice().data(&json, text).map_err(stdout_error)?;
        Ok(ExitKind::Done)
    }))
}

/// What is missing of the goals now. The client is made once somebody answers.
async fn look(
    url: &str,
    client: &mut Option<Client>,
    deadline: Instant,
    goals: &[Goal],
) -> CliResult<Option<String>> {
    let left = deadline.saturating_duration_since(Instant::now());
    let patience = left.clamp(LOOK_EVERY, ATTEMPT_MAX);
    if client.is_none() {
        *client = Some(connect::connect(url, patience).await?);
    }
    let Some(client) = client else { return Ok(Some("nobody answers".to_owned())) };
    let page = match tokio::time::timeout(patience, collect(client)).await {
        Ok(page) => page?,
        Err(_) => return Ok(Some("the cluster does not answer".to_owned())),
    };
    let never_was = |view: &View| goals.iter().find_map(|goal| goal.never_was(view));
    if never_was(&page.view).is_some() {
        // What the page was made of may be old.
        return match tokio::time::timeout(patience, newest_view(client)).await {
            Ok(view) => never_was(&*view?).map_or(Ok(Some("nodes came".to_owned())), Err),
            Err(_) => Ok(Some("the cluster does not answer".to_owned())),
        };
    }
    Ok(goals.iter().find_map(|goal| goal.missing(&page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read_and_refused() {
        assert_eq!(goal("healthy"), Ok(Goal::Healthy));
        assert_eq!(goal("node=n3:started"), Ok(Goal::Started(3)));
        assert_eq!(goal("node=5:spare").map(Goal::name), Ok("node=5:spare".to_owned()));
        assert_eq!(goal("node=3:stopped").map(Goal::name), Ok("node=3:stopped".to_owned()));
        for wrong in ["", "well", "node=3", "node=x:started", "node=3:gone", "node:started"] {
            assert!(goal(wrong).is_err(), "{wrong:?}");
        }
    }
}
