//! Arbitrators that come and go: named, replaced, on nothing but a connection, without a register.

use super::control_net::{Fate, Id, MGMT, Net, first_view};
use super::ms;
use lockstep_cluster::control::exit_code;
use lockstep_proto::ids::{Incarnation, MgmtId};
use lockstep_proto::view::Arbitrator;
use lockstep_proto::wire::control::ControlMessage;

/// The API node that offers itself, in tests that have one.
const API: Id = MGMT + MgmtId::API_MIN + 1;

#[test]
fn an_absent_arbitrator_is_replaced_and_the_new_one_decides() {
    let mut net = Net::started(2, 2, 2);
    net.run(ms(3000));
    net.kill_mgmt(MGMT);
    net.run_until(ms(5000), |net| {
        net.core(4).view().arbitrator == net.core(4).view().arbitrators_possible.get(1).cloned()
    });
    assert!(net.marks.contains("arbitrator_replaced"));
    net.run(ms(500));
    net.split(&[1, 2], &[3, 4, MGMT + 1]);
    net.run(ms(8000));
    assert!(net.acts_alone(&[3, 4]));
    net.check();
}

#[test]
fn an_arbitrator_that_hangs_on_its_connections_is_replaced_too() {
    let mut net = Net::started(2, 2, 2);
    net.run(ms(3000));
    (1..=4).for_each(|node| net.cut(MGMT, node));
    net.run_until(ms(5000), |net| {
        net.core(4).view().arbitrator == net.core(4).view().arbitrators_possible.get(1).cloned()
    });
    assert!(net.marks.contains("arbitrator_replaced"));
    net.run(ms(500));
    net.split(&[1, 2, MGMT], &[3, 4, MGMT + 1]);
    net.run(ms(8000));
    assert!(net.acts_alone(&[3, 4]));
    net.check();
}

/// Two groups of two with one management server and one API node that offers itself, when the
/// server has died and the API node has been named.
fn arbitrated_by_an_api_node() -> Net {
    let mut net = Net::new(&first_view(2, 2, 1), None);
    net.start_api(API);
    net.run(ms(3000));
    net.kill_mgmt(MGMT);
    let named = |net: &Net| matches!(net.core(4).view().arbitrator, Some(Arbitrator::Api { .. }));
    net.run_until(ms(5000), |net| named(net) && net.core(4).acts());
    net.run(ms(500));
    net
}

#[test]
fn an_api_node_decides_when_no_management_server_is_there() {
    let mut net = arbitrated_by_an_api_node();
    net.split(&[1, 2], &[3, 4]);
    net.run(ms(8000));
    assert!(net.marks.contains("api_arbitrator_granted"));
    assert!(net.marks.contains("api_arbitrator_refused"));
    assert!(net.acts_alone(&[1, 2]) != net.acts_alone(&[3, 4]), "exactly one side");
    net.check();
}

#[test]
fn a_restarted_api_node_answers_nobody_until_a_view_names_it_again() {
    let mut net = arbitrated_by_an_api_node();
    net.hook = Some(Box::new(|from, _, message| match message {
        ControlMessage::AskArbitrator { .. } if from > 2 => Fate::Lose,
        _ => Fate::Deliver,
    }));
    net.split(&[1, 2], &[3, 4]);
    net.run_until(ms(2000), |net| net.marks.contains("api_arbitrator_granted"));
    net.kill_mgmt(API);
    net.start_api(API);
    net.hook = None;
    net.run(ms(9000));
    assert!(net.marks.contains("api_arbitrator_silent"));
    assert!(net.acts_alone(&[1, 2]) && net.exit(3) == Some(exit_code::LOST));
    let (id, incarnation) = (MgmtId(MgmtId::API_MIN + 1), Incarnation(2));
    let again = Arbitrator::Api { id, incarnation, name: "a1".to_owned() };
    assert_eq!(net.core(1).view().arbitrator, Some(again), "its new life is named");
    net.check();
}

#[test]
fn an_api_node_gives_way_to_a_management_server_that_is_back() {
    let mut net = arbitrated_by_an_api_node();
    net.revive_mgmt(MGMT);
    net.run_until(ms(8000), |net| {
        matches!(net.core(4).view().arbitrator, Some(Arbitrator::Mgmt { .. }))
    });
    net.check();
}

#[test]
fn a_server_that_has_lost_its_register_is_named_anew_when_no_view_names_it() {
    for servers in [1, 2] {
        let mut net = Net::started(2, 2, servers);
        net.run(ms(3000));
        net.kill_mgmt(MGMT);
        net.registers_lost.insert(MGMT);
        net.revive_mgmt(MGMT);
        let arbitrator = |net: &Net| net.core(4).view().arbitrator.clone();
        let first = arbitrator(&net);
        net.run_until(ms(6000), |net| arbitrator(net) != first);
        let second = net.core(4).view().arbitrators_possible.get(1).cloned();
        assert_eq!(arbitrator(&net), second, "the other server, or nobody");
        net.run_until(ms(6000), |net| arbitrator(net).is_some() && net.core(4).acts());
        net.run(ms(500));
        net.split(&[1, 2], &[3, 4]);
        net.run(ms(8000));
        assert!(net.acts_alone(&[1, 2]) != net.acts_alone(&[3, 4]), "exactly one side");
        net.check();
    }
}

#[test]
fn an_api_node_that_is_gone_is_not_counted_on() {
    let mut net = arbitrated_by_an_api_node();
    net.kill_mgmt(API);
    net.run_until(ms(6000), |net| net.core(4).view().arbitrator.is_none());
    net.start_api(API);
    let named = |net: &Net| matches!(net.core(4).view().arbitrator, Some(Arbitrator::Api { .. }));
    net.run_until(ms(6000), named);
    net.check();
}
