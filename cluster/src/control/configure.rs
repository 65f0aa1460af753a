//! Changes of the configuration: whoever hears of one passes it on to the president, who makes a
//! view of it while nothing else is wrong.
//!
//! Nobody is answered. The view says what came of it, to everybody alike: it has the change, or
//! another one for the same version. Who wants a change repeats it until one of the two is the
//! case, so it does not matter if it is lost here, with a president or a link.

use lockstep_proto::canary::Canary;
use lockstep_proto::configuration::ConfigChange;
use lockstep_proto::ids::NodeInstance;
use lockstep_proto::process::{LogLevel, Outputs};
use lockstep_proto::time::Instant;
use lockstep_proto::wire::control::{ControlMessage, ViewChange};

use super::ControlCore;

impl ControlCore {
    /// Who makes views, as far as this node can tell.
    pub(super) fn president(&mut self, now: Instant) -> Option<NodeInstance> {
        let gone = self.suspicion.gone(now);
        let is_gone = |node: NodeInstance| gone.iter().any(|(g, _)| *g == node);
        let there = self.view.in_sync().filter(|m| !is_gone(m.instance));
        there.min_by_key(|m| m.seniority).map(|m| m.instance)
    }

    /// Somebody wants another configuration: a client of this node, or of another one.
    pub(super) fn on_configure(
        &mut self,
        now: Instant,
        change: Box<ConfigChange>,
        heard_here: bool,
        out: &mut Outputs,
    ) {
        if !self.is_configurable(&change) {
            return out.mark("config_change_outdated");
        }
        match self.president(now) {
            Some(president) if president == self.me => {
                self.config_wanted.get_or_insert(change);
                self.reconsider(now, out);
            }
            Some(president) if heard_here => {
                self.links.send(president, &ControlMessage::Configure { change }, out);
            }
            // The sender and this node do not agree on who leads; they will soon.
            _ => out.mark("config_change_astray"),
        }
    }

    fn is_configurable(&self, change: &ConfigChange) -> bool {
        let blind = self.canary == Some(Canary::ConfigWithoutCompare);
        let known = self.view.configured.entry_of(change.id).is_some();
        let fits = change.base == self.view.configured.version || blind && !known;
        fits && self.can_be(change)
    }

    /// Whether the settings that a change leads to make sense.
    pub(super) fn can_be(&self, change: &ConfigChange) -> bool {
        change.is_short() && change.applied_to(&self.view.config).is_ok()
    }

    /// Adds to a change of view the change of configuration that is wanted; true if there is one.
    pub(super) fn draft_configuration(
        &mut self,
        change: &mut ViewChange,
        out: &mut Outputs,
    ) -> bool {
        let Some(mut wanted) = self.config_wanted.take() else { return false };
        if !self.is_configurable(&wanted) {
            out.mark("config_change_came_second");
            return false;
        }
        out.mark("config_change_drafted");
        let version = self.view.configured.version;
        wanted.base = version;
        out.log(LogLevel::Info, format!("{} wants configuration {}", wanted.who, version.next()));
        change.config = Some(wanted);
        true
    }
}
