// SPDX-License-Identifier: Apache-2.0
//! What takes a kernel that has it, or lacks it: VLANs, dummy links, SCTP, iptables-legacy beside us; no nftables at all. Debian's kernel
//! has all of these, so that they run for certain in the virtual machine (`make test-kernels`); elsewhere they say loudly that they are skipped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use berth_tests::harness::{Bed, NetNs, Options, Output, left_out, until};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

/// What the kernel said to a command in a namespace of its own; none if it could.
fn lacks(script: &str) -> Option<String> {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    NetNs::new().place(&mut command);
    let out = Output::of(&mut command);
    (out.code != 0).then(|| out.stderr.trim().to_owned())
}

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

/// A machine on the bed's own network.
fn neighbour(bed: &Bed) -> NetNs {
    let outside = NetNs::new();
    bed.netns.sh(&format!(
        "ip link add lan0 type veth peer name lan0 netns {}
         ip addr add 192.0.2.1/24 dev lan0; ip link set lan0 up",
        outside.path()
    ));
    outside.sh("ip addr add 192.0.2.2/24 dev lan0; ip link set lan0 up");
    outside
}

fn links(netns: &NetNs) -> String {
    netns.sh("ip -o link")
}

#[test]
fn vlan_parents() {
    if let Some(why) = lacks(
        "ip link add name a type veth peer name b; ip link add link a name a.10 type vlan id 10
         ip link add link a name m type macvlan",
    ) {
        return left_out("vlan_parents", &why);
    }
    let bed = bed();
    let outside = neighbour(&bed);
    outside.sh(
        "ip link add link lan0 name lan0.10 type vlan id 10; ip addr add 10.10.0.1/24 dev lan0.10; ip link set lan0.10 up",
    );
    let create = |name: &str| {
        let options = ["--subnet", "10.10.0.0/24", "--gateway", "10.10.0.1", "-o", "parent=lan0.10"];
        bed.docker(&[&["network", "create", "-d", "macvlan"][..], &options, &[name]].concat())
    };
    create("tagged").ok();
    assert!(links(&bed.netns).contains("lan0.10@lan0"), "the VLAN is made");
    bed.docker(&["run", "--rm", "--network", "tagged", "busybox", "ping", "-c", "1", "-W", "5", "10.10.0.1"])
        .ok();
    // Tagged frames, not plain ones.
    outside.sh("ip link del lan0.10; ip addr add 10.10.0.1/24 dev lan0");
    let plain = ["run", "--rm", "--network", "tagged", "busybox", "ping", "-c", "1", "-W", "1", "10.10.0.1"];
    assert_ne!(bed.docker(&plain).code, 0);
    bed.docker(&["network", "rm", "tagged"]).ok();
    until("the VLAN is gone", || (!links(&bed.netns).contains("lan0.10")).then_some(()));
    // One that was there stays.
    bed.netns.sh("ip link add link lan0 name lan0.10 type vlan id 10; ip link set lan0.10 up");
    create("tagged").ok();
    bed.docker(&["network", "rm", "tagged"]).ok();
    assert!(links(&bed.netns).contains("lan0.10@lan0"), "what was there is the administrator's");
    bed.finish();
}

#[test]
fn macvlan_without_a_parent() {
    if let Some(why) = lacks("ip link add name d type dummy; ip link add link d name m type macvlan") {
        return left_out("macvlan_without_a_parent", &why);
    }
    let bed = bed();
    for (name, more) in [("sealed", &["--internal"][..]), ("alone", &[])] {
        let id = bed.docker(&[&["network", "create", "-d", "macvlan"], more, &[name]].concat()).ok();
        let parent = format!("dm-{}", &id[..12]);
        assert!(links(&bed.netns).contains(&parent), "{parent} is made");
        bed.docker(&["run", "-d", "--name", "one", "--network", name, "busybox", "sleep", "1000"]).ok();
        bed.docker(&["run", "--rm", "--network", name, "busybox", "ping", "-c", "1", "-W", "5", "one"]).ok();
        bed.docker(&["rm", "-f", "one"]).ok();
        bed.docker(&["network", "rm", name]).ok();
        until("the dummy is gone", || (!links(&bed.netns).contains(&parent)).then_some(()));
    }
    bed.finish();
}

#[test]
fn ipvlan_networks() {
    if let Some(why) =
        lacks("ip link add name a type veth peer name b; ip link add link a name i type ipvlan")
    {
        return left_out("ipvlan_networks", &why);
    }
    let bed = bed();
    let outside = neighbour(&bed);
    let create = |more: &[&str]| {
        bed.docker(&[&["network", "create", "-d", "ipvlan", "-o", "parent=lan0"][..], more].concat())
    };
    let run = |name: &str, network: &str| {
        bed.docker(&["run", "-d", "--name", name, "--network", network, "busybox", "sleep", "1000"]).ok();
        let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        bed.docker(&["inspect", "-f", address, name]).ok()
    };
    let reaches = |name: &str, whom: &str| {
        bed.docker(&["exec", name, "ping", "-c", "1", "-W", "5", whom]).ok();
    };
    let flat = ["--subnet", "192.0.2.0/24", "--gateway", "192.0.2.2", "--ip-range", "192.0.2.128/25", "flat"];
    create(&flat).ok();
    let one = run("one", "flat");
    run("two", "flat");
    reaches("one", "192.0.2.2");
    reaches("one", "two");
    outside.sh(&format!("ping -c 1 -W 5 {one}"));
    let mac = bed.docker(&["exec", "one", "cat", "/sys/class/net/eth0/address"]).ok();
    assert!(links(&bed.netns).contains(&mac), "the Ethernet address is the parent's: {mac}");
    let own = ["--mac-address", "02:00:00:00:00:01", "busybox", "true"];
    let said = bed.docker(&[&["run", "--rm", "--network", "flat"][..], &own].concat()).fails(125);
    assert!(said.contains("ipvlan interfaces do not support custom mac address assignment"), "{said}");
    let said = create(&["-o", "ipvlan_mode=l3", "other"]).fails(1);
    assert!(said.contains("lan0"), "a parent has one mode: {said}");
    let said = create(&["-o", "ipvlan_mode=l4", "other"]).fails(1);
    assert!(said.contains("unknown ipvlan mode"), "{said}");
    // Joined and left while it runs.
    run("plain", "bridge");
    bed.docker(&["network", "connect", "flat", "plain"]).ok();
    reaches("plain", "two");
    bed.docker(&["network", "disconnect", "flat", "plain"]).ok();
    assert!(!bed.docker(&["exec", "plain", "ls", "/sys/class/net"]).ok().contains("eth1"));
    bed.docker(&["rm", "-f", "one", "two", "plain"]).ok();
    bed.docker(&["network", "rm", "flat"]).ok();

    // Routed by the parent's namespace: no gateway, and networks of one parent reach each other.
    let routed = |name: &str, subnet: &str| create(&["-o", "ipvlan_mode=l3", "--subnet", subnet, name]).ok();
    routed("left", "10.11.0.0/24");
    if bed.is_ours() {
        routed("right", "10.12.0.0/24");
        let right = run("rr", "right");
        run("ll", "left");
        reaches("ll", &right);
    } else {
        // The reference has one network a parent.
        run("ll", "left");
    }
    let routes = bed.docker(&["exec", "ll", "ip", "route"]).ok();
    assert!(routes.lines().any(|l| l.trim_end().starts_with("default dev eth0")), "{routes}");
    let gateway = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
    assert_eq!(bed.docker(&["inspect", "-f", gateway, "ll"]).ok(), "");
    outside.sh("ip route add 10.11.0.0/24 via 192.0.2.1");
    reaches("ll", "192.0.2.2");
    bed.finish();
}

/// What an SCTP server says.
fn sctp(netns: &NetNs, to: SocketAddr) -> Option<String> {
    netns.run(|| {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP))
                .ok()?;
        connect(&socket, &to).ok()?;
        let mut text = String::new();
        // The calls are TCP's.
        TcpStream::from(socket).read_to_string(&mut text).ok()?;
        (!text.is_empty()).then_some(text)
    })
}

#[test]
fn published_sctp_ports() {
    let able =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP));
    if let Err(why) = able {
        return left_out("published_sctp_ports", &format!("no SCTP sockets: {why}"));
    }
    let bed = bed();
    bed.docker(&["pull", "flask"]).ok();
    let outside = neighbour(&bed);
    let mirror = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)\ns.bind(('', 9000)); s.listen()\n\
                  while True:\n  c, a = s.accept()\n  c.send(a[0].encode())\n  c.close()";
    let run = |name: &str, publish: &str| {
        bed.docker(&["run", "-d", "--name", name, "-p", publish, "flask", "python3", "-c", mirror])
    };
    run("aa", "9000:9000/sctp").ok();
    let reached = |from: &NetNs, to: &str| {
        let to = to.parse().unwrap();
        until(&format!("{to} answers by SCTP"), || sctp(from, to))
    };
    assert_eq!(reached(&outside, "192.0.2.1:9000"), "192.0.2.2", "the client's address is kept");
    reached(&bed.netns, "192.0.2.1:9000");
    assert_eq!(bed.docker(&["port", "aa"]).ok().lines().next(), Some("9000/sctp -> 0.0.0.0:9000"));
    let taken = run("bb", "9000:9000/sctp").fails(125);
    assert!(taken.contains("port is already allocated"), "{taken}");
    bed.docker(&["rm", "-f", "aa", "bb"]).ok();
    // Ephemeral ones are the kernel's choice.
    run("cc", "9000/sctp").ok();
    let port = bed.docker(&["port", "cc", "9000/sctp"]).ok();
    let port = port.lines().next().and_then(|l| l.rsplit(':').next()).unwrap().to_owned();
    reached(&outside, &format!("192.0.2.1:{port}"));
    bed.finish();
}

const GREETER: &str = "while true; do echo hello | nc -l -p 80; done";

fn greeted(from: &NetNs, to: &str) {
    from.run(|| {
        until(&format!("{to} answers"), || {
            let mut text = String::new();
            TcpStream::connect(to).ok()?.read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(())
        });
    });
}

#[test]
fn beside_iptables_legacy() {
    let rules = "iptables-legacy -A INPUT -p icmp -j DROP; iptables-legacy -A FORWARD -p icmp -j DROP
        iptables-legacy -t nat -A PREROUTING -p tcp --dport 8079 -j REDIRECT --to-ports 22
        iptables-legacy -t nat -A POSTROUTING -s 10.250.0.0/16 -j MASQUERADE";
    if let Some(why) = lacks(rules) {
        return left_out("beside_iptables_legacy", &why);
    }
    let bed = bed();
    let outside = neighbour(&bed);
    bed.netns.sh(rules);
    let legacy = || bed.netns.sh("iptables-legacy -S; iptables-legacy -t nat -S");
    let before = legacy();
    bed.docker(&["network", "create", "nn"]).ok();
    for (name, port, network) in [("aa", "8080:80", "bridge"), ("bb", "8081:80", "nn")] {
        let options = ["run", "-d", "--name", name, "-p", port, "--network", network];
        bed.docker(&[&options[..], &["busybox", "sh", "-c", GREETER]].concat()).ok();
    }
    for port in [8080, 8081] {
        greeted(&outside, &format!("192.0.2.1:{port}"));
        greeted(&bed.netns, &format!("127.0.0.1:{port}"));
    }
    // Out as the host, and by name; the administrator's rules hold for containers too.
    let server = outside.run(|| std::net::TcpListener::bind("192.0.2.2:9000").unwrap());
    let answers = std::thread::spawn(move || {
        let (mut stream, peer) = server.accept().unwrap();
        stream.write_all(b"seen\n").unwrap();
        peer.ip().to_string()
    });
    assert_eq!(bed.docker(&["exec", "bb", "nc", "192.0.2.2", "9000"]).ok(), "seen");
    assert_eq!(answers.join().unwrap(), "192.0.2.1");
    assert_ne!(bed.docker(&["exec", "bb", "ping", "-c", "1", "-W", "1", "192.0.2.2"]).code, 0);
    assert_eq!(legacy(), before, "others' rules are theirs");
    // A reload of theirs is none of ours.
    bed.netns.sh("iptables-legacy -F; iptables-legacy -t nat -F");
    greeted(&outside, "192.0.2.1:8080");
    bed.docker(&["rm", "-f", "aa", "bb"]).ok();
    bed.docker(&["network", "rm", "nn"]).ok();
    let after = legacy();
    assert!(!after.contains("-A"), "nothing of ours is among theirs: {after}");
    bed.finish();
}

/// In the virtual machine it runs before netfilter's modules are loaded, when none can be.
#[test]
#[ignore = "for a kernel without nftables: tests/vm"]
fn without_nftables() {
    if lacks("nft list ruleset").is_none() {
        return left_out("without_nftables", "this kernel has nftables");
    }
    let mut bed = Bed::with(Options { flags: vec!["--bridge=none".to_owned()], ..Options::default() });
    bed.docker(&["pull", "busybox"]).ok();
    // What needs no firewall works.
    for network in ["host", "none"] {
        bed.docker(&["run", "--rm", "--network", network, "busybox", "true"]).ok();
    }
    let before = links(&bed.netns);
    let said = bed.docker(&["network", "create", "nn"]).fails(1);
    assert!(said.contains("bridge networks need nftables") && said.contains("CONFIG_NF_TABLES"), "{said}");
    assert_eq!(links(&bed.netns), before, "nothing is left of it");
    assert_ne!(bed.docker(&["network", "inspect", "nn"]).code, 0);

    // A daemon that is to have the default bridge says why it cannot start.
    bed.stop_daemon();
    let without = bed.daemon_command();
    let mut with = Command::new(without.get_program());
    with.args(without.get_args().filter(|arg| *arg != "--bridge=none"));
    bed.netns.place(&mut with);
    let out = Output::of(&mut with);
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("bridge networks need nftables"), "{}", out.stderr);
    assert_eq!(links(&bed.netns), before, "nothing is left of it");
    bed.start_daemon();
    bed.finish();
}
