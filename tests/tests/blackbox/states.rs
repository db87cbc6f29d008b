// SPDX-License-Identifier: Apache-2.0
//! Random sequences of operations against a model of the states: after each the engine and the model agree on what every
//! container is doing, what was answered and how the last run ended; also across deaths of the daemon and of shims.
//!
//! A failure prints its seed and the sequence; `BERTH_TEST_SEED` repeats it.

use std::fmt;

use berth_tests::harness::{Bed, until};
use serde_json::{Value, json};

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Created,
    Running,
    Paused,
    Exited(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    No,
    UnlessStopped,
    Always,
    Remove,
}

const POLICIES: [Policy; 4] = [Policy::No, Policy::UnlessStopped, Policy::Always, Policy::Remove];

#[derive(Debug, Clone, Copy)]
enum Op {
    Create,
    Start,
    Stop,
    Kill,
    /// A signal that it ignores.
    Poke,
    /// It ends by itself, with code 7.
    Die,
    Pause,
    Unpause,
    Restart,
    Remove,
    ForceRemove,
    Exec,
    Wait,
    Update,
    /// Its shim is killed.
    KillShim,
    /// The daemon is killed and started again.
    KillDaemon,
    /// The daemon is killed, the container ends meanwhile, the daemon is started again.
    DieUnseen,
    /// The daemon is killed in the middle of another operation.
    KillDaemonDuring(u8),
}

/// An operation on the container of this number.
struct Step(Op, usize);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} w{}", self.0, self.1)
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn step(&mut self, with_deaths: bool) -> Step {
        let container = usize::try_from(self.below(POLICIES.len() as u64)).unwrap();
        let op = match self.below(if with_deaths { 100 } else { 88 }) {
            0..12 => Op::Create,
            12..30 => Op::Start,
            30..38 => Op::Stop,
            38..43 => Op::Kill,
            43..47 => Op::Poke,
            47..55 => Op::Die,
            55..63 => Op::Pause,
            63..69 => Op::Unpause,
            69..74 => Op::Restart,
            74..77 => Op::Remove,
            77..79 => Op::ForceRemove,
            79..83 => Op::Exec,
            83..85 => Op::Wait,
            85..88 => Op::Update,
            88..91 => Op::KillShim,
            91..95 => Op::KillDaemon,
            95..97 => Op::DieUnseen,
            _ => Op::KillDaemonDuring(u8::try_from(self.below(5)).unwrap()),
        };
        Step(op, container)
    }
}

/// Ends by itself on USR2, ignores USR1, ends orderly on TERM. The trap of USR2 is set last: whoever sees it may send.
const SCRIPT: &str =
    "trap '' USR1; trap 'exit 5' TERM; trap 'exit 7' USR2; while :; do sleep 1000 & wait $!; done";

struct World {
    bed: Bed,
    model: [State; POLICIES.len()],
    /// Ends by themselves since a person last started it: their back-off doubles.
    deaths: [u32; POLICIES.len()],
    /// A person ended the last run.
    by_hand: [bool; POLICIES.len()],
    /// It has run.
    ran: [bool; POLICIES.len()],
}

/// No hexadecimal number, which could be the beginning of another's id.
fn name(c: usize) -> String {
    format!("w{c}")
}

impl World {
    fn call(&self, method: &str, path: &str, body: &Value) -> u16 {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.bed.api(method, path, &body).status
    }

    fn post(&self, c: usize, verb: &str) -> u16 {
        self.call("POST", &format!("/containers/w{c}/{verb}"), &Value::Null)
    }

    fn inspect(&self, c: usize) -> Option<Value> {
        let answer = self.bed.api("GET", &format!("/containers/w{c}/json"), "");
        match answer.status {
            200 => Some(answer.json()),
            404 => None,
            other => panic!("inspect: {other} {}", answer.text()),
        }
    }

    fn observed(&self, c: usize) -> Option<State> {
        let Some(seen) = self.inspect(c) else { return Some(State::Absent) };
        let state = &seen["State"];
        Some(match state["Status"].as_str().unwrap() {
            "created" => State::Created,
            "running" => State::Running,
            "paused" => State::Paused,
            "exited" => State::Exited(state["ExitCode"].as_i64().unwrap()),
            // On the way to somewhere.
            "restarting" | "removing" => return None,
            other => panic!("{other}: {seen}"),
        })
    }

    fn pid(&self, c: usize) -> i64 {
        self.inspect(c).map_or(0, |seen| seen["State"]["Pid"].as_i64().unwrap())
    }

    /// Waits until the script listens to its signals.
    fn listening(&self, c: usize) -> i64 {
        until(&format!("w{c} listens"), || {
            let pid = self.pid(c);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:\t")).unwrap_or("0");
            let usr2 = 1 << (12 - 1);
            (u64::from_str_radix(caught.trim(), 16).unwrap() & usr2 != 0).then_some(pid)
        })
    }

    /// What an end by itself comes to.
    fn end(&mut self, c: usize, code: i64) -> State {
        match POLICIES[c] {
            Policy::No => State::Exited(code),
            Policy::Always | Policy::UnlessStopped => {
                self.deaths[c] += 1;
                State::Running
            }
            Policy::Remove => State::Absent,
        }
    }

    /// What an end that a person asked for comes to.
    fn ended_by_hand(&mut self, c: usize, code: i64) -> State {
        self.by_hand[c] = true;
        if POLICIES[c] == Policy::Remove { State::Absent } else { State::Exited(code) }
    }

    fn started(&mut self, c: usize) -> State {
        (self.by_hand[c], self.ran[c], self.deaths[c]) = (false, true, 0);
        State::Running
    }

    /// What a new daemon makes of those that do not run.
    fn daemon_came(&mut self) {
        for (state, policy) in self.model.iter_mut().zip(POLICIES) {
            *state = match (*state, policy) {
                // Also one that was only created: who wanted to run it has lost his connection.
                (State::Created | State::Exited(_), Policy::Remove) => State::Absent,
                (State::Exited(_), Policy::Always) => State::Running,
                (state, _) => state,
            };
        }
    }

    /// Does a step and tells the status that was expected and the one that came, if the step has one.
    fn act(&mut self, step: &Step) -> Option<(u16, u16)> {
        let c = step.1;
        let was = self.model[c];
        let runs = matches!(was, State::Running | State::Paused);
        let gone = was == State::Absent;
        let expect = |status: u16| if gone { 404 } else { status };
        Some(match step.0 {
            Op::Create => {
                let restart = match POLICIES[c] {
                    Policy::No | Policy::Remove => "no",
                    Policy::UnlessStopped => "unless-stopped",
                    Policy::Always => "always",
                };
                let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", SCRIPT],
                    "HostConfig": {"NetworkMode": if c == 0 { "bridge" } else { "none" },
                        "AutoRemove": POLICIES[c] == Policy::Remove, "RestartPolicy": {"Name": restart}}});
                let status = self.call("POST", &format!("/containers/create?name={}", name(c)), &body);
                if gone {
                    self.model[c] = State::Created;
                    (self.by_hand[c], self.ran[c], self.deaths[c]) = (false, false, 0);
                }
                (if gone { 201 } else { 409 }, status)
            }
            Op::Start => {
                let expected = expect(match was {
                    State::Running => 304,
                    State::Paused => 409,
                    _ => 204,
                });
                let status = self.post(c, "start");
                if expected == 204 {
                    self.model[c] = self.started(c);
                }
                (expected, status)
            }
            Op::Stop => {
                if runs {
                    self.listening(c);
                }
                let status = self.post(c, "stop");
                if runs {
                    self.model[c] = self.ended_by_hand(c, 5);
                }
                (expect(if runs { 204 } else { 304 }), status)
            }
            Op::Kill => {
                let status = self.post(c, "kill");
                if runs {
                    self.model[c] = self.ended_by_hand(c, 137);
                }
                (expect(if runs { 204 } else { 409 }), status)
            }
            Op::Poke => {
                if runs {
                    self.listening(c);
                    // Whoever sends signals by the API is taken to end the container, whatever the signal: leave the
                    // policy out of it.
                    let pid = self.pid(c);
                    assert!(signal(pid, "USR1"));
                }
                return None;
            }
            Op::Die => {
                // The third pause is still short.
                if was != State::Running || self.deaths[c] > 2 {
                    return None;
                }
                let pid = self.listening(c);
                assert!(signal(pid, "USR2"));
                self.model[c] = self.end(c, 7);
                until("that run has ended", || (self.pid(c) != pid).then_some(()));
                return None;
            }
            Op::Pause => {
                if was == State::Running {
                    self.listening(c);
                }
                let status = self.post(c, "pause");
                if was == State::Running {
                    self.model[c] = State::Paused;
                }
                (expect(if was == State::Running { 204 } else { 409 }), status)
            }
            Op::Unpause => {
                let status = self.post(c, "unpause");
                if was == State::Paused {
                    self.model[c] = State::Running;
                }
                (expect(if was == State::Paused { 204 } else { 500 }), status)
            }
            Op::Restart => {
                if runs {
                    self.listening(c);
                }
                let status = self.post(c, "restart");
                if !gone {
                    self.model[c] = self.started(c);
                }
                (expect(204), status)
            }
            Op::Remove => {
                let status = self.call("DELETE", &format!("/containers/w{c}"), &Value::Null);
                if !runs {
                    self.model[c] = State::Absent;
                }
                (expect(if runs { 409 } else { 204 }), status)
            }
            Op::ForceRemove => {
                let status = self.call("DELETE", &format!("/containers/w{c}?force=1"), &Value::Null);
                self.model[c] = State::Absent;
                (expect(204), status)
            }
            Op::Exec => {
                let made = self.bed.api(
                    "POST",
                    &format!("/containers/w{c}/exec"),
                    r#"{"Cmd":["sh","-c","exit 3"]}"#,
                );
                if was == State::Running {
                    let id = made.json()["Id"].as_str().expect("an id").to_owned();
                    let begun = self.call("POST", &format!("/exec/{id}/start"), &json!({"Detach": true}));
                    assert_eq!(begun, 200);
                    until("the exec has ended with its code", || {
                        (self.bed.api("GET", &format!("/exec/{id}/json"), "").json()["ExitCode"] == 3)
                            .then_some(())
                    });
                }
                (expect(if was == State::Running { 201 } else { 409 }), made.status)
            }
            Op::Wait => {
                let State::Exited(code) = was else { return None };
                let answer = self.bed.api("POST", &format!("/containers/w{c}/wait"), "");
                assert_eq!(answer.json()["StatusCode"], code);
                (200, answer.status)
            }
            Op::Update => {
                let status =
                    self.call("POST", &format!("/containers/w{c}/update"), &json!({"CpuShares": 500}));
                (expect(200), status)
            }
            Op::KillShim => {
                if !runs || self.deaths[c] > 2 {
                    return None;
                }
                let pid = self.pid(c);
                let shim = self.shim(c);
                assert!(signal(shim, "KILL"));
                self.model[c] = self.end(c, 255);
                until("that run is known to have ended", || (self.pid(c) != pid).then_some(()));
                return None;
            }
            Op::KillDaemon => {
                self.bed.kill_daemon();
                self.bed.start_daemon();
                self.daemon_came();
                return None;
            }
            Op::DieUnseen => {
                if was != State::Running || self.deaths[c] > 2 {
                    return None;
                }
                let pid = self.listening(c);
                self.bed.kill_daemon();
                assert!(signal(pid, "USR2"));
                until("it has ended", || {
                    (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
                });
                self.model[c] = self.end(c, 7);
                self.bed.start_daemon();
                self.daemon_came();
                return None;
            }
            Op::KillDaemonDuring(which) => {
                self.cut(c, which);
                return None;
            }
        })
    }

    /// Kills the daemon while an operation is under way. It has happened or it has not; nothing in between is left.
    fn cut(&mut self, c: usize, which: u8) {
        let was = self.model[c];
        let (method, path) = [
            ("POST", format!("/containers/w{c}/start")),
            ("POST", format!("/containers/w{c}/stop?t=0")),
            ("POST", format!("/containers/w{c}/restart?t=0")),
            ("DELETE", format!("/containers/w{c}?force=1")),
            ("POST", format!("/containers/w{c}/pause")),
        ][usize::from(which)]
        .clone();
        let mut stream = std::os::unix::net::UnixStream::connect(self.bed.socket()).unwrap();
        let asked = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            // The daemon may be gone by then, or before it answers.
            drop(stream.write_all(head.as_bytes()));
            drop(stream.read(&mut [0; 1]));
        });
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        std::thread::park_timeout(std::time::Duration::from_micros(u64::from(nanos / 1000 % 15_000)));
        self.bed.kill_daemon();
        asked.join().unwrap();
        self.bed.start_daemon();
        let found = until("it has come to rest", || self.observed(c));
        let plausible = match which {
            0 | 2 => matches!(found, State::Running) || found == was || matches!(found, State::Exited(_)),
            1 => found == was || matches!(found, State::Exited(_) | State::Running),
            3 => found == was || found == State::Absent || matches!(found, State::Exited(_) | State::Running),
            _ => found == was || found == State::Paused,
        };
        let ends = POLICIES[c] == Policy::Remove && found == State::Absent;
        assert!(plausible || ends, "w{c} was {was:?} and is {found:?} after {which}");
        self.daemon_came();
        // A signal may still be on its way, and then a restart: nobody can tell what it will be next. But it can be removed.
        assert!(matches!(
            self.call("DELETE", &format!("/containers/w{c}?force=1"), &Value::Null),
            204 | 404 | 409
        ));
        self.model[c] = State::Absent;
    }

    fn shim(&self, c: usize) -> i64 {
        let id = self.inspect(c).expect("a container")["Id"].as_str().unwrap().to_owned();
        let path = self.bed.exec_root().join(format!("containers/{id}/pids.json"));
        let pids: Value = serde_json::from_slice(&std::fs::read(path).expect("the shim's note")).unwrap();
        pids["shim"].as_i64().unwrap()
    }

    /// The engine and the model agree.
    fn check(&self) {
        for c in 0..POLICIES.len() {
            until(&format!("w{c} is {:?} but {:?}", self.model[c], self.observed(c)), || {
                (self.observed(c) == Some(self.model[c])).then_some(())
            });
            if let Some(seen) = self.inspect(c) {
                let runs = matches!(self.model[c], State::Running | State::Paused);
                let pid = seen["State"]["Pid"].as_i64().unwrap();
                assert_eq!(pid > 0, runs, "{seen}");
                assert_eq!(seen["State"]["Running"], runs, "{seen}");
                assert_eq!(seen["State"]["Paused"], self.model[c] == State::Paused, "{seen}");
                assert!(!runs || std::path::Path::new(&format!("/proc/{pid}")).exists(), "{seen}");
            }
        }
        let list = self.bed.api("GET", "/containers/json?all=1", "").json();
        let listed = |c: usize| {
            let mut lines = list.as_array().unwrap().iter();
            lines
                .find(|line| line["Names"][0] == format!("/w{c}"))
                .map(|line| line["State"].as_str().unwrap().to_owned())
        };
        for c in 0..POLICIES.len() {
            let expected = match self.model[c] {
                State::Absent => None,
                State::Created => Some("created"),
                State::Running => Some("running"),
                State::Paused => Some("paused"),
                State::Exited(_) => Some("exited"),
            };
            assert_eq!(listed(c).as_deref(), expected, "w{c} in the list");
        }
    }
}

fn signal(pid: i64, name: &str) -> bool {
    std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill").success()
}

/// Tells what was done when an assertion fails.
struct Told {
    seed: u64,
    steps: Vec<String>,
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("BERTH_TEST_SEED={} after: {}", self.seed, self.steps.join(", "));
        }
    }
}

fn drive(steps: usize) {
    let seed =
        std::env::var("BERTH_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            u64::try_from(
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos(),
            )
            .unwrap_or(1)
                | 1
        });
    let mut random = Random(seed);
    let mut told = Told { seed, steps: Vec::new() };
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let count = POLICIES.len();
    let mut world = World {
        bed,
        model: [State::Absent; POLICIES.len()],
        deaths: [0; POLICIES.len()],
        by_hand: [false; POLICIES.len()],
        ran: [false; POLICIES.len()],
    };
    for c in 0..count {
        assert_eq!(world.act(&Step(Op::Create, c)), Some((201, 201)));
    }
    for _ in 0..steps {
        let step = random.step(world.bed.is_ours());
        told.steps.push(step.to_string());
        if let Some((expected, status)) = world.act(&step) {
            assert_eq!(status, expected, "{step}");
        }
        world.check();
    }
    world.bed.finish();
}

#[test]
fn the_engine_agrees_with_the_model() {
    drive(60);
}

#[test]
#[ignore = "long form: make soak"]
fn the_engine_agrees_with_the_model_for_long() {
    drive(5000);
}
