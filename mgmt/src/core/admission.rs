//! Who comes to belong to the cluster: the nodes it is created of, and newcomers, who get a seat
//! from the data nodes and hear of it here.

use std::collections::BTreeMap;

use lockstep_proto::ids::{ClusterId, Incarnation, NodeInstance};
use lockstep_proto::limits::NODES_MAX;
use lockstep_proto::process::{LinkId, LogLevel, Outputs, Peer};
use lockstep_proto::register::Register;
use lockstep_proto::roster::Newcomer;
use lockstep_proto::stored::{Admission, StoredCluster};
use lockstep_proto::view::View;
use lockstep_proto::wire::control::ControlMessage;

use super::created::Created;
use super::plan::ClusterPlan;
use super::{MgmtCore, State, Told, refuse};

impl MgmtCore {
    pub(super) fn on_report(
        &mut self,
        link: LinkId,
        newcomer: Newcomer,
        creates: bool,
        out: &mut Outputs,
    ) {
        let message = match &mut self.state {
            State::Creating(_) if !creates => {
                let text = "this management server has no cluster yet, and is not the first of \
                            this node's list, which creates it";
                ControlMessage::AdmissionPending { text: text.to_owned() }
            }
            State::Creating(creation) => match creation.on_report(link, newcomer) {
                Ok(()) if creation.is_complete() => {
                    let (plan, here) = creation.take();
                    return self.create(&plan, here, out);
                }
                Ok(()) => ControlMessage::AdmissionPending { text: creation.pending_text() },
                Err(text) => refuse(text, out),
            },
            State::Created(created) => match created.admit_again(&newcomer, out) {
                Ok(Some(admitted)) => admitted,
                Ok(None) => return self.ask_for_seat(link, newcomer, out),
                Err(text) => refuse(text, out),
            },
        };
        self.tell(Told::Control { link, message }, out);
    }

    /// The data nodes give seats: the president does, whoever that is.
    fn ask_for_seat(&mut self, link: LinkId, newcomer: Newcomer, out: &mut Outputs) {
        out.mark("newcomer_asks_for_seat");
        let known = self.waiting.contains_key(&link);
        if known || self.waiting.len() < NODES_MAX {
            self.waiting.insert(link, newcomer.process);
        }
        let is_node = |peer: &&Peer| matches!(peer, Peer::Control(_));
        let text = match self.peers.values().filter(is_node).count() {
            0 => "no data node of the cluster is connected to this management server: waiting",
            _ => "waiting for the data nodes of the cluster to agree on a place for this one",
        };
        let pending = ControlMessage::AdmissionPending { text: text.to_owned() };
        let message = ControlMessage::Newcome(Box::new(newcomer));
        for (node, _) in self.peers.iter().filter(|(_, peer)| is_node(peer)) {
            if let Some(buffer) = out.buffer(*node) {
                message.frame(buffer);
            }
        }
        self.tell(Told::Control { link, message: pending }, out);
    }

    /// The data nodes have given a seat: whoever waits for it may go on.
    pub(super) fn on_seated(&mut self, process: u64, view: View, out: &mut Outputs) {
        let State::Created(created) = &self.state else { return };
        let Some(seat) = view.roster.seat_of_process(process) else { return };
        if view.cluster != created.view().cluster {
            return;
        }
        out.mark("newcomer_seated");
        let instance = NodeInstance { node: seat.node, incarnation: Incarnation(0) };
        let waits = self.waiting.iter().filter(|(_, waiting)| **waiting == process);
        let links: Vec<LinkId> = waits.map(|(link, _)| *link).collect();
        for link in links {
            self.waiting.remove(&link);
            let view = Box::new(view.clone());
            let message = ControlMessage::Admitted { cluster: view.cluster, instance, view };
            self.tell(Told::Control { link, message }, out);
        }
    }

    /// Everybody is here: the cluster comes into being when its first view is on disk.
    fn create(&mut self, plan: &ClusterPlan, here: BTreeMap<LinkId, Newcomer>, out: &mut Outputs) {
        let links: BTreeMap<String, LinkId> =
            here.iter().map(|(link, newcomer)| (newcomer.addr.clone(), *link)).collect();
        let (view, newcomers) = plan.first_view(
            ClusterId(self.cluster_id_seed),
            here.into_values().collect(),
            self.arbitrators.clone(),
        );
        let nodes = view.members.iter().map(|m| m.instance.node);
        let admissions = nodes
            .zip(newcomers)
            .map(|(node, Newcomer { addr, process, .. })| Admission { node, addr, process })
            .collect();
        let register = Register::new(view.identity());
        let created = Created::new(StoredCluster { view, admissions }, register);
        // The register first: a cluster without one is damaged, a register alone is nothing.
        self.vault.store(&created.stored_register(), out);
        self.vault.store(created.stored_cluster(), out);
        out.log(LogLevel::Info, created.text());
        out.mark("cluster_created");
        let admitted = created.admit_all();
        let changed = self.backups.on_view(self.now, created.view(), out);
        self.store_backups(changed, out);
        self.state = State::Created(created);
        self.note_view(false, out);
        for (addr, message) in admitted {
            let link = *links.get(&addr).expect("everybody admitted has reported");
            self.tell(Told::Control { link, message }, out);
        }
        self.tell_watchers(out);
    }
}
