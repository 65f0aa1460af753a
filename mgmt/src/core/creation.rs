//! Collecting newcomers until the cluster can be created.
//!
//! Nothing here is kept: a newcomer counts while its link is up and reports again on the next one.
//! A report that can never be part of the plan is refused with words, at once, because its
//! operator is looking at it now.

use std::collections::BTreeMap;

use lockstep_proto::ids::NodeId;
use lockstep_proto::limits::NODES_MAX;
use lockstep_proto::process::LinkId;
use lockstep_proto::roster::{Newcomer, check_form};

use super::plan::ClusterPlan;

/// The newcomers that are here.
#[derive(Debug)]
pub(super) struct Creation {
    plan: ClusterPlan,
    here: BTreeMap<LinkId, Newcomer>,
}

impl Creation {
    pub(super) fn new(plan: ClusterPlan) -> Self {
        Self { plan, here: BTreeMap::new() }
    }

    /// Takes a report; a repeated one on the same link replaces the first.
    ///
    /// # Errors
    /// What, why and what to do now, for the newcomer's operator.
    pub(super) fn on_report(&mut self, link: LinkId, newcomer: Newcomer) -> Result<(), String> {
        self.here.remove(&link);
        self.check_form(&newcomer)?;
        self.check_against_others(&newcomer)?;
        self.here.insert(link, newcomer);
        Ok(())
    }

    pub(super) fn on_link_down(&mut self, link: LinkId) {
        self.here.remove(&link);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.here.len() == self.plan.nodes()
    }

    /// What the others are waiting for.
    pub(super) fn pending_text(&self) -> String {
        let (here, nodes) = (self.here.len(), self.plan.nodes());
        format!("{here} of {nodes} data nodes are here; waiting for {} more", nodes - here)
    }

    /// The plan and everybody who is here, for the creation.
    pub(super) fn take(&mut self) -> (ClusterPlan, BTreeMap<LinkId, Newcomer>) {
        (self.plan.clone(), std::mem::take(&mut self.here))
    }

    fn check_form(&self, newcomer: &Newcomer) -> Result<(), String> {
        check_form(newcomer)?;
        let Newcomer { zone, wanted, .. } = newcomer;
        if wanted.is_some_and(|node| usize::from(node.0) > NODES_MAX) {
            return Err(format!("a new cluster's node ids are 1 to {NODES_MAX}: change `node.id`"));
        }
        let zones = &self.plan.zones;
        if !zones.is_empty() && !zones.contains(zone) {
            return Err(format!(
                "zone {zone:?} is not one of the cluster's zones ({}): change `node.zone` here or \
                 `cluster.zones` at the management server",
                zones.join(", ")
            ));
        }
        Ok(())
    }

    fn check_against_others(&self, newcomer: &Newcomer) -> Result<(), String> {
        let mut others = self.here.values();
        if let Some(other) = others.clone().find(|other| other.addr == newcomer.addr) {
            return Err(format!(
                "another data node (zone {:?}) reports the same address {}: give each node its \
                 own `node.listen` or `node.advertise`",
                other.zone, other.addr
            ));
        }
        if let Some(node) = newcomer.wanted
            && let Some(other) = others.find(|other| other.wanted == Some(node))
        {
            return Err(duplicate_id(node, &other.addr));
        }
        let zone_max = self.plan.nodes_per_zone_max();
        let same_zone = self.here.values().filter(|other| other.zone == newcomer.zone).count();
        if !self.plan.zones.is_empty() && same_zone >= zone_max {
            return Err(format!(
                "zone {:?} already has {zone_max} data nodes; more there would put two replicas of \
                 a node group into one zone although another is free: start this node in another \
                 zone",
                newcomer.zone
            ));
        }
        Ok(())
    }
}

fn duplicate_id(node: NodeId, addr: &str) -> String {
    format!(
        "node id {} is taken by the data node at {addr}: give this one another `node.id`, or none",
        node.0
    )
}
