//! Real processes in zones that are cut from each other: exactly one side goes on.

use std::collections::BTreeMap;
use std::path::Path;

use lockstep_proto::view::View;
use lockstep_tests::harness::processes::{Cluster, Form};
use lockstep_tests::harness::proxy::{Flow, Proxy};
use lockstep_tests::harness::wait::until;
use lockstep_tests::harness::watch::ViewWatch;

const BINARY: &str = env!("CARGO_BIN_EXE_lockstep-under-test");

/// A 2 × 2 cluster with a proxy on every way between the zones; nodes 1 and 3 are in zone a.
struct Zones {
    /// Declared first: the processes die before their proxies do.
    cluster: Cluster,
    /// By who dials and whom.
    proxies: BTreeMap<(u16, u16), Proxy>,
}

impl Zones {
    fn start() -> Self {
        let crosses = |(from, to): &(u16, u16)| from % 2 != to % 2;
        let pairs = (1..=4).flat_map(|from| (1..=4).map(move |to| (from, to)));
        let proxies: BTreeMap<(u16, u16), Proxy> = pairs
            .filter(crosses)
            .map(|pair| (pair, Proxy::unaimed().expect("a free port")))
            .collect();
        let flags = |node: u16| {
            let own = proxies.iter().filter(|((from, _), _)| *from == node);
            own.flat_map(|((_, to), proxy)| ["--peer".to_owned(), format!("{to}={}", proxy.addr())])
                .collect()
        };
        // A proxy answers for a dead node: the end of a connection proves nothing.
        let form = Form { mgmt_args: vec!["--peer-death", "never"], ..Form::two_by_two() };
        let mut cluster = Cluster::start_with(Path::new(BINARY), &form, flags);
        for ((_, to), proxy) in &proxies {
            proxy.aim(cluster.node(*to).addr());
        }
        for node in &mut cluster.nodes {
            let addr = node.addr();
            let mut watch = until("a node to serve", || ViewWatch::open(addr).ok());
            watch.until("a node's view", |_| true);
        }
        Self { cluster, proxies }
    }

    fn cut(&self, flow: Flow) {
        for proxy in self.proxies.values() {
            proxy.both(flow);
        }
    }

    fn mend(&self) {
        for proxy in self.proxies.values() {
            proxy.mend();
        }
    }

    fn running(&mut self) -> Vec<u16> {
        (1..=4).filter(|node| self.cluster.node(*node).is_running()).collect()
    }
}

fn members(view: &View) -> Vec<u16> {
    view.members.iter().map(|m| m.instance.node.0).collect()
}

/// Waits until a view of two nodes is registered and the two others have ended.
fn one_zone_goes_on(zones: &mut Zones) -> Vec<u16> {
    let mut watch = ViewWatch::open(zones.cluster.mgmt_addr).expect("the arbitrator listens");
    let (view, gap) = watch.until("a view of one zone", |view| view.members.len() == 2);
    let winners = members(&view);
    println!("{winners:?} went on after {gap:?}");
    assert!(winners == [1, 3] || winners == [2, 4], "{winners:?}");
    for loser in (1..=4).filter(|node| !winners.contains(node)) {
        assert_eq!(zones.cluster.node(loser).ended().code(), Some(1));
        let log = zones.cluster.node(loser).log();
        assert!(log.contains("error LS-"), "{log}");
    }
    assert_eq!(zones.running(), winners);
    winners
}

#[test]
fn of_two_zones_that_lose_each_other_the_arbitrator_keeps_one() {
    let mut zones = Zones::start();
    zones.cut(Flow::Lost);
    let winners = one_zone_goes_on(&mut zones);
    zones.mend();
    // The survivors serve the whole data, and clients of theirs see the same view.
    let addr = zones.cluster.node(winners[0]).addr();
    let mut watch = ViewWatch::open(addr).expect("a survivor listens");
    let (view, _) = watch.until("the survivor's view", |view| view.members.len() == 2);
    assert!(view.placements.iter().all(|p| winners.contains(&p.primary.0)));
}

#[test]
fn bytes_held_back_across_the_split_do_not_revive_the_losers() {
    let mut zones = Zones::start();
    zones.cut(Flow::Held);
    let winners = one_zone_goes_on(&mut zones);
    zones.cut(Flow::Clear);
    assert_eq!(zones.running(), winners);
}

#[test]
fn without_the_arbitrator_no_half_goes_on() {
    let mut zones = Zones::start();
    zones.cluster.mgmt.signal(lockstep_mgmt::dev::process::Signal::Kill);
    zones.cluster.mgmt.ended();
    zones.cut(Flow::Lost);
    for node in 1..=4 {
        assert_eq!(zones.cluster.node(node).ended().code(), Some(1));
    }
    let text = zones.cluster.node(1).log();
    assert!(text.contains("arbitrator"), "{text}");
}
