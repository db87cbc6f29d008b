// SPDX-License-Identifier: Apache-2.0
//! Networks with IPv6: what IPv4 has, and what only IPv6 has to fear.

use std::net::{IpAddr, Ipv6Addr};

use berth_domain::Meaning;
use berth_network::*;

use super::lab::*;

const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// A lab whose host and neighbour have IPv6; frames on its bridges pass through netfilter only if said.
fn lab(filtered: bool) -> Lab {
    let lab = Lab::new();
    let on = u8::from(filtered);
    lab.host.sh(&format!(
        "ip addr add {HOST6}/64 dev up0 nodad
         [ ! -e /proc/sys/net/bridge ] || echo {on} >/proc/sys/net/bridge/bridge-nf-call-ip6tables"
    ));
    lab.outside.sh(&format!("ip addr add {OUTSIDE6}/64 dev up0 nodad; ip -6 route add default via {HOST6}"));
    lab
}

#[test]
fn a_network_with_both_families() {
    let lab = lab(true);
    let network = lab.network("dual", |n| n.ipv6 = true).unwrap();
    let [_, v6] = &network.ranges[..] else { panic!("{network:?}") };
    assert!(v6.subnet.to_string().starts_with("fd") && v6.subnet.prefix_len() == 64, "{}", v6.subnet);
    let (one, two) = (lab.on("dual", &[]), lab.on("dual", &[]));
    let server = one.ns.listen6(80);
    assert_eq!(talk(&two.ns, (one.ip6(), 80), &server), IpAddr::from(two.ip6()), "each as it is");
    assert_eq!(talk(&two.ns, (one.ip(), 80), &server), IpAddr::from(two.ip().to_ipv6_mapped()));
    // Out as the host, in as nobody.
    let outside = lab.outside.listen6(80);
    assert_eq!(talk(&one.ns, (OUTSIDE6, 80), &outside), IpAddr::from(HOST6));
    lab.outside.cannot_connect((one.ip6(), 80));
    let second = lab.network("another", |n| n.ipv6 = true).unwrap();
    assert_ne!(second.ranges[1].subnet, v6.subnet);
    let stranger = lab.on("another", &[]);
    stranger.ns.cannot_connect((one.ip6(), 80));
    stranger.ns.cannot_connect((one.ip(), 80));
}

#[test]
fn ipv6_alone() {
    let lab = lab(true);
    lab.network("six", |n| {
        (n.ipv4, n.ipv6) = (false, true);
        n.ranges = vec![range("2001:db8:6::/64")];
    })
    .unwrap();
    let container = lab.on("six", &[tcp(8080, 80)]);
    assert_eq!(container.ns.sh("ip -4 addr show dev eth0"), "");
    assert_eq!(container.record.ports.len(), 1, "there is nothing that IPv4 could lead to");
    let server = container.ns.listen6(80);
    assert_eq!(talk(&lab.outside, (HOST6, 8080), &server), IpAddr::from(OUTSIDE6));
    let fixed =
        EndpointRequest { ipv6: Some("2001:db8:6::77".parse().unwrap()), ..EndpointRequest::on("six") };
    let fixed = lab.create(Mode::Networks(vec![fixed]), &[]).unwrap();
    assert_eq!(fixed.ip6().to_string(), "2001:db8:6::77");
    let beyond =
        EndpointRequest { ipv6: Some("2001:db8:7::1".parse().unwrap()), ..EndpointRequest::on("six") };
    let error = lab.create(Mode::Networks(vec![beyond]), &[]).unwrap_err();
    assert_eq!(error.meaning(), Meaning::InvalidInput, "{}", error.chain());
}

#[test]
fn a_published_port_answers_by_ipv6_from_everywhere() {
    for filtered in [true, false] {
        let lab = lab(filtered);
        lab.network("dual", |n| n.ipv6 = true).unwrap();
        let container = lab.on("dual", &[tcp(8080, 80), at(Ipv6Addr::LOCALHOST, tcp(8081, 80))]);
        let shown: Vec<String> = container.record.ports.iter().map(|p| p.host_ip.to_string()).collect();
        assert_eq!(shown, ["0.0.0.0", "::", "::1"]);
        let server = container.ns.listen6(80);
        assert_eq!(
            talk(&lab.outside, (HOST6, 8080), &server),
            IpAddr::from(OUTSIDE6),
            "its client's address stays"
        );
        assert_eq!(talk(&lab.outside, (HOST, 8080), &server), IpAddr::from(OUTSIDE.to_ipv6_mapped()));
        talk(&lab.host, (HOST6, 8080), &server);
        let other = lab.on("dual", &[]);
        talk(&other.ns, (HOST6, 8080), &server);
        talk(&container.ns, (HOST6, 8080), &server);
        if filtered && lab.host.sh("ls /proc/sys/net").contains("bridge") {
            // The kernel would drop the answers: clients hear at once that they have to try IPv4.
            for port in [8080, 8081] {
                let refused = lab.host.connect((Ipv6Addr::LOCALHOST, port)).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            }
        } else {
            talk(&lab.host, (Ipv6Addr::LOCALHOST, 8080), &server);
            talk(&lab.host, (Ipv6Addr::LOCALHOST, 8081), &server);
        }
        lab.outside.cannot_connect((HOST6, 8081));
        lab.release(&container);
        lab.outside.cannot_connect((HOST6, 8080));
    }
}

#[test]
fn an_internal_network_has_no_way_out_by_ipv6_either() {
    let lab = lab(true);
    lab.network("inner", |n| (n.ipv6, n.internal) = (true, true)).unwrap();
    lab.network("dual", |n| n.ipv6 = true).unwrap();
    let (inner, dual) = (lab.on("inner", &[tcp(8080, 80)]), lab.on("dual", &[]));
    assert_eq!(inner.record.ports, [], "nor one in");
    let (server, outside) = (inner.ns.listen6(80), lab.outside.listen6(80));
    inner.ns.sh(&format!("ip -6 route add default via {} || true", gateway(&lab, "inner")));
    inner.ns.cannot_connect((OUTSIDE6, 80));
    inner.ns.cannot_connect((dual.ip6(), 80));
    dual.ns.cannot_connect((inner.ip6(), 80));
    let friend = lab.on("inner", &[]);
    talk(&friend.ns, (inner.ip6(), 80), &server);
    drop(outside);
}

fn gateway(lab: &Lab, network: &str) -> IpAddr {
    lab.networks.resolve(network).unwrap().ranges[1].gateway.unwrap()
}

/// What an attacker's container sends to have others route by it (RFC 4861 4.2): a router for half an hour, and a prefix to
/// make addresses of.
fn router_advertisement() -> Vec<u8> {
    let mut packet = vec![134, 0, 0, 0, 64, 0x08, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    packet
}

#[test]
fn nobody_takes_routes_from_a_container() {
    use rustix::net::{AddressFamily, RawProtocol, SocketType, sendto, socket};
    let lab = lab(true);
    lab.network("dual", |n| n.ipv6 = true).unwrap();
    let (attacker, victim, plain) = (lab.on("dual", &[]), lab.on("dual", &[]), lab.container(&[]));
    attacker.ns.run(|| {
        let icmp = RawProtocol::new(58).unwrap();
        let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(rustix::net::Protocol::from_raw(icmp)))
            .unwrap();
        rustix::net::sockopt::set_ipv6_multicast_hops(&raw, 255).unwrap();
        let scope = nix::net::if_::if_nametoindex("eth0").unwrap();
        let all = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, scope);
        for _ in 0..3 {
            sendto(&raw, &router_advertisement(), rustix::net::SendFlags::empty(), &all).unwrap();
        }
    });
    // What was sent first has been looked at once this answers.
    let server = victim.ns.listen6(80);
    talk(&attacker.ns, (victim.ip6(), 80), &server);
    for (who, ns) in [("host", &lab.host), ("neighbour", &victim.ns), ("another network", &plain.ns)] {
        let seen = ns.sh("ip -6 addr; ip -6 route");
        assert!(!seen.contains("2001:db8:bad"), "{who}: {seen}");
        assert!(!seen.contains("proto ra"), "{who}: {seen}");
    }
}

#[test]
fn a_host_that_forwards_keeps_the_routes_of_its_routers() {
    let lab = Lab::new();
    let read = |path: &str| lab.host.sh(&format!("cat /proc/sys/net/ipv6/conf/{path}")).trim().to_owned();
    assert_eq!((read("up0/accept_ra"), read("all/forwarding")), ("1".into(), "0".into()));
    lab.network("dual", |n| n.ipv6 = true).unwrap();
    assert_eq!((read("up0/accept_ra"), read("all/forwarding")), ("2".into(), "1".into()));
}

#[test]
fn the_default_bridge_can_have_ipv6() {
    let mut lab = Lab::with(|c| c.ipv6 = true);
    let container = lab.container(&[tcp(8080, 80)]);
    let server = container.ns.listen6(80);
    let gateway = lab.networks.resolve("bridge").unwrap().ranges[1].gateway.unwrap();
    assert_eq!(talk(&lab.host, (gateway, 8080), &server), gateway);
    lab.release(&container);
    let kept = lab.networks.resolve("bridge").unwrap().ranges.clone();
    lab.restart_with(|c| c.ipv6 = true).unwrap();
    assert_eq!(lab.networks.resolve("bridge").unwrap().ranges, kept);
    lab.restart_with(|c| (c.ipv6, c.fixed_cidr_v6) = (true, Some("2001:db8:9::/64".parse().unwrap())))
        .unwrap();
    let addresses = lab.host.sh("ip -6 -o addr show dev berth0");
    assert!(
        addresses.contains("2001:db8:9::1/64") && !addresses.contains(&gateway.to_string()),
        "{addresses}"
    );
    lab.restart();
    assert_eq!(lab.host.sh("ip -6 -o addr show dev berth0"), "", "and can have it no longer");
}

#[test]
fn containers_of_a_bridge_without_icc_are_isolated_by_ipv6_too() {
    for filtered in [false, true] {
        let lab = lab(filtered);
        let apart = |n: &mut NetworkRequest| {
            n.ipv6 = true;
            n.options.insert("com.docker.network.bridge.enable_icc".into(), "false".into());
        };
        lab.network("apart", apart).unwrap();
        let (one, two) = (lab.on("apart", &[]), lab.on("apart", &[]));
        let _server = one.ns.listen6(80);
        two.ns.cannot_connect((one.ip6(), 80));
        two.ns.cannot_connect((one.ip(), 80));
    }
}
