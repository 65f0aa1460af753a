//! The roster: newcomers get seats, orders of operators are carried out, and who has lost its seat
//! leaves.
//!
//! Only the president gives seats, and a newcomer hears of its own when every member has the view
//! that gives it on its disk: then every later view follows from that one. If it heard of it
//! earlier, from a president that dies alone with its view, the next one could give the same node
//! id to somebody else.

use std::time::Duration;

use lockstep_proto::canary::Canary;
use lockstep_proto::ids::{MgmtId, NodeInstance, ViewNumber};
use lockstep_proto::limits::{NODES_MAX, ORDERS_MAX};
use lockstep_proto::orders::Order;
use lockstep_proto::process::{LogLevel, Outputs};
use lockstep_proto::roster::Newcomer;
use lockstep_proto::time::Instant;
use lockstep_proto::view::Standing;
use lockstep_proto::wire::control::{ControlMessage, ViewChange};

use super::ControlCore;
use super::links::send_on;

/// For how long a wish counts; whoever has it repeats it more often.
const WISHED_FOR: Duration = Duration::from_secs(2);

/// What is wanted of the roster.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Who wants a seat, for which management server to hear of it, and when that was heard.
    newcomers: Vec<(Newcomer, MgmtId, Instant)>,
    orders: Vec<(Order, Instant)>,
    /// The newest view of which each member has said that it has it on its disk.
    stored: Vec<(NodeInstance, ViewNumber)>,
}

impl ControlCore {
    /// A management server asks for a seat for a newcomer.
    pub(super) fn on_newcome(
        &mut self,
        now: Instant,
        from: MgmtId,
        newcomer: Newcomer,
        out: &mut Outputs,
    ) {
        let known = &mut self.wishes.newcomers;
        known.retain(|(other, to, at)| {
            let same = other.process == newcomer.process && *to == from;
            !same && now.since(*at) <= WISHED_FOR
        });
        if known.len() < NODES_MAX {
            known.push((newcomer, from, now));
        }
        // Between two views it is only remembered: it is not said again for a second.
        if self.state.acts() {
            self.tell_seated(out);
            self.reconsider(now, out);
        }
    }

    /// Newcomers that have a seat may know of it when no later view can be without it.
    pub(super) fn tell_seated(&mut self, out: &mut Outputs) {
        let roster = &self.view.roster;
        let has_seat = |(newcomer, ..): &&(Newcomer, MgmtId, Instant)| {
            roster.seat_of_process(newcomer.process).is_some()
        };
        if !self.state.acts() || self.wishes.newcomers.iter().find(has_seat).is_none() {
            return;
        }
        let number = self.view.number;
        let has = |node: NodeInstance| {
            node == self.me || self.wishes.stored.iter().any(|(n, v)| *n == node && *v >= number)
        };
        let all = self.view.members.iter().all(|member| has(member.instance));
        if !all && self.canary != Some(Canary::SeatToldEarly) {
            return out.mark("seat_waits_for_members");
        }
        out.mark("seat_told");
        for (newcomer, to, _) in self.wishes.newcomers.iter().filter(has_seat) {
            let view = Box::new(self.view.clone());
            let message = ControlMessage::Seated { process: newcomer.process, view };
            let mut servers = self.links.mgmt_up();
            if let Some((_, link, _)) = servers.find(|(id, ..)| id == to) {
                send_on(link, &message, out);
            }
        }
        let roster = &self.view.roster;
        let waits = |newcomer: &Newcomer| roster.seat_of_process(newcomer.process).is_none();
        self.wishes.newcomers.retain(|(newcomer, ..)| waits(newcomer));
    }

    /// A member acts in this view, or in a later one than it said before. Returns whether that is
    /// news.
    pub(super) fn note_stored(&mut self, from: NodeInstance, view: ViewNumber) -> bool {
        match self.wishes.stored.iter_mut().find(|(node, _)| *node == from) {
            Some((_, known)) => std::mem::replace(known, view.max(*known)) < view,
            None => {
                self.wishes.stored.push((from, view));
                true
            }
        }
    }

    /// An operator wants something, and one of the shards here was told.
    pub(super) fn on_own_order(&mut self, now: Instant, order: Order, out: &mut Outputs) {
        if self.is_refused(&order, out) {
            return;
        }
        self.links.broadcast(&ControlMessage::Order(order.clone()), out);
        self.on_order(now, order, out);
    }

    /// Whether an order cannot be carried out in this view: it is neither kept nor passed on, and
    /// whoever repeats it may find another view.
    fn is_refused(&self, order: &Order, out: &mut Outputs) -> bool {
        let refusal = self.view.refusal(order);
        if let Some(refusal) = &refusal {
            out.mark("order_refused");
            out.log(LogLevel::Warn, refusal.to_string());
        }
        refusal.is_some()
    }

    /// An operator wants something.
    pub(super) fn on_order(&mut self, now: Instant, order: Order, out: &mut Outputs) {
        if self.view.obeys(&order) || self.is_refused(&order, out) {
            return;
        }
        let known = &mut self.wishes.orders;
        known.retain(|(other, at)| *other != order && now.since(*at) <= WISHED_FOR);
        if known.len() < ORDERS_MAX {
            known.push((order, now));
        }
        self.reconsider(now, out);
    }

    /// Adds to a change what is wanted of the roster; true if that is anything.
    pub(super) fn draft_roster(
        &mut self,
        now: Instant,
        change: &mut ViewChange,
        out: &mut Outputs,
    ) -> bool {
        if change.arbitrator != self.view.arbitrator {
            return false;
        }
        let lacks =
            !self.view.seats_to_clear().is_empty() || !self.view.spares_to_join().is_empty();
        let Wishes { orders, newcomers, .. } = &mut self.wishes;
        if orders.is_empty() && newcomers.is_empty() && !lacks {
            return false;
        }
        let mut next = self.view.clone();
        // What is refused is forgotten; what is carried out is kept until a view shows it.
        orders.retain(|(order, at)| {
            if now.since(*at) > WISHED_FOR || next.obeys(order) {
                return false;
            }
            if let Some(refusal) = next.refusal(order) {
                out.mark("order_refused");
                out.log(LogLevel::Warn, refusal.to_string());
                return false;
            }
            next.obey(order);
            change.orders.push(order.clone());
            true
        });
        let mut lacking = next.seats_to_clear();
        lacking.extend(next.spares_to_join());
        for order in lacking {
            next.obey(&order);
            change.orders.push(order);
        }
        for order in &change.orders {
            mark(order, out);
            out.log(LogLevel::Info, format!("carrying out {order:?}"));
        }
        newcomers.retain(|(newcomer, _, at)| {
            if now.since(*at) > WISHED_FOR {
                return false;
            }
            if next.roster.seat_of_process(newcomer.process).is_some() {
                return true;
            }
            if let Err(why) = next.check_newcomer(newcomer) {
                out.mark("newcomer_refused");
                out.log(LogLevel::Warn, why);
                return false;
            }
            let seat = next.roster.seat_for(newcomer);
            out.mark("join_seated");
            let text = format!("the newcomer at {} becomes node {}", seat.addr, seat.node);
            out.log(LogLevel::Info, text);
            next.roster.add(seat.clone());
            change.seated.push(seat);
            true
        });
        !change.orders.is_empty() || !change.seated.is_empty()
    }

    /// A view begins: whoever is not in it has nothing to say.
    pub(super) fn enter_roster(&mut self) {
        let view = &self.view;
        self.wishes.stored.retain(|(node, _)| view.contains(*node));
    }

    /// A node whose seat is gone, or in another group than the one it acts in, leaves in good order
    /// once it leads nothing: for good, or to come back for its new seat. Open transactions that
    /// it coordinates are tried again elsewhere. It stays if it is the last one that has its rows.
    pub(super) fn leave_lost_seat(&mut self, now: Instant, out: &mut Outputs) {
        if !self.state.acts() || self.leave.has_begun() || self.is_over() {
            return;
        }
        let me = self.me.node;
        let Some(member) = self.view.member(me) else { return };
        let seat = self.view.roster.seat(me);
        if seat.is_some_and(|seat| seat.group == member.group) {
            return;
        }
        let in_sync = member.standing == Standing::InSync;
        let leads = self.view.placements.iter().any(|placement| placement.primary == me);
        let again = seat.is_some();
        if in_sync && (leads || self.is_last_of_group(now)) {
            return;
        }
        out.mark("leave_lost_seat");
        let text = match again {
            true => "leaving the node group by order, to come back as what the roster says",
            false => "leaving for good: this node was removed from the cluster",
        };
        out.log(LogLevel::Info, text);
        (self.leaves_again, self.leaves_by_order) = (again, true);
        self.ask_to_leave(now, now, out);
    }
}

fn mark(order: &Order, out: &mut Outputs) {
    match order {
        Order::Drain { .. } => out.mark("order_drain"),
        Order::Remove { .. } => out.mark("order_remove"),
        Order::Join { .. } => out.mark("join_spare"),
        Order::Spare { .. } => out.mark("order_spare"),
        Order::Replicas { .. } => out.mark("order_replicas"),
        Order::PrimaryZone { .. } => out.mark("order_primary_zone"),
        Order::CreateGroup { .. } => out.mark("order_create_group"),
        Order::DropGroup { .. } => out.mark("order_drop_group"),
        Order::Rebalance => out.mark("order_rebalance"),
        Order::Automatic { .. } => out.mark("order_automatic"),
    }
}
