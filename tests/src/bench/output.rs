// SPDX-License-Identifier: Apache-2.0
//! What containers say and what is said of them: logs written and read, attached clients, listeners to events.

use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::engines::{Client, Seat};
use super::row::{Aim, Each, Figure, Row, Seats, Work};
use super::usage;
use crate::harness::Output;

/// Bytes of output a round: a tenth of a gigabyte and a bit, in lines of a hundred bytes.
const LINE: usize = 100;
const LINES: usize = 320 * 1024;
const TIMES: usize = 4;
#[allow(clippy::cast_precision_loss)] // Far from it.
const MEGABYTES: f64 = (LINE * LINES * TIMES) as f64 / 1e6;

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Aim::OfDocker;
    vec![
        Row::new("output", "log of 131 MB in json-file", Seats::ApiWithoutPodman)
            .figure(Figure::more("writing", "MB/s").aim(Client::Api, OfDocker(8.0)))
            .figure(Figure::less("CPU of the engine", "s/GB").aim(Client::Api, OfDocker(10.0)))
            .figure(Figure::more("reading back", "MB/s").aim(Client::Api, OfDocker(10.0)))
            .rounds(3)
            .work(|seat| Box::new(Logs { stage: Stage::make(seat, "logs") })),
        Row::new("output", "131 MB to an attached client", Seats::ApiWithoutPodman)
            .figure(Figure::more("", "MB/s"))
            .rounds(3)
            .work(|seat| Box::new(Attached { stage: Stage::make(seat, "attach") })),
        Row::new("output", "100 listeners hear of 20 creations and removals", Seats::ApiWithoutPodman)
            .figure(Figure::less("until the last has heard of the last", "ms"))
            .rounds(5)
            .work(|_| Box::new(Each(|seat: &Seat| vec![listeners(seat)]))),
    ]
}

/// A folder that the engine's containers see: lines to say, and pipes to say when.
struct Stage {
    dir: PathBuf,
    /// The same, as the engine sees it.
    seen: PathBuf,
}

impl Stage {
    fn make(seat: &Seat, name: &str) -> Self {
        let name = format!("bench-{name}");
        let dir = seat.engine.disk.join(&name);
        std::fs::create_dir_all(&dir).expect("a folder for containers");
        let mut line = vec![b'x'; LINE - 1];
        line.push(b'\n');
        std::fs::write(dir.join("lines"), line.repeat(LINES)).expect("the lines");
        for pipe in ["go", "done"] {
            Output::of(std::process::Command::new("mkfifo").arg(dir.join(pipe))).ok();
        }
        Self { dir, seen: seat.engine.disk_inside.join(name) }
    }

    /// A container that runs a script in which `$SAY` says all lines.
    fn container(&self, script: &str, log: &str) -> Value {
        let say = ["/bench/lines"; TIMES].join(" ");
        let script = script.replace("$SAY", &format!("cat {say}"));
        json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "StopSignal": "SIGKILL", "HostConfig": {
            "NetworkMode": "none", "Binds": [format!("{}:/bench", self.seen.display())], "LogConfig": log_config(log)}})
    }

    fn remove(&self) {
        std::fs::remove_dir_all(&self.dir).expect("removing the folder");
    }
}

/// A driver that keeps everything: with Berth's defaults it would rotate, with Docker's it would not.
fn log_config(driver: &str) -> Value {
    let options = if driver == "json-file" { json!({"max-size": "64g"}) } else { json!({}) };
    json!({"Type": driver, "Config": options})
}

/// Opens one of the pipes: waits until the container has opened the other end.
fn open(path: &Path, writing: bool) -> File {
    File::options()
        .read(!writing)
        .write(writing)
        .open(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

struct Logs {
    stage: Stage,
}

impl Work for Logs {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        let mut api = seat.api();
        let script = "read go </bench/go; $SAY; echo done >/bench/done; sleep 100000";
        let id = api.create(&self.stage.container(script, "json-file"));
        api.ok("POST", &format!("/containers/{id}/start"), None);
        let mut go = open(&self.stage.dir.join("go"), true);
        let processes = seat.engine.processes();
        let before = usage::cpu(&processes);
        let begun = Instant::now();
        go.write_all(b"go\n").expect("telling the container");
        drop(go);
        let mut done = String::new();
        open(&self.stage.dir.join("done"), false).read_to_string(&mut done).expect("the container's word");
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = usage::spent(&before, &usage::cpu(&processes));
        let begun = Instant::now();
        let path = format!("/containers/{id}/logs?stdout=1&stderr=1");
        let mut stream = seat.api().until_closed("GET", &path);
        let mut buffer = vec![0; 256 * 1024];
        let mut all = 0usize;
        loop {
            let n = stream.read(&mut buffer).expect("reading the log");
            if n == 0 {
                break;
            }
            all += n;
        }
        let reading = begun.elapsed().as_secs_f64();
        assert!(all >= LINE * LINES * TIMES - 128 * 1024, "{}: a log of {all} bytes", seat.name());
        api.remove(&id);
        vec![MEGABYTES / seconds, cpu / MEGABYTES * 1000.0, MEGABYTES / reading]
    }

    fn end(&mut self, _: &Seat) {
        self.stage.remove();
    }
}

struct Attached {
    stage: Stage,
}

impl Work for Attached {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        let mut api = seat.api();
        let id = api.create(&self.stage.container("read go </bench/go; $SAY", "none"));
        let mut stream =
            api.stream("POST", &format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1"), None);
        api.ok("POST", &format!("/containers/{id}/start"), None);
        let mut go = open(&self.stage.dir.join("go"), true);
        let begun = Instant::now();
        go.write_all(b"go\n").expect("telling the container");
        drop(go);
        let mut buffer = vec![0; 256 * 1024];
        let mut all = 0;
        loop {
            let n = stream.read(&mut buffer).expect("reading the output");
            if n == 0 {
                break;
            }
            all += n;
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert!(all >= LINE * LINES * TIMES, "{}: output of {all} bytes", seat.name());
        api.remove(&id);
        vec![MEGABYTES / seconds]
    }

    fn end(&mut self, _: &Seat) {
        self.stage.remove();
    }
}

fn listeners(seat: &Seat) -> f64 {
    const LISTENERS: usize = 100;
    const CONTAINERS: usize = 20;
    // What happened before is not theirs to hear.
    let filters =
        "%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22destroy%22%2C%22remove%22%5D%7D";
    let path = format!("/events?filters={filters}");
    let heard: Vec<_> = (0..LISTENERS)
        .map(|_| {
            let mut stream = seat.api().until_closed("GET", &path);
            std::thread::spawn(move || {
                let mut line = String::new();
                let mut events = 0;
                while events < CONTAINERS {
                    line.clear();
                    assert!(stream.read_line(&mut line).expect("events") > 0, "the events ended");
                    events += usize::from(line.contains("\"Action\""));
                }
            })
        })
        .collect();
    let mut api = seat.api();
    let begun = Instant::now();
    for _ in 0..CONTAINERS {
        let id =
            api.create(&json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}));
        api.ok("DELETE", &format!("/containers/{id}"), None);
    }
    for listener in heard {
        listener.join().expect("a listener");
    }
    begun.elapsed().as_secs_f64() * 1000.0
}
