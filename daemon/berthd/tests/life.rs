// SPDX-License-Identifier: Apache-2.0
//! The daemon's life: how it begins, how it is told things, how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use support::Home;

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn roots_and_socket_are_closed_to_others() {
    let home = Home::new();
    let _daemon = home.start(&[]);
    assert_eq!(mode(&home.socket()), 0o660);
    assert_eq!(mode(&home.path("data")), 0o710);
    assert_eq!(mode(&home.path("run")), 0o711);
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused() {
    let home = Home::new();
    let first = home.start(&[]);
    let refused = stderr(&home.fails(&["-H", "unix:///nonexistent/never-reached.sock"]));
    assert!(refused.contains(&format!("is in use by process {}", first.pid())), "{refused}");
    assert_eq!(first.get("/_ping").status, 200, "the first serves on");
}

#[test]
fn a_socket_that_answers_is_not_taken_over() {
    let home = Home::new();
    let first = home.start(&[]);
    let other = Home::new();
    let host = format!("unix://{}", home.socket().display());
    let output = other.bare_command().args(["-H", &host]).output().unwrap();
    assert!(stderr(&output).contains("another process answers on this socket"), "{output:?}");
    assert_eq!(first.get("/_ping").status, 200);
}

#[test]
fn terminated_it_leaves_nothing_and_ends_well() {
    let home = Home::new();
    let pid_file = home.path("berth.pid");
    let mut daemon = home.start(&["--pidfile", pid_file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap().trim(), daemon.pid().to_string());

    // A stream that would go on for ever does not hold it up.
    let mut events = daemon.connect();
    events.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 15];
    events.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");

    daemon.signal("TERM");
    home.told("STOPPING=1", &daemon);
    let mut rest = Vec::new();
    events.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the stream was cut off: {}", String::from_utf8_lossy(&rest));
    let status = daemon.wait();
    assert!(status.success(), "{status}\n{}", daemon.log());
    assert!(!home.socket().exists() && !pid_file.exists());
}

#[test]
fn killed_it_can_be_started_again() {
    let home = Home::new();
    let mut first = home.start(&[]);
    first.signal("KILL");
    assert!(!first.wait().success());
    assert!(home.socket().exists(), "nobody was left to remove it");
    let second = home.start(&[]);
    assert_eq!(second.get("/_ping").status, 200);
}

#[test]
fn a_hangup_reloads_what_can_be() {
    let home = Home::new();
    let file = home.path("daemon.json");
    std::fs::write(&file, r#"{"labels":["a=1"]}"#).unwrap();
    let daemon = home.start(&["--config-file", file.to_str().unwrap()]);
    let info = || daemon.get("/info").json();
    assert_eq!(info()["Labels"], serde_json::json!(["a=1"]));
    assert_eq!(info()["Debug"], false);

    std::fs::write(
        &file,
        r#"{"labels":["a=2"],"debug":true,"registry-mirrors":["http://127.0.0.1:1"],"max-download-attempts":2}"#,
    )
    .unwrap();
    daemon.signal("HUP");
    home.told("READY=1", &daemon);
    assert_eq!(info()["Labels"], serde_json::json!(["a=2"]));
    assert_eq!(info()["Debug"], true);
    assert!(daemon.log().contains("configuration reloaded"), "{}", daemon.log());

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    let events =
        daemon.get(&format!("/events?since=0&until={until}&filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D"));
    let event: serde_json::Value = serde_json::from_slice(events.body.as_bytes()).expect("one event");
    assert_eq!((&event["Type"], &event["Action"]), (&"daemon".into(), &"reload".into()), "{event}");
    assert_eq!(event["Actor"]["ID"], info()["ID"]);
    assert_eq!(event["Actor"]["Attributes"]["labels"], "[\"a=2\"]");
    assert_eq!(event["Actor"]["Attributes"]["max-download-attempts"], "2");

    // A mistake changes nothing.
    std::fs::write(&file, r#"{"labels":["a=3"],"nope":1}"#).unwrap();
    daemon.signal("HUP");
    home.told("READY=1", &daemon);
    assert_eq!(info()["Labels"], serde_json::json!(["a=2"]));
    assert!(daemon.log().contains("the configuration was not reloaded"), "{}", daemon.log());
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    let home = Home::new();
    let file = home.path("daemon.json");
    let path = file.to_str().unwrap();
    let check = |text: &str, flags: &[&str], part: &str| {
        std::fs::write(&file, text).unwrap();
        let refused = stderr(&home.fails(&[&["--config-file", path], flags].concat()));
        assert!(refused.contains(part), "{refused:?} does not say {part:?}");
        assert!(refused.contains(path), "{refused:?} does not name the file");
    };
    check(r#"{"nope":1}"#, &[], "don't match any configuration option: nope");
    check(r#"{"debug":true}"#, &["-D"], "specified both as a flag and in the configuration file: debug");
    check("{", &[], "not a JSON object");

    std::fs::write(&file, r#"{"debug":true}"#).unwrap();
    let good = home.command().args(["--config-file", path, "--validate"]).output().unwrap();
    assert!(good.status.success());
    assert_eq!(good.stdout, b"configuration OK\n");

    let missing = stderr(&home.fails(&["--config-file", "/nonexistent/daemon.json"]));
    assert!(missing.contains("does not exist"), "{missing}");
}

#[test]
fn the_log_can_be_json() {
    let home = Home::new();
    let daemon = home.start(&["--log-format", "json"]);
    let log = daemon.log();
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    assert!(log.contains("\"message\":\"ready\""), "{log}");
}

#[test]
fn a_socket_may_come_from_the_service_manager() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).unwrap();
    // The shell moves its stdin to where the manager's first socket is, and becomes the daemon.
    let mut command = Command::new("unshare");
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    command.args(["--net", "--", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_berthd"), "-H", "fd://"]);
    home.arguments(&mut command);
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command.env_remove("LISTEN_FDNAMES");
    let mut daemon = home.spawn(command);
    assert_eq!(daemon.get("/_ping").status, 200);
    daemon.signal("TERM");
    assert!(daemon.wait().success());
    assert!(home.socket().exists(), "the socket is the manager's to remove");
}

#[test]
fn without_a_service_manager_there_are_no_such_sockets() {
    let home = Home::new();
    let output = home.bare_command().args(["-H", "fd://"]).output().unwrap();
    assert!(stderr(&output).contains("no sockets found via socket activation"), "{output:?}");
}

#[test]
fn version_and_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_berthd")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("Berth version {}, build", env!("CARGO_PKG_VERSION"))), "{text}");
}
