// SPDX-License-Identifier: Apache-2.0
//! The daemon dies at every step of what it does to networks. Afterwards links, addresses, routes, rules and leases are what
//! its records say, neither more nor less.

use std::collections::BTreeSet;

use berth_tests::harness::{Bed, NetNs, until};
use serde_json::Value;

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

/// Lines of a command's output in a namespace, one word of each.
fn words(ns: &NetNs, script: &str, nth: usize) -> BTreeSet<String> {
    let out = ns.sh(script);
    let word =
        |line: &str| line.split_whitespace().nth(nth).map(|w| w.split('@').next().unwrap_or(w).to_owned());
    out.lines().filter_map(|line| word(line.trim())).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Compares one running container's namespace with what `inspect` says of it; answers the elements that its ports should be.
fn check_container(container: &Value) -> BTreeSet<String> {
    let ns = NetNs::open(format!("/proc/{}/ns/net", container["State"]["Pid"]).as_ref());
    let settings = &container["NetworkSettings"];
    let networks: Vec<&Value> = settings["Networks"].as_object().unwrap().values().collect();
    let addresses = |ip: &str, length: &str| {
        let one = |n: &&Value| (!text(n, ip).is_empty()).then(|| format!("{}/{}", text(n, ip), n[length]));
        networks.iter().filter_map(one).collect::<Vec<_>>()
    };
    let mut said: BTreeSet<String> = addresses("IPAddress", "IPPrefixLen").into_iter().collect();
    said.extend(addresses("GlobalIPv6Address", "GlobalIPv6PrefixLen"));
    assert_eq!(words(&ns, "ip -o addr show scope global", 3), said, "addresses");
    for (family, gateway) in [("-4", "Gateway"), ("-6", "IPv6Gateway")] {
        let said: BTreeSet<String> =
            networks.iter().map(|n| text(n, gateway).to_owned()).filter(|g| !g.is_empty()).collect();
        assert_eq!(words(&ns, &format!("ip {family} route show default"), 2), said, "the way out");
    }
    let mut elements = BTreeSet::new();
    for (key, bindings) in settings["Ports"].as_object().unwrap() {
        let (port, protocol) = key.split_once('/').unwrap();
        for binding in bindings.as_array().into_iter().flatten() {
            let (ip, address) = if text(binding, "HostIp") == "::" {
                ("IPv6Gateway", "GlobalIPv6Address")
            } else {
                ("Gateway", "IPAddress")
            };
            let to = networks.iter().find(|n| !text(n, ip).is_empty()).map(|n| text(n, address)).unwrap();
            let id = &text(container, "Id")[..12];
            elements.insert(format!(
                "{protocol} . {} comment \"{id}\" : {to} . {port}",
                text(binding, "HostPort")
            ));
        }
    }
    elements
}

fn check(bed: &Bed) {
    let list = |path: &str| bed.api("GET", path, "").json().as_array().cloned().unwrap();
    let mut elements = BTreeSet::new();
    for container in list("/containers/json") {
        let id = text(&container, "Id").to_owned();
        elements.extend(check_container(&bed.api("GET", &format!("/containers/{id}/json"), "").json()));
    }
    let there: BTreeSet<String> = bed
        .published_ports()
        .iter()
        .flat_map(|map| map.split(','))
        .map(|element| element.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(there, elements, "published ports");
    let mut bridges = BTreeSet::new();
    for network in list("/networks?filters=%7B%22type%22%3A%5B%22custom%22%5D%7D") {
        let id = text(&network, "Id");
        let network = bed.api("GET", &format!("/networks/{id}"), "").json();
        let bridge = format!("br-{}", &id[..12]);
        let on_it = network["Containers"].as_object().unwrap().len();
        until(&format!("{bridge} has {on_it} links"), || {
            (words(&bed.netns, &format!("ip -o link show master {bridge}"), 1).len() == on_it).then_some(())
        });
        bridges.insert(bridge);
    }
    let mut there = words(&bed.netns, "ip -o link show type bridge", 1);
    there.retain(|name| name.starts_with("br-"));
    assert_eq!(
        there.into_iter().map(|n| n.trim_end_matches(':').to_owned()).collect::<BTreeSet<_>>(),
        bridges
    );
}

/// Has the daemon die at a step of something, and looks at what the next one makes of it.
fn dies_at(bed: &mut Bed, step: &str, doing: &[&str]) {
    bed.kill_daemon();
    bed.die_at(Some(step));
    bed.start_daemon();
    let out = bed.docker(doing);
    assert_ne!(out.code, 0, "{step}: {out:?}");
    bed.await_death();
    bed.die_at(None);
    bed.start_daemon();
    check(bed);
}

#[test]
fn a_daemon_that_dies_as_it_starts_and_stops_containers() {
    let mut bed = bed();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["network", "create", "--ipv6", "--subnet", "10.66.0.0/29", "one"]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "keep",
        "--network",
        "one",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    bed.docker(&[
        "create",
        "--name",
        "cc",
        "--network",
        "one",
        "-p",
        "8081:80",
        "-p",
        "8082:82/udp",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    check(&bed);
    for step in ["sandbox.leased", "sandbox.ports-reserved", "sandbox.plugged", "sandbox.published"] {
        dies_at(&mut bed, step, &["start", "cc"]);
    }
    bed.docker(&["start", "cc"]).ok();
    check(&bed);
    for step in ["release.unpublished", "release.given-back"] {
        dies_at(&mut bed, step, &["stop", "-t", "0", "cc"]);
        bed.docker(&["start", "cc"]).ok();
        check(&bed);
    }
    // Every address is somebody's once, and none is lost: four of the five are left for others, but for those of the two.
    for n in 0..3 {
        bed.docker(&[
            "run",
            "-d",
            "--name",
            &format!("r{n}"),
            "--network",
            "one",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    }
    let full = bed.docker(&["run", "-d", "--network", "one", "busybox", "sleep", "1000"]).fails(125);
    assert!(full.contains("no available IPv4 addresses"), "{full}");
    check(&bed);
    bed.finish();
}

#[test]
fn a_daemon_that_dies_as_it_connects_and_disconnects() {
    let mut bed = bed();
    if !bed.is_ours() {
        return;
    }
    for name in ["one", "two"] {
        bed.docker(&["network", "create", "--ipv6", name]).ok();
    }
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--network",
        "one",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let connect = ["network", "connect", "--gw-priority", "5", "two", "cc"];
    let disconnect = ["network", "disconnect", "two", "cc"];
    for step in ["connect.leased", "connect.plugged", "connect.routed", "connect.republished"] {
        dies_at(&mut bed, step, &connect);
    }
    bed.docker(&connect).ok();
    check(&bed);
    for step in ["connect.routed", "connect.republished", "disconnect.left", "disconnect.unplugged"] {
        dies_at(&mut bed, step, &disconnect);
    }
    bed.docker(&disconnect).ok();
    check(&bed);
    bed.finish();
}

#[test]
fn a_daemon_that_dies_as_it_makes_and_removes_networks() {
    let mut bed = bed();
    if !bed.is_ours() {
        return;
    }
    for step in ["network-create.recorded", "network-create.raised", "network-create.up"] {
        let name = step.replace('.', "-");
        dies_at(&mut bed, step, &["network", "create", "--ipv6", &name]);
        // Nobody was told that it is there. If it is, it is whole.
        if bed.docker(&["network", "inspect", &name]).code == 0 {
            bed.docker(&["run", "--rm", "--network", &name, "busybox", "ping", "-c", "1", "127.0.0.1"]).ok();
        } else {
            bed.docker(&["network", "create", &name]).ok();
        }
    }
    bed.docker(&["network", "create", "gone"]).ok();
    for step in ["network-remove.down", "network-remove.record-gone"] {
        dies_at(&mut bed, step, &["network", "rm", "gone"]);
    }
    assert!(bed.docker(&["network", "inspect", "gone"]).code != 0);
    bed.finish();
}
