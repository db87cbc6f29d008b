// SPDX-License-Identifier: Apache-2.0
//! What must get through, and from whom it says it is.

use std::net::{IpAddr, Ipv4Addr};

use crate::lab::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn containers_reach_outside_as_the_host() {
    let lab = Lab::new();
    let container = lab.container(&[]);
    let server = lab.outside.listen(80);
    assert_eq!(talk(&container.ns, (OUTSIDE, 80), &server), IpAddr::V4(HOST));
    let server = lab.outside.udp(53);
    assert_eq!(ask(&container.ns.udp(4000), (OUTSIDE, 53), &server), IpAddr::V4(HOST));
}

#[test]
fn containers_reach_one_another_and_the_host_as_themselves() {
    let lab = Lab::new();
    let (a, b) = (lab.container(&[]), lab.container(&[]));
    assert_eq!(a.ip(), Ipv4Addr::new(172, 17, 0, 2));
    assert_eq!(b.ip(), Ipv4Addr::new(172, 17, 0, 3));
    let server = b.ns.listen(80);
    assert_eq!(talk(&a.ns, (b.ip(), 80), &server), IpAddr::V4(a.ip()));
    let server = lab.host.listen(80);
    assert_eq!(talk(&a.ns, (GATEWAY, 80), &server), IpAddr::V4(a.ip()));
    let server = a.ns.listen(81);
    assert_eq!(talk(&lab.host, (a.ip(), 81), &server), IpAddr::V4(GATEWAY));
    assert_eq!(talk(&a.ns, (LOOPBACK, 81), &server), IpAddr::V4(LOOPBACK), "its own loopback is its own");
}

#[test]
fn a_published_port_answers_from_everywhere() {
    let lab = Lab::new();
    let server = lab.container(&[tcp(8080, 80), tcp(0, 80)]);
    let other = lab.container(&[]);
    let listener = server.ns.listen(80);
    for port in [8080, server.host_port(1)] {
        let from = |client: &Ns, to: Ipv4Addr| talk(client, (to, port), &listener);
        assert_eq!(from(&lab.outside, HOST), IpAddr::V4(OUTSIDE), "the source address survives");
        assert_eq!(from(&lab.host, LOOPBACK), IpAddr::V4(GATEWAY));
        assert_eq!(from(&lab.host, Ipv4Addr::new(127, 1, 2, 3)), IpAddr::V4(GATEWAY));
        assert_eq!(from(&lab.host, HOST), IpAddr::V4(HOST));
        assert_eq!(from(&lab.host, GATEWAY), IpAddr::V4(GATEWAY));
        assert_eq!(from(&other.ns, HOST), IpAddr::V4(GATEWAY));
        assert_eq!(from(&other.ns, GATEWAY), IpAddr::V4(GATEWAY));
        assert_eq!(from(&server.ns, HOST), IpAddr::V4(GATEWAY), "a container may use its own published port");
    }
}

#[test]
fn a_published_udp_port_answers_from_everywhere() {
    let lab = Lab::new();
    let server = lab.container(&[udp(5353, 53), tcp(5353, 53)]);
    let other = lab.container(&[]);
    let socket = server.ns.udp(53);
    let from = |client: &Ns, to: Ipv4Addr| ask(&client.udp(0), (to, 5353), &socket);
    assert_eq!(from(&lab.outside, HOST), IpAddr::V4(OUTSIDE));
    assert_eq!(from(&lab.host, LOOPBACK), IpAddr::V4(GATEWAY));
    assert_eq!(from(&lab.host, HOST), IpAddr::V4(HOST));
    assert_eq!(from(&other.ns, HOST), IpAddr::V4(GATEWAY));
    assert_eq!(from(&server.ns, HOST), IpAddr::V4(GATEWAY));
}

#[test]
fn a_port_published_on_one_address_answers_on_that_one() {
    let lab = Lab::new();
    lab.host.sh("ip addr add 198.51.100.10/24 dev up0");
    let second = Ipv4Addr::new(198, 51, 100, 10);
    let a = lab.container(&[at(HOST, tcp(8080, 80))]);
    let b = lab.container(&[at(second, tcp(8080, 80))]);
    let (at_a, at_b) = (a.ns.listen(80), b.ns.listen(80));
    assert_eq!(talk(&lab.outside, (HOST, 8080), &at_a), IpAddr::V4(OUTSIDE));
    assert_eq!(talk(&lab.outside, (second, 8080), &at_b), IpAddr::V4(OUTSIDE));
    assert_eq!(talk(&lab.host, (HOST, 8080), &at_a), IpAddr::V4(HOST));
    assert!(lab.host.connect((LOOPBACK, 8080)).is_err());
    let c = lab.container(&[at(LOOPBACK, tcp(8080, 80))]);
    let at_c = c.ns.listen(80);
    assert_eq!(talk(&lab.host, (LOOPBACK, 8080), &at_c), IpAddr::V4(GATEWAY));
    assert_eq!(talk(&lab.outside, (HOST, 8080), &at_a), IpAddr::V4(OUTSIDE));
}

#[test]
fn connections_to_elsewhere_on_a_published_number_are_left_alone() {
    let lab = Lab::new();
    let container = lab.container(&[tcp(8080, 80)]);
    let server = lab.outside.listen(8080);
    assert_eq!(talk(&container.ns, (OUTSIDE, 8080), &server), IpAddr::V4(HOST));
    assert_eq!(talk(&lab.host, (OUTSIDE, 8080), &server), IpAddr::V4(HOST));
}

#[test]
fn a_client_that_never_stops_sending_finds_the_next_container() {
    let lab = Lab::new();
    let client = lab.outside.udp(4000);
    // Before anybody publishes the port, a flow to nowhere comes about.
    client.send_to(b"early", (HOST, 5353)).unwrap();
    let first = lab.container(&[udp(5353, 53)]);
    assert_eq!(ask(&client, (HOST, 5353), &first.ns.udp(53)), IpAddr::V4(OUTSIDE));
    lab.release(&first);
    let second = lab.container(&[udp(5353, 53)]);
    assert_ne!(first.ip(), second.ip());
    assert_eq!(ask(&client, (HOST, 5353), &second.ns.udp(53)), IpAddr::V4(OUTSIDE));
}

#[test]
fn packets_of_full_size_pass() {
    let lab = Lab::with(|config| config.mtu = 1400);
    let container = lab.container(&[]);
    assert!(container.ns.sh("ip link show eth0").contains("mtu 1400"));
    assert!(lab.host.sh("ip link show berth0").contains("mtu 1400"));
}
