// SPDX-License-Identifier: Apache-2.0
//! Networks as their options would have them, by Docker's names.

use std::net::{IpAddr, Ipv4Addr};

use berth_domain::Meaning;
use berth_network::*;

use super::lab::*;

fn with(options: &[(&str, &str)]) -> impl Fn(&mut NetworkRequest) {
    let options: Vec<(String, String)> =
        options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    move |n| n.options.extend(options.clone())
}

fn range(
    subnet: &str,
    gateway: Option<&str>,
    within: Option<&str>,
    reserved: &[(&str, &str)],
) -> AddressRange {
    AddressRange {
        subnet: subnet.parse().unwrap(),
        range: within.map(|r| r.parse().unwrap()),
        gateway: gateway.map(|g| g.parse().unwrap()),
        reserved: reserved.iter().map(|(k, v)| ((*k).to_owned(), v.parse().unwrap())).collect(),
        chosen_by_user: true,
        gateway_chosen_by_user: gateway.is_some(),
    }
}

#[test]
fn several_subnets_and_reserved_addresses() {
    let lab = Lab::new();
    lab.network("many", |n| {
        n.ranges = vec![
            range("10.7.0.0/29", Some("10.7.0.6"), Some("10.7.0.0/30"), &[("printer", "10.7.0.1")]),
            range("10.8.0.0/24", None, None, &[]),
        ];
    })
    .unwrap();
    let addresses: Vec<Ipv4Addr> = (0..3).map(|_| lab.on("many", &[]).ip()).collect();
    assert_eq!(
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.7.0.2", "10.7.0.3", "10.8.0.2"],
        "the first range, but for what is reserved; then the next"
    );
    let on_bridge = lab.host.sh("ip -4 -o addr");
    assert!(on_bridge.contains("10.7.0.6/29") && on_bridge.contains("10.8.0.1/24"), "{on_bridge}");
    let fixed = EndpointRequest { ipv4: Some(Ipv4Addr::new(10, 7, 0, 5)), ..EndpointRequest::on("many") };
    let fixed = lab.create(Mode::Networks(vec![fixed]), &[]).unwrap();
    let outside = lab.outside.listen(80);
    assert_eq!(talk(&fixed.ns, (OUTSIDE, 80), &outside), IpAddr::from(HOST));
    let own = |n: &mut NetworkRequest| {
        n.ranges = vec![range("10.9.0.0/24", None, None, &[]), range("10.9.0.128/25", None, None, &[])];
    };
    assert_eq!(lab.network("overlapping", own).unwrap_err().meaning(), Meaning::Forbidden);
}

#[test]
fn another_default_gateway() {
    let lab = Lab::new();
    lab.network("gw", |n| {
        n.ranges = vec![range("10.7.0.0/24", None, None, &[("DefaultGatewayIPv4", "10.7.0.254")])];
    })
    .unwrap();
    let container = lab.on("gw", &[]);
    assert!(container.ns.sh("ip route").contains("default via 10.7.0.254"));
}

#[test]
fn links_as_they_are_asked_for() {
    let lab = Lab::new();
    lab.network(
        "opt",
        with(&[
            ("com.docker.network.bridge.name", "special0"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.container_iface_prefix", "net"),
        ]),
    )
    .unwrap();
    lab.network("other", |_| {}).unwrap();
    let mut first = EndpointRequest::on("opt");
    first.mac = Some("02:00:00:00:12:34".parse().unwrap());
    let sysctls = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0";
    first.options.insert("com.docker.network.endpoint.sysctls".into(), sysctls.into());
    let mut second = EndpointRequest::on("other");
    second.options.insert("com.docker.network.endpoint.ifname".into(), "wan".into());
    let container = lab.create(Mode::Networks(vec![first.clone(), second]), &[]).unwrap();
    let links = container.ns.sh("ip -o link");
    assert!(links.contains("net0") && links.contains("wan") && links.contains("mtu 1400"), "{links}");
    assert!(links.contains("02:00:00:00:12:34"), "{links}");
    assert!(lab.host.sh("ip -o link show special0").contains("mtu 1400"));
    assert_eq!(container.ns.sh("cat /proc/sys/net/ipv4/conf/net0/log_martians").trim(), "1");
    first.options.insert("com.docker.network.endpoint.sysctls".into(), "net.ipv4.ip_forward=1".into());
    let error = lab.create(Mode::Networks(vec![first]), &[]).unwrap_err();
    assert_eq!(error.meaning(), Meaning::InvalidInput, "{}", error.chain());
}

#[test]
fn bad_options_say_what_is_wrong() {
    let lab = Lab::new();
    for (options, meaning, text) in [
        (
            &[("com.docker.network.bridge.enable_icc", "maybe")][..],
            Meaning::InvalidInput,
            "neither true nor false",
        ),
        (&[("com.docker.network.driver.mtu", "9")], Meaning::InvalidInput, "68 to 65535"),
        (&[("com.docker.network.bridge.gateway_mode_ipv4", "bent")], Meaning::InvalidInput, "is none of nat"),
        (
            &[("com.docker.network.bridge.gateway_mode_ipv4", "isolated")],
            Meaning::InvalidInput,
            "internal network",
        ),
        (
            &[("com.docker.network.bridge.host_binding_ipv4", "x")],
            Meaning::InvalidInput,
            "is not an IPv4 address",
        ),
        (
            &[("com.docker.network.container_iface_prefix", "a/b")],
            Meaning::InvalidInput,
            "invalid interface name",
        ),
        (
            &[("com.docker.network.bridge.trusted_host_interfaces", "a")],
            Meaning::NotImplemented,
            "is not implemented",
        ),
    ] {
        let error = lab.network("opt", with(options)).unwrap_err();
        assert!(error.meaning() == meaning && error.chain().contains(text), "{options:?}: {}", error.chain());
    }
    let error = lab.network("opt", |n| (n.ipv4, n.ipv6) = (false, false)).unwrap_err();
    assert_eq!(error.chain(), "IPv4 or IPv6 must be enabled");
}

#[test]
fn a_routed_network_is_reached_at_its_own_addresses() {
    let lab = Lab::new();
    lab.network("routed", with(&[("com.docker.network.bridge.gateway_mode_ipv4", "routed")])).unwrap();
    let container = lab.on("routed", &[tcp(8080, 80)]);
    assert_eq!(container.record.ports[0].host_port, 0);
    let (server, hidden) = (container.ns.listen(80), container.ns.listen(81));
    assert_eq!(talk(&lab.outside, (container.ip(), 80), &server), IpAddr::from(OUTSIDE));
    lab.outside.cannot_connect((container.ip(), 81));
    lab.outside.cannot_connect((HOST, 8080));
    let outside = lab.outside.listen(80);
    assert_eq!(
        talk(&container.ns, (OUTSIDE, 80), &outside),
        IpAddr::from(container.ip()),
        "nothing is masqueraded"
    );
    lab.release(&container);
    assert!(!lab.table().contains(". 80"), "{}", lab.table());
    drop(hidden);
}

#[test]
fn an_unprotected_network_is_reached_at_every_port() {
    let lab = Lab::new();
    lab.network("open", with(&[("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected")])).unwrap();
    let container = lab.on("open", &[tcp(8080, 80)]);
    let (server, other) = (container.ns.listen(80), container.ns.listen(81));
    talk(&lab.outside, (HOST, 8080), &server);
    talk(&lab.outside, (container.ip(), 81), &other);
}

#[test]
fn an_isolated_network_has_no_host_on_it() {
    let lab = Lab::new();
    let mode = with(&[("com.docker.network.bridge.gateway_mode_ipv4", "isolated")]);
    let network = lab
        .network("alone", |n| {
            n.internal = true;
            mode(n);
        })
        .unwrap();
    let link = &network.bridge.as_ref().unwrap().link;
    assert_eq!(lab.host.sh(&format!("ip -4 -o addr show dev {link}")), "");
    let (one, two) = (lab.on("alone", &[]), lab.on("alone", &[]));
    let server = one.ns.listen(80);
    talk(&two.ns, (one.ip(), 80), &server);
}

#[test]
fn settings_can_be_kept_apart() {
    let lab = Lab::new();
    let config = |n: &mut NetworkRequest| {
        n.config_only = true;
        n.ranges = vec![range("10.7.0.0/24", None, None, &[])];
    };
    let kept = lab.network("kept", config).unwrap();
    assert!(kept.config_only && kept.bridge.is_none());
    let network = lab.network("made", |n| n.config_from = Some("kept".into())).unwrap();
    assert_eq!((network.ranges[0].subnet.to_string(), &*network.config_from), ("10.7.0.0/24".into(), "kept"));
    lab.on("made", &[]);
    let error = lab.create(Mode::Networks(vec![EndpointRequest::on("kept")]), &[]).unwrap_err();
    assert_eq!(error.meaning(), Meaning::Forbidden, "{}", error.chain());
    let error = wait(lab.networks.network_remove("kept")).unwrap_err();
    assert_eq!(error.chain(), "error while removing network: configuration network \"kept\" is in use");
}

#[test]
fn isolation_is_of_each_family() {
    let lab = Lab::new();
    let isolated = |family: &str| {
        let key = format!("com.docker.network.bridge.gateway_mode_ipv{family}");
        move |n: &mut NetworkRequest| {
            (n.internal, n.ipv6) = (true, true);
            n.options.insert(key.clone(), "isolated".into());
        }
    };
    let addresses = |network: &NetworkRecord, family: &str| {
        let link = &network.bridge.as_ref().unwrap().link;
        lab.host.sh(&format!("ip {family} -o addr show dev {link}"))
    };
    let gateways = |network: &NetworkRecord| -> Vec<bool> {
        network.ranges.iter().map(|range| range.gateway.is_some()).collect()
    };
    let six = lab.network("six", isolated("6")).unwrap();
    let (one, two) = (lab.on("six", &[]), lab.on("six", &[]));
    assert_eq!(addresses(&six, "-6"), "", "not even one of the link's own");
    assert_ne!(addresses(&six, "-4"), "");
    assert_eq!(gateways(&six), [true, false]);
    let server = one.ns.listen6(80);
    talk(&two.ns, (one.ip6(), 80), &server);
    let four = lab.network("four", isolated("4")).unwrap();
    assert_eq!(addresses(&four, "-4"), "");
    assert!(addresses(&four, "-6").contains("fe80::1/64"));
    assert_eq!(gateways(&four), [false, true]);
}

#[test]
fn a_bridge_of_others_is_left_as_it_was_found() {
    let lab = Lab::new();
    let named = with(&[("com.docker.network.bridge.name", "br9")]);
    lab.host.sh("ip link add br9 type bridge; ip link set br9 up; ip addr add 10.9.0.9/24 dev br9
         echo 0 > /proc/sys/net/ipv6/conf/br9/disable_ipv6; echo 2 > /proc/sys/net/ipv6/conf/br9/accept_ra
         ip addr add fd09::9/64 dev br9 nodad");
    let settings = || {
        lab.host.sh(
            "cd /proc/sys/net; cat ipv6/conf/br9/disable_ipv6 ipv6/conf/br9/accept_ra ipv4/conf/br9/route_localnet
             ip -o addr show dev br9 scope global | tr -s ' ' | cut -d' ' -f 3,4; ip -6 route show table local ::1 dev br9",
        )
    };
    let found = settings();
    lab.network("plain", &named).unwrap();
    assert!(settings().starts_with("0\n2\n1\n"), "{}", settings());
    wait(lab.networks.network_remove("plain")).unwrap();
    assert_eq!(settings(), found);
    let both = |n: &mut NetworkRequest| {
        n.ipv6 = true;
        named(n);
    };
    let network = lab.network("both", both).unwrap();
    assert!(settings().contains("local ::1"), "{}", settings());
    assert!(settings().contains(&network.ranges[1].gateway.unwrap().to_string()));
    wait(lab.networks.network_remove("both")).unwrap();
    assert_eq!(settings(), found);
    lab.host.sh("echo 1 > /proc/sys/net/ipv6/conf/br9/disable_ipv6");
    let error = lab.network("off", both).unwrap_err();
    assert!(error.chain().contains("IPv6 is off on the bridge br9"), "{}", error.chain());
    assert!(lab.networks.resolve("off").is_err());
}

#[test]
fn a_bridge_that_cannot_be_set_up_is_not_left_behind() {
    let mut lab = Lab::new();
    // The kernel knows no IPv6 with frames this short.
    let change = |config: &mut NetworkConfig| {
        (config.bridge, config.mtu, config.ipv6) = (Some("berth7".into()), 1000, true);
    };
    let error = lab.restart_with(change).unwrap_err();
    assert!(error.chain().contains("giving berth7 the address"), "{}", error.chain());
    assert!(!lab.host.sh("ip -o link").contains("berth7"));
}

#[test]
fn addresses_of_nobody_are_no_subnets() {
    let lab = Lab::new();
    let before = lab.host.sh("ip -o link | wc -l");
    for subnet in ["127.9.0.0/24", "224.1.0.0/16", "0.0.0.0/8", "::/64", "ff02::/64"] {
        let error = lab
            .network("bad", |n| {
                n.ipv6 = subnet.contains(':');
                n.ranges = vec![range(subnet, None, None, &[])];
            })
            .unwrap_err();
        assert!(
            error.meaning() == Meaning::InvalidInput && error.chain().contains(subnet),
            "{}",
            error.chain()
        );
    }
    assert_eq!(lab.host.sh("ip -o link | wc -l"), before);
}

#[test]
fn a_port_of_a_routed_network_is_of_no_address_of_the_host() {
    let lab = Lab::new();
    let mode = with(&[("com.docker.network.bridge.gateway_mode_ipv4", "routed")]);
    lab.network("half", |n| {
        n.ipv6 = true;
        mode(n);
    })
    .unwrap();
    let container = lab.on("half", &[tcp(8080, 80), at(std::net::Ipv4Addr::LOCALHOST, tcp(8081, 81))]);
    let ports: Vec<_> = container.record.ports.iter().map(|p| (p.host_ip.to_string(), p.host_port)).collect();
    assert_eq!(ports, [("0.0.0.0".into(), 0), ("::".to_owned(), 8080), ("0.0.0.0".into(), 0)]);
    // What keeps the other family's port is called by it, so that the next daemon finds it.
    let held: Vec<_> = container.held.iter().map(|(name, _)| name.as_str()).collect();
    assert!(held.contains(&"port/tcp/[::]:8080"), "{held:?}");
}
