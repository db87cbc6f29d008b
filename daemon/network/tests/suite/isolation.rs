// SPDX-License-Identifier: Apache-2.0
//! What must not get through.
//!
//! Nothing can be seen of a packet that is dropped. Where it can be, a second packet that must arrive follows it on the same way:
//! when that one is there and the first is not, the first was dropped.

use std::net::Ipv4Addr;

use crate::lab::*;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Sends to an address that must not be reached, then to one that must: the same socket gets only the second.
fn only_second_arrives(
    client: &Ns,
    first: (Ipv4Addr, u16),
    second: (Ipv4Addr, u16),
    server: &std::net::UdpSocket,
) {
    let socket = client.udp(0);
    // A refusal that the kernel knows of at once is as good as a drop.
    let _refused = socket.send_to(b"first", first);
    socket.send_to(b"second", second).unwrap();
    let mut word = [0; 16];
    let (len, _) = server.recv_from(&mut word).unwrap();
    assert_eq!(String::from_utf8_lossy(&word[..len]), "second", "{first:?} was reached");
}

#[test]
fn what_is_not_published_is_not_reached_from_outside() {
    let lab = Lab::new();
    let container = lab.container(&[udp(5353, 53), tcp(8080, 80)]);
    let _web = container.ns.listen(80);
    let _other = container.ns.listen(81);
    // The neighbour knows the way: its default route leads to the host.
    let hidden = container.ns.udp(54);
    let published = container.ns.udp(53);
    for port in [53, 54] {
        only_second_arrives(&lab.outside, (container.ip(), port), (HOST, 5353), &published);
    }
    hidden.set_nonblocking(true).unwrap();
    assert!(hidden.recv_from(&mut [0; 16]).is_err());
    lab.outside.cannot_connect((container.ip(), 81));
    lab.outside.cannot_connect((container.ip(), 80));
    lab.outside.cannot_connect((HOST, 80));
}

/// Makes a namespace send packets to 127.0.0.1 (or from it) over its link.
fn give_up_loopback(ns: &Ns, via: Ipv4Addr, dev: &str) {
    ns.sh(&format!(
        "ip addr del 127.0.0.1/8 dev lo
         for i in all {dev}; do echo 1 >/proc/sys/net/ipv4/conf/$i/route_localnet; done
         ip route add 127.0.0.0/8 via {via} dev {dev} src $(ip -4 -o addr show {dev} | sed 's/.*inet \\([0-9.]*\\).*/\\1/')"
    ));
}

#[test]
fn a_port_on_loopback_is_the_hosts_alone() {
    let lab = Lab::new();
    let server = lab.container(&[at(LOOPBACK, udp(5353, 53)), at(LOOPBACK, tcp(8080, 80)), udp(5354, 53)]);
    let attacker = lab.container(&[]);
    let socket = server.ns.udp(53);
    let listener = server.ns.listen(80);
    talk(&lab.host, (LOOPBACK, 8080), &listener);
    for (client, via, dev) in [(&lab.outside, HOST, "up0"), (&attacker.ns, GATEWAY, "eth0")] {
        for ip in [HOST, GATEWAY] {
            only_second_arrives(client, (ip, 5353), (HOST, 5354), &socket);
            client.cannot_connect((ip, 8080));
        }
        give_up_loopback(client, via, dev);
        only_second_arrives(client, (LOOPBACK, 5353), (HOST, 5354), &socket);
        client.cannot_connect((LOOPBACK, 8080));
    }
}

#[test]
fn loopback_services_of_the_host_are_the_hosts_alone() {
    let lab = Lab::new();
    let attacker = lab.container(&[]);
    let on_loopback = lab.host.run(|| std::net::UdpSocket::bind("127.0.0.1:53").unwrap());
    on_loopback.set_nonblocking(true).unwrap();
    let open = lab.host.udp(54);
    for (client, via, dev) in [(&lab.outside, HOST, "up0"), (&attacker.ns, GATEWAY, "eth0")] {
        give_up_loopback(client, via, dev);
        only_second_arrives(client, (LOOPBACK, 53), (HOST, 54), &open);
        assert!(on_loopback.recv_from(&mut [0; 16]).is_err(), "a packet to 127.0.0.1 came in from {dev}");
    }
}

#[test]
fn containers_cannot_claim_to_be_loopback() {
    let lab = Lab::new();
    let attacker = lab.container(&[]);
    let open = lab.host.udp(54);
    attacker.ns.sh("for i in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$i/route_localnet; done
         ip addr add 127.0.0.5/32 dev eth0");
    let liar = attacker.ns.run(|| std::net::UdpSocket::bind("127.0.0.5:4000").unwrap());
    let _not_sent = liar.send_to(b"first", (GATEWAY, 54));
    attacker.ns.udp(0).send_to(b"second", (GATEWAY, 54)).unwrap();
    let mut word = [0; 16];
    let (len, _) = open.recv_from(&mut word).unwrap();
    assert_eq!(&word[..len], b"second");
}

#[test]
fn networks_are_isolated_but_for_published_ports() {
    let lab = Lab::new();
    lab.network("other", |_| {}).unwrap();
    let server = lab.on("other", &[udp(5353, 1053)]);
    let client = lab.container(&[]);
    let socket = server.ns.udp(1053);
    only_second_arrives(&client.ns, (server.ip(), 1053), (HOST, 5353), &socket);
}

#[test]
fn containers_of_a_bridge_without_icc_are_isolated() {
    let lab = Lab::with(|config| config.icc = false);
    let server = lab.container(&[udp(5353, 53)]);
    let client = lab.container(&[]);
    let socket = server.ns.udp(53);
    only_second_arrives(&client.ns, (server.ip(), 53), (HOST, 5353), &socket);
    let outside = lab.outside.listen(80);
    talk(&client.ns, (OUTSIDE, 80), &outside);
}

#[test]
fn an_internal_network_has_no_way_out_nor_in() {
    let lab = Lab::new();
    lab.network("inner", |n| n.internal = true).unwrap();
    let a = lab.on("inner", &[udp(5353, 53)]);
    let b = lab.on("inner", &[]);
    assert!(a.record.ports.is_empty(), "it publishes nothing");
    let listener = a.ns.listen(80);
    talk(&b.ns, (a.ip(), 80), &listener);
    let outside = lab.outside.udp(53);
    let witness = lab.container(&[]);
    // Even if a container finds itself a route.
    let gateway = lab.networks.resolve("inner").unwrap().ranges[0].gateway.unwrap();
    assert!(
        a.ns.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (OUTSIDE, 53))).is_err()
    );
    a.ns.sh(&format!("ip route add default via {gateway}"));
    a.ns.udp(0).send_to(b"first", (OUTSIDE, 53)).unwrap();
    a.ns.udp(0).send_to(b"first", (witness.ip(), 53)).unwrap();
    witness.ns.udp(0).send_to(b"second", (OUTSIDE, 53)).unwrap();
    let mut word = [0; 16];
    let (len, _) = outside.recv_from(&mut word).unwrap();
    assert_eq!(&word[..len], b"second");
    // Nor by a port that another network publishes.
    let elsewhere = lab.container(&[udp(5354, 53)]);
    let socket = elsewhere.ns.udp(53);
    for ip in [HOST, GATEWAY, gateway.to_string().parse().unwrap()] {
        a.ns.udp(0).send_to(b"first", (ip, 5354)).unwrap();
        lab.outside.udp(0).send_to(b"second", (HOST, 5354)).unwrap();
        let (len, _) = socket.recv_from(&mut word).unwrap();
        assert_eq!(&word[..len], b"second");
    }
    lab.outside.cannot_connect((a.ip(), 80));
    witness.ns.cannot_connect((a.ip(), 80));
}

#[test]
fn there_is_no_ipv6_where_nobody_asked_for_it() {
    let lab = Lab::new();
    let container = lab.container(&[]);
    assert_eq!(container.ns.sh("ip -6 addr show dev eth0"), "");
    let link = container.record.endpoints[0].link.as_deref().unwrap();
    assert_eq!(lab.host.sh(&format!("ip -6 addr show dev {link}")), "", "bridge ports need no address");
    assert_eq!(lab.host.sh("ip -6 addr show dev berth0"), "");
    assert_eq!(lab.host.sh("cat /proc/sys/net/ipv6/conf/berth0/accept_ra").trim(), "0");
    assert_eq!(lab.host.sh("cat /proc/sys/net/ipv4/conf/up0/route_localnet").trim(), "0");
}
