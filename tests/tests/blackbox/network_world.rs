// SPDX-License-Identifier: Apache-2.0
//! The host as the world sees it: from behind two routers, by IPv4 and IPv6.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use berth_tests::harness::{Bed, Capture, HOST, NetNs, OUTSIDER, World, is_dns_question, until};

fn bed() -> Bed {
    let bed = Bed::start();
    for image in ["busybox", "flask"] {
        bed.docker(&["pull", image]).ok();
    }
    bed
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A server that tells its clients what address they come from.
const MIRROR: &str = "import socket\ns = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)\n\
    while True:\n  c, a = s.accept()\n  c.send(a[0].removeprefix('::ffff:').encode())\n  c.close()";

fn mirror(bed: &Bed, name: &str, more: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(more);
    args.extend(["flask", "python3", "-c", MIRROR]);
    bed.docker(&args).ok();
}

/// What a mirror says, once it can be reached.
fn seen_as(from: &NetNs, to: SocketAddr) -> String {
    from.run(|| {
        until(&format!("{to} answers"), || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(text)
        })
    })
}

fn unreachable(from: &NetNs, to: SocketAddr) {
    let result = from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(250)));
    assert!(result.is_err(), "{to} answers");
}

fn addresses(bed: &Bed, name: &str) -> [String; 2] {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}";
    let both = bed.docker(&["inspect", "-f", format, name]).ok();
    let (v4, v6) = both.split_once(' ').unwrap();
    [v4.to_owned(), v6.to_owned()]
}

#[test]
fn clients_and_servers_beyond_routers() {
    let bed = bed();
    let world = World::around(&bed);
    bed.docker(&["network", "create", "--ipv6", "dual"]).ok();
    bed.docker(&["network", "create", "--ipv6", "other"]).ok();
    mirror(&bed, "server", &["--network", "dual", "-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    for (host, outsider) in HOST.iter().zip(OUTSIDER) {
        assert_eq!(seen_as(&world.outsider, address(host, 8080)), *outsider, "the client's address is kept");
        unreachable(&world.outsider, address(host, 8081));
        unreachable(&world.near, address(host, 8081));
    }
    assert!(!seen_as(&bed.netns, address("127.0.0.1", 8081)).is_empty());

    // Out as the host.
    for (host, outsider) in HOST.iter().zip(OUTSIDER) {
        let listener = world.outsider.run(|| TcpListener::bind(address(outsider, 9000)).unwrap());
        let peer = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"seen").unwrap();
            peer.ip().to_string()
        });
        let client = format!("import socket; print(socket.create_connection(('{outsider}', 9000)).recv(9))");
        bed.docker(&["exec", "server", "python3", "-c", &client]).ok();
        assert_eq!(peer.join().unwrap(), *host);
    }

    // Other networks, and neighbours that have a route to the containers, reach what is published and nothing else.
    bed.docker(&["run", "-d", "--name", "stranger", "--network", "other", "busybox", "sleep", "1000"]).ok();
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "stranger"]).ok();
    let stranger = NetNs::open(format!("/proc/{pid}/ns/net").as_ref());
    let inside = addresses(&bed, "server");
    for (ip, host) in inside.iter().zip(HOST) {
        world.near.sh(&format!("ip route add {ip} via {host}"));
        unreachable(&world.near, address(ip, 80));
        unreachable(&stranger, address(ip, 80));
        assert!(!seen_as(&stranger, address(host, 8080)).is_empty(), "by the host's address");
    }
    drop(stranger);
    bed.finish();
}

/// Makes a namespace send what is for 127.0.0.0/8 to the host, as an attacker on its network would.
fn give_up_loopback(ns: &NetNs, host: &str) {
    ns.sh(&format!(
        "ip addr del 127.0.0.1/8 dev lo
         for i in all lan0; do echo 1 >/proc/sys/net/ipv4/conf/$i/route_localnet; done
         ip route add 127.0.0.0/8 via {host} dev lan0 src 192.0.2.1"
    ));
}

#[test]
fn loopback_is_the_hosts_alone() {
    let mut bed = bed();
    let world = World::around(&bed);
    mirror(&bed, "server", &["-p", "127.0.0.1:8081:80"]);
    let own = bed.netns.run(|| TcpListener::bind("127.0.0.1:8082").unwrap());
    assert!(!seen_as(&bed.netns, address("127.0.0.1", 8081)).is_empty());
    give_up_loopback(&world.near, HOST[0]);
    let check = || {
        for port in [8081, 8082] {
            unreachable(&world.near, address("127.0.0.1", port));
            unreachable(&world.near, address(HOST[0], port));
        }
    };
    check();
    if bed.is_ours() {
        // What a firewall service does when it reloads, with the daemon there and away.
        bed.netns.sh("nft flush ruleset");
        let rules = || bed.netns.sh("nft list ruleset");
        until("the rules are back", || rules().contains("loopback is not reached").then_some(()));
        check();
        assert!(!seen_as(&bed.netns, address("127.0.0.1", 8081)).is_empty());
        bed.kill_daemon();
        bed.netns.sh("nft flush ruleset");
        bed.start_daemon();
        check();
        assert!(!seen_as(&bed.netns, address("127.0.0.1", 8081)).is_empty());
    }
    drop(own);
    bed.finish();
}

/// Asks a resolver for the address of a name; whether it gave one.
fn looked_up(bed: &Bed, container: &str, server: &str) -> bool {
    let out =
        bed.docker(&["exec", container, "timeout", "3", "nslookup", "-type=a", "random.example", server]);
    out.code == 0 && out.stdout.contains("192.0.2.7")
}

#[test]
fn an_internal_network_is_sealed() {
    let bed = bed();
    let world = World::around(&bed);
    bed.docker(&["network", "create", "--ipv6", "--internal", "sealed"]).ok();
    bed.docker(&["network", "create", "--ipv6", "open"]).ok();
    let run = |name: &str, network: &str| {
        bed.docker(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            network,
            "--dns",
            OUTSIDER[0],
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    };
    run("inside", "sealed");
    run("outside", "open");
    let server = crate::networks::Upstream::start(&world.outsider);
    let capture = Capture::start(&bed.netns);
    assert!(looked_up(&bed, "outside", "127.0.0.11"), "the way is there");
    assert!(capture.frames().iter().any(|f| is_dns_question(f)), "and questions that go out are heard");
    // By the resolver, and past it, which has no route.
    for resolver in ["127.0.0.11", OUTSIDER[0], OUTSIDER[1]] {
        assert!(!looked_up(&bed, "inside", resolver), "{resolver}");
    }
    // Not even by a route of the container's own making.
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "inside"]).ok();
    let inside = NetNs::open(format!("/proc/{pid}/ns/net").as_ref());
    let own_frames = capture.frames();
    assert!(!own_frames.iter().any(|f| is_dns_question(f)), "a question left: {own_frames:02x?}");
    let gateways =
        bed.docker(&["network", "inspect", "-f", "{{range .IPAM.Config}}{{.Gateway}} {{end}}", "sealed"]);
    for gateway in gateways.ok().split_whitespace() {
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        inside.sh(&format!("ip {family} route replace default via {gateway} || true"));
    }
    let lan = Capture::start(&world.near);
    for resolver in OUTSIDER {
        assert!(!looked_up(&bed, "inside", resolver), "{resolver}");
    }
    assert!(!lan.frames().iter().any(|f| is_dns_question(f)), "a question came to the router");
    drop((inside, server));
    bed.finish();
}
