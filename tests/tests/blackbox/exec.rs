// SPDX-License-Identifier: Apache-2.0
//! Further processes in a running container.

use std::io::{Read, Write};
use std::process::Stdio;

use berth_tests::harness::{Bed, Cli};

fn with_sleeper() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "cc",
        "-e",
        "FROM=container",
        "-w",
        "/tmp",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    bed
}

#[test]
fn exec_has_the_containers_surroundings() {
    let bed = with_sleeper();
    assert_eq!(
        bed.docker(&["exec", "cc", "sh", "-c", "pwd; echo $FROM; cat /proc/1/comm"]).ok(),
        "/tmp\ncontainer\nsleep"
    );
    assert_eq!(
        bed.docker(&[
            "exec",
            "-e",
            "X=y",
            "-w",
            "/etc",
            "-u",
            "app",
            "cc",
            "sh",
            "-c",
            "echo $X; pwd; id -u"
        ])
        .ok(),
        "y\n/etc\n1000"
    );
    let init = bed.docker(&["exec", "cc", "grep", "-E", "^(Cap|Seccomp:|NoNewPrivs)", "/proc/1/status"]).ok();
    let own =
        bed.docker(&["exec", "cc", "grep", "-E", "^(Cap|Seccomp:|NoNewPrivs)", "/proc/self/status"]).ok();
    assert_eq!(init, own, "an exec'ed process has init's capabilities and its seccomp filter");
    assert!(own.contains("Seccomp:\t2"), "{own}");
    bed.finish();
}

#[test]
fn exec_exit_codes_and_errors() {
    let bed = with_sleeper();
    // Often: the stream's end and the news of the exit come on different ways.
    for _ in 0..30 {
        assert_eq!(bed.docker(&["exec", "cc", "sh", "-c", "exit 17"]).code, 17);
    }
    assert_eq!(bed.docker(&["exec", "cc", "no-such-program"]).code, 127);
    assert_eq!(bed.docker(&["exec", "cc", "/etc"]).code, 126);
    assert!(bed.docker(&["exec", "nosuch", "true"]).fails(1).contains("No such container: nosuch"));
    bed.docker(&["kill", "cc"]).ok();
    bed.docker(&["wait", "cc"]).ok();
    let refused = bed.docker(&["exec", "cc", "true"]).fails(1);
    assert!(refused.contains("is not running"), "{refused}");
    bed.finish();
}

#[test]
fn exec_passes_stdin_through() {
    let bed = with_sleeper();
    let mut child = bed
        .command(Cli::Docker, &["exec", "-i", "cc", "sh", "-c", "cat; echo eof"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "typed\neof\n");
    assert!(child.wait().unwrap().success());
    bed.finish();
}

#[test]
fn a_hundred_execs_leave_nothing() {
    let bed = with_sleeper();
    for n in 0..20 {
        let out: Vec<_> = std::thread::scope(|scope| {
            let each: Vec<_> = (0..5)
                .map(|m| {
                    let bed = &bed;
                    scope.spawn(move || bed.docker(&["exec", "cc", "echo", &format!("{n}-{m}")]).ok())
                })
                .collect();
            each.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for (m, text) in out.iter().enumerate() {
            assert_eq!(text, &format!("{n}-{m}"));
        }
    }
    // Init, the exec that asks, and what it starts.
    let left = bed.docker(&["exec", "cc", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).ok();
    assert!(left.trim().parse::<u32>().unwrap() <= 4, "{left} processes are left");
    bed.finish();
}

#[test]
fn exec_inspect_tells_code_and_end() {
    let bed = with_sleeper();
    let headers = [("Content-Type", "application/json")];
    let created = bed.api_with("POST", "/containers/cc/exec", &headers, br#"{"Cmd":["sh","-c","exit 5"]}"#);
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["Id"].as_str().unwrap().to_owned();
    let before = bed.api("GET", &format!("/exec/{id}/json"), "").json();
    assert_eq!(before["Running"], false);
    assert!(before["ExitCode"].is_null(), "{before}");
    let started = bed.api_with("POST", &format!("/exec/{id}/start"), &headers, br#"{"Detach":true}"#);
    assert_eq!(started.status, 200, "{}", started.text());
    let code = berth_tests::harness::until("the exec ends", || {
        let now = bed.api("GET", &format!("/exec/{id}/json"), "").json();
        (now["Running"] == false).then(|| now["ExitCode"].clone())
    });
    assert_eq!(code, 5);
    assert_eq!(bed.api("POST", "/containers/cc/exec", r#"{"Cmd":[]}"#).status, 400);
    assert_eq!(bed.api("GET", "/exec/0123/json", "").message(), "No such exec instance: 0123");
    bed.finish();
}

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

fn make(bed: &Bed, body: &str) -> String {
    let made = bed.api_with("POST", "/containers/cc/exec", &JSON, body.as_bytes());
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["Id"].as_str().unwrap().to_owned()
}

fn inspect(bed: &Bed, id: &str) -> serde_json::Value {
    bed.api("GET", &format!("/exec/{id}/json"), "").json()
}

/// The reference forgets its execs with its daemon.
#[test]
fn a_later_daemon_knows_the_execs() {
    let mut bed = with_sleeper();
    if bed.is_ours() {
        let made = make(&bed, r#"{"Cmd":["sh","-c","exit 3"],"User":"app","Privileged":true}"#);
        let running = make(&bed, r#"{"Cmd":["sleep","1000"],"Tty":true,"DetachKeys":"ctrl-a"}"#);
        let ended = make(&bed, r#"{"Cmd":["sh","-c","exit 7"]}"#);
        let start = |bed: &Bed, id: &str| {
            let path = format!("/exec/{id}/start");
            let started = bed.api_with("POST", &path, &JSON, br#"{"Detach":true}"#);
            assert_eq!(started.status, 200, "{}", started.text());
        };
        start(&bed, &running);
        start(&bed, &ended);
        let before = inspect(&bed, &running);
        bed.kill_daemon();
        bed.start_daemon();
        let after = inspect(&bed, &running);
        assert_eq!(before, after);
        assert_eq!((&after["Running"], &after["ProcessConfig"]["tty"]), (&true.into(), &true.into()));
        let after = berth_tests::harness::until("the exec ends", || {
            Some(inspect(&bed, &ended)).filter(|seen| seen["Running"] == false)
        });
        assert_eq!((&after["ExitCode"], &after["ProcessConfig"]["entrypoint"]), (&7.into(), &"sh".into()));
        // What was not started yet can be.
        let seen = inspect(&bed, &made);
        assert_eq!((&seen["Running"], &seen["ProcessConfig"]["user"]), (&false.into(), &"app".into()));
        start(&bed, &made);
        berth_tests::harness::until("the exec ends", || {
            (inspect(&bed, &made)["ExitCode"] == 3).then_some(())
        });
        let again = bed.api_with("POST", &format!("/exec/{ended}/start"), &JSON, b"{}");
        assert_eq!(again.status, 409, "{}", again.text());
    }
    bed.finish();
}

#[test]
fn a_privileged_exec_has_everything() {
    let bed = with_sleeper();
    let caps = |args: &[&str]| {
        let mut line = vec!["exec"];
        line.extend(args);
        line.extend(["cc", "sh", "-c", "grep -E '^(CapEff|CapInh|CapAmb|Seccomp):' /proc/self/status"]);
        bed.docker(&line).ok()
    };
    let plain = caps(&[]);
    let privileged = caps(&["--privileged"]);
    assert!(plain.contains("CapEff:\t00000000a80425fb") && plain.contains("Seccomp:\t2"), "{plain}");
    // All that the host's root has: a machine in a sandbox of its own may lack some.
    let host = std::fs::read_to_string("/proc/self/status").unwrap();
    let host = host.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert!(privileged.contains(host), "{privileged}, {host}");
    for text in [&plain, &privileged] {
        assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
        assert!(text.contains("CapAmb:\t0000000000000000"), "{text}");
    }
    bed.finish();
}

#[test]
fn an_execs_terminal_is_resized() {
    let bed = with_sleeper();
    let body = r#"{"Cmd":["sh","-c","stty size; read x; stty size"],"Tty":true,"AttachStdin":true,
                   "AttachStdout":true,"ConsoleSize":[30,100]}"#;
    let id = make(&bed, body);
    let mut stream = super::attach::Stream::exec_with(&bed, &id, r#"{"Tty":true,"ConsoleSize":[30,100]}"#);
    assert_eq!(stream.raw_until("\n"), "30 100\r\n");
    let resized = bed.api("POST", &format!("/exec/{id}/resize?h=41&w=99"), "");
    assert_eq!(resized.status, 200, "{}", resized.text());
    stream.write(b"\n");
    assert!(String::from_utf8(stream.raw()).unwrap().ends_with("41 99\r\n"));
    // Frames or not is what the start says, whatever the exec is.
    let id = make(&bed, r#"{"Cmd":["echo","hi"],"Tty":true,"AttachStdout":true}"#);
    assert_eq!(super::attach::Stream::exec(&bed, &id).rest().0, b"hi\r\n");
    let late = bed.api("POST", &format!("/exec/{id}/resize?h=41&w=99"), "");
    assert!(late.status >= 400, "{}", late.status);
    bed.finish();
}

#[test]
fn an_exec_half_closes_and_detaches() {
    let bed = with_sleeper();
    let id = make(&bed, r#"{"Cmd":["sh","-c","cat; echo end"],"AttachStdin":true,"AttachStdout":true}"#);
    let mut stream = super::attach::Stream::exec(&bed, &id);
    stream.write(b"typed\n");
    stream.until("typed\n");
    stream.half_close();
    assert_eq!(stream.rest().0, b"end\n");
    let body = r#"{"Cmd":["cat"],"Tty":true,"AttachStdin":true,"AttachStdout":true,"DetachKeys":"ctrl-a,b"}"#;
    let id = make(&bed, body);
    let mut stream = super::attach::Stream::exec_with(&bed, &id, r#"{"Tty":true}"#);
    stream.write(b"\x01");
    stream.write(b"b");
    stream.raw();
    // The reference was seen to end the process here.
    assert!(!bed.is_ours() || inspect(&bed, &id)["Running"] == true);
    bed.finish();
}

/// Rights are given, the filter stays: as the reference has it, whose runtime takes the filter from the container.
#[test]
fn a_privileged_exec_keeps_the_filter() {
    let bed = with_sleeper();
    let status = |options: &[&str]| {
        let args = [
            &["exec"],
            options,
            &["cc", "grep", "-E", "^(CapEff|CapBnd|CapInh|CapAmb|Seccomp:)", "/proc/self/status"],
        ];
        let out = bed.docker(&args.concat()).ok();
        out.lines().map(|line| line.split('\t').nth(1).unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let (plain, all) = (status(&[]), status(&["--privileged"]));
    assert_eq!((plain[4].as_str(), all[4].as_str()), ("2", "2"), "{plain:?} {all:?}");
    assert_eq!((all[0].as_str(), all[3].as_str()), ("0000000000000000", "0000000000000000"), "{all:?}");
    assert_eq!(all[1], all[2], "{all:?}");
    let count = |caps: &str| u64::from_str_radix(caps, 16).unwrap().count_ones();
    assert_eq!(count(&plain[1]), 14);
    assert!(count(&all[1]) > 30, "{all:?}");
    // Of another user it takes them away, as any execve does.
    let other = status(&["--privileged", "-u", "app"]);
    assert_eq!((count(&other[1]), other[4].as_str()), (0, "2"), "{other:?}");
    bed.docker(&["rm", "-f", "cc"]).ok();
    bed.docker(&["run", "-d", "--name", "cc", "--privileged", "busybox", "sleep", "1000"]).ok();
    assert_eq!(status(&["--privileged"])[4], "0");
    bed.finish();
}

/// As much as the kernel takes of a program's arguments and environment; labels as much as anybody may want.
#[test]
fn large_environments_and_labels() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let long = "x".repeat(100_000);
    let env: Vec<String> = (0..11).map(|n| format!("BIG{n}={long}")).collect();
    let labels: serde_json::Map<String, serde_json::Value> =
        (0..11).map(|n| (format!("label{n}"), long.clone().into())).collect();
    let body = serde_json::json!({
        "Image": "busybox", "Env": env, "Labels": labels, "Cmd": ["sh", "-c", "env | wc -c; exec sleep 1000", long],
        "HostConfig": {"Annotations": labels, "LogConfig": {"Type": "json-file", "Config": {"labels-regex": "label0|none"}}},
    });
    let made = bed.api("POST", "/containers/create?name=big", &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    bed.docker(&["start", "big"]).ok();
    let count = |text: &str| text.trim().parse::<usize>().unwrap();
    let logged = berth_tests::harness::until("it has counted", || {
        Some(bed.docker(&["logs", "big"]).ok()).filter(|l| !l.is_empty())
    });
    assert!(count(&logged) > 1_100_000, "{logged}");
    // An exec has the container's, and its own.
    let own = format!("OWN={long}");
    let out =
        bed.docker(&["exec", "-e", &own, "big", "sh", "-c", "env | wc -c; echo ${#1}", "sh", &long]).ok();
    let (all, argument) = out.split_once('\n').unwrap();
    assert!(count(all) > 1_200_000 && argument == "100000", "{out}");
    // One argument too long for the kernel, which says so.
    let body = serde_json::json!({"Image": "busybox", "Cmd": ["echo", "x".repeat(140_000)]});
    let made = bed.api("POST", "/containers/create?name=longer", &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    let said = bed.docker(&["start", "longer"]).fails(1);
    assert!(said.to_lowercase().contains("argument list too long"), "{said}");
    bed.docker(&["rm", "-f", "big", "longer"]).ok();
    bed.finish();
}
