//! What an operator's command line does: it gives orders until a view shows that they are obeyed.

use std::time::Duration;

use lockstep_client::core::{Call, Completion, Reply};
use lockstep_proto::ids::NodeId;
use lockstep_proto::orders::Order;

use super::{Next, Notebook, Phase, Scene, Task};

/// Between two times that the cluster is told.
const EVERY: Duration = Duration::from_millis(150);

/// How often an order is given before the operator thinks better of it.
const TRIES: u32 = 10;

/// Carries out the orders in the notebook, one after the other.
#[derive(Default)]
pub struct OrdersTask {
    order: Option<(Order, u32)>,
}

impl Task for OrdersTask {
    fn resume(&mut self, done: Option<Completion>, scene: &mut Scene<'_>) -> Next {
        if scene.notes.phase == Phase::Final {
            return Next::Stop;
        }
        if self.order.is_none() {
            self.order = scene.notes.orders.pop_front().map(|order| (order, 0));
        }
        let Some((order, tries)) = &mut self.order else { return Next::Sleep(EVERY) };
        let Some(done) = done else { return Next::Call(Call::View) };
        let Ok(Reply::View(view)) = done else { return Next::Sleep(EVERY) };
        *tries += 1;
        if view.obeys(order) || view.refusal(order).is_some() || *tries > TRIES {
            self.order = None;
            return Next::Sleep(EVERY);
        }
        let nodes: Vec<NodeId> = view.in_sync().map(|member| member.instance.node).collect();
        if nodes.is_empty() {
            return Next::Sleep(EVERY);
        }
        let node = nodes[scene.rng.index(nodes.len())];
        Next::Call(Call::Order { node, order: order.clone() })
    }

    fn lost(&mut self, _notes: &mut Notebook) {}
}
