// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
//! The link's promises, against fakes and small real processes.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use berth_domain::ContainerId;
use berth_shim_proto::{
    EXIT_FILE, Event, ExitRecord, Failure, FailureKind, HeldFd, PID_FILE, PidRecord, Reply, Request,
    SOCKET_NAME, State, Target,
};
use berth_sys::pidfd;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::sync::mpsc;

use super::fake::{self, Wire};
use super::{Adoption, ShimConfig, ShimError, ShimEvent, Shims, kill_remains};

fn id() -> ContainerId {
    ContainerId::from_bytes([7; 32])
}

fn exit(code: i32) -> ExitRecord {
    ExitRecord { code, oom_killed: false, exited_at: 1, execs: Vec::new() }
}

fn state() -> State {
    State { init: Some(9), exited: None, execs: Vec::new(), exec_pids: Vec::new(), frozen: false }
}

/// A deadline far past what a loaded machine needs: only a hang meets it.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it hangs")
}

async fn next(events: &mut mpsc::Receiver<ShimEvent>) -> ShimEvent {
    soon(events.recv()).await.expect("an event")
}

async fn check_end(events: &mut mpsc::Receiver<ShimEvent>) {
    assert_eq!(next(events).await, ShimEvent::Gone);
    assert_eq!(soon(events.recv()).await, None, "nothing follows Gone");
}

#[tokio::test]
async fn answers_find_their_questions_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut asked = Vec::new();
    let (shim, _wire, _process) = fake::shim(&id(), dir.path(), move |wire, id, request, _| {
        asked.push((id, request));
        if asked.len() == 3 {
            for (id, request) in asked.drain(..).rev() {
                let reply = if request == Request::State { Reply::State(state()) } else { Reply::Done };
                wire.reply(id, reply, &[]).unwrap();
            }
        }
    })
    .unwrap();
    let all = async {
        tokio::join!(shim.signal(Target::Init, 15, false), shim.state(), shim.resize(Target::Init, 1, 2))
    };
    let (signal, answer, resize) = soon(all).await;
    signal.unwrap();
    resize.unwrap();
    assert_eq!(answer.unwrap(), state());
}

#[tokio::test]
async fn failures_and_wrong_answers_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (shim, _wire, _process) = fake::shim(&id(), dir.path(), |wire, id, request, _| {
        let reply = match request {
            Request::Freeze { .. } => {
                Reply::Failed(Failure { kind: FailureKind::NotRunning, message: "it has ended".into() })
            }
            _ => Reply::ExecStarted { pid: 1 },
        };
        wire.reply(id, reply, &[]).unwrap();
    })
    .unwrap();
    let error = soon(shim.freeze(true)).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Some(FailureKind::NotRunning), "it has ended"));
    assert!(matches!(soon(shim.state()).await, Err(ShimError::Broken(_))));
}

#[tokio::test]
async fn descriptors_travel_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let (shim, _wire, _process) = fake::shim(&id(), dir.path(), |wire, id, request, fds| match request {
        Request::Exec(exec) => {
            assert_eq!(exec.attach.unwrap().fd, 0);
            std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"hello").unwrap();
            wire.reply(id, Reply::ExecStarted { pid: 42 }, &[]).unwrap();
        }
        Request::Held => {
            let null = std::fs::File::open("/dev/null").unwrap();
            let zero = std::fs::File::open("/dev/zero").unwrap();
            let fds = vec![HeldFd { name: "port".into(), fd: 1 }];
            wire.reply(id, Reply::Held { netns: Some(0), fds }, &[null.as_fd(), zero.as_fd()]).unwrap();
        }
        other => panic!("{other:?}"),
    })
    .unwrap();
    let (mut read, write) = std::os::unix::net::UnixStream::pair().unwrap();
    let exec = berth_shim_proto::Exec {
        exec_id: "e".into(),
        process: serde_json::json!({}),
        user: berth_shim_proto::User::default(),
        privileged: false,
        terminal: None,
        attach: Some(berth_shim_proto::Attach {
            fd: 9,
            early: Vec::new(),
            stdin: false,
            stdout: true,
            stderr: true,
            multiplexed: true,
            detach_keys: Vec::new(),
            from_start: false,
        }),
    };
    assert_eq!(soon(shim.exec(exec, Some(write.as_fd()))).await.unwrap(), 42);
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let held = soon(shim.held()).await.unwrap();
    assert!(held.netns.is_some());
    let mut byte = [1];
    std::fs::File::from(held.fds.into_iter().next().unwrap().1).read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0]);
}

#[tokio::test]
async fn events_come_in_order_and_gone_comes_last_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (shim, wire, process) = fake::shim(&id(), dir.path(), |_, _, _, _| {}).unwrap();
    let mut events = shim.events().unwrap();
    assert!(shim.events().is_none());
    wire.event(Event::Oom).unwrap();
    for n in 0..200 {
        wire.event(Event::ExecExited { exec_id: n.to_string(), code: n }).unwrap();
    }
    wire.event(Event::Exited(exit(3))).unwrap();
    std::fs::write(dir.path().join(EXIT_FILE), serde_json::to_vec(&exit(3)).unwrap()).unwrap();
    process.end();
    assert_eq!(next(&mut events).await, ShimEvent::Oom);
    for n in 0..200 {
        assert_eq!(next(&mut events).await, ShimEvent::ExecExited { exec_id: n.to_string(), code: n });
    }
    assert_eq!(next(&mut events).await, ShimEvent::Exited(exit(3)));
    check_end(&mut events).await;
    assert!(matches!(soon(shim.state()).await, Err(ShimError::Gone)));
}

#[tokio::test]
async fn an_exit_that_was_not_told_is_read_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (shim, wire, process) = fake::shim(&id(), dir.path(), |_, _, _, _| {}).unwrap();
    let mut events = shim.events().unwrap();
    std::fs::write(dir.path().join(EXIT_FILE), serde_json::to_vec(&exit(137)).unwrap()).unwrap();
    wire.hang_up().unwrap();
    process.end();
    assert_eq!(next(&mut events).await, ShimEvent::Exited(exit(137)));
    check_end(&mut events).await;
}

#[tokio::test]
async fn a_shim_that_dies_fails_what_was_asked_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (asked, was_asked) = std::sync::mpsc::channel();
    let (shim, _wire, process) =
        fake::shim(&id(), dir.path(), move |_, _, _, _| asked.send(()).unwrap()).unwrap();
    let mut events = shim.events().unwrap();
    let other = shim.clone();
    let question = tokio::spawn(async move { other.state().await });
    tokio::task::spawn_blocking(move || was_asked.recv().unwrap()).await.unwrap();
    process.end();
    assert!(matches!(soon(question).await.unwrap(), Err(ShimError::Gone)));
    check_end(&mut events).await;
}

#[tokio::test]
async fn an_engine_that_does_not_read_events_still_gets_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (shim, wire, _process) = fake::shim(&id(), dir.path(), |wire, id, _, _| {
        wire.reply(id, Reply::Done, &[]).unwrap();
    })
    .unwrap();
    let flood = std::thread::spawn(move || {
        for n in 0..2000 {
            wire.event(Event::ExecExited { exec_id: n.to_string(), code: 0 }).unwrap();
        }
    });
    tokio::task::spawn_blocking(move || flood.join().unwrap()).await.unwrap();
    soon(shim.freeze(false)).await.unwrap();
    let mut events = shim.events().unwrap();
    for n in 0..2000 {
        assert_eq!(next(&mut events).await, ShimEvent::ExecExited { exec_id: n.to_string(), code: 0 });
    }
}

fn listen(run_dir: &Path) -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(run_dir.join(SOCKET_NAME)).unwrap()).unwrap();
    rustix::net::listen(&socket, 8).unwrap();
    socket
}

fn write_pids(run_dir: &Path, shim: i32, shim_started: u64) {
    let record =
        PidRecord { shim, shim_started, init: shim, init_started: shim_started, boot_id: String::new() };
    std::fs::write(run_dir.join(PID_FILE), serde_json::to_vec(&record).unwrap()).unwrap();
}

fn shims(program: &str) -> Shims {
    Shims::new(ShimConfig { shim_path: program.into(), exec_root: "/nowhere".into() }).unwrap()
}

/// This process stands in for the shim: it listens, and its pid and start time are in the pid file.
fn be_the_shim(run_dir: &Path) -> OwnedFd {
    let pid = i32::try_from(std::process::id()).unwrap();
    write_pids(run_dir, pid, pidfd::start_time(pid).unwrap());
    listen(run_dir)
}

#[tokio::test]
async fn a_living_shim_is_adopted_and_tells_what_was_missed() {
    let dir = tempfile::tempdir().unwrap();
    let listener = be_the_shim(dir.path());
    std::thread::spawn(move || {
        let wire = Wire::from(rustix::net::accept(&listener).unwrap());
        fake::serve(wire, |wire, id, _, _| {
            let missed = State {
                exited: Some(exit(5)),
                execs: vec![("e".into(), Some(1)), ("f".into(), None)],
                ..state()
            };
            wire.reply(id, Reply::State(missed), &[]).unwrap();
            wire.event(Event::Exited(exit(5))).unwrap();
            wire.event(Event::Oom).unwrap();
        });
    });
    let Adoption::Alive(shim) = soon(shims("/bin/true").connect(&id(), dir.path())).await.unwrap() else {
        panic!("not adopted");
    };
    let mut events = shim.events().unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(next(&mut events).await);
    }
    // The answer and the events race; what counts is that the exit is told once.
    assert!(seen.contains(&ShimEvent::Exited(exit(5))) && seen.contains(&ShimEvent::Oom));
    assert!(seen.contains(&ShimEvent::ExecExited { exec_id: "e".into(), code: 1 }));
}

#[tokio::test]
async fn a_broken_connection_to_a_living_shim_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let listener = be_the_shim(dir.path());
    std::thread::spawn(move || {
        loop {
            let wire = Wire::from(rustix::net::accept(&listener).unwrap());
            fake::serve(wire, |wire, id, request, _| match request {
                Request::State => wire.reply(id, Reply::State(state()), &[]).unwrap(),
                Request::Freeze { frozen: true } => wire.hang_up().unwrap(),
                _ => wire.reply(id, Reply::Done, &[]).unwrap(),
            });
        }
    });
    let Adoption::Alive(shim) = soon(shims("/bin/true").connect(&id(), dir.path())).await.unwrap() else {
        panic!("not adopted");
    };
    assert!(matches!(soon(shim.freeze(true)).await, Err(ShimError::Gone)));
    soon(shim.freeze(false)).await.unwrap();
}

#[tokio::test]
async fn what_dead_shims_left_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let all = shims("/bin/true");
    let check = |expected: &'static str| {
        let all = all.clone();
        let path = dir.path().to_owned();
        async move {
            let found = soon(all.connect(&id(), &path)).await.unwrap();
            let name = match found {
                Adoption::Alive(_) => "alive",
                Adoption::Ended(record) => {
                    assert_eq!(record, exit(1));
                    "ended"
                }
                Adoption::Lost(Some(_)) => "lost with pids",
                Adoption::Lost(None) => "lost",
            };
            assert_eq!(name, expected);
        }
    };
    check("lost").await;
    // A pid in use by somebody else: the start time differs.
    let pid = i32::try_from(std::process::id()).unwrap();
    write_pids(dir.path(), pid, 1);
    check("lost with pids").await;
    std::fs::write(dir.path().join(EXIT_FILE), serde_json::to_vec(&exit(1)).unwrap()).unwrap();
    check("ended").await;
    std::fs::remove_file(dir.path().join(PID_FILE)).unwrap();
    check("ended").await;
    std::fs::write(dir.path().join(PID_FILE), "{").unwrap();
    assert!(all.connect(&id(), dir.path()).await.is_err());
}

#[tokio::test]
async fn a_spawned_process_is_watched_and_collected() {
    let dir = tempfile::tempdir().unwrap();
    // What the run before left is not what this one tells.
    std::fs::write(dir.path().join(EXIT_FILE), serde_json::to_vec(&exit(9)).unwrap()).unwrap();
    let shim = shims("/bin/true").spawn(&id(), dir.path()).await.unwrap();
    let mut events = shim.events().unwrap();
    check_end(&mut events).await;
    assert!(!Path::new(&format!("/proc/{}", shim.pid())).exists(), "a zombie is left");
    assert!(dir.path().join("shim.log").exists());
}

#[tokio::test]
async fn a_spawned_process_has_the_socket_and_nothing_of_the_daemons() {
    let dir = tempfile::tempdir().unwrap();
    // The container's short id is a number of seconds, and a long one.
    let shim = shims("/bin/sleep").spawn(&id(), dir.path()).await.unwrap();
    let path = format!("/proc/{}", shim.pid());
    // The kernel lets the parent go on a moment before the new program's arguments are in place.
    let command = soon(async {
        loop {
            let command = std::fs::read_to_string(format!("{path}/cmdline")).unwrap();
            if !command.is_empty() {
                break command;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let environment = std::fs::read(format!("{path}/environ")).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    assert_eq!(command, format!("berth-shim\0{}\0", id().short()));
    assert_eq!(std::fs::read_link(format!("{path}/cwd")).unwrap(), Path::new("/"));
    let stdin = std::fs::read_link(format!("{path}/fd/0")).unwrap();
    assert!(stdin.to_string_lossy().starts_with("socket:"));
    let mut events = shim.events().unwrap();
    shim.kill();
    check_end(&mut events).await;
}

#[test]
fn remains_are_killed_by_pid_and_start_time() {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let started = pidfd::start_time(pid).unwrap();
    let mut pids = PidRecord {
        shim: pid,
        shim_started: started + 1,
        init: pid,
        init_started: started + 1,
        boot_id: String::new(),
    };
    let cgroup = format!("/berth-test-none-{pid}");
    assert!(kill_remains(Some(&pids), &cgroup, Duration::ZERO).unwrap());
    assert!(child.try_wait().unwrap().is_none(), "another process of that pid is spared");
    pids.init_started = started;
    assert!(kill_remains(Some(&pids), &cgroup, Duration::ZERO).unwrap());
    assert!(!child.wait().unwrap().success());
}
