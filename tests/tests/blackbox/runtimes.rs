// SPDX-License-Identifier: Apache-2.0
//! Any OCI runtime can stand in for the launcher, through the same shim. The set-up script installs both.

use berth_tests::harness::{Bed, Options};

fn in_place_of_the_launcher(program: &str) {
    let flags = vec!["--add-runtime".to_owned(), format!("other={program}")];
    let mut bed = Bed::with(Options { flags, ..Options::default() });
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let run = |bed: &Bed, args: &[&str]| {
        // crun 1.8 cannot write "no limit" on cgroup v1.
        let mut all = vec!["run", "--rm", "--runtime", "other", "--pids-limit", "1000"];
        all.extend(args);
        bed.docker(&all)
    };
    let script = "echo $$; head -n 1 /etc/os-release";
    assert_eq!(run(&bed, &["busybox", "sh", "-c", script]).ok(), "1\nPRETTY_NAME=\"Fixture Linux\"");
    assert_eq!(run(&bed, &["busybox", "sh", "-c", "exit 21"]).code, 21);
    assert_eq!(run(&bed, &["-u", "app", "busybox", "id", "-u"]).ok(), "1000");
    let missing = run(&bed, &["busybox", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "long",
        "--runtime",
        "other",
        "--pids-limit",
        "1000",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", "long"]).ok(), "other");
    let exec = ["exec", "long", "sh", "-c", "echo in; grep Seccomp: /proc/self/status"];
    assert_eq!(bed.docker(&exec).ok(), "in\nSeccomp:\t2");
    bed.kill_daemon();
    bed.start_daemon();
    assert_eq!(bed.docker(&exec).ok(), "in\nSeccomp:\t2", "after the daemon's death");
    bed.docker(&["stop", "-t", "1", "long"]).ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.ExitCode}}", "long"]).ok(), "137");
    let unknown = bed.docker(&["run", "--runtime", "nosuch", "busybox", "true"]);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.stderr.contains("nosuch"), "{}", unknown.stderr);
    bed.finish();
}

#[test]
fn runc() {
    in_place_of_the_launcher("runc");
}

#[test]
fn crun() {
    in_place_of_the_launcher("crun");
}
