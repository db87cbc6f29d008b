// SPDX-License-Identifier: Apache-2.0
//! What a container is asked to be, and what it then finds itself to be: a row for each setting that other tests leave out.

use berth_tests::harness::Bed;

/// Whether the host's CPU controller is on a hierarchy of version 1.
fn version_1() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cpu/cpu.shares").exists()
}

fn namespace(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn a_container_is_as_it_was_asked_to_be() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let (host_ipc, host_pid) = (namespace("ipc"), namespace("pid"));
    let v1 = version_1();
    let mine = std::fs::read_to_string("/proc/self/status").unwrap();
    let mine = mine.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    // Without SYS_ADMIN.
    let all_but_one = format!("{:016x}", u64::from_str_radix(mine, 16).unwrap() & !(1 << 21));
    let by_version = |one: &'static str, two: &'static str| if v1 { one } else { two };
    let status = |field: &str| format!("grep {field}: /proc/self/status | tr -d '\\t'");
    let somebody = "id -u; id -g; id -G";
    let rows: Vec<(&[&str], String, &str)> = vec![
        (
            &["--group-add", "4000", "--group-add", "5000"],
            "id -G | tr ' ' '\\n' | grep 000".into(),
            "4000\n5000",
        ),
        (&["-u", "7:8", "--group-add", "9"], somebody.into(), "7\n8\n8 9"),
        (&["--uts", "host"], "hostname".into(), &hostname),
        (&["-h", "hh", "--domainname", "dd"], "hostname; cat /proc/sys/kernel/domainname".into(), "hh\ndd"),
        (&["--cgroupns", "private"], "cut -d: -f3 /proc/self/cgroup | sort -u".into(), "/"),
        (&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn".into(), "100\n200"),
        (&["--ulimit", "core=0"], "ulimit -c; ulimit -Hc".into(), "0\n0"),
        (
            &["--device", "/dev/fuse:/dev/f:r"],
            "stat -c '%F %t:%T' /dev/f; : > /dev/f".into(),
            "character special file a:e5\n! Operation not permitted",
        ),
        (
            &["--device-cgroup-rule", "c 1:11 r"],
            "mknod /k c 1 11; : < /k; : > /k".into(),
            "! Operation not permitted",
        ),
        (
            &["--security-opt", "systempaths=unconfined"],
            "stat -c %t:%T /proc/timer_list; grep -c ' /proc/' /proc/mounts".into(),
            "0:0\n0",
        ),
        (&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj".into(), "500"),
        (&["--cpuset-cpus", "0"], status("Cpus_allowed_list"), "Cpus_allowed_list:0"),
        (
            &["--cpu-shares", "512"],
            by_version("cat /sys/fs/cgroup/cpu/cpu.shares", "cat /sys/fs/cgroup/cpu.weight").into(),
            by_version("512", "20"),
        ),
        (
            &["--cpu-period", "50000", "--cpu-quota", "25000"],
            by_version(
                "cd /sys/fs/cgroup/cpu; echo $(cat cpu.cfs_quota_us cpu.cfs_period_us)",
                "cat /sys/fs/cgroup/cpu.max",
            )
            .into(),
            "25000 50000",
        ),
        (
            &["-m", "64m", "--memory-reservation", "32m"],
            by_version(
                "cat /sys/fs/cgroup/memory/memory.soft_limit_in_bytes",
                "cat /sys/fs/cgroup/memory.low",
            )
            .into(),
            "33554432",
        ),
        (&["--add-host", "a.b:1.2.3.4"], "grep a.b /etc/hosts".into(), "1.2.3.4\ta.b"),
        (
            &["--dns", "9.9.9.9", "--dns-search", "x.y", "--dns-opt", "ndots:3"],
            "grep '^[a-z]' /etc/resolv.conf".into(),
            "nameserver 9.9.9.9\nsearch x.y\noptions ndots:3",
        ),
        (&["--shm-size", "32m"], "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2".into(), "32768"),
        (
            &["--tmpfs", "/t:size=1m,mode=700"],
            "stat -c %a /t; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2".into(),
            "700\n1024",
        ),
        (&["--read-only"], "touch /x".into(), "! Read-only file system"),
        (&["--ipc", "none"], "grep -c /dev/shm /proc/mounts".into(), "0"),
        (&["--ipc", "host"], "readlink /proc/self/ns/ipc".into(), &host_ipc),
        (&["--pid", "host"], "readlink /proc/self/ns/pid".into(), &host_pid),
        (&["--security-opt", "no-new-privileges"], status("NoNewPrivs"), "NoNewPrivs:1"),
        (&["--security-opt", "seccomp=unconfined"], status("Seccomp"), "Seccomp:0"),
        (&["--cap-drop", "ALL", "--cap-add", "CHOWN"], status("CapEff"), "CapEff:0000000000000001"),
        (
            &["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"],
            "grep CapBnd /proc/self/status | cut -f2".into(),
            &all_but_one,
        ),
        (&["-w", "/a/b"], "pwd".into(), "/a/b"),
        (&["--sysctl", "net.core.somaxconn=99"], "cat /proc/sys/net/core/somaxconn".into(), "99"),
        (&["--userns", "host"], "tr -s ' ' < /proc/self/uid_map".into(), " 0 0 4294967295"),
        (&["-e", "A=b", "-e", "PATH=/bin"], "echo $A $PATH".into(), "b /bin"),
    ];
    let mut wrong = Vec::new();
    for (args, script, wanted) in &rows {
        let out = bed.docker(&[&["run", "--rm"][..], args, &["busybox", "sh", "-c", script]].concat());
        // The end of the shell's complaint, behind what it said before.
        let complaint = out.stderr.trim().rsplit(": ").next().filter(|text| !text.is_empty());
        let said =
            [Some(out.stdout.trim_end_matches('\n').to_owned()), complaint.map(|text| format!("! {text}"))];
        let said = said.into_iter().flatten().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
        if said != *wanted {
            wrong.push(format!("{args:?}: {said:?}, not {wanted:?}"));
        }
    }
    if v1 {
        let args = [
            "run",
            "--rm",
            "--oom-kill-disable",
            "-m",
            "64m",
            "--memory-swappiness",
            "10",
            "busybox",
            "sh",
            "-c",
            "cd /sys/fs/cgroup/memory; head -1 memory.oom_control; cat memory.swappiness",
        ];
        let said = bed.docker(&args).ok();
        if said != "oom_kill_disable 1\n10" {
            wrong.push(format!("oom: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let id = bed
        .docker(&[
            "create",
            "--annotation",
            "a.b/c=d",
            "--stop-timeout",
            "3",
            "--stop-signal",
            "USR1",
            "busybox",
        ])
        .ok();
    let seen = bed.api("GET", &format!("/containers/{id}/json"), "").json();
    assert_eq!(seen["HostConfig"]["Annotations"], serde_json::json!({"a.b/c": "d"}));
    assert_eq!((&seen["Config"]["StopTimeout"], &seen["Config"]["StopSignal"]), (&3.into(), &"USR1".into()));
    bed.finish();
}

#[test]
fn namespaces_of_other_containers_are_joined() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let donor = ["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000"];
    bed.docker(&donor).ok();
    bed.docker(&["exec", "donor", "touch", "/dev/shm/shared"]).ok();
    bed.docker(&["run", "-d", "--name", "miser", "--ipc", "private", "busybox", "sleep", "1000"]).ok();
    let links = "for n in ipc pid net uts; do readlink /proc/self/ns/$n; done";
    let of = |args: &[&str]| -> Vec<String> {
        bed.docker(&[args, &["sh", "-c", links]].concat()).ok().lines().map(str::to_owned).collect()
    };
    let theirs = of(&["exec", "donor"]);
    for (number, flag) in ["--ipc", "--pid", "--network"].into_iter().enumerate() {
        let ours = of(&["run", "--rm", flag, "container:donor", "busybox"]);
        let same: Vec<bool> = theirs.iter().zip(&ours).map(|(a, b)| a == b).collect();
        let wanted: Vec<bool> = (0..4).map(|n| n == number).collect();
        assert_eq!(same, wanted, "{flag}: {theirs:?} {ours:?}");
    }
    bed.docker(&["run", "--rm", "--ipc", "container:donor", "busybox", "test", "-e", "/dev/shm/shared"]).ok();
    let seen = bed.docker(&["run", "--rm", "--pid", "container:donor", "busybox", "ps"]).ok();
    assert!(seen.contains("sleep 1000"), "{seen}");
    let told = bed.docker(&["run", "--rm", "--ipc", "container:miser", "busybox", "true"]).fails(125);
    assert!(told.contains("non-shareable IPC"), "{told}");
    let told = bed.docker(&["run", "--rm", "--pid", "container:nobody", "busybox", "true"]).fails(125);
    assert!(told.contains("No such container: nobody"), "{told}");
    bed.docker(&["stop", "-t", "0", "donor"]).ok();
    let told = bed.docker(&["run", "--rm", "--pid", "container:donor", "busybox", "true"]).fails(125);
    assert!(told.contains("is not running"), "{told}");
    bed.finish();
}
