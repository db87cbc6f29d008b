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

/// 1,000 containers with ten ports each on one network; the starts of the last fifty take what starts on a new network take, in turn
/// with them, so that a machine which has other things to do has them for both.
#[test]
#[ignore = "long form: make soak"]
fn a_thousand_containers_with_ten_thousand_ports() {
    const EACH: u16 = 10;
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    // The reference copes with fewer.
    let before = if bed.is_ours() { 950 } else { 150 };
    bed.docker(&["network", "create", "--subnet", "10.66.0.0/16", "many"]).ok();
    bed.docker(&["network", "create", "new"]).ok();
    let mut next = 20_000;
    let mut start = |network: &str| {
        let bindings: Vec<String> =
            (0..EACH).map(|k| format!("\"{}/tcp\":[{{\"HostPort\":\"{}\"}}]", 100 + k, next + k)).collect();
        let exposed: Vec<String> = (0..EACH).map(|k| format!("\"{}/tcp\":{{}}", 100 + k)).collect();
        let exposed = exposed.join(",");
        let body = format!(
            "{{\"Image\":\"busybox\",\"Cmd\":[\"sleep\",\"100000\"],\"ExposedPorts\":{{{exposed}}},\"HostConfig\":{{\"NetworkMode\":\"{network}\",\"PortBindings\":{{{}}}}}}}",
            bindings.join(",")
        );
        let made = bed.api("POST", &format!("/containers/create?name=c{next}"), &body);
        assert_eq!(made.status, 201, "{}", made.text());
        let begun = Instant::now();
        let started = bed.api("POST", &format!("/containers/c{next}/start"), "");
        assert_eq!(started.status, 204, "{}", started.text());
        next += EACH;
        begun.elapsed()
    };
    for _ in 0..before {
        start("many");
    }
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        last.push(start("many"));
        first.push(start("new"));
    }
    let (first, last) = (median(&first), median(&last));
    eprintln!("start with {EACH} ports: first 50 {first:?}, last 50 of {} {last:?}", before + 50);
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
    bed.finish();
}
