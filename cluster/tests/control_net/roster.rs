//! Orders of operators: what is carried out, what is refused, and by whom.

use lockstep_proto::ids::{GroupId, NodeId};
use lockstep_proto::orders::Order;

use super::control_net::Net;
use super::ms;

#[test]
fn a_node_whose_seat_is_taken_leaves_once_it_leads_nothing() {
    let mut net = Net::started(2, 2, 1);
    let spare = Order::Spare { node: NodeId(1) };
    net.order(3, spare.clone());
    net.run_until(ms(3000), |net| net.exit(1).is_some());
    assert_eq!(net.exit(1), Some(lockstep_cluster::control::exit_code::AGAIN));
    assert!(net.marks.contains("order_spare"));
    assert!(net.marks.contains("leave_lost_seat"));
    let view = net.core(2).view();
    assert_eq!(view.roster.seat(NodeId(1)).map(|seat| seat.group), Some(GroupId::NONE));
    assert!(view.placements.iter().all(|placement| placement.primary != NodeId(1)));
    net.check();
    // Its mate is the last one now, and stays whatever is ordered.
    net.order(4, Order::Spare { node: NodeId(3) });
    net.run(ms(500));
    assert!(net.marks.contains("order_refused"));
    assert!(net.acts_alone(&[2, 3, 4]));
    net.check();
}

#[test]
fn a_node_that_leaves_to_come_back_and_is_told_to_end_does_not_come_back() {
    let mut net = Net::started(2, 2, 1);
    net.order(3, Order::Spare { node: NodeId(1) });
    net.run_until(ms(3000), |net| net.marks.contains("leave_lost_seat"));
    assert_eq!(net.exit(1), None);
    net.terminate(1);
    assert_eq!(net.exit(1), None, "it still leaves in good order");
    net.run_until(ms(1000), |net| net.exit(1).is_some());
    assert_eq!(net.exit(1), Some(0));
    assert!(net.marks.contains("told_while_leaving"));
    net.check();
}
