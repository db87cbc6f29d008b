// SPDX-License-Identifier: Apache-2.0
//! Several networks and which of them leads out; what comes and goes while a container runs.

use std::net::IpAddr;

use berth_network::*;

use super::lab::*;

fn on(network: &str, gateway_priority: i64) -> EndpointRequest {
    EndpointRequest { gateway_priority, ..EndpointRequest::on(network) }
}

/// The interface that the container's default route of a family leaves by.
fn way_out(container: &Container, family: &str) -> String {
    let routes = container.ns.sh(&format!("ip -{family} route show default"));
    routes.split("dev ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default().to_owned()
}

#[test]
fn joined_and_left_in_quick_succession() {
    use std::os::fd::AsFd as _;
    let lab = Lab::new();
    // One address for a container in each, so that it is free again or it is not.
    for (name, subnet) in [("aa", "10.7.0.0/30"), ("bb", "10.8.0.0/30")] {
        lab.network(name, |n| n.ranges = vec![range(subnet)]).unwrap();
    }
    let container = lab.container(&[]);
    let netns = container.ns.0.as_fd();
    for _ in 0..10 {
        for name in ["aa", "bb"] {
            let joined = wait(lab.networks.sandbox_connect(&container.id, netns, EndpointRequest::on(name)));
            joined.unwrap_or_else(|e| panic!("{}", e.chain()));
            assert!(container.ns.sh("ip -o link").contains("eth1"));
            wait(lab.networks.sandbox_disconnect(&container.id, netns, name)).unwrap();
            assert!(!container.ns.sh("ip -o link").contains("eth1"), "it has left when that is said");
        }
    }
}

#[test]
fn the_highest_priority_leads_out() {
    let lab = Lab::new();
    for name in ["aa", "bb"] {
        lab.network(name, |n| n.ipv6 = true).unwrap();
    }
    lab.network("four", |_| {}).unwrap();
    let container =
        lab.create(Mode::Networks(vec![on("aa", 0), on("bb", 1), on("four", 2)]), &[tcp(8080, 80)]).unwrap();
    let gateways: Vec<(&str, bool, bool)> = container
        .record
        .endpoints
        .iter()
        .map(|e| (e.network_name.as_str(), e.gateway.is_some(), e.ipv6_gateway.is_some()))
        .collect();
    assert_eq!(gateways, [("four", true, false), ("bb", false, true), ("aa", false, false)]);
    assert_eq!((way_out(&container, "4"), way_out(&container, "6")), ("eth0".into(), "eth1".into()));
    let server = container.ns.listen6(80);
    talk(&lab.outside, (HOST, 8080), &server);
    assert!(
        lab.table().contains(&format!("{} . 80", container.record.endpoints[1].ipv6.unwrap())),
        "{}",
        lab.table()
    );
}

#[test]
fn a_way_out_moves_with_its_ports() {
    let lab = Lab::new();
    for name in ["mm", "zz", "inner"] {
        lab.network(name, |n| n.internal = name == "inner").unwrap();
    }
    let container = lab.on("mm", &[tcp(8080, 80)]);
    let server = container.ns.listen(80);
    let join = |request: EndpointRequest| {
        use std::os::fd::AsFd as _;
        wait(lab.networks.sandbox_connect(&container.id, container.ns.0.as_fd(), request)).unwrap()
    };
    let leave = |network: &str| {
        use std::os::fd::AsFd as _;
        wait(lab.networks.sandbox_disconnect(&container.id, container.ns.0.as_fd(), network)).unwrap()
    };
    join(on("zz", 0));
    assert_eq!(way_out(&container, "4"), "eth0", "a later name does not take it over");
    let record = leave("zz");
    assert_eq!(record.endpoints.len(), 1);
    until("its link is gone", || !container.ns.sh("ip -o link").contains("eth1"));
    let record = join(on("zz", 5));
    assert_eq!(record.endpoints[0].network_name, "zz");
    assert_eq!(way_out(&container, "4"), "eth1", "a higher priority does");
    assert_eq!(talk(&lab.outside, (HOST, 8080), &server), IpAddr::from(OUTSIDE));
    join(on("inner", 99));
    assert_eq!(way_out(&container, "4"), "eth1", "what leads nowhere never");
    leave("zz");
    assert_eq!(way_out(&container, "4"), "eth0");
    talk(&lab.outside, (HOST, 8080), &server);
    leave("mm");
    assert_eq!(way_out(&container, "4"), "", "only the internal network is left");
    lab.outside.cannot_connect((HOST, 8080));
    assert!(!lab.table().contains("8080"), "{}", lab.table());
}
