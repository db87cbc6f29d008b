// SPDX-License-Identifier: Apache-2.0
//! Limits that bite.

use berth_tests::harness::Bed;

#[test]
fn memory_cpu_and_pids_are_in_the_cgroup() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null;
        cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null;
        cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; true";
    let args =
        ["run", "--rm", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "sh", "-c", script];
    let out = bed.docker(&args).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["67108864", "50"], "{out}");
    assert!(["50000", "50000 100000"].contains(&lines[2]), "{out}");
    bed.finish();
}

#[test]
fn a_fork_bomb_ends_at_the_pids_limit() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script = "n=0; while [ $n -lt 40 ]; do sleep 100 & n=$((n+1)); done; echo all started";
    let out = bed.docker(&["run", "--rm", "--pids-limit", "20", "busybox", "sh", "-c", script]);
    assert!(out.stderr.contains("can't fork"), "{out:?}");
    assert_ne!(out.code, 0);
    bed.finish();
}

#[test]
fn out_of_memory_is_told() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script = "x=x; while :; do x=$x$x; done";
    let out = bed.docker(&["run", "--name", "oom", "-m", "8m", "busybox", "sh", "-c", script]);
    assert_eq!(out.code, 137, "{out:?}");
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.OOMKilled}}", "oom"]).ok(), "true");
    bed.finish();
}
