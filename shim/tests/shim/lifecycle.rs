// SPDX-License-Identifier: Apache-2.0
//! From launch to exit.

use std::fs;
use std::time::Instant;

use berth_shim_proto::*;

use crate::rig::{Builder, DEADLINE, Rig, cgroups};

crate::with_each_builder! {
    a_container_runs_and_its_code_is_told
    death_by_signal_is_128_and_the_number
    a_signal_reaches_init
    a_signal_for_all
    a_signal_nobody_can_get
    the_spec_user_and_network_are_completed
    no_descriptor_and_no_signal_state_leaks_in
    a_command_that_is_not_there
    a_command_that_cannot_be_executed
    a_user_that_is_not_there
    a_bad_log_fails_the_launch
    freezing
    a_frozen_container_can_be_killed
    children_of_init_die_with_it
    orphans_are_reaped
    out_of_memory_is_reported
    limits_can_be_changed
}

fn a_container_runs_and_its_code_is_told(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    let before = now();
    let pid = rig.launch();
    let pids: PidRecord = serde_json::from_slice(&fs::read(rig.bundle().join(PID_FILE)).unwrap()).unwrap();
    assert_eq!((pids.init, pids.shim), (pid, rig.shim_pid()));
    let record = rig.exited();
    assert_eq!((record.code, record.oom_killed), (3, false));
    assert!(record.exited_at >= before && record.exited_at <= now());
    let mut log = rig.log();
    log.sort();
    let entry = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(log, [entry("stderr", "err\n"), entry("stdout", "out\n")]);
}

fn death_by_signal_is_128_and_the_number(builder: Builder) {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    rig.launch();
    rig.kill();
}

fn a_signal_reaches_init(builder: Builder) {
    let script = "trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 1000 & wait $!; done";
    let mut rig = Rig::new(builder, &["sh", "-c", script]);
    let mut client = rig.client(|_| {});
    rig.launch();
    client.until("ready\n");
    assert_eq!(rig.signal(Target::Init, libc::SIGUSR1), Reply::Done);
    client.until("got it\n");
    assert_eq!(rig.exited().code, 7);
}

fn a_signal_for_all(builder: Builder) {
    let script = "trap 'exit 7' USR1; echo ready; while :; do sleep 1000 & wait $!; done";
    let mut rig = Rig::new(builder, &["sh", "-c", script]);
    let mut client = rig.client(|_| {});
    rig.launch();
    client.until("ready\n");
    let (reply, mut exec) = rig.exec("e", &["sh", "-c", "echo up; exec sleep 1000"], |_| {});
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    exec.until("up\n");
    rig.done(Request::Signal { target: Target::Init, signal: libc::SIGUSR1, all: true });
    // Either may be reaped first; an init that ends takes the exec along.
    assert!([137, 138].contains(&rig.exec_exited("e")));
    assert_eq!(rig.exited().code, 7);
}

fn a_signal_nobody_can_get(builder: Builder) {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    let failed = |reply: Reply| match reply {
        Reply::Failed(failure) => failure.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(rig.signal(Target::Init, 9)), FailureKind::NotRunning);
    rig.launch();
    assert_eq!(failed(rig.signal(Target::Exec("none".into()), 9)), FailureKind::NotRunning);
    assert_eq!(failed(rig.signal(Target::Init, 65)), FailureKind::InvalidInput);
    rig.kill();
}

fn the_spec_user_and_network_are_completed(builder: Builder) {
    let mut rig =
        Rig::new(builder, &["sh", "-c", "id; readlink /proc/self/ns/net || ls -l /proc/self/ns/net"]);
    let netns = fs::File::open("/proc/self/ns/net").unwrap();
    rig.launch.user = User { user: "sailor".into(), groups: vec!["deck".into(), "3000".into()] };
    rig.launch.netns = Some(rig.fd(netns.into()));
    let client = rig.client(|_| {});
    rig.launch();
    let (stdout, _) = client.output().text();
    assert!(stdout.contains("uid=1000(sailor) gid=1000(sailor)"), "{stdout}");
    assert!(stdout.contains("2000(deck)") && stdout.contains("3000"), "{stdout}");
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(stdout.contains(ours.to_str().unwrap()), "{stdout}");
    assert_eq!(rig.exited().code, 0);
}

fn no_descriptor_and_no_signal_state_leaks_in(builder: Builder) {
    let mut rig = Rig::new(builder, &["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    let client = rig.client(|attach| attach.stdin = false);
    rig.launch();
    let (stdout, _) = client.output().text();
    assert!(stdout.contains("SigBlk:\t0000000000000000"), "{stdout}");
    assert!(stdout.contains("SigIgn:\t0000000000000000"), "{stdout}");
    assert_eq!(rig.exited().code, 0);

    let mut rig = Rig::new(builder, &["ls", "/proc/self/fd"]);
    let client = rig.client(|attach| attach.stdin = false);
    rig.launch();
    // The fourth is the listed directory itself.
    assert_eq!(client.output().text().0, "0\n1\n2\n3\n");
    assert_eq!(rig.exited().code, 0);
}

/// A launch that fails for this reason, and leaves nothing.
fn check_failure(mut rig: Rig, kind: FailureKind, words: &[&str]) {
    let client = rig.client(|_| {});
    let failure = match rig.try_launch() {
        Reply::Failed(failure) => failure,
        other => panic!("{other:?}"),
    };
    assert_eq!(failure.kind, kind, "{failure:?}");
    for word in words {
        assert!(failure.message.contains(word), "{failure:?}");
    }
    rig.gone();
    for file in [PID_FILE, EXIT_FILE] {
        assert!(!rig.bundle().join(file).exists(), "{file}");
    }
    assert_eq!(client.output().text(), (String::new(), String::new()));
}

fn a_command_that_is_not_there(builder: Builder) {
    let rig = Rig::new(builder, &["nosuchbin", "x"]);
    check_failure(rig, FailureKind::CommandNotFound, &["nosuchbin", "not found in $PATH"]);
}

fn a_command_that_cannot_be_executed(builder: Builder) {
    check_failure(
        Rig::new(builder, &["/bin/data"]),
        FailureKind::CommandNotExecutable,
        &["ermission denied"],
    );
}

fn a_user_that_is_not_there(builder: Builder) {
    let mut rig = Rig::new(builder, &["true"]);
    rig.launch.user.user = "nobodyhere".into();
    check_failure(rig, FailureKind::InvalidInput, &["nobodyhere"]);
}

fn a_bad_log_fails_the_launch(builder: Builder) {
    let mut rig = Rig::new(builder, &["true"]);
    rig.launch.log = crate::rig::log("/nowhere/at/all".into(), |_| {});
    check_failure(rig, FailureKind::Internal, &["logging driver"]);
}

fn freezing(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "read line; echo \"$line\"; sleep 1000"]);
    rig.launch.open_stdin = true;
    let mut client = rig.client(|_| {});
    rig.launch();
    rig.done(Request::Freeze { frozen: true });
    match rig.ask(Request::State) {
        Reply::State(state) => assert!(state.frozen),
        other => panic!("{other:?}"),
    }
    client.send("hello\n");
    match rig.exec("late", &["true"], |_| {}).0 {
        Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::NotRunning),
        other => panic!("{other:?}"),
    }
    rig.done(Request::Freeze { frozen: false });
    client.until("hello\n");
    rig.kill();
}

fn a_frozen_container_can_be_killed(builder: Builder) {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    rig.launch();
    rig.done(Request::Freeze { frozen: true });
    rig.kill();
}

fn children_of_init_die_with_it(builder: Builder) {
    // In the host's pid namespace nobody but the shim kills them.
    let script = "setsid sleep 1000 & setsid sleep 1001 & echo ready; read line";
    let mut rig = Rig::new(builder, &["sh", "-c", script]);
    rig.launch.open_stdin = true;
    rig.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let mut client = rig.client(|_| {});
    rig.launch();
    client.until("ready\n");
    assert!(!cgroups(&rig.id).is_empty());
    client.send("\n");
    assert_eq!(rig.exited().code, 0);
}

fn orphans_are_reaped(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "(echo one & echo two & ); read line"]);
    rig.launch.open_stdin = true;
    rig.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let mut client = rig.client(|_| {});
    let pid = rig.launch();
    let both = client.until("o\n");
    if !both.contains("one") {
        client.until("one\n");
    }
    let children = format!("/proc/{0}/task/{0}/children", rig.shim_pid());
    let deadline = Instant::now() + DEADLINE;
    while fs::read_to_string(&children).unwrap().trim() != pid.to_string() {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(&children).unwrap());
        assert!(matches!(rig.ask(Request::State), Reply::State(_)));
    }
    client.send("\n");
    assert_eq!(rig.exited().code, 0);
}

fn out_of_memory_is_reported(builder: Builder) {
    let script = "tail /dev/zero; echo survived; sleep 1000";
    let mut rig = Rig::new(builder, &["sh", "-c", script]);
    rig.spec["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 * 1024 * 1024});
    let mut client = rig.client(|_| {});
    rig.launch();
    client.until("survived\n");
    assert_eq!(rig.event(), Event::Oom);
    assert_eq!(rig.signal(Target::Init, libc::SIGKILL), Reply::Done);
    let record = rig.exited();
    assert!(record.oom_killed);
}

fn limits_can_be_changed(builder: Builder) {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    rig.launch();
    rig.done(Request::Update { resources: serde_json::json!({"pids": {"limit": 77}}) });
    let paths = cgroups(&rig.id);
    let limits = paths.iter().filter_map(|path| fs::read_to_string(path.join("pids.max")).ok());
    assert_eq!(limits.collect::<Vec<_>>(), ["77\n"]);
    rig.kill();
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos().try_into().unwrap()
}

#[test]
fn a_shim_that_launched_nothing_ends_with_its_daemon() {
    let mut rig = Rig::new(Builder::Native, &["true"]);
    rig.drop_connection();
    rig.gone();
}

#[test]
fn an_unknown_request_is_answered() {
    let mut rig = Rig::new(Builder::Native, &["true"]);
    let request = serde_json::json!({"Dance": {"tempo": "slow"}});
    match rig.ask_raw(&request, &[]).0 {
        Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::Unsupported),
        other => panic!("{other:?}"),
    }
    let extra = serde_json::json!({"Signal": {"target": "Init", "signal": 9, "news": true}});
    match rig.ask_raw(&extra, &[]).0 {
        Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::NotRunning),
        other => panic!("{other:?}"),
    }
}
