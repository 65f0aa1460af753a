//! The event logs of management servers: each tells up to the view its server knows, and what it
//! tells last of every data node, every node group and the moves between them is what that view
//! says.

use std::collections::BTreeMap;

use lockstep_mgmt::core::MgmtCore;
use lockstep_proto::events::{EventLog, Happening};
use lockstep_proto::ids::{GroupId, NodeId, NodeInstance};
use lockstep_proto::view::{Standing, View};

use crate::sim::cluster::Cluster;
use crate::sim::core::Core;
use crate::sim::world::World;

/// What is wrong with the logs of the servers that run.
#[must_use]
pub fn at_rest(world: &World, cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for host in &cluster.mgmts {
        for proc in &world.host(*host).procs {
            if let Some(Core::Mgmt(core)) = &world.procs[proc.index()].core {
                let name = &world.host(*host).name;
                found.extend(judge(core).map(|text| format!("the event log of {name} {text}")));
            }
        }
    }
    found
}

fn life(what: &Happening) -> Option<NodeInstance> {
    match what {
        Happening::NodeLost { node, .. }
        | Happening::NodeAdmitted { node, .. }
        | Happening::NodeAttached { node }
        | Happening::NodeInSync { node } => Some(*node),
        _ => None,
    }
}

fn judge(core: &MgmtCore) -> Option<String> {
    let view = core.view()?;
    let log = core.events();
    if log.told() != Some(view) {
        let told = log.told().map(|told| told.number);
        return Some(format!("tells up to {told:?}, and it knows {}", view.number));
    }
    let events = log.events();
    if let Some(pair) = events.windows(2).find(|pair| pair[1].number != pair[0].number + 1) {
        return Some(format!("has {} after {}", pair[1].number, pair[0].number));
    }
    let mut last: BTreeMap<NodeId, &Happening> = BTreeMap::new();
    for event in events {
        match &event.what {
            Happening::Restarted { .. } => last.clear(),
            what => drop(life(what).map(|life| last.insert(life.node, what))),
        }
    }
    let wrong = last.into_iter().find(|(node, what)| match view.member(*node) {
        None => !matches!(what, Happening::NodeLost { .. }),
        Some(member) => {
            life(what) != Some(member.instance)
                || match what {
                    Happening::NodeAdmitted { .. } => member.standing != Standing::Copying,
                    Happening::NodeAttached { .. } => member.standing != Standing::Attached,
                    Happening::NodeInSync { .. } => member.standing != Standing::InSync,
                    _ => true,
                }
        }
    });
    let wrong = wrong.map(|(node, what)| {
        format!("says last of {node} {what:?}, in {} it is {:?}", view.number, view.member(node))
    });
    wrong.or_else(|| judge_groups(log, view))
}

fn judge_groups(log: &EventLog, view: &View) -> Option<String> {
    let mut groups: BTreeMap<GroupId, bool> = BTreeMap::new();
    let mut moves = None;
    for event in log.events() {
        match event.what {
            Happening::GroupCreated { group } => drop(groups.insert(group, true)),
            Happening::GroupDropped { group } => drop(groups.insert(group, false)),
            Happening::RebalanceBegun => moves = Some(true),
            Happening::RebalanceEnded { .. } => moves = Some(false),
            _ => {}
        }
    }
    if let Some((group, there)) = groups.into_iter().find(|(g, there)| view.has_group(*g) != *there)
    {
        return Some(format!("says last that it is {there} of {group} that it is there"));
    }
    let is = view.is_rebalancing();
    let wrong = moves.filter(|said| *said != is);
    wrong.map(|said| format!("says last that it is {said} that partitions move, and it is {is}"))
}
