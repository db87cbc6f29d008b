// SPDX-License-Identifier: Apache-2.0
//! The daemon goes and comes; somebody tampers; containers carry on.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use berth_domain::Meaning;
use berth_network::*;

use crate::lab::*;

#[test]
fn running_containers_carry_on_over_a_restart() {
    let mut lab = Lab::new();
    let container = lab.container(&[tcp(8080, 80)]);
    let dead = lab.container(&[tcp(8081, 80)]);
    let listener = container.ns.listen(80);
    let networks: Vec<_> = lab.networks.list().iter().map(|n| n.record.id.clone()).collect();
    let mut streams = vec![lab.outside.connect((HOST, 8080)).unwrap()];
    streams.push(listener.accept().unwrap().0);

    lab.restart();
    let still = talk(&lab.outside, (HOST, 8080), &listener);
    assert_eq!(still, IpAddr::V4(OUTSIDE), "the port answers before anybody is adopted");
    assert_eq!(networks, lab.networks.list().iter().map(|n| n.record.id.clone()).collect::<Vec<_>>());
    let held = container.held.iter().map(|(n, fd)| (n.clone(), fd.try_clone().unwrap())).collect();
    // A record travels through the engine's state as JSON.
    let json = serde_json::to_string(&container.record).unwrap();
    let record: SandboxRecord = serde_json::from_str(&json).unwrap();
    assert_eq!(record, container.record);
    wait(lab.networks.sandbox_adopt(&container.id, record.clone(), None, held)).unwrap();
    let dead_link = dead.record.endpoints[0].link.clone().unwrap();
    assert!(lab.links().contains(&dead_link));
    wait(lab.networks.sweep(std::slice::from_ref(&container.id))).unwrap();
    assert!(!lab.links().contains(&dead_link), "links of nobody are removed");
    assert!(!lab.table().contains("8081"), "and so are ports");
    drop(dead);

    assert_eq!(talk(&lab.outside, (HOST, 8080), &listener), IpAddr::V4(OUTSIDE));
    assert_eq!(lab.networks.inspect("bridge").unwrap().endpoints.len(), 1);
    let again = wait(lab.networks.sandbox_adopt(&new_id(), record, None, Vec::new())).unwrap_err();
    assert_eq!(again.meaning(), Meaning::Conflict, "its address is taken");
    let taken = lab.create(Mode::Networks(vec![EndpointRequest::on("bridge")]), &[tcp(8080, 80)]);
    assert!(taken.unwrap_err().chain().ends_with("port is already allocated"));
    let next = lab.container(&[tcp(8081, 80)]);
    assert_ne!(next.ip(), container.ip());

    lab.release(&container);
    assert!(!lab.table().contains("8080"));
    let reuse = lab.container(&[tcp(8080, 80)]);
    drop((streams, reuse, next));
}

#[test]
fn a_restart_after_the_rules_were_flushed_brings_them_back() {
    let mut lab = Lab::new();
    let container = lab.container(&[tcp(8080, 80)]);
    let listener = container.ns.listen(80);
    lab.host.sh("nft flush ruleset");
    lab.restart();
    wait(lab.networks.sandbox_adopt(&container.id, container.record.clone(), None, Vec::new())).unwrap();
    wait(lab.networks.sweep(std::slice::from_ref(&container.id))).unwrap();
    assert_eq!(talk(&lab.outside, (HOST, 8080), &listener), IpAddr::V4(OUTSIDE));
}

#[test]
fn sweeping_releases_the_dead() {
    let lab = Lab::new();
    let (a, b) = (lab.container(&[tcp(8080, 80)]), lab.container(&[tcp(8081, 80)]));
    wait(lab.networks.sweep(std::slice::from_ref(&b.id))).unwrap();
    assert_eq!(lab.networks.sandbox(&a.id), None);
    assert_eq!(lab.networks.sandbox(&b.id), Some(b.record.clone()));
    assert!(!lab.table().contains("8080") && lab.table().contains("8081"));
}

#[test]
fn others_links_and_tables_are_left_alone() {
    let lab = Lab::new();
    lab.host.sh(
        "ip link add vb0123456789abc type ifb; ip link add br9 type bridge; ip link add vbfedcba9876543 master br9 type ifb
         nft add table inet berth2; nft add chain inet berth2 forward",
    );
    wait(lab.networks.sweep(&[])).unwrap();
    assert_eq!(lab.links().len(), 2);
    assert!(lab.host.sh("nft list tables").contains("berth2"));
}

#[test]
fn two_daemons_share_a_host() {
    let mut lab = Lab::new();
    let mut second = lab.beside(|config| config.bridge = Some("berth1".into()));
    let (a, b) = (lab.container(&[tcp(8080, 80)]), second.container(&[tcp(8081, 80)]));
    assert_eq!((a.ip(), b.ip()), (Ipv4Addr::new(172, 17, 0, 2), Ipv4Addr::new(172, 18, 0, 2)));
    let taken =
        second.create(Mode::Networks(vec![EndpointRequest::on("bridge")]), &[tcp(8080, 80)]).unwrap_err();
    assert!(taken.chain().ends_with("failed to bind host port 0.0.0.0:8080/tcp: address already in use"));
    let (at_a, at_b) = (a.ns.listen(80), b.ns.listen(80));
    let check = |lab: &Lab| {
        assert_eq!(talk(&lab.outside, (HOST, 8080), &at_a), IpAddr::V4(OUTSIDE));
        assert_eq!(talk(&lab.outside, (HOST, 8081), &at_b), IpAddr::V4(OUTSIDE));
        talk(&a.ns, (HOST, 8081), &at_b);
        talk(&b.ns, (HOST, 8080), &at_a);
        a.ns.cannot_connect((b.ip(), 80));
        b.ns.cannot_connect((a.ip(), 80));
    };
    check(&lab);
    for (lab, container) in [(&mut lab, &a), (&mut second, &b)] {
        let bridge = lab.networks.resolve("bridge").unwrap().bridge.clone().unwrap().link;
        lab.restart_with(|config| config.bridge = Some(bridge)).unwrap();
        wait(lab.networks.sandbox_adopt(&container.id, container.record.clone(), None, Vec::new())).unwrap();
        wait(lab.networks.sweep(std::slice::from_ref(&container.id))).unwrap();
    }
    check(&lab);
    assert_eq!(lab.host.sh("nft list tables"), "table inet berth\ntable inet berth-berth1\n");
}

#[test]
fn a_bridge_that_somebody_removed_comes_back() {
    let lab = Lab::new();
    lab.host.sh("ip link del berth0");
    let container = lab.container(&[]);
    assert_eq!(talk(&container.ns, (OUTSIDE, 80), &lab.outside.listen(80)), IpAddr::V4(HOST));
}

#[test]
fn rules_that_somebody_flushed_come_back() {
    let lab = Lab::new();
    let container = lab.container(&[at(Ipv4Addr::LOCALHOST, tcp(8080, 80)), tcp(8081, 80)]);
    let listener = container.ns.listen(80);
    let before = lab.table();
    let there = || lab.host.sh("nft -n list ruleset") == before;
    for tampering in [
        "nft flush ruleset",
        "nft delete table inet berth",
        "nft flush table inet berth",
        "nft flush map inet berth ports",
        "nft flush chain inet berth raw_prerouting",
        "nft insert rule inet berth forward accept",
    ] {
        lab.host.sh(tampering);
        until(tampering, there);
    }
    assert_eq!(talk(&lab.outside, (HOST, 8081), &listener), IpAddr::V4(OUTSIDE));
}

#[test]
fn the_administrators_chain_is_the_administrators() {
    let mut lab = Lab::new();
    let container = lab.container(&[tcp(8080, 80)]);
    let _listener = container.ns.listen(80);
    lab.host.sh(&format!("nft add rule inet berth admin ip saddr {OUTSIDE} drop"));
    lab.outside.cannot_connect((HOST, 8080));
    lab.restart();
    wait(lab.networks.sandbox_adopt(&container.id, container.record.clone(), None, Vec::new())).unwrap();
    wait(lab.networks.sweep(std::slice::from_ref(&container.id))).unwrap();
    lab.outside.cannot_connect((HOST, 8080));
    assert!(lab.table().contains(&format!("ip saddr {OUTSIDE} drop")));
}

#[test]
fn the_default_bridges_subnet() {
    let subnet = |lab: &Lab| lab.networks.resolve("bridge").unwrap().ranges[0].subnet.to_string();
    let mut lab = Lab::new();
    assert_eq!(subnet(&lab), "172.17.0.0/16");
    let id = lab.networks.resolve("default").unwrap().id.clone();
    lab.restart_with(|c| c.bip = Some("10.1.0.1/24".parse().unwrap())).unwrap();
    assert_eq!(subnet(&lab), "10.1.0.0/24");
    assert_eq!(lab.networks.resolve("bridge").unwrap().id, id, "it is the same network");
    let addresses = lab.host.sh("ip -4 -o addr show berth0");
    assert!(addresses.contains("10.1.0.1/24") && !addresses.contains("172.17"), "{addresses}");
    assert_eq!(lab.container(&[]).ip(), Ipv4Addr::new(10, 1, 0, 2));

    lab.host.sh("ip link del berth0; ip route add 10.0.0.0/8 dev up0; ip route add 172.17.128.0/24 dev up0");
    lab.restart();
    assert_eq!(subnet(&lab), "172.18.0.0/16", "the host's own routes are avoided");

    lab.host.sh("ip link del berth0; ip link add berth0 type bridge; ip addr add 192.0.2.1/25 dev berth0");
    lab.restart();
    assert_eq!(subnet(&lab), "192.0.2.0/25", "a bridge that is there is taken as it is");

    lab.host.sh("ip link del berth0; ip link add berth0 type ifb");
    let error = lab.restart_with(|_| {}).unwrap_err();
    assert!(error.chain().contains("berth0 is not a bridge but a link of kind ifb"), "{}", error.chain());
}

#[test]
fn the_default_bridges_gateways() {
    let lab = Lab::with(|c| {
        c.ipv6 = true;
        c.bip6 = Some("fd00:17::5/64".parse().unwrap());
        c.fixed_cidr_v6 = Some("fd00:17::100/120".parse().unwrap());
        c.default_gateway = Some("172.17.0.254".parse().unwrap());
        c.default_gateway_v6 = Some("fd00:17::fe".parse().unwrap());
    });
    assert!(lab.host.sh("ip -6 -o addr show berth0").contains("fd00:17::5/64"));
    let container = lab.container(&[]);
    assert_eq!(container.ip6().to_string(), "fd00:17::100");
    let routes = container.ns.sh("ip -4 route; ip -6 route");
    for way in ["default via 172.17.0.254", "default via fd00:17::fe"] {
        assert!(routes.contains(way), "{way}: {routes}");
    }
    let record = lab.networks.resolve("bridge").unwrap();
    assert_eq!(record.ranges[0].reserved["DefaultGatewayIPv4"], IpAddr::from([172, 17, 0, 254]));
    assert_eq!(record.ranges[0].gateway, Some(GATEWAY.into()), "the bridge keeps its own address");
}

#[test]
fn networks_begin_with_the_administrators_options() {
    let options = [("com.docker.network.driver.mtu", "1400"), ("com.docker.network.bridge.enable_icc", "0")];
    let lab = Lab::with(|c| {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        c.default_network_options.insert("bridge".into(), options);
    });
    let plain = lab.network("plain", |_| {}).unwrap();
    assert_eq!(plain.bridge.as_ref().map(|b| (b.mtu, b.icc)), Some((1400, false)));
    assert_eq!(plain.options["com.docker.network.driver.mtu"], "1400");
    let own = |n: &mut NetworkRequest| drop(n.options.insert(options[0].0.into(), "1300".into()));
    let own = lab.network("own", own).unwrap();
    assert_eq!(own.bridge.as_ref().map(|b| b.mtu), Some(1300));
    let default = lab.networks.resolve("bridge").unwrap();
    assert_eq!(default.bridge.as_ref().map(|b| b.mtu), Some(1500), "mtu is what sets the default bridge's");
}

#[test]
fn neighbours_may_be_let_in_at_containers_own_addresses() {
    let lab = Lab::with(|c| c.direct_routing = true);
    let local = PortRequest { host_ip: Some(Ipv4Addr::LOCALHOST.into()), ..tcp(8081, 81) };
    let container = lab.container(&[tcp(8080, 80), local]);
    let (server, _local, _hidden) =
        (container.ns.listen(80), container.ns.listen(81), container.ns.listen(82));
    assert_eq!(talk(&lab.outside, (container.ip(), 80), &server), IpAddr::from(OUTSIDE));
    assert_eq!(talk(&lab.outside, (HOST, 8080), &server), IpAddr::from(OUTSIDE));
    // What is published for the host alone, or not at all, is not open.
    lab.outside.cannot_connect((container.ip(), 81));
    lab.outside.cannot_connect((container.ip(), 82));
    lab.release(&container);
    assert!(!lab.table().contains(". 80"), "{}", lab.table());
}

#[test]
fn bad_settings_are_refused() {
    let mut lab = Lab::new();
    let mut check = |change: fn(&mut NetworkConfig), text: &str| {
        let error = lab.restart_with(change).unwrap_err().chain();
        assert!(error.contains(text), "{error}");
    };
    check(|c| c.bip = Some("10.0.0.0/24".parse().unwrap()), "a host's address within a subnet expected");
    check(|c| c.bridge = Some("much-too-long-a-name".into()), "invalid interface name");
    check(
        |c| c.fixed_cidr = Some("10.0.0.0/24".parse().unwrap()),
        "is not within the default bridge's subnet",
    );
    check(
        |c| c.default_gateway = Some("10.0.0.1".parse().unwrap()),
        "default-gateway 10.0.0.1: an address within the default bridge's subnet 172.17.0.0/16 expected",
    );
    check(
        |c| (c.ipv6, c.bip6) = (true, Some("fd00:17::/64".parse().unwrap())),
        "bip6 fd00:17::/64: a host's address",
    );
}

#[test]
fn no_default_bridge_if_none_is_wanted() {
    let mut lab = Lab::with(|c| c.bridge = None);
    assert_eq!(lab.host.sh("nft list tables"), "", "and no rules");
    assert_eq!(
        lab.networks.list().iter().map(|n| n.record.name.clone()).collect::<Vec<_>>(),
        ["host", "none"]
    );
    lab.restart();
    assert!(lab.networks.resolve("bridge").is_ok());
}

#[test]
fn a_spoilt_record_costs_one_network() {
    let mut lab = Lab::new();
    let network = lab.network("kept", |_| {}).unwrap();
    let dir = lab.dir.path().join("networks");
    std::fs::write(dir.join("spoilt.json"), "{").unwrap();
    std::fs::write(dir.join("half.json.tmp"), "{").unwrap();
    lab.restart();
    assert_eq!(lab.networks.resolve("kept").unwrap(), network);
    assert!(!dir.join("half.json.tmp").exists());
}

#[test]
fn the_port_is_kept_while_the_daemon_is_away() {
    let Lab { host, networks, outside, dir } = Lab::new();
    let lab = Lab { host, networks, outside, dir };
    let container = lab.container(&[tcp(8080, 80)]);
    let Lab { host, networks, .. } = lab;
    drop(networks);
    // What a shim holds.
    assert_eq!(container.held[0].0, "port/tcp/0.0.0.0:8080");
    let bind = || host.run(|| TcpListener::bind("0.0.0.0:8080"));
    assert!(bind().is_err());
    drop(container);
    until("the port is free", || bind().is_ok());
}

#[test]
fn the_table_of_an_earlier_daemon_goes() {
    let mut lab = Lab::new();
    let chains = [
        "admin",
        "publish",
        "into_bridge",
        "raw_prerouting",
        "prerouting",
        "output",
        "postrouting",
        "forward",
    ];
    lab.host.sh("nft add table ip berth; nft add chain ip berth forward");
    lab.restart();
    wait(lab.networks.sweep(&[])).unwrap();
    assert!(lab.host.sh("nft list tables").contains("table ip berth"), "it may be anybody's");
    for chain in chains {
        lab.host.sh(&format!("nft add chain ip berth {chain}"));
    }
    lab.restart();
    assert!(lab.host.sh("nft list tables").contains("table ip berth"), "it has ports until the sweep");
    wait(lab.networks.sweep(&[])).unwrap();
    assert!(!lab.host.sh("nft list tables").contains("table ip berth"));
    lab.table();
}
