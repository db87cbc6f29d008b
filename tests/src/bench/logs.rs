// SPDX-License-Identifier: Apache-2.0
//! A gigabyte of output: how fast a container can write it, what that costs the engine, how fast it is read back.

use std::io::Read;
use std::time::Instant;

use serde_json::json;

use super::engines::{Client, Seat};
use super::row::{Aim, Each, Figure, Row, Seats};
use super::usage;

/// Bytes of output: lines of 100 bytes.
const OUTPUT: u64 = 1 << 30;
/// Bytes of the file that is written again and again, so that the writer costs next to nothing.
const FILE: u64 = 64 << 20;

/// No file of a log gets so long. Docker's `local` rotates at 20 MB unless told, and takes no `-1` for it.
const UNBOUNDED: &str = "64g";

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    let row = |name: &str, driver: &'static str| {
        Row::new("logs", format!("1 GB of output, {name}"), Seats::ApiWithoutPodman)
            .figure(Figure::more("written", "MB/s").aim(Client::Api, Aim::OfDocker(8.0)))
            .figure(Figure::less("CPU of the engine", "s").aim(Client::Api, Aim::OfDocker(10.0)))
            .figure(Figure::more("read back", "MB/s").aim(Client::Api, Aim::OfDocker(10.0)))
            .rounds(3)
            .cold()
            .long()
            .work(move |seat| {
                prepare(seat);
                Box::new(Each(move |seat: &Seat| round(seat, driver)))
            })
    };
    vec![row("json-file", "json-file"), row("local", "local")]
}

/// Puts the file into a volume.
fn prepare(seat: &Seat) {
    let script = format!("yes {} | head -c {FILE} > /data/lines", "0123456789".repeat(10).split_at(99).0);
    let mut api = seat.api();
    let id = api.create(&json!({
        "Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"Binds": ["bench-lines:/data"]}
    }));
    api.ok("POST", &format!("/containers/{id}/start"), None);
    let waited = api.ok("POST", &format!("/containers/{id}/wait"), None).json();
    assert_eq!(waited["StatusCode"], 0, "{waited}");
    api.remove(&id);
}

fn round(seat: &Seat, driver: &str) -> Vec<f64> {
    // It stays, so that its shim's CPU time can be read.
    let script =
        format!("for n in $(seq {}); do cat /data/lines; done; echo end >&2; sleep 1000", OUTPUT / FILE);
    let mut api = seat.api();
    let id = api.create(&json!({
        "Image": "busybox", "Cmd": ["sh", "-c", script],
        "HostConfig": {
            "Binds": ["bench-lines:/data"], "LogConfig": {"Type": driver, "Config": {"max-size": UNBOUNDED}}
        }
    }));
    let mut errors = api.stream("POST", &format!("/containers/{id}/attach?stream=1&stderr=1"), None);
    let before = usage::cpu(&seat.engine.processes());
    let start = Instant::now();
    api.ok("POST", &format!("/containers/{id}/start"), None);
    let mut end = [0; 12];
    errors.read_exact(&mut end).expect("the last line");
    assert_eq!(&end[8..], b"end\n");
    let written = rate(start);
    let cpu = usage::spent(&before, &usage::cpu(&seat.engine.processes()));
    let start = Instant::now();
    let mut log = api.chunks("GET", &format!("/containers/{id}/logs?stdout=1"));
    let mut buffer = vec![0; 1 << 20];
    let mut all = 0u64;
    loop {
        let n = log.read(&mut buffer).expect("the log");
        if n == 0 {
            break;
        }
        all += n as u64;
    }
    let read = rate(start);
    assert!(all > OUTPUT, "only {all} bytes came back");
    api.remove(&id);
    vec![written, cpu, read]
}

/// Megabytes a second since then.
fn rate(start: Instant) -> f64 {
    OUTPUT as f64 / 1e6 / start.elapsed().as_secs_f64()
}
