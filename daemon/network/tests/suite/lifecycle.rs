// SPDX-License-Identifier: Apache-2.0
//! Sandboxes come whole or not at all, and leave nothing.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use berth_domain::Meaning;
use berth_network::*;

use crate::lab::*;

fn error(result: berth_domain::Result<Container>) -> (Meaning, String) {
    let error = result.expect_err("it was made");
    (error.meaning(), error.chain())
}

fn on_bridge() -> Mode {
    Mode::Networks(vec![EndpointRequest::on("bridge")])
}

#[test]
fn what_a_container_finds() {
    let lab = Lab::new();
    let container = lab.container(&[]);
    let address = container.ns.sh("ip -4 -o addr show eth0");
    assert!(address.contains("172.17.0.2/16 brd 172.17.255.255"), "{address}");
    assert!(container.ns.sh("ip link show eth0").contains("be:42:ac:11:00:02"));
    assert_eq!(
        container.ns.sh("ip route").trim(),
        "default via 172.17.0.1 dev eth0 \n172.17.0.0/16 dev eth0 proto kernel scope link src 172.17.0.2"
    );
    assert!(container.ns.sh("ip link show lo").contains("UP"));
    let endpoint = &container.record.endpoints[0];
    assert_eq!((endpoint.ipv4_prefix, endpoint.gateway), (16, Some(GATEWAY)));
    assert_eq!(endpoint.network_name, "bridge");
    assert_eq!(endpoint.interface.as_deref(), Some("eth0"));
    let link = endpoint.link.as_deref().unwrap();
    assert!(link.len() == 15 && link.starts_with("vb"));
    assert!(lab.host.sh(&format!("ip link show {link}")).contains("master berth0"));
}

#[test]
fn modes_without_a_bridge() {
    let lab = Lab::new();
    let none = lab.create(Mode::None, &[tcp(8080, 80)]).unwrap();
    assert_eq!(none.ns.sh("ip -o link | wc -l").trim(), "1");
    assert!(none.ns.sh("ip link show lo").contains("UP"));
    assert_eq!(none.record.endpoints[0].network_name, "none");
    assert!(none.record.ports.is_empty() && none.held.is_empty());
    let host = lab.create(Mode::Host, &[tcp(8080, 80)]).unwrap();
    assert_eq!(host.record.endpoints[0].network_name, "host");
    assert!(host.ns.sh("ip link").contains("berth0"));
    let owner = lab.container(&[]);
    let sharer = lab.create(Mode::Container(owner.ns.0.try_clone().unwrap()), &[]).unwrap();
    assert!(sharer.record.endpoints.is_empty());
    assert!(sharer.ns.sh("ip addr").contains("172.17.0.2"));
    let by_name = lab.create(Mode::Networks(vec![EndpointRequest::on("host")]), &[]).unwrap();
    assert_eq!(by_name.record.endpoints[0].network_name, "host");
    for c in [&none, &host, &sharer, &owner, &by_name] {
        lab.release(c);
    }
}

#[test]
fn links_vanish_with_the_namespace_and_nobody_waits() {
    let lab = Lab::new();
    let container = lab.container(&[tcp(8080, 80)]);
    assert_eq!(lab.links().len(), 1);
    lab.release(&container);
    assert!(!lab.table().contains("6 . 8080"));
    drop(container);
    until("the link is gone", || lab.links().is_empty());
    assert!(lab.networks.list().iter().all(|n| n.endpoints.is_empty()));
}

#[test]
fn a_port_that_is_taken_leaves_nothing_behind() {
    let lab = Lab::new();
    let server = lab.host.run(|| TcpListener::bind("0.0.0.0:6378").unwrap());
    let before = lab.table();
    let (meaning, text) = error(lab.create(on_bridge(), &[tcp(6377, 1), tcp(6378, 6379)]));
    assert_eq!(meaning, Meaning::Internal);
    let (head, tail) = text.split_once(" (").unwrap();
    assert!(head.starts_with("driver failed programming external connectivity on endpoint c-"), "{text}");
    assert!(tail.ends_with("): failed to bind host port 0.0.0.0:6378/tcp: address already in use"), "{text}");
    assert_eq!(lab.table(), before);
    assert_eq!(lab.links().len(), 0);
    drop(server);
    let container = lab.container(&[tcp(6377, 1), tcp(6378, 6379)]);
    assert_eq!(container.held.len(), 2);
    let (_, text) = error(lab.create(on_bridge(), &[tcp(6378, 6379)]));
    assert!(text.ends_with("Bind for 0.0.0.0:6378 failed: port is already allocated"), "{text}");
    let (_, text) = error(lab.create(on_bridge(), &[at(Ipv4Addr::LOCALHOST, tcp(6378, 6379))]));
    assert!(text.ends_with("Bind for 127.0.0.1:6378 failed: port is already allocated"), "{text}");
    lab.release(&container);
    // The shim may still hold its copies.
    let again = lab.container(&[tcp(6377, 1), tcp(6378, 6379)]);
    drop((again, container));
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let lab = Lab::new();
    let check = |mode: Mode, ports: &[PortRequest], meaning: Meaning, text: &str| {
        assert_eq!(error(lab.create(mode, ports)), (meaning, text.to_owned()));
    };
    let on = |network: &str| EndpointRequest::on(network);
    check(Mode::Networks(vec![on("nonet")]), &[], Meaning::NotFound, "network nonet not found");
    check(
        Mode::Networks(vec![on("bridge"), on("default")]),
        &[],
        Meaning::InvalidInput,
        "network bridge is named twice",
    );
    let fixed = EndpointRequest { ipv4: Some(Ipv4Addr::new(172, 17, 0, 9)), ..on("bridge") };
    check(
        Mode::Networks(vec![fixed]),
        &[],
        Meaning::InvalidInput,
        "invalid endpoint settings:\nuser specified IP address is supported on user defined networks only",
    );
    check(on_bridge(), &[tcp(80, 0)], Meaning::InvalidInput, "invalid container port 0");
    let v6 = PortRequest { host_ip: Some("::1".parse().unwrap()), ..tcp(80, 80) };
    let (meaning, text) = error(lab.create(on_bridge(), &[v6]));
    assert_eq!(meaning, Meaning::InvalidInput);
    assert!(
        text.ends_with("cannot publish on ::1: the container has no IPv6 address that leads out"),
        "{text}"
    );
    let container = lab.container(&[]);
    assert_eq!(
        container.ip(),
        Ipv4Addr::new(172, 17, 0, 4),
        "failures gave their addresses back, which then rest"
    );
    let again = SandboxRequest {
        name: "x".into(),
        mode: Mode::None,
        ports: Vec::new(),
        hostname: String::new(),
        dns_servers: Vec::new(),
        user: berth_network::UserNamespace::Host,
    };
    let twice = wait(lab.networks.sandbox_create(&container.id, again)).unwrap_err();
    assert_eq!(twice.meaning(), Meaning::Conflict);
}

#[test]
fn a_caller_that_goes_away_leaves_nothing() {
    let lab = Lab::new();
    let id = new_id();
    let request = SandboxRequest {
        name: "gone".into(),
        mode: on_bridge(),
        ports: vec![tcp(8080, 80)],
        hostname: String::new(),
        dns_servers: Vec::new(),
        user: berth_network::UserNamespace::Host,
    };
    wait(async {
        let mut create = Box::pin(lab.networks.sandbox_create(&id, request));
        // Polled once, so that the work is queued, then given up.
        std::future::poll_fn(|context| {
            assert!(create.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    });
    // The next one is served after it.
    let next = lab.container(&[tcp(8080, 80)]);
    assert_eq!(lab.networks.sandbox(&id), None);
    assert_eq!(next.host_port(0), 8080);
    until("only one link is left", || lab.links().len() == 1);
}

#[test]
fn many_at_once() {
    let lab = Lab::new();
    let made: Vec<Container> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..40)
            .map(|_| {
                scope.spawn(|| {
                    lab.create(on_bridge(), &[tcp(0, 80)]).unwrap_or_else(|e| panic!("{}", e.chain()))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> = made.iter().map(Container::ip).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 40);
    let last = &made[39];
    let listener = last.ns.listen(80);
    assert_eq!(talk(&lab.outside, (HOST, last.host_port(0)), &listener), IpAddr::V4(OUTSIDE));
    for container in &made {
        lab.release(container);
    }
    drop((made, listener));
    until("all links are gone", || lab.links().is_empty());
    assert!(!lab.table().contains("172.17.0.4"));
}

#[test]
fn a_full_bridge_says_so() {
    let lab = Lab::new();
    let mut script = String::new();
    for n in 0..1023 {
        script.push_str(&format!("link add d{n} master berth0 type ifb\n"));
    }
    let batch = lab.dir.path().join("batch");
    std::fs::write(&batch, script).unwrap();
    lab.host.sh(&format!("ip -batch {}", batch.display()));
    let (_, text) = error(lab.create(on_bridge(), &[]));
    assert!(
        text.starts_with("network bridge is full: a Linux bridge (berth0) has at most 1023 ports"),
        "{text}"
    );
    lab.host.sh("ip link del d7");
    lab.container(&[]);
}

#[test]
fn a_full_subnet_says_so() {
    let lab = Lab::with(|config| config.bip = Some("10.9.0.1/29".parse().unwrap()));
    let made: Vec<_> = (0..5).map(|_| lab.container(&[])).collect();
    let (_, text) = error(lab.create(on_bridge(), &[]));
    assert!(
        text.starts_with("no available IPv4 addresses on this network's address pools: bridge ("),
        "{text}"
    );
    lab.release(&made[2]);
    assert_eq!(lab.container(&[]).ip(), made[2].ip());
}

#[test]
fn many_ports_cost_one_transaction_and_all_come_and_go() {
    let lab = Lab::new();
    let ports: Vec<_> = (20_000..20_500).map(|port| tcp(port, port)).collect();
    let container = lab.container(&ports);
    assert_eq!(lab.table().matches("172.17.0.2 .").count(), 500);
    assert_eq!(container.held.len(), 200, "as many as a shim can be handed in one message");
    lab.release(&container);
    assert_eq!(lab.table().matches("172.17.0.2 .").count(), 0);
}
