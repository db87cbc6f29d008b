// SPDX-License-Identifier: Apache-2.0
//! Starting and ending a container, and running a further process in one.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};

use super::client::Api;
use super::engines::{Client, Kind, Seat};
use super::row::{Aim, Each, Figure, Row, Seats, Work, ms};

/// With the floor program when it is to end.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    let run = |name: &str, args: &'static [&'static str], aims: &[(Client, Aim)]| {
        let mut figure = Figure::less("", "ms");
        figure.aims = aims.to_vec();
        Row::new("start", format!("run --rm busybox true, {name}"), Seats::Clis)
            .figure(figure)
            .rounds(21)
            .work(move |seat| {
                let _ = seat;
                Box::new(Each(move |seat: &Seat| {
                    let mut line = vec!["run", "--rm"];
                    line.extend(args);
                    line.extend(["busybox", "true"]);
                    vec![ms(|| succeed(&mut seat.command(&line)))]
                }))
            })
    };
    use Aim::{OfDocker, OfFloor, OfPodman};
    let cli = |docker: f64, berth: f64| {
        vec![
            (Client::Docker, OfDocker(docker)),
            (Client::Docker, OfPodman(4.0)),
            (Client::Berth, OfDocker(berth)),
        ]
    };
    let api = |name: &'static str, network: &'static str, floor: &'static str, docker: f64| {
        let figure = Figure::less("", "ms").aim(Client::Api, OfDocker(docker)).aim(Client::Api, OfFloor(2.5));
        Row::new("start", format!("create+start+wait+remove by API, {name}"), Seats::ApiAndFloor(floor))
            .figure(figure)
            .rounds(41)
            .work(move |seat| {
                if seat.engine.kind == Kind::Floor {
                    return Box::new(Floor::start(seat, floor));
                }
                let mut api = seat.api();
                let body =
                    json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}});
                Box::new(Each(move |_: &Seat| vec![ms(|| one_life(&mut api, &body))]))
            })
    };
    vec![
        run("no network", &["--network", "none"], &cli(5.0, 12.0)),
        run("host network", &["--network", "host"], &[]),
        run("bridge", &[], &cli(7.0, 18.0)),
        run("published port", &["-p", "18080:80"], &[]),
        api("no network", "none", "none", 15.0),
        api("bridge", "bridge", "bridge", 25.0),
        Row::new("start", "exec true by API", Seats::Api)
            .figure(Figure::less("", "ms").aim(Client::Api, OfDocker(12.0)))
            .rounds(41)
            .work(|seat| Box::new(Execs::prepare(seat))),
    ]
}

#[track_caller]
fn succeed(command: &mut Command) {
    let out = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a command line");
    let out = out.wait_with_output().expect("a command line");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn one_life(api: &mut Api, body: &Value) {
    let id = api.create(body);
    api.ok("POST", &format!("/containers/{id}/start"), None);
    let waited = api.ok("POST", &format!("/containers/{id}/wait"), None).json();
    assert_eq!(waited["StatusCode"], 0, "{waited}");
    api.ok("DELETE", &format!("/containers/{id}"), None);
}

/// The floor program, which does one container a line and says how many microseconds it took.
pub(super) struct Floor {
    child: Child,
    /// None when no more is asked of it.
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    pub(super) fn start(seat: &Seat, how: &str) -> Self {
        let mut command = seat.floor(&[how]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the floor program");
        let asks = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, asks, answers }
    }
}

impl Work for Floor {
    fn round(&mut self, _: &Seat) -> Vec<f64> {
        let asks = self.asks.as_mut().expect("its input");
        asks.write_all(b"\n").expect("asking the floor program");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the floor program's answer");
        let microseconds: f64 =
            line.trim().parse().unwrap_or_else(|_| panic!("the floor program said {line:?}"));
        vec![microseconds / 1000.0]
    }

    /// Its input's end lets it remove its cgroups; one that hangs is killed all the same.
    fn end(&mut self, _: &Seat) {
        self.asks = None;
        let mut closed = [PollFd::new(self.answers.get_ref(), PollFlags::IN)];
        let ended = rustix::event::poll(&mut closed, Some(&PATIENCE)).expect("waiting for the floor program");
        if ended == 0 {
            self.child.kill().expect("ending the floor program");
        }
        let status = self.child.wait().expect("waiting for the floor program");
        assert!(status.success(), "the floor program ended with {status}");
    }
}

struct Execs {
    api: Api,
    id: String,
}

impl Execs {
    fn prepare(seat: &Seat) -> Self {
        let mut api = seat.api();
        let id = api.create(
            &json!({"Image": "busybox", "Cmd": ["sleep", "100000"], "HostConfig": {"NetworkMode": "none"}}),
        );
        api.ok("POST", &format!("/containers/{id}/start"), None);
        Self { api, id }
    }
}

impl Work for Execs {
    fn round(&mut self, _: &Seat) -> Vec<f64> {
        let Self { api, id } = self;
        let asked = json!({"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true});
        vec![ms(|| {
            let made = api.ok("POST", &format!("/containers/{id}/exec"), Some(&asked)).json();
            let exec = made["Id"].as_str().expect("an id");
            let how = json!({"Detach": false, "Tty": false});
            let mut output = Vec::new();
            let mut stream = api.stream("POST", &format!("/exec/{exec}/start"), Some(&how));
            stream.read_to_end(&mut output).expect("the exec's output");
            // Peers may end the stream before they know of the end.
            let seen = loop {
                let seen = api.ok("GET", &format!("/exec/{exec}/json"), None).json();
                if seen["Running"] == false {
                    break seen;
                }
            };
            assert_eq!(seen["ExitCode"], 0, "{seen}");
        })]
    }

    fn end(&mut self, _: &Seat) {
        self.api.remove(&self.id);
    }
}
