// SPDX-License-Identifier: Apache-2.0
//! A daemon that died while it connected or disconnected: the next one makes links and routes what the record says.

use std::os::fd::AsFd as _;

use berth_network::*;

use super::lab::*;

fn adopt(lab: &Lab, container: &Container, record: &SandboxRecord) {
    let copy = |fd: &std::os::fd::OwnedFd| fd.try_clone().unwrap();
    let held = container.held.iter().map(|(name, fd)| (name.clone(), copy(fd))).collect();
    let netns = Some(copy(&container.ns.0));
    wait(lab.networks.sandbox_adopt(&container.id, record.clone(), netns, held)).unwrap();
    wait(lab.networks.sweep(std::slice::from_ref(&container.id))).unwrap();
}

#[test]
fn what_was_connected_and_not_recorded_is_disconnected() {
    let mut lab = Lab::new();
    lab.network("aa", |n| n.ipv6 = true).unwrap();
    let container = lab.container(&[tcp(8080, 80)]);
    let before = container.record.clone();
    let request = EndpointRequest { gateway_priority: 9, ..EndpointRequest::on("aa") };
    wait(lab.networks.sandbox_connect(&container.id, container.ns.0.as_fd(), request)).unwrap();
    lab.restart();
    adopt(&lab, &container, &before);
    assert!(!container.ns.sh("ip -o link").contains("eth1"));
    assert!(container.ns.sh("ip route").contains("default via 172.17.0.1 dev eth0"));
    assert_eq!(lab.links().len(), 1);
    let server = container.ns.listen(80);
    talk(&lab.outside, (HOST, 8080), &server);
}

#[test]
fn what_was_disconnected_and_not_recorded_is_connected() {
    let mut lab = Lab::new();
    lab.network("aa", |n| n.ipv6 = true).unwrap();
    let container = lab.on("aa", &[tcp(8080, 80)]);
    let before = container.record.clone();
    wait(lab.networks.sandbox_disconnect(&container.id, container.ns.0.as_fd(), "aa")).unwrap();
    until("the link is gone", || lab.links().is_empty());
    lab.restart();
    adopt(&lab, &container, &before);
    assert!(
        container.ns.sh("ip route").contains("default via"),
        "{}",
        container.ns.sh("ip route; ip -6 route")
    );
    let server = container.ns.listen6(80);
    talk(&lab.outside, (HOST, 8080), &server);
    let address = before.endpoints[0].ipv6.unwrap();
    assert!(container.ns.sh("ip -6 addr").contains(&address.to_string()));
    assert!(container.ns.sh("ip -6 route").contains("default via"));
}

#[test]
fn what_a_container_made_of_its_network_is_its_own() {
    let mut lab = Lab::new();
    lab.network("aa", |_| {}).unwrap();
    let container = lab.container(&[]);
    let request = EndpointRequest { gateway_priority: 9, ..EndpointRequest::on("aa") };
    wait(lab.networks.sandbox_connect(&container.id, container.ns.0.as_fd(), request)).unwrap();
    // As a VPN does.
    container.ns.sh("ip route replace default via 172.17.0.99 dev eth0
         ip link add own0 link eth0 type macvlan");
    let record = lab.networks.sandbox(&container.id).unwrap();
    lab.restart();
    adopt(&lab, &container, &record);
    let check = |container: &Container| {
        let routes = container.ns.sh("ip route");
        assert!(routes.contains("default via 172.17.0.99 dev eth0"), "{routes}");
        assert!(container.ns.sh("ip -o link").contains("own0"));
    };
    check(&container);
    // Another that is in the same namespace, and has nothing of its own there.
    let netns = container.ns.0.try_clone().unwrap();
    let member = lab.create(Mode::Container(netns), &[]).unwrap();
    let record = lab.networks.sandbox(&container.id).unwrap();
    lab.restart();
    for (id, record) in [(&member.id, &member.record), (&container.id, &record)] {
        let netns = container.ns.0.try_clone().unwrap();
        wait(lab.networks.sandbox_adopt(id, record.clone(), Some(netns), Vec::new())).unwrap();
    }
    wait(lab.networks.sweep(&[container.id.clone(), member.id.clone()])).unwrap();
    check(&container);
    assert!(container.ns.sh("ip -o link").contains("eth0"));
}

#[test]
fn a_connection_that_fails_leaves_all_as_it_was() {
    let lab = Lab::new();
    let network = lab.network("aa", |_| {}).unwrap();
    let container = lab.container(&[tcp(8080, 80)]);
    let before = lab.networks.sandbox(&container.id).unwrap();
    let gateway = network.ranges[0].gateway.unwrap();
    // The kernel takes no gateway that nothing leads to.
    container.ns.sh(&format!("ip route add blackhole {gateway}/32 scope link"));
    let connect = || {
        let request = EndpointRequest { gateway_priority: 9, ..EndpointRequest::on("aa") };
        wait(lab.networks.sandbox_connect(&container.id, container.ns.0.as_fd(), request))
    };
    let error = connect().unwrap_err();
    assert!(error.chain().contains("moving the default route to eth1"), "{}", error.chain());
    assert_eq!(lab.networks.sandbox(&container.id).unwrap(), before);
    let server = container.ns.listen(80);
    talk(&lab.outside, (HOST, 8080), &server);
    until("the link is gone", || lab.links().len() == 1);
    container.ns.sh(&format!("ip route del blackhole {gateway}/32"));
    let record = connect().unwrap();
    assert_eq!(record.endpoints[0].network_name, "aa");
    talk(&lab.outside, (HOST, 8080), &server);
}

#[test]
fn who_takes_its_links_down_leaves_a_network_all_the_same() {
    let lab = Lab::new();
    lab.network("aa", |_| {}).unwrap();
    let container = lab.container(&[tcp(8080, 80)]);
    let address = container.ip();
    let request = EndpointRequest { gateway_priority: 9, ..EndpointRequest::on("aa") };
    wait(lab.networks.sandbox_connect(&container.id, container.ns.0.as_fd(), request)).unwrap();
    container.ns.sh("ip link set eth0 down");
    let record = wait(lab.networks.sandbox_disconnect(&container.id, container.ns.0.as_fd(), "aa")).unwrap();
    assert_eq!(lab.networks.sandbox(&container.id), Some(record.clone()));
    assert_eq!(record.endpoints.len(), 1);
    assert!(lab.table().contains(&format!(": {address} . 80")), "{}", lab.table());
    container.ns.sh("ip link set eth0 up; ip route add default via 172.17.0.1");
    let server = container.ns.listen(80);
    talk(&lab.outside, (HOST, 8080), &server);
}
