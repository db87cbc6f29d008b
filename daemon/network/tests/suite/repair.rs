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
