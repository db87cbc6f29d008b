// SPDX-License-Identifier: Apache-2.0
//! What people add to a command that runs a container, and look for in a list of networks.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;

use berth_tests::harness::{Bed, until};

fn bed() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

#[test]
fn every_exposed_port_is_published() {
    let bed = bed();
    let server = "while true; do echo hello | nc -l -p 80; done";
    let options = ["run", "-d", "--name", "pp", "-P", "--expose", "80", "--expose", "81-82/udp"];
    bed.docker(&[&options[..], &["busybox", "sh", "-c", server]].concat()).ok();
    let port = |inside: &str| {
        let shown = bed.docker(&["port", "pp", inside]).ok();
        let line =
            shown.lines().find(|l| l.starts_with("0.0.0.0:")).unwrap_or_else(|| panic!("{inside}: {shown}"));
        line.rsplit(':').next().unwrap().parse::<u16>().unwrap()
    };
    let ports: BTreeSet<u16> = ["80/tcp", "81/udp", "82/udp"].into_iter().map(port).collect();
    assert!(!ports.contains(&0), "{ports:?}");
    let reached = || {
        bed.netns.run(|| {
            until("the port answers", || {
                let mut text = String::new();
                TcpStream::connect(("127.0.0.1", port("80/tcp"))).ok()?.read_to_string(&mut text).ok()?;
                (text == "hello\n").then_some(())
            });
        });
    };
    reached();
    // The ports are chosen anew at every start, and those that were are free.
    bed.docker(&["restart", "-t", "0", "pp"]).ok();
    reached();
    bed.finish();
}

#[test]
fn hosts_and_name_servers_of_ones_own() {
    let bed = bed();
    let gateway =
        bed.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]).ok();
    let options = [
        "--add-host=host.docker.internal:host-gateway",
        "--add-host=other:10.1.2.3",
        "--dns=10.9.9.9",
        "--dns-search=a.example",
        "--dns-option=ndots:3",
        "--hostname=its.own",
    ];
    let script = "cat /etc/hosts; echo --; cat /etc/resolv.conf; echo --; cat /etc/hostname; hostname";
    let run = |network: &str| {
        let args = ["run", "--rm", "--network", network];
        bed.docker(&[&args[..], &options, &["busybox", "sh", "-c", script]].concat()).ok()
    };
    let said = run("bridge");
    let mut parts = said.split("--\n");
    let hosts: Vec<Vec<&str>> =
        parts.next().unwrap().lines().map(|l| l.split_whitespace().collect()).collect();
    for line in [["10.1.2.3", "other"], [gateway.as_str(), "host.docker.internal"]] {
        assert!(hosts.iter().any(|l| l[..] == line), "{line:?} is not in {hosts:?}");
    }
    assert!(hosts.iter().any(|l| l.get(1) == Some(&"its.own")), "{hosts:?}");
    let resolv = parts.next().unwrap();
    for line in ["nameserver 10.9.9.9", "search a.example", "options ndots:3"] {
        assert!(resolv.lines().any(|l| l == line), "{line} is not in {resolv}");
    }
    assert_eq!(parts.next().unwrap().trim(), "its.own\nits.own");
    // With names of containers the resolver stands before them.
    bed.docker(&["network", "create", "nn"]).ok();
    let said = run("nn");
    for line in ["nameserver 127.0.0.11", "search a.example", "options ndots:3"] {
        assert!(said.lines().any(|l| l == line), "{line} is not in {said}");
    }
    bed.finish();
}

#[test]
fn lists_of_networks_by_every_filter() {
    let bed = bed();
    let one =
        bed.docker(&["network", "create", "--label", "whose=mine", "--label", "old", "filter-one"]).ok();
    bed.docker(&["network", "create", "--label", "whose=yours", "filter-two"]).ok();
    bed.docker(&["run", "-d", "--name", "cc", "--network", "filter-two", "busybox", "sleep", "1000"]).ok();
    // The reference may have others' networks too.
    let known = ["bridge", "host", "none", "filter-one", "filter-two"];
    let check = |filters: &[&str], expected: &[&str]| {
        let mut args = vec!["network", "ls", "--format", "{{.Name}}"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        let listed = bed.docker(&args).ok();
        let mut listed: Vec<&str> = listed.lines().filter(|name| known.contains(name)).collect();
        listed.sort_unstable();
        assert_eq!(listed, expected, "{filters:?}");
    };
    check(&[], &["bridge", "filter-one", "filter-two", "host", "none"]);
    check(&["name=filter-"], &["filter-one", "filter-two"]);
    check(&["name=ter-one"], &["filter-one"]);
    check(&["name=filter-one", "name=host"], &["filter-one", "host"]);
    check(&[&format!("id={one}")], &["filter-one"]);
    check(&[&format!("id={}", &one[..8])], &["filter-one"]);
    check(&["driver=bridge"], &["bridge", "filter-one", "filter-two"]);
    check(&["driver=null"], &["none"]);
    check(&["type=builtin"], &["bridge", "host", "none"]);
    check(&["type=custom", "name=filter"], &["filter-one", "filter-two"]);
    check(&["scope=local"], &["bridge", "filter-one", "filter-two", "host", "none"]);
    check(&["scope=swarm"], &[]);
    check(&["label=whose"], &["filter-one", "filter-two"]);
    check(&["label=whose=mine"], &["filter-one"]);
    check(&["label=whose", "label=old"], &["filter-one"]);
    if bed.is_ours() {
        // The reference's list does not look at who is connected: to it all networks of the user's dangle.
        check(&["dangling=true"], &["filter-one"]);
        check(&["dangling=false"], &["bridge", "filter-two", "host", "none"]);
    }
    for bad in [
        "%7B%22nope%22%3A%5B%22x%22%5D%7D",
        "%7B%22dangling%22%3A%5B%22x%22%5D%7D",
        "%7B%22type%22%3A%5B%22x%22%5D%7D",
    ] {
        let answer = bed.api("GET", &format!("/networks?filters={bad}"), "");
        // The reference takes the last one for a failure of its own.
        let refused = answer.status == 400 || (!bed.is_ours() && answer.status == 500);
        assert!(refused, "{bad}: {} {}", answer.status, answer.text());
        assert!(answer.message().contains("invalid"), "{bad}: {}", answer.text());
    }
    // Prune by label leaves what does not have it, and what is in use.
    let pruned = bed.docker(&["network", "prune", "-f", "--filter", "label=whose=yours"]).ok();
    assert!(!pruned.contains("filter-"), "{pruned}");
    let pruned =
        bed.docker(&["network", "prune", "-f", "--filter", "label!=whose=yours", "--filter", "label=old"]);
    assert!(pruned.ok().contains("filter-one"));
    check(&["name=filter-"], &["filter-two"]);
    bed.docker(&["rm", "-f", "cc"]).ok();
    bed.docker(&["network", "rm", "filter-two"]).ok();
    bed.finish();
}
