// SPDX-License-Identifier: Apache-2.0
//! Many ports, many containers on one network: the last is added as quickly as the first.

use std::time::{Duration, Instant};

use berth_tests::harness::{Bed, until};

#[test]
fn a_thousand_ports_of_one_container() {
    let bed = Bed::start();
    if !bed.is_ours() {
        // It starts two processes a port, which takes it minutes.
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let server = "for p in 1 1000; do (while true; do echo $p | nc -l -p $p; done) & done; wait";
    bed.docker(&["run", "-d", "--name", "many", "-p", "20001-21000:1-1000", "busybox", "sh", "-c", server])
        .ok();
    for (port, word) in [(20_001, "1"), (21_000, "1000")] {
        let said = bed.netns.run(|| {
            use std::io::Read as _;
            until("the port answers", || {
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
                let mut text = String::new();
                stream.read_to_string(&mut text).ok()?;
                (!text.is_empty()).then_some(text)
            })
        });
        assert_eq!(said.trim(), word);
    }
    bed.finish();
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// Ports that each of many containers publishes.
const EACH: u16 = 10;

/// Starts the `n`th container with its ports on a network; how long that took.
fn start(bed: &Bed, network: &str, n: u16) -> Duration {
    let inside: Vec<u16> = (0..EACH).map(|k| 100 + k).collect();
    let exposed: Vec<String> = inside.iter().map(|port| format!("\"{port}/tcp\":{{}}")).collect();
    let bindings: Vec<String> = inside
        .iter()
        .zip(20_000 + n * EACH..)
        .map(|(inside, outside)| format!("\"{inside}/tcp\":[{{\"HostPort\":\"{outside}\"}}]"))
        .collect();
    let body = format!(
        "{{\"Image\":\"busybox\",\"Cmd\":[\"sleep\",\"100000\"],\"ExposedPorts\":{{{}}},\"HostConfig\":{{\"NetworkMode\":\"{network}\",\"PortBindings\":{{{}}}}}}}",
        exposed.join(","),
        bindings.join(",")
    );
    let made = bed.api("POST", &format!("/containers/create?name=c{n}"), &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let begun = Instant::now();
    let started = bed.api("POST", &format!("/containers/c{n}/start"), "");
    assert_eq!(started.status, 204, "{}", started.text());
    begun.elapsed()
}

/// 1,000 containers with ten ports each on one network; the starts of the last fifty take what the first fifty of a daemon of its own
/// take, in turn with them, so that a machine which has other things to do has them for both.
#[test]
#[ignore = "long form: make soak"]
fn a_thousand_containers_with_ten_thousand_ports() {
    let bed = Bed::start();
    // The reference copes with fewer, and is one.
    let another = bed.is_ours().then(Bed::start);
    let fresh = another.as_ref().unwrap_or(&bed);
    let before = if bed.is_ours() { 950 } else { 100 };
    for bed in [&bed, fresh] {
        bed.docker(&["pull", "busybox"]).ok();
    }
    bed.docker(&["network", "create", "--subnet", "10.66.0.0/16", "many"]).ok();
    fresh.docker(&["network", "create", "new"]).ok();
    let begin: Vec<Duration> = (0..before).map(|n| start(&bed, "many", n)).collect();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for n in before..before + 50 {
        last.push(start(&bed, "many", n));
        first.push(start(fresh, "new", n + 50));
    }
    let (first, last) = (median(&first), median(&last));
    eprintln!(
        "start with {EACH} ports: the very first 50 {:?}, the last 50 of {} {last:?}, a fresh daemon's first 50 meanwhile {first:?}",
        median(&begin[..50]),
        before + 50
    );
    if bed.is_ours() {
        assert!(last <= first * 2, "adding costs more the more there are: {first:?}, then {last:?}");
        // The bridge's limit is said.
        let more = (0..30).find_map(|n| {
            let name = format!("x{n}");
            let out =
                bed.docker(&["run", "-d", "--name", &name, "--network", "many", "busybox", "sleep", "9999"]);
            (out.code != 0).then_some(out.stderr)
        });
        let full = more.expect("a bridge with more than 1023 ports");
        assert!(full.contains("is full: a Linux bridge"), "{full}");
    }
    another.into_iter().for_each(Bed::finish);
    bed.finish();
}
