// SPDX-License-Identifier: Apache-2.0
//! What is done to a running container's cgroup, on whatever hierarchy the host has and whoever lays it out: live
//! limits, statistics, freezing, and nothing left when it is killed.

use std::path::PathBuf;

use berth_tests::harness::{Bed, until};

/// The directory of a container's group in the hierarchy of a controller, as the host sees it.
fn group(bed: &Bed, container: &str, controller: &str) -> PathBuf {
    let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
        if controllers.split(',').any(|name| name == controller) {
            let mount = PathBuf::from("/sys/fs/cgroup").join(controllers);
            let mount = if mount.exists() { mount } else { PathBuf::from("/sys/fs/cgroup").join(controller) };
            return mount.join(&path[1..]);
        }
    }
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    PathBuf::from("/sys/fs/cgroup").join(unified)
}

/// A value of the group: the unified hierarchy's file, or version 1's.
fn value(bed: &Bed, container: &str, controller: &str, v2: &str, v1: &str) -> String {
    let group = group(bed, container, controller);
    let text = std::fs::read_to_string(group.join(v2)).or_else(|_| std::fs::read_to_string(group.join(v1)));
    text.unwrap_or_else(|e| panic!("{}: {e}", group.display())).trim().to_owned()
}

#[test]
fn limits_change_while_it_runs() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let limits = ["-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "50"];
    let mut args = vec!["run", "-d", "--name", "box"];
    args.extend(limits);
    args.extend(["busybox", "sleep", "1000"]);
    bed.docker(&args).ok();
    let memory = || value(&bed, "box", "memory", "memory.max", "memory.limit_in_bytes");
    let pids = || value(&bed, "box", "pids", "pids.max", "pids.max");
    let cpu = || value(&bed, "box", "cpu", "cpu.max", "cpu.cfs_quota_us");
    assert_eq!((memory().as_str(), pids().as_str()), ("67108864", "50"));
    assert!(["50000", "50000 100000"].contains(&cpu().as_str()), "{}", cpu());
    // The CPU settings are told anew together: period and quota in place of a number of CPUs.
    bed.docker(&[
        "update",
        "-m",
        "96m",
        "--memory-swap",
        "192m",
        "--cpus",
        "1.5",
        "--pids-limit",
        "70",
        "box",
    ])
    .ok();
    assert_eq!((memory().as_str(), pids().as_str()), ("100663296", "70"));
    assert!(["150000", "150000 100000"].contains(&cpu().as_str()), "{}", cpu());
    let told = bed.docker(&["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", "box"]).ok();
    assert_eq!(told, "100663296 70");
    bed.docker(&["rm", "-f", "box"]).ok();
    bed.finish();
}

#[test]
fn statistics_are_the_groups() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo worked; exec sleep 1000";
    bed.docker(&["run", "-d", "--name", "box", "-m", "64m", "busybox", "sh", "-c", work]).ok();
    until("the work is done", || bed.docker(&["logs", "box"]).ok().contains("worked").then_some(()));
    let stats = bed.api("GET", "/v1.50/containers/box/stats?stream=false&one-shot=true", "").json();
    let number = |path: &str| stats.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or(0);
    assert!(number("/cpu_stats/cpu_usage/total_usage") > 10_000_000, "{stats}");
    assert!(number("/memory_stats/usage") > 0, "{stats}");
    assert_eq!(number("/memory_stats/limit"), 64 << 20, "{stats}");
    assert_eq!(number("/pids_stats/current"), 1, "{stats}");
    bed.docker(&["rm", "-f", "box"]).ok();
    bed.finish();
}

#[test]
fn what_is_paused_stands_still_until_it_is_killed() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "while :; do :; done"]).ok();
    let frozen = || {
        let group = group(&bed, "box", "freezer");
        let v1 = std::fs::read_to_string(group.join("freezer.state"));
        v1.map_or_else(
            |_| std::fs::read_to_string(group.join("cgroup.events")).unwrap().contains("frozen 1"),
            |state| state.trim() == "FROZEN",
        )
    };
    assert!(!frozen());
    bed.docker(&["pause", "box"]).ok();
    assert!(frozen());
    assert_eq!(
        bed.docker(&["inspect", "-f", "{{.State.Status}} {{.State.Paused}}", "box"]).ok(),
        "paused true"
    );
    let refused = bed.docker(&["exec", "box", "true"]).fails(1);
    assert!(refused.contains("is paused, unpause the container before exec"), "{refused}");
    bed.docker(&["unpause", "box"]).ok();
    assert!(!frozen());
    bed.docker(&["pause", "box"]).ok();
    bed.docker(&["kill", "box"]).ok();
    assert_eq!(bed.docker(&["wait", "box"]).ok(), "137");
    bed.docker(&["rm", "box"]).ok();
    bed.finish();
}

#[test]
fn children_in_the_hosts_pid_namespace_end_with_the_container() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & echo $!; exec sleep 1000";
    bed.docker(&["run", "-d", "--name", "box", "--pid", "host", "busybox", "sh", "-c", script]).ok();
    let child = until("the child is there", || {
        let log = bed.docker(&["logs", "box"]).ok();
        log.trim().parse::<u32>().ok()
    });
    assert!(std::fs::exists(format!("/proc/{child}")).unwrap());
    bed.docker(&["kill", "box"]).ok();
    bed.docker(&["wait", "box"]).ok();
    until("the child has ended", || (!std::fs::exists(format!("/proc/{child}")).unwrap()).then_some(()));
    bed.docker(&["rm", "box"]).ok();
    bed.finish();
}

#[test]
fn with_systemd_a_container_is_a_unit() {
    let bed = Bed::start();
    let driver = bed.docker(&["info", "-f", "{{.CgroupDriver}}"]).ok();
    if driver != "systemd" {
        assert_eq!(driver, "cgroupfs");
        bed.finish();
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let id = bed.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let found = group(&bed, "box", "memory");
    let (kind, prefix) = if bed.is_ours() { ("/container", "berth") } else { ("", "docker") };
    let unit = format!("{prefix}-{id}.scope");
    assert!(found.to_string_lossy().ends_with(&format!(".slice/{unit}{kind}")), "{}", found.display());
    let refused = bed.docker(&["run", "--cgroup-parent", "/x", "busybox", "true"]).fails(125);
    assert!(refused.contains("should be a valid slice named as \"xxx.slice\""), "{refused}");
    bed.docker(&["kill", "box"]).ok();
    bed.docker(&["wait", "box"]).ok();
    let scope = found.ancestors().find(|p| p.ends_with(&unit)).unwrap().to_owned();
    until("systemd has removed the scope", || (!scope.exists()).then_some(()));
    bed.docker(&["rm", "box"]).ok();
    if bed.is_ours() {
        // A unit of the same name may not be gone yet: the start waits for its end.
        let id = bed.docker(&["create", "--name", "next", "busybox", "true"]).ok();
        let mut other = std::process::Command::new("systemd-run")
            .args(["--scope", "--quiet", "--collect", &format!("--unit=berth-{id}.scope"), "sleep", "2"])
            .spawn()
            .unwrap();
        let unit = format!("/sys/fs/cgroup/system.slice/berth-{id}.scope");
        until("the other unit is there", || std::path::Path::new(&unit).exists().then_some(()));
        bed.docker(&["start", "-a", "next"]).ok();
        assert!(other.try_wait().unwrap().is_some(), "it did not wait");
        bed.docker(&["rm", "next"]).ok();
    }
    bed.finish();
}

/// A daemon that is told to lay cgroups out elsewhere still finds those that are there, and what it starts is where it is told.
#[test]
fn a_group_stays_where_it_was_made() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "one", "--memory", "64m", "busybox", "sleep", "1000"]).ok();
    let before = group(&bed, "one", "memory");
    bed.kill_daemon();
    let old = bed.move_cgroups();
    bed.start_daemon();
    assert_eq!(group(&bed, "one", "memory"), before);
    assert!(bed.docker(&["top", "one"]).ok().contains("sleep 1000"));
    let sample = bed.api("GET", "/containers/one/stats?stream=0&one-shot=1", "").json();
    assert_eq!(sample["memory_stats"]["limit"], 64 << 20, "{sample}");
    bed.docker(&["update", "--memory", "96m", "--memory-swap", "-1", "one"]).ok();
    let sample = bed.api("GET", "/containers/one/stats?stream=0&one-shot=1", "").json();
    assert_eq!(sample["memory_stats"]["limit"], 96 << 20, "{sample}");
    bed.docker(&["restart", "-t", "0", "one"]).ok();
    assert!(!group(&bed, "one", "memory").starts_with(before.parent().unwrap()));
    until("the old group is gone", || (!before.exists()).then_some(()));
    assert!(bed.docker(&["top", "one"]).ok().contains("sleep 1000"));
    bed.docker(&["rm", "-f", "one"]).ok();
    bed.forget_cgroups(&old);
    bed.finish();
}
