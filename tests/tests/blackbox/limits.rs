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

/// Whether the CPU hierarchy shares out realtime.
fn has_realtime() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists()
}

#[test]
fn realtime_is_shared_out_where_the_kernel_does_that() {
    let flags = ["--cpu-rt-runtime", "200000", "--cpu-rt-period", "1000000"];
    let flags = if has_realtime() { flags.map(str::to_owned).into() } else { Vec::new() };
    let bed = Bed::with(berth_tests::harness::Options { flags, ..Default::default() });
    bed.docker(&["pull", "busybox"]).ok();
    let refused = |limits: serde_json::Value, words: &str| {
        let body = serde_json::json!({"Image": "busybox", "HostConfig": limits});
        let answer = bed.api("POST", "/containers/create", &body.to_string());
        assert_eq!((answer.status, answer.message()), (400, words.to_owned()));
    };
    let limits = serde_json::json!({"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 1001});
    if !has_realtime() {
        refused(limits, "kernel does not support CPU real-time scheduler");
        bed.finish();
        return;
    }
    refused(limits, "cpu real-time runtime cannot be higher than cpu real-time period");
    // The reference on this machine was not started with realtime to share out.
    if bed.is_ours() {
        let files =
            "cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us /sys/fs/cgroup/cpu/cpu.rt_period_us; exec sleep 1000";
        let has = ["run", "-d", "--name", "has", "--cpu-rt-runtime", "50000", "--cpu-rt-period", "500000"];
        bed.docker(&[&has[..], &["busybox", "sh", "-c", files]].concat()).ok();
        bed.docker(&["run", "-d", "--name", "hasnot", "busybox", "sleep", "1000"]).ok();
        berth_tests::harness::until("it has looked", || {
            (bed.docker(&["logs", "has"]).ok() == "50000\n500000").then_some(())
        });
        // The kernel lets a process into realtime if its group has some.
        let enter = |name: &str| {
            let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
            std::process::Command::new("chrt")
                .args(["-f", "-p", "5", &pid])
                .output()
                .unwrap()
                .status
                .success()
        };
        assert!(enter("has"));
        assert!(!enter("hasnot"));
        bed.docker(&["rm", "-f", "has", "hasnot"]).ok();
        bed.docker(&["run", "-d", "--name", "box", "--cpu-rt-runtime", "10000", "busybox", "sleep", "1000"])
            .ok();
        bed.docker(&["update", "--cpu-rt-runtime", "20000", "box"]).ok();
        let has = bed.docker(&["exec", "box", "cat", "/sys/fs/cgroup/cpu/cpu.rt_runtime_us"]).ok();
        assert_eq!(has, "20000");
        // More than all may have together.
        let told = bed.docker(&["run", "--rm", "--cpu-rt-runtime", "300000", "busybox", "true"]).fails(125);
        assert!(told.contains("cpu.rt_runtime_us"), "{told}");
    }
    bed.finish();
}
