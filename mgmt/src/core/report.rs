//! What a management server tells its driver when it is asked.

use lockstep_proto::process::Peer;
use lockstep_proto::report::{MgmtReport, ViewReport};

use super::{MgmtCore, State, created};

impl MgmtCore {
    /// What it knows of itself and of the cluster.
    pub(super) fn to_report(&self) -> MgmtReport {
        let linked = |wanted: fn(&Peer) -> bool| {
            u32::try_from(self.peers.values().filter(|peer| wanted(peer)).count())
                .unwrap_or(u32::MAX)
        };
        let arbitrator = self.view().and_then(|view| view.arbitrator.as_ref());
        MgmtReport {
            view: self.view().map(ViewReport::of),
            waits_for: match &self.state {
                State::Creating(creation) => creation.pending_text(),
                State::Created(_) => String::new(),
            },
            arbitrates: created::names(arbitrator, self.id),
            data_nodes: linked(|peer| matches!(peer, Peer::Control(_) | Peer::Newcomer)),
            clients: linked(|peer| *peer == Peer::Client),
        }
    }
}
