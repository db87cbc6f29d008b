// SPDX-License-Identifier: Apache-2.0
//! The default security posture, seen from inside a container.

use berth_tests::harness::Bed;

fn sh(bed: &Bed, flags: &[&str], script: &str) -> String {
    let mut args = vec!["run", "--rm"];
    args.extend(flags);
    args.extend(["busybox", "sh", "-c", script]);
    bed.docker(&args).ok()
}

#[test]
fn capabilities_seccomp_and_descriptors() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let status = sh(&bed, &[], "cat /proc/self/status");
    // The fourteen of attacks.md, 4.1: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP
    // NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    let status = sh(&bed, &["-u", "1000"], "grep ^Cap /proc/self/status");
    for line in ["CapInh:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    assert!(sh(&bed, &["--cap-drop", "ALL"], "grep CapBnd /proc/self/status").ends_with("0000000000000000"));
    assert!(
        sh(&bed, &["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status")
            .ends_with('1')
    );
    // ls opens the folder itself as descriptor 3.
    assert_eq!(sh(&bed, &[], "exec ls /proc/self/fd"), "0\n1\n2\n3");
    bed.finish();
}

#[test]
fn kernel_interfaces_are_masked_or_read_only() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    assert_eq!(
        sh(
            &bed,
            &[],
            "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l"
        ),
        "0\n0"
    );
    for target in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/profiling",
    ] {
        let out = bed.docker(&["run", "--rm", "busybox", "sh", "-c", &format!("echo x >{target}")]);
        assert_ne!(out.code, 0, "{target} could be written");
        assert!(
            out.stderr.contains("Read-only file system") || out.stderr.contains("nonexistent"),
            "{}",
            out.stderr
        );
    }
    assert!(sh(&bed, &[], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").ends_with('0'));
    bed.finish();
}

#[test]
fn namespaces_and_devices_are_its_own() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let inside = sh(&bed, &[], "for n in mnt net uts pid ipc; do readlink /proc/self/ns/$n; done");
    for line in inside.lines() {
        let kind = line.split(':').next().unwrap();
        let outside = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(line, outside.to_string_lossy(), "{kind} is shared with the host");
    }
    let devices = sh(
        &bed,
        &[],
        "ls /dev; stat -c '%t:%T %a' /dev/null; mknod /tmp/sda b 8 0 && cat /tmp/sda 2>&1 | head -c 80",
    );
    for name in ["full", "null", "ptmx", "pts", "random", "shm", "stdout", "tty", "urandom", "zero"] {
        assert!(devices.lines().any(|l| l == name), "{name} is not in {devices}");
    }
    assert!(devices.contains("1:3 666"), "{devices}");
    assert!(devices.contains("Operation not permitted"), "the host's disk could be opened: {devices}");
    assert_eq!(sh(&bed, &[], "mount -t tmpfs x /tmp 2>&1 | grep -c 'ermission denied\\|not permitted'"), "1");
    bed.finish();
}

#[test]
fn privileged_lifts_it_when_asked() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let out = sh(
        &bed,
        &["--privileged"],
        "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp && echo mounted",
    );
    assert!(out.contains("Seccomp:\t0") && out.contains("mounted"), "{out}");
    bed.finish();
}

#[test]
fn other_users_cannot_look_into_the_data_root() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["run", "--name", "xx", "busybox", "true"]).ok();
    for (dir, most) in [
        (bed.data_root(), 0o711),
        (bed.data_root().join("containers"), 0o710),
        (bed.data_root().join("layers"), 0o710),
    ] {
        let mode = std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !most, 0, "{} has mode {mode:o}", dir.display());
    }
    let socket = std::fs::metadata(bed.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(socket, 0o660);
    bed.finish();
}
