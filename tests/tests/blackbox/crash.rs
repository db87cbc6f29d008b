// SPDX-License-Identifier: Apache-2.0
//! The daemon dies at any moment; containers, logs, exit codes and names carry on.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use berth_tests::harness::{Bed, Cli, until};

#[test]
fn containers_outlive_the_daemon() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "stays",
        "-p",
        "8080:80",
        "busybox",
        "sh",
        "-c",
        "n=0; while :; do n=$((n+1)); echo tick $n; usleep 20000; done",
    ])
    .ok();
    let reads = "until read -t 1 x; do echo waiting; done; echo got $x; exit 33";
    bed.docker(&["run", "-d", "-i", "--name", "ends", "busybox", "sh", "-c", reads]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "removed",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 4' TERM; while :; do usleep 10000; done",
    ])
    .ok();
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "stays"]).ok();
    let removed_pid: i32 = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "removed"]).ok().parse().unwrap();
    let address =
        bed.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "stays"]).ok();

    // An attached session survives, because its connection is the shim's.
    let mut attached = bed
        .command(Cli::Docker, &["attach", "ends"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut attached_in = attached.stdin.take().unwrap();
    let mut attached_out = BufReader::new(attached.stdout.take().unwrap()).lines();
    assert_eq!(attached_out.next().unwrap().unwrap(), "waiting", "the attachment is there");
    let ends_pid: i32 = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "ends"]).ok().parse().unwrap();
    bed.kill_daemon();
    writeln!(attached_in, "hello").unwrap();
    let last = attached_out.map(|line| line.unwrap()).find(|line| line != "waiting");
    assert_eq!(last.as_deref(), Some("got hello"), "the attached session goes on without the daemon");
    until("the container ends while there is no daemon", || (!rustix_alive(ends_pid)).then_some(()));
    let pid_of = |p: i32| rustix_alive(p);
    rustix_kill(removed_pid);
    until("the container that was told to end has ended", || (!pid_of(removed_pid)).then_some(()));
    bed.start_daemon();

    assert_eq!(
        bed.docker(&["inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "stays"]).ok(),
        format!("{pid} true")
    );
    assert_eq!(
        bed.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "stays"]).ok(),
        address
    );
    assert_eq!(bed.docker(&["wait", "ends"]).ok(), "33");
    assert!(bed.docker(&["logs", "ends"]).ok().ends_with("got hello"));
    until("--rm is finished", || {
        (!bed
            .docker(&["ps", "-a", "-q", "--filter", "name=removed"])
            .ok()
            .contains(|c: char| c.is_ascii_hexdigit()))
        .then_some(())
    });

    let mut logs =
        bed.command(Cli::Docker, &["logs", "-f", "-n", "1", "stays"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        assert!(lines.next().unwrap().unwrap().starts_with("tick "));
    }
    logs.kill().unwrap();
    logs.wait().unwrap();
    assert_eq!(bed.docker(&["exec", "stays", "echo", "exec works"]).ok(), "exec works");
    // So does a new attachment.
    let mut again =
        bed.command(Cli::Docker, &["attach", "--no-stdin", "stays"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(again.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("tick "));
    again.kill().unwrap();
    again.wait().unwrap();
    // A second container gets another address: the first one's is remembered.
    bed.docker(&["run", "-d", "--name", "second", "busybox", "sleep", "1000"]).ok();
    assert_ne!(
        bed.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "second"]).ok(),
        address
    );
    // Its port is still its own.
    assert_eq!(
        bed.docker(&["run", "-d", "--name", "third", "-p", "8080:80", "busybox", "sleep", "1000"]).code,
        125
    );
    bed.docker(&["stop", "-t", "1", "stays"]).ok();
    drop(attached_in);
    attached.wait().unwrap();
    bed.finish();
}

fn rustix_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

fn rustix_kill(pid: i32) {
    let status = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn sigterm_leaves_containers_running() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok();
    bed.stop_daemon();
    assert!(rustix_alive(pid.parse().unwrap()));
    bed.start_daemon();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok(), pid);
    bed.finish();
}

#[test]
fn one_daemon_per_data_root() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let out = berth_tests::harness::Output::of(&mut bed.daemon_command());
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains(&bed.data_root().display().to_string()), "{out:?}");
    assert_eq!(bed.api("GET", "/_ping", "").status, 200);
    bed.finish();
}

#[test]
fn a_dead_shim_is_noticed() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let id = bed.docker(&["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let pid: i32 = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok().parse().unwrap();
    let pids = std::fs::read_to_string(bed.exec_root().join(format!("containers/{id}/pids.json"))).unwrap();
    let pids: serde_json::Value = serde_json::from_str(&pids).unwrap();
    let status = std::process::Command::new("kill").args(["-9", &pids["shim"].to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(bed.docker(&["wait", "cc"]).ok(), "255");
    until("what ran under it is ended", || (!rustix_alive(pid)).then_some(()));
    bed.docker(&["start", "cc"]).ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Running}}", "cc"]).ok(), "true");
    bed.finish();
}

/// Ten kills at moments that nobody chose, in the middle of pulls, runs and removes.
#[test]
fn ten_kills_at_random_moments() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "anchor", "busybox", "sleep", "100000"]).ok();
    let anchor = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "anchor"]).ok();
    let images = ["redis", "twelve", "nginx", "flask"];
    for round in 0..10u64 {
        let worker = {
            let mut work: Vec<std::process::Command> = Vec::new();
            let image = images[usize::try_from(round).unwrap() % images.len()];
            for args in [
                vec!["rmi", "-f", image],
                vec!["pull", image],
                vec!["run", "--rm", image, "true"],
                vec!["run", "-d", "--name", "w1", "busybox", "sleep", "100000"],
                vec!["run", "--name", "w2", "-v", "v2:/v", "busybox", "true"],
                vec!["rm", "-f", "w1"],
                vec!["rm", "-f", "w2"],
                vec!["run", "-d", "--rm", "-p", "9000-9004:80-84", "busybox", "usleep", "300000"],
            ] {
                let mut command = bed.command(Cli::Docker, &args);
                command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
                work.push(command);
            }
            std::thread::spawn(move || {
                for mut command in work {
                    // Whatever it says: the daemon may be gone.
                    drop(command.status());
                }
            })
        };
        // A moment that differs from run to run.
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        std::thread::park_timeout(std::time::Duration::from_millis(
            u64::from(nanos / 1000 % 1500) + round * 20,
        ));
        bed.kill_daemon();
        worker.join().unwrap();
        bed.start_daemon();
        assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Pid}}", "anchor"]).ok(), anchor, "round {round}");
        // Every container that is said to run has a living init, and every image runs.
        for id in bed.docker(&["ps", "-q", "--no-trunc"]).ok().lines() {
            let out = bed.docker(&["inspect", "-f", "{{.State.Running}} {{.State.Pid}}", id]);
            if let Some(pid) = out.stdout.trim().strip_prefix("true ") {
                let pid: i32 = pid.parse().unwrap();
                until("the container's init lives or its end is known", || {
                    let still =
                        bed.docker(&["inspect", "-f", "{{.State.Running}}", id]).stdout.trim() == "true";
                    (rustix_alive(pid) || !still).then_some(())
                });
            }
        }
        for image in
            bed.docker(&["images", "--format", "{{.Repository}}"]).ok().lines().filter(|i| *i != "<none>")
        {
            assert_eq!(
                bed.docker(&["run", "--rm", "--network", "none", image, "echo", "runs"]).ok(),
                "runs",
                "{image} in round {round}"
            );
        }
        for name in ["w1", "w2"] {
            let gone = bed.api("DELETE", &format!("/containers/{name}?force=1"), "");
            assert!([204, 404].contains(&gone.status), "{}", gone.text());
        }
    }
    bed.finish();
}
