// SPDX-License-Identifier: Apache-2.0
//! Networks that users make.

use std::net::{IpAddr, Ipv4Addr};

use berth_domain::Meaning;
use berth_network::*;

use crate::lab::*;

#[test]
fn made_used_and_removed() {
    let mut lab = Lab::new();
    let made = lab.network("web", |n| n.ranges = vec![range("10.5.0.0/24")]).unwrap();
    let link = made.bridge.as_ref().unwrap().link.clone();
    assert_eq!(link, format!("br-{}", &made.id[..12]));
    let fixed = EndpointRequest {
        ipv4: Some(Ipv4Addr::new(10, 5, 0, 9)),
        mac: Some("02:00:00:00:00:09".parse().unwrap()),
        aliases: vec!["db".into()],
        ..EndpointRequest::on(&made.id[..8])
    };
    let container = lab.create(Mode::Networks(vec![fixed.clone()]), &[tcp(8080, 80)]).unwrap();
    assert_eq!(container.ip(), Ipv4Addr::new(10, 5, 0, 9));
    assert!(container.ns.sh("ip link show eth0").contains("02:00:00:00:00:09"));
    assert_eq!(container.record.endpoints[0].aliases, ["db"]);
    let listener = container.ns.listen(80);
    assert_eq!(talk(&lab.outside, (HOST, 8080), &listener), IpAddr::V4(OUTSIDE));
    assert_eq!(talk(&container.ns, (OUTSIDE, 81), &lab.outside.listen(81)), IpAddr::V4(HOST));
    let taken = lab.create(Mode::Networks(vec![fixed]), &[]).unwrap_err();
    assert_eq!(taken.chain(), "Address already in use");

    let busy = wait(lab.networks.network_remove("web")).unwrap_err();
    assert_eq!(busy.meaning(), Meaning::Forbidden);
    assert!(
        busy.chain().starts_with("error while removing network: network web has active endpoints (name:\"c-")
    );
    lab.restart();
    assert_eq!(lab.networks.resolve("web").unwrap(), made);
    wait(lab.networks.sandbox_adopt(&container.id, container.record.clone(), None, Vec::new())).unwrap();
    wait(lab.networks.sweep(std::slice::from_ref(&container.id))).unwrap();
    assert_eq!(talk(&lab.outside, (HOST, 8080), &listener), IpAddr::V4(OUTSIDE));
    lab.release(&container);
    wait(lab.networks.network_remove("web")).unwrap();
    assert!(lab.networks.resolve("web").is_err());
    assert!(!lab.host.sh("ip link").contains(&link));
    assert!(!lab.table().contains(&link) && !lab.table().contains("10.5.0"));
    lab.restart();
    assert_eq!(lab.networks.resolve("web").unwrap_err().chain(), "network web not found");
}

#[test]
fn several_networks_at_once() {
    let lab = Lab::new();
    lab.network("front", |_| {}).unwrap();
    lab.network("back", |n| n.internal = true).unwrap();
    let both = |priority| {
        let front = EndpointRequest { gateway_priority: priority, ..EndpointRequest::on("front") };
        Mode::Networks(vec![EndpointRequest::on("back"), front, EndpointRequest::on("bridge")])
    };
    let container = lab.create(both(1), &[tcp(8080, 80)]).unwrap();
    let names = |c: &Container| c.record.endpoints.iter().map(|e| e.network_name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&container), ["front", "bridge", "back"]);
    assert_eq!(container.ns.sh("ip -o link | wc -l").trim(), "4");
    assert_eq!(container.ns.sh("ip route show default").lines().count(), 1);
    let listener = container.ns.listen(80);
    assert_eq!(talk(&lab.outside, (HOST, 8080), &listener), IpAddr::V4(OUTSIDE));
    let peer = lab.on("back", &[]);
    let on_back = container.record.endpoints[2].ipv4.unwrap();
    assert_eq!(talk(&peer.ns, (on_back, 80), &listener), IpAddr::V4(peer.ip()));
    assert_eq!(names(&lab.create(both(0), &[]).unwrap()), ["bridge", "front", "back"]);
}

#[test]
fn connected_while_it_runs() {
    let lab = Lab::new();
    lab.network("more", |_| {}).unwrap();
    let container = lab.container(&[tcp(8080, 80)]);
    let peer = lab.on("more", &[]);
    let connect = |network: &str| {
        wait(lab.networks.sandbox_connect(
            &container.id,
            std::os::fd::AsFd::as_fd(&container.ns.0),
            EndpointRequest::on(network),
        ))
    };
    let record = connect("more").unwrap();
    assert_eq!(record.endpoints[1].interface.as_deref(), Some("eth1"));
    let listener = container.ns.listen(80);
    let ip = record.endpoints[1].ipv4.unwrap();
    assert_eq!(talk(&peer.ns, (ip, 80), &listener), IpAddr::V4(peer.ip()));
    let twice = connect("more").unwrap_err();
    assert_eq!(twice.meaning(), Meaning::Forbidden);
    assert_eq!(
        twice.chain(),
        format!("endpoint with name {} already exists in network more", container.record.name)
    );
    let record = wait(lab.networks.sandbox_disconnect(
        &container.id,
        std::os::fd::AsFd::as_fd(&container.ns.0),
        "more",
    ))
    .unwrap();
    assert_eq!(record.endpoints, container.record.endpoints);
    assert!(record.resolver, "what its resolv.conf says stays true");
    until("eth1 is gone", || !container.ns.sh("ip link").contains("eth1"));
    assert_eq!(talk(&lab.outside, (HOST, 8080), &listener), IpAddr::V4(OUTSIDE));
}

#[test]
fn what_is_refused() {
    let lab = Lab::new();
    lab.network("there", |n| n.ranges = vec![range("10.5.0.0/24")]).unwrap();
    let check = |name: &str, change: &dyn Fn(&mut NetworkRequest), meaning: Meaning, text: &str| {
        let error = lab.network(name, change).expect_err(text);
        assert_eq!((error.meaning(), error.chain().as_str()), (meaning, text));
    };
    check("there", &|_| {}, Meaning::Conflict, "network with name there already exists");
    check("bridge", &|_| {}, Meaning::Forbidden, "operation is not permitted on predefined bridge network");
    check(
        "-x",
        &|_| {},
        Meaning::InvalidInput,
        "invalid network name: \"-x\", only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed",
    );
    let overlap = "invalid pool request: Pool overlaps with other one on this address space";
    check("new", &|n| n.ranges = vec![range("10.5.0.128/25")], Meaning::Forbidden, overlap);
    check(
        "a",
        &|n| n.ranges = vec![range("10.6.0.1/24")],
        Meaning::InvalidInput,
        "invalid network config:\ninvalid subnet 10.6.0.1/24: it should be 10.6.0.0/24",
    );
    let bridge_name = |name: &str| {
        let name = name.to_owned();
        move |n: &mut NetworkRequest| {
            n.options.insert("com.docker.network.bridge.name".into(), name.clone());
        }
    };
    check("new", &bridge_name("berth0"), Meaning::Forbidden, "bridge berth0 belongs to another network");
    let error = lab.network("new", bridge_name("up0")).unwrap_err();
    assert!(error.chain().contains("up0 is not a bridge"), "{}", error.chain());
    assert!(lab.networks.resolve("new").is_err(), "a failure leaves no network");
    assert!(lab.host.sh("ip link show up0").contains("UP"), "and does not touch what is not ours");
    lab.network("new", bridge_name("mine")).unwrap();
    assert!(lab.host.sh("ip link show mine").contains("UP"));
    let error = wait(lab.networks.network_remove("bridge")).unwrap_err();
    assert_eq!(error.chain(), "bridge is a pre-defined network and cannot be removed");
}

#[test]
fn subnets_are_chosen_free_of_conflict() {
    let lab = Lab::new();
    lab.host.sh("ip route add 172.18.0.0/16 dev up0");
    let subnet = |name: &str| lab.network(name, |_| {}).unwrap().ranges[0].subnet.to_string();
    assert_eq!(subnet("a"), "172.19.0.0/16");
    assert_eq!(subnet("b"), "172.20.0.0/16");
    wait(lab.networks.network_remove("a")).unwrap();
    assert_eq!(subnet("c"), "172.19.0.0/16");
}
