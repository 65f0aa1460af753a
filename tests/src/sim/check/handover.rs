//! An arbitrator is not acted with before its register has the view that names it: otherwise the
//! first question after a split could find nothing there.

use lockstep_proto::view::{Arbitrator, View};

use crate::sim::core::Core;
use crate::sim::world::World;

/// What is wrong when somebody begins to act in `view`, made of `before`.
#[must_use]
pub fn unregistered(world: &World, before: &View, view: &View) -> Option<String> {
    let named = view.arbitrator.as_ref()?;
    // A stopped cluster that starts again has asked, or was there as a whole.
    let again = view.restart_generation != before.restart_generation;
    if again || before.arbitrator.as_ref() == Some(named) {
        return None;
    }
    let cores = world.procs.iter().filter_map(|proc| proc.core.as_ref());
    let mut held = cores.filter_map(|core| match (core, named) {
        (Core::Api(api), Arbitrator::Api { id, incarnation, .. }) => {
            (api.id() == *id && api.incarnation() == *incarnation).then(|| api.register())
        }
        (Core::Mgmt(server), Arbitrator::Mgmt { id, .. }) => {
            (server.id() == *id).then(|| server.register())
        }
        _ => None,
    });
    // One that has died meanwhile is a death like any other.
    let held = held.next_back()?;
    let number = view.number;
    if held.is_some_and(|held| held.number >= number) {
        return None;
    }
    Some(format!("hand-over: {number} is acted in, and the register of {named:?} has {held:?}"))
}
