// SPDX-License-Identifier: Apache-2.0
//! Namespaces that are on the default bridge before anybody asks.

use std::net::{IpAddr, Ipv4Addr};

use berth_network::*;

use crate::lab::*;

fn lab() -> Lab {
    let lab = Lab::with(|config| config.endpoint_pool = 2);
    until("two are ready", || lab.links().len() == 2);
    lab
}

#[test]
fn they_are_as_those_made_on_demand() {
    let lab = lab();
    let plain = Lab::new();
    assert!(lab.networks.inspect("bridge").unwrap().endpoints.is_empty(), "they are nobody's");
    until("the first is configured", || {
        lab.host.sh("ip neigh; ip -o link show master berth0").contains("vb")
    });
    let (a, b) = (lab.container(&[tcp(8080, 80)]), plain.container(&[tcp(8080, 80)]));
    let look = |c: &Container| {
        c.ns.sh("ip -o addr | sed 's/@if[0-9]*//'; ip route; ip link show eth0 | grep -o 'mtu.*'; ip link show eth0 | grep ether")
    };
    let strip = |text: String| {
        text.lines().map(|l| l.split(" link-netns").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(strip(look(&a)), strip(look(&b)));
    let blind = |mut r: SandboxRecord| {
        r.sandbox_id.clear();
        r.name.clear();
        for e in &mut r.endpoints {
            e.endpoint_id.clear();
            e.network_id.clear();
            e.link = None;
        }
        r
    };
    assert_eq!(blind(a.record.clone()), blind(b.record.clone()));
    let listener = a.ns.listen(80);
    for client in [&lab.outside, &lab.host, &a.ns] {
        talk(client, (HOST, 8080), &listener);
    }
    assert_eq!(talk(&a.ns, (OUTSIDE, 80), &lab.outside.listen(80)), IpAddr::V4(HOST));
}

#[test]
fn they_are_made_again_and_go_with_the_daemon() {
    let mut lab = lab();
    let made: Vec<_> = (0..6).map(|_| lab.container(&[])).collect();
    let mut ips: Vec<_> = made.iter().map(Container::ip).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 6);
    until("two more are ready", || lab.links().len() == 8);
    wait(lab.networks.sweep(&made.iter().map(|c| c.id.clone()).collect::<Vec<_>>())).unwrap();
    assert_eq!(lab.links().len(), 8, "sweeping leaves them");
    for container in &made {
        lab.release(container);
    }
    drop(made);
    until("only those made ahead are left", || lab.links().len() == 2);
    lab.restart();
    until("they went with the daemon that made them", || lab.links().is_empty());
}

#[test]
fn none_is_made_before_everybody_has_their_address_back() {
    let mut lab = lab();
    let made: Vec<_> = (0..4).map(|_| lab.container(&[])).collect();
    lab.restart_with(|config| config.endpoint_pool = 2).unwrap();
    until("those made ahead went with the daemon that made them", || lab.links().len() == made.len());
    for container in &made {
        wait(lab.networks.sandbox_adopt(&container.id, container.record.clone(), None, Vec::new())).unwrap();
    }
    wait(lab.networks.sweep(&made.iter().map(|c| c.id.clone()).collect::<Vec<_>>())).unwrap();
    until("two are ready", || lab.links().len() == made.len() + 2);
}

#[test]
fn they_give_way_where_addresses_are_few() {
    let lab = Lab::with(|config| {
        config.endpoint_pool = 2;
        config.bip = Some("10.9.0.1/29".parse().unwrap());
    });
    lab.network("other", |_| {}).unwrap();
    let both = || Mode::Networks(vec![EndpointRequest::on("bridge"), EndpointRequest::on("other")]);
    let made: Vec<_> =
        (0..5).map(|_| lab.create(both(), &[]).unwrap_or_else(|e| panic!("{}", e.chain()))).collect();
    assert!(lab.create(both(), &[]).is_err());
    drop(made);
}

#[test]
fn one_on_a_bridge_that_is_gone_is_not_used() {
    let lab = lab();
    lab.host.sh("ip link del berth0");
    let container = lab.container(&[]);
    assert_eq!(talk(&container.ns, (OUTSIDE, 80), &lab.outside.listen(80)), IpAddr::V4(HOST));
    until("two are ready on the new one", || {
        lab.host.sh("ip -o link show master berth0 | wc -l").trim() == "3"
    });
    let next = lab.container(&[]);
    assert_eq!(talk(&next.ns, (OUTSIDE, 81), &lab.outside.listen(81)), IpAddr::V4(HOST));
}

#[test]
fn wishes_are_met() {
    let lab = lab();
    let wish = EndpointRequest {
        mac: Some("02:00:00:00:00:09".parse().unwrap()),
        aliases: vec!["db".into()],
        ..EndpointRequest::on("bridge")
    };
    let container = lab.create(Mode::Networks(vec![wish.clone()]), &[]).unwrap();
    assert!(container.ns.sh("ip link show eth0").contains("02:00:00:00:00:09"));
    let container = lab.create(Mode::Networks(vec![EndpointRequest { mac: None, ..wish }]), &[]).unwrap();
    assert_eq!(container.record.endpoints[0].aliases, ["db"]);
    assert_ne!(container.ip(), Ipv4Addr::UNSPECIFIED);
}

#[test]
fn a_port_that_is_taken_costs_no_address() {
    let lab = Lab::with(|config| {
        config.endpoint_pool = 1;
        config.bip = Some("10.9.0.1/29".parse().unwrap());
    });
    let _server = lab.host.listen(8080);
    for _ in 0..20 {
        assert!(lab.create(Mode::Networks(vec![EndpointRequest::on("bridge")]), &[tcp(8080, 80)]).is_err());
    }
    let made: Vec<_> = (0..5).map(|_| lab.container(&[])).collect();
    drop(made);
}
