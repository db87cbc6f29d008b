// SPDX-License-Identifier: Apache-2.0
//! Networks of the user's: who is on them, and the names that containers find each other by.

use std::net::UdpSocket;

use berth_tests::harness::{Bed, NetNs, until};

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

fn run(bed: &Bed, name: &str, more: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(more);
    args.extend(["busybox", "sleep", "100000"]);
    bed.docker(&args).ok();
}

fn address_on(bed: &Bed, network: &str, name: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    bed.docker(&["inspect", "-f", &format, name]).ok()
}

/// The addresses that a container is told for a name, in order; none if it is told that there is none.
fn lookup(bed: &Bed, container: &str, name: &str) -> Vec<String> {
    let out = bed.docker(&["exec", container, "nslookup", "-type=a", name, "127.0.0.11"]);
    let mut found: Vec<String> = out
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("Name:"))
        .filter_map(|line| Some(line.strip_prefix("Address")?.split_once(": ")?.1.trim().to_owned()))
        .collect();
    found.sort();
    found
}

fn pings(bed: &Bed, container: &str, whom: &str) -> bool {
    bed.docker(&["exec", container, "ping", "-c", "1", "-W", "1", whom]).code == 0
}

#[test]
fn containers_find_each_other_by_name() {
    let bed = bed();
    bed.docker(&["network", "create", "--subnet", "10.77.0.0/24", "--label", "whose=mine", "mynet"]).ok();
    run(&bed, "one", &["--network", "mynet", "--network-alias", "both", "--network-alias", "first"]);
    run(&bed, "two", &["--network", "mynet", "--network-alias", "both", "--ip", "10.77.0.77", "-h", "host2"]);
    assert_eq!(address_on(&bed, "mynet", "two"), "10.77.0.77");
    let one = address_on(&bed, "mynet", "one");
    let id = bed.docker(&["inspect", "-f", "{{.Id}}", "two"]).ok();
    for name in ["two", "TWO", "two.mynet", &id[..12], "host2"] {
        assert_eq!(lookup(&bed, "one", name), ["10.77.0.77"], "{name}");
    }
    assert_eq!(lookup(&bed, "two", "first"), std::slice::from_ref(&one));
    let mut both = vec![one.clone(), "10.77.0.77".to_owned()];
    both.sort();
    assert_eq!(lookup(&bed, "two", "both"), both);
    assert!(pings(&bed, "one", "two"), "through the C library");
    let reverse = bed.docker(&["exec", "one", "nslookup", "10.77.0.77", "127.0.0.11"]).ok();
    assert!(reverse.contains("two.mynet"), "{reverse}");
    let resolv = bed.docker(&["exec", "one", "cat", "/etc/resolv.conf"]).ok();
    assert!(resolv.contains("nameserver 127.0.0.11\n") && resolv.contains("ndots:0"), "{resolv}");

    // A rename is known at once; who ends is forgotten.
    bed.docker(&["rename", "two", "deux"]).ok();
    assert_eq!(lookup(&bed, "one", "deux"), ["10.77.0.77"]);
    let listed = bed.docker(&[
        "network",
        "inspect",
        "-f",
        "{{range .Containers}}{{.Name}} {{.IPv4Address}},{{end}}",
        "mynet",
    ]);
    let listed = listed.ok();
    assert!(listed.contains("deux 10.77.0.77/24,") && listed.contains("one "), "{listed}");
    bed.docker(&["rm", "-f", "deux"]).ok();
    assert_eq!(lookup(&bed, "one", "both"), [one]);

    assert_eq!(
        bed.docker(&["network", "ls", "-q", "--filter", "label=whose=mine", "--format", "{{.Name}}"]).ok(),
        "mynet"
    );
    let busy = bed.docker(&["network", "rm", "mynet"]).fails(1);
    assert!(busy.contains("network mynet has active endpoints"), "{busy}");
    bed.docker(&["rm", "-f", "one"]).ok();
    assert_eq!(bed.docker(&["network", "rm", "mynet"]).ok(), "mynet");
    bed.finish();
}

#[test]
fn networks_are_apart_until_connected() {
    let bed = bed();
    bed.docker(&["network", "create", "left"]).ok();
    bed.docker(&["network", "create", "right"]).ok();
    run(&bed, "ll", &["--network", "left"]);
    run(&bed, "rr", &["--network", "right"]);
    let r = address_on(&bed, "right", "rr");
    assert!(!pings(&bed, "ll", &r));
    assert_eq!(lookup(&bed, "ll", "rr"), [""; 0]);

    bed.docker(&["network", "connect", "--alias", "guest", "right", "ll"]).ok();
    assert!(pings(&bed, "ll", "rr"));
    assert_eq!(lookup(&bed, "rr", "guest"), [address_on(&bed, "right", "ll")]);
    let twice = bed.docker(&["network", "connect", "right", "ll"]).fails(1);
    assert!(twice.contains("endpoint with name ll already exists in network right"), "{twice}");
    let hosts = bed.docker(&["exec", "ll", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains(&address_on(&bed, "right", "ll")), "{hosts}");

    // It stays connected over a restart of its own.
    bed.docker(&["restart", "-t", "0", "ll"]).ok();
    assert!(pings(&bed, "ll", "rr"));
    bed.docker(&["network", "disconnect", "right", "ll"]).ok();
    until("the link is gone", || (!pings(&bed, "ll", &r)).then_some(()));
    assert_eq!(lookup(&bed, "ll", "rr"), [""; 0]);
    let not_there = bed.docker(&["network", "disconnect", "right", "ll"]).fails(1);
    assert!(not_there.contains("is not connected to network right"), "{not_there}");

    // From the default bridge to a network with names, and off the bridge; its way out goes along.
    run(&bed, "bb", &[]);
    bed.docker(&["network", "connect", "left", "bb"]).ok();
    assert!(pings(&bed, "bb", "ll"));
    bed.docker(&["network", "disconnect", "bridge", "bb"]).ok();
    let route = bed.docker(&["exec", "bb", "ip", "route"]).ok();
    assert!(route.contains("default via") && route.contains("eth1"), "{route}");
    assert!(pings(&bed, "bb", "ll"));
    bed.docker(&["restart", "-t", "0", "bb"]).ok();
    let networks =
        bed.docker(&["inspect", "-f", "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}", "bb"]);
    assert_eq!(networks.ok(), "left");
    bed.finish();
}

#[test]
fn several_networks_at_create_and_while_stopped() {
    let bed = bed();
    bed.docker(&["network", "create", "aa"]).ok();
    bed.docker(&["network", "create", "bb"]).ok();
    bed.docker(&["create", "--name", "cc", "--network", "aa", "--network", "bb", "busybox", "sleep", "1000"])
        .ok();
    bed.docker(&["network", "create", "dd"]).ok();
    bed.docker(&["network", "connect", "dd", "cc"]).ok();
    bed.docker(&["network", "disconnect", "aa", "cc"]).ok();
    bed.docker(&["start", "cc"]).ok();
    let networks =
        bed.docker(&["inspect", "-f", "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}", "cc"]);
    assert_eq!(networks.ok(), "bb dd");
    assert!(pings(&bed, "cc", "cc"));
    bed.finish();
}

#[test]
fn a_network_that_went_while_its_container_was_stopped() {
    let bed = bed();
    bed.docker(&["network", "create", "short"]).ok();
    bed.docker(&["create", "--name", "cc", "--network", "short", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["network", "rm", "short"]).ok();
    let out = bed.docker(&["start", "cc"]).fails(1);
    assert!(out.contains("network short not found"), "{out}");
    bed.docker(&["network", "connect", "bridge", "cc"]).ok();
    bed.docker(&["network", "disconnect", "short", "cc"]).ok();
    if !bed.is_ours() {
        // It keeps to the network mode of the create for ever.
        return bed.finish();
    }
    bed.docker(&["start", "cc"]).ok();
    let networks =
        bed.docker(&["inspect", "-f", "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}", "cc"]);
    assert_eq!(networks.ok(), "bridge");
    bed.finish();
}

#[test]
fn names_are_answered_when_the_daemon_is_back() {
    let mut bed = bed();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["network", "create", "mynet"]).ok();
    run(&bed, "one", &["--network", "mynet"]);
    run(&bed, "two", &["--network", "mynet"]);
    run(&bed, "late", &[]);
    bed.docker(&["network", "connect", "mynet", "late"]).ok();
    let two = address_on(&bed, "mynet", "two");
    assert_eq!(lookup(&bed, "one", "two"), std::slice::from_ref(&two));
    bed.kill_daemon();
    bed.start_daemon();
    assert_eq!(lookup(&bed, "one", "two"), std::slice::from_ref(&two));
    assert_eq!(lookup(&bed, "late", "two"), [two]);
    run(&bed, "three", &["--network", "mynet"]);
    assert_eq!(lookup(&bed, "one", "three"), [address_on(&bed, "mynet", "three")]);
    bed.finish();
}

/// Answers every question with 192.0.2.7, in a network namespace, until it is dropped.
pub(crate) struct Upstream {
    netns: NetNs,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub(crate) fn start(netns: &NetNs) -> Self {
        let server = netns.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0u8; 512];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                let mut answer = buffer[..length].to_vec();
                answer[2] |= 0x80;
                answer[7] = 1;
                answer[8..12].fill(0);
                let end = 12 + buffer[12..length].iter().position(|b| *b == 0).unwrap() + 5;
                answer.truncate(end);
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                server.send_to(&answer, from).unwrap();
            }
        });
        Self { netns: netns.clone(), thread: Some(thread) }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let ended = self.netns.run(|| UdpSocket::bind("127.0.0.1:0")?.send_to(&[], ("127.0.0.1", 53)));
        if ended.is_ok() {
            drop(self.thread.take().map(std::thread::JoinHandle::join));
        }
    }
}

#[test]
fn other_names_are_forwarded_but_not_from_internal_networks() {
    let bed = bed();
    if !bed.is_ours() {
        return;
    }
    let upstream = Upstream::start(&bed.netns);
    bed.docker(&["network", "create", "--subnet", "10.78.0.0/24", "outer"]).ok();
    bed.docker(&["network", "create", "--internal", "inner"]).ok();
    // Servers that are named are asked from within the container.
    run(&bed, "oo", &["--network", "outer", "--dns", "10.78.0.1"]);
    run(&bed, "ii", &["--network", "inner", "--dns", "10.78.0.1"]);
    run(&bed, "i2", &["--network", "inner"]);
    assert_eq!(lookup(&bed, "oo", "www.example.com"), ["192.0.2.7"]);
    assert_eq!(lookup(&bed, "ii", "www.example.com"), [""; 0]);
    assert_eq!(lookup(&bed, "ii", "i2"), [address_on(&bed, "inner", "i2")]);
    bed.docker(&["network", "connect", "outer", "ii"]).ok();
    assert_eq!(lookup(&bed, "ii", "www.example.com"), ["192.0.2.7"]);
    drop(upstream);
    bed.finish();
}

#[test]
fn what_is_refused() {
    let bed = bed();
    bed.docker(&["network", "create", "there"]).ok();
    bed.docker(&["create", "--name", "cc", "busybox", "true"]).ok();
    let check = |method: &str, path: &str, body: &str, status: u16, text: &str| {
        let answer = bed.api(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        assert!(answer.message().contains(text), "{}", answer.text());
    };
    let exists = "network with name there already exists";
    check("POST", "/networks/create", r#"{"Name":"there"}"#, 409, exists);
    check("DELETE", "/networks/bridge", "", 403, "bridge is a pre-defined network and cannot be removed");
    check("DELETE", "/networks/nope", "", 404, "network nope not found");
    check("GET", "/networks/nope", "", 404, "network nope not found");
    // The reference accepts it for a container that does not run, which then cannot be started: better said at once.
    if bed.is_ours() {
        check("POST", "/networks/nope/connect", r#"{"Container":"cc"}"#, 404, "network nope not found");
    }
    check("POST", "/networks/there/connect", r#"{"Container":"nope"}"#, 404, "No such container: nope");
    check(
        "POST",
        "/networks/host/connect",
        r#"{"Container":"cc"}"#,
        400,
        "cannot connect container to host network",
    );
    check(
        "POST",
        "/networks/there/disconnect",
        r#"{"Container":"cc"}"#,
        500,
        "is not connected to the network there",
    );
    let out = bed.docker(&["run", "--rm", "--network", "nope", "busybox", "true"]).fails(125);
    assert!(out.contains("network nope not found"), "{out}");
    bed.docker(&["network", "create", "--subnet", "10.80.0.0/24", "own"]).ok();
    for (network, said) in [
        ("there", "supported only when connecting to networks with user configured subnets"),
        ("own", "no configured subnet or ip-range contain the IP address 10.1.2.3"),
    ] {
        let out = bed.docker(&["run", "--rm", "--network", network, "--ip", "10.1.2.3", "busybox", "true"]);
        let out = out.fails(125);
        assert!(out.contains(said), "{out}");
    }
    let mut events = bed.events("type=network");
    bed.docker(&["network", "connect", "there", "cc"]).ok();
    bed.docker(&["network", "create", "unused"]).ok();
    let pruned = bed.docker(&["network", "prune", "-f"]).ok();
    assert!(pruned.contains("unused") && pruned.contains("there"), "{pruned}");
    let seen = events.until("network destroy unused");
    let seen = seen.join("\n");
    assert!(seen.contains("network create") && seen.contains("network destroy"), "{seen}");
    bed.finish();
}
