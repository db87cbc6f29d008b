// SPDX-License-Identifier: Apache-2.0
//! Further processes in a running container.

use berth_shim_proto::*;

use crate::rig::{Builder, Rig, attach};

crate::with_each_builder! {
    output_and_code
    input_and_half_close
    a_terminal
    users_are_resolved_in_the_container
    detached
    failures
    it_can_be_signalled
    a_child_left_behind_does_not_hold_its_end
    execs_die_with_the_container
    a_client_that_leaves_closes_stdin
}

fn running(builder: Builder) -> Rig {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    rig.launch();
    rig
}

fn started(reply: &Reply) -> i32 {
    match reply {
        Reply::ExecStarted { pid } => *pid,
        other => panic!("{other:?}"),
    }
}

fn output_and_code(builder: Builder) {
    let mut rig = running(builder);
    let (reply, client) = rig.exec("e", &["sh", "-c", "echo out; echo err >&2; exit 5"], |_| {});
    started(&reply);
    assert_eq!(client.output().text(), ("out\n".into(), "err\n".into()));
    assert_eq!(rig.exec_exited("e"), 5);
    // What an exec writes is not the container's log.
    rig.kill();
    assert_eq!(rig.log(), []);
}

fn input_and_half_close(builder: Builder) {
    let mut rig = running(builder);
    let (reply, mut client) = rig.exec("e", &["cat"], |exec| {
        exec.attach.as_mut().unwrap().early = b"early ".to_vec();
    });
    started(&reply);
    client.send("and late\n");
    client.half_close();
    assert_eq!(client.output().text().0, "early and late\n");
    assert_eq!(rig.exec_exited("e"), 0);
    rig.kill();
}

fn a_terminal(builder: Builder) {
    let mut rig = running(builder);
    let (reply, mut client) = rig.exec("e", &["sh"], |exec| {
        exec.terminal = Some(TerminalSize { height: 31, width: 97 });
        exec.attach.as_mut().unwrap().multiplexed = false;
    });
    started(&reply);
    client.send("stty size; tty\n");
    let text = client.raw_until("/dev/pts/");
    assert!(text.contains("31 97"), "{text}");
    rig.done(Request::Resize { target: Target::Exec("e".into()), height: 12, width: 34 });
    client.send("stty size\n");
    client.raw_until("12 34");
    client.send("exit 6\n");
    client.raw();
    assert_eq!(rig.exec_exited("e"), 6);
    rig.kill();
}

fn users_are_resolved_in_the_container(builder: Builder) {
    let mut rig = running(builder);
    let (reply, client) = rig.exec("e", &["id"], |exec| exec.user.user = "sailor".into());
    started(&reply);
    let (stdout, _) = client.output().text();
    assert!(stdout.contains("uid=1000(sailor)") && stdout.contains("2000(deck)"), "{stdout}");
    assert_eq!(rig.exec_exited("e"), 0);
    rig.kill();
}

fn detached(builder: Builder) {
    let mut rig = running(builder);
    let (reply, _) = rig.exec("e", &["sh", "-c", "cat; echo lost; exit 2"], |exec| exec.attach = None);
    started(&reply);
    assert_eq!(rig.exec_exited("e"), 2);
    match rig.ask(Request::State) {
        Reply::State(state) => assert_eq!(state.execs, [("e".to_owned(), Some(2))]),
        other => panic!("{other:?}"),
    }
    rig.kill();
}

fn failures(builder: Builder) {
    let mut rig = running(builder);
    let fds = rig.shim_fds();
    let mut check = |args: &[&str], user: &str, kind: FailureKind, words: &str| {
        let (reply, client) = rig.exec("e", args, |exec| exec.user.user = user.into());
        let Reply::Failed(failure) = reply else { panic!("{reply:?}") };
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
        assert_eq!(client.output().text(), (String::new(), String::new()));
    };
    check(&["nosuchbin"], "", FailureKind::CommandNotFound, "nosuchbin");
    check(&["/bin/data"], "", FailureKind::CommandNotExecutable, "ermission denied");
    check(&["true"], "nobodyhere", FailureKind::InvalidInput, "nobodyhere");
    assert_eq!(rig.shim_fds(), fds);
    // The name of one that failed can be used again.
    let (reply, _client) = rig.exec("e", &["true"], |_| {});
    started(&reply);
    assert_eq!(rig.exec_exited("e"), 0);
    rig.kill();
}

fn it_can_be_signalled(builder: Builder) {
    let mut rig = running(builder);
    let (reply, _client) = rig.exec("e", &["sleep", "1000"], |_| {});
    started(&reply);
    assert_eq!(rig.signal(Target::Exec("e".into()), libc::SIGTERM), Reply::Done);
    assert_eq!(rig.exec_exited("e"), 143);
    match rig.signal(Target::Exec("e".into()), libc::SIGTERM) {
        Reply::Failed(failure) => assert_eq!(failure.kind, FailureKind::NotRunning),
        other => panic!("{other:?}"),
    }
    rig.kill();
}

fn a_child_left_behind_does_not_hold_its_end(builder: Builder) {
    let mut rig = running(builder);
    let (reply, client) = rig.exec("e", &["sh", "-c", "sleep 1000 & echo said"], |_| {});
    started(&reply);
    assert_eq!(rig.exec_exited("e"), 0);
    assert_eq!(client.output().text().0, "said\n");
    rig.kill();
}

fn execs_die_with_the_container(builder: Builder) {
    let mut rig = running(builder);
    let (reply, mut client) = rig.exec("e", &["sh", "-c", "echo up; sleep 1000"], |_| {});
    started(&reply);
    client.until("up\n");
    assert_eq!(rig.signal(Target::Init, libc::SIGKILL), Reply::Done);
    assert_eq!(rig.exec_exited("e"), 137);
    assert_eq!(rig.exited().code, 137);
    assert_eq!(client.frame(), None);
}

fn a_client_that_leaves_closes_stdin(builder: Builder) {
    let mut rig = running(builder);
    let (reply, client) = rig.exec("e", &["sh", "-c", "cat >/dev/null; exit 8"], |_| {});
    started(&reply);
    drop(client);
    assert_eq!(rig.exec_exited("e"), 8);
    rig.kill();
}

/// Many one after another, and some at once: nothing is left of them.
#[test]
fn hundreds_leave_nothing() {
    let mut rig = running(Builder::Native);
    let warm_up = rig.exec("w", &["true"], |_| {});
    started(&warm_up.0);
    assert_eq!(rig.exec_exited("w"), 0);
    drop(warm_up);
    let fds = rig.shim_fds();
    for number in 0..200 {
        let id = format!("e{number}");
        let (reply, client) = rig.exec(&id, &["echo", &id], |exec| {
            if number % 3 == 0 {
                exec.terminal = Some(TerminalSize::default());
                exec.attach.as_mut().unwrap().multiplexed = false;
            } else if number % 7 == 0 {
                exec.process["args"] = serde_json::json!(["nosuchbin"]);
            }
        });
        if number % 3 == 0 {
            started(&reply);
            assert_eq!(client.raw(), format!("{id}\r\n"));
        } else if number % 7 == 0 {
            assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
            continue;
        } else {
            started(&reply);
            assert_eq!(client.output().text().0, format!("{id}\n"));
        }
        assert_eq!(rig.exec_exited(&id), 0);
    }
    let mut together = Vec::new();
    for number in 0..30 {
        let (reply, client) = rig.exec(&format!("t{number}"), &["cat"], |_| {});
        started(&reply);
        together.push(client);
    }
    for client in &together {
        client.half_close();
    }
    for _ in 0..30 {
        match rig.event() {
            Event::ExecExited { code, .. } => assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
    for client in together {
        assert_eq!(client.output().text().0, "");
    }
    assert_eq!(rig.shim_fds(), fds);
    rig.kill();
}

#[test]
fn a_name_is_used_once_at_a_time() {
    let mut rig = running(Builder::Native);
    let (reply, _client) = rig.exec("e", &["sleep", "1000"], |_| {});
    started(&reply);
    let (reply, _) = rig.exec("e", &["true"], |exec| exec.attach = Some(attach(0)));
    assert!(matches!(reply, Reply::Failed(_)), "{reply:?}");
    assert_eq!(rig.signal(Target::Exec("e".into()), libc::SIGKILL), Reply::Done);
    assert_eq!(rig.exec_exited("e"), 137);
    rig.kill();
}
