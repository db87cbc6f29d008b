// SPDX-License-Identifier: Apache-2.0
//! Many ports, many containers on one network: the last is added as quickly as the first.

use std::time::{Duration, Instant};

use berth_tests::harness::{Bed, until};

#[test]
fn a_thousand_ports_of_one_container() {
    let bed = Bed::start();
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

/// 1,000 containers with ten ports each; what the first and the last fifty starts took, through the API's socket.
#[test]
#[ignore = "long form: make soak"]
fn a_thousand_containers_with_ten_thousand_ports() {
    const CONTAINERS: u16 = 1000;
    const EACH: u16 = 10;
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let containers = if bed.is_ours() { CONTAINERS } else { 200 };
    bed.docker(&["network", "create", "--subnet", "10.66.0.0/16", "many"]).ok();
    let mut times = Vec::new();
    for n in 0..containers {
        let bindings: Vec<String> = (0..EACH)
            .map(|k| format!("\"{}/tcp\":[{{\"HostPort\":\"{}\"}}]", 100 + k, 20_000 + n * EACH + k))
            .collect();
        let body = format!(
            "{{\"Image\":\"busybox\",\"Cmd\":[\"sleep\",\"100000\"],\"HostConfig\":{{\"NetworkMode\":\"many\",\"PortBindings\":{{{}}}}}}}",
            bindings.join(",")
        );
        let made = bed.api("POST", &format!("/containers/create?name=c{n}"), &body);
        assert_eq!(made.status, 201, "{}", made.text());
        let begun = Instant::now();
        let started = bed.api("POST", &format!("/containers/c{n}/start"), "");
        assert_eq!(started.status, 204, "{}", started.text());
        times.push(begun.elapsed());
    }
    let (first, last) = (median(&times[..50]), median(&times[times.len() - 50..]));
    eprintln!("start with {EACH} ports: first 50 {first:?}, last 50 of {containers} {last:?}");
    if bed.is_ours() {
        assert!(last <= first * 2, "adding costs more the more there are: {first:?}, then {last:?}");
    }
    // The bridge's limit is said.
    if bed.is_ours() {
        let more = (0..30).find_map(|n| {
            let out = bed.docker(&[
                "run",
                "-d",
                "--name",
                &format!("x{n}"),
                "--network",
                "many",
                "busybox",
                "sleep",
                "9999",
            ]);
            (out.code != 0).then_some(out.stderr)
        });
        let full = more.expect("a bridge with more than 1023 ports");
        assert!(full.contains("is full: a Linux bridge"), "{full}");
    }
    bed.finish();
}
