// SPDX-License-Identifier: Apache-2.0
//! `--init`: a small init that reaps, forwards signals and ends as its child does.

use berth_tests::harness::{Bed, Cli, until};

#[test]
fn it_reaps_forwards_and_tells_the_code() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--rm", "--init"];
        all.extend(args);
        bed.docker(&all)
    };
    // It is process 1 under Docker's name, and the program is its child and leads a group of its own.
    let seen =
        run(&["busybox", "sh", "-c", "cat /proc/1/comm; echo $PPID; ps -o pid,pgid,args | grep [p]s"]).ok();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..2], ["docker-init", "1"], "{seen}");
    // Codes, and deaths by signal.
    assert_eq!(run(&["busybox", "sh", "-c", "exit 42"]).code, 42);
    assert_eq!(run(&["busybox", "sh", "-c", "kill -KILL $$"]).code, 137);
    assert_eq!(run(&["busybox", "no-such-program"]).code, 127);
    assert_eq!(run(&["busybox", "/etc/passwd"]).code, 126);
    // As another user, who must be able to execute it.
    assert_eq!(run(&["-u", "1000", "busybox", "id", "-u"]).ok(), "1000");
    // The init process of a container drops signals that it has no handler for; this one hands them on.
    bed.docker(&["run", "-d", "--init", "--name", "ends", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["kill", "-s", "TERM", "ends"]).ok();
    assert_eq!(bed.docker(&["wait", "ends"]).ok(), "143");
    // Orphans that end are reaped.
    let script = "for i in 1 2 3 4 5; do (sleep 0.01 & exec true) & done; wait; exec sleep 1000";
    bed.docker(&["run", "-d", "--init", "--name", "reaps", "busybox", "sh", "-c", script]).ok();
    until("only init and its child are left", || {
        let top = bed.docker(&["top", "reaps", "-o", "pid,stat,args"]).ok();
        (top.lines().count() == 3 && top.contains("sleep 1000")).then_some(())
    });
    bed.finish();
}

#[test]
fn the_program_has_the_terminal() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let mut pty = bed.pty(
        Cli::Docker,
        &["run", "--rm", "-it", "--init", "busybox", "sh", "-c", "echo ready; cat; exit 7"],
    );
    pty.expect("ready");
    // ^C goes to the foreground: the program's group.
    pty.send("\x03");
    let (_, code) = pty.finish();
    assert_eq!(code, 130, "the shell dies of SIGINT, which init tells");
    bed.finish();
}

#[test]
fn it_can_be_the_default_and_be_refused() {
    let bed = Bed::with(berth_tests::harness::Options { flags: vec!["--init".into()], ..Default::default() });
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let comm = ["busybox", "cat", "/proc/1/comm"];
    assert_eq!(bed.docker(&[&["run", "--rm"][..], &comm].concat()).ok(), "docker-init");
    assert_eq!(bed.docker(&[&["run", "--rm", "--init=false"][..], &comm].concat()).ok(), "cat");
    // In another's pid namespace nobody could be its init.
    assert_ne!(bed.docker(&[&["run", "--rm", "--pid=host"][..], &comm].concat()).ok(), "docker-init");
    bed.finish();
}
