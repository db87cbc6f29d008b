// SPDX-License-Identifier: Apache-2.0
//! Any OCI runtime can stand in for the launcher, through the same shim.

use berth_tests::fixtures;
use berth_tests::harness::{Bed, Options};

#[test]
fn runc_in_place_of_the_launcher() {
    let runc = fixtures::ensure().join("bin/runc");
    let flags = vec!["--add-runtime".to_owned(), format!("other={}", runc.display())];
    let bed = Bed::with(Options { flags, ..Options::default() });
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--rm", "--runtime", "other"];
        all.extend(args);
        bed.docker(&all)
    };
    assert_eq!(
        run(&["busybox", "sh", "-c", "echo $$; hostname >/dev/null; cat /etc/os-release | head -n 1"]).ok(),
        "1\nPRETTY_NAME=\"Fixture Linux\""
    );
    assert_eq!(run(&["busybox", "sh", "-c", "exit 21"]).code, 21);
    assert_eq!(run(&["-u", "app", "busybox", "id", "-u"]).ok(), "1000");
    let missing = run(&["busybox", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "long",
        "--runtime",
        "other",
        "-p",
        "8080:80",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", "long"]).ok(), "other");
    assert_eq!(
        bed.docker(&["exec", "long", "sh", "-c", "echo in; grep Seccomp: /proc/self/status"]).ok(),
        "in\nSeccomp:\t2"
    );
    bed.docker(&["stop", "-t", "1", "long"]).ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.ExitCode}}", "long"]).ok(), "137");
    let unknown = bed.docker(&["run", "--runtime", "nosuch", "busybox", "true"]);
    assert_eq!(unknown.code, 125, "{unknown:?}");
    assert!(unknown.stderr.contains("nosuch"), "{}", unknown.stderr);
    bed.finish();
}
