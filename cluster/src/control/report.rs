//! What the control core tells its driver when it is asked.

use lockstep_proto::report::{ControlReport, ViewReport};
use lockstep_proto::time::Instant;

use super::ControlCore;

impl ControlCore {
    /// What it knows of itself and of the cluster.
    pub(super) fn to_report(&self, now: Instant) -> ControlReport {
        let me = self.view.member(self.me.node).expect("a node acts in views that have it");
        let eldest = self.view.in_sync().min_by_key(|member| member.seniority);
        ControlReport {
            instance: self.me,
            group: me.group,
            zone: me.zone.clone(),
            standing: me.standing,
            acts: self.acts() && !self.leave.has_asked(),
            president: eldest.is_some_and(|eldest| eldest.instance == self.me),
            silent: u32::try_from(self.suspicion.unheard(now).len()).unwrap_or(u32::MAX),
            closed: self.epochs.closed(),
            view: ViewReport::of(&self.view),
        }
    }
}
