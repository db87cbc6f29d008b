// SPDX-License-Identifier: Apache-2.0
//! What broke out of other runtimes, or became root in them.

use berth_tests::harness::Bed;

#[test]
fn numeric_users_are_numbers() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    // A line whose name is a number must not make that uid root (CVE-2016-3697, CVE-2026-46680).
    let passwd = bed.path().join("passwd");
    std::fs::write(&passwd, "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n99999999999:x:0:0::/:/bin/sh\n")
        .unwrap();
    let passwd = passwd.to_str().unwrap();
    for (user, code) in [("1000", 0), ("99999999999", 1)] {
        let name = format!("user-{user}");
        bed.docker(&["create", "--name", &name, "-u", user, "busybox", "id", "-u"]).ok();
        bed.docker(&["cp", passwd, &format!("{name}:/etc/passwd")]).ok();
        let out = bed.docker(&["start", "-a", &name]);
        assert_eq!(out.code, code, "{out:?}");
        assert_eq!(out.stdout.trim(), if code == 0 { user } else { "" });
    }
    // Nor may one that does not fit wrap to 0 (CVE-2024-40635).
    for user in ["2147483648", "4294967296", "-1", "4294967295:0", "0:4294967296"] {
        let out = bed.docker(&["run", "--rm", "-u", user, "busybox", "id", "-u"]);
        assert_ne!(out.code, 0, "{user}: {out:?}");
    }
    bed.finish();
}

#[test]
fn a_working_directory_leads_nowhere_else() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "runs", "busybox", "sleep", "1000"]).ok();
    // Descriptors that the runtime left open were a way to the host (CVE-2024-21626).
    for n in 3..20 {
        let dir = format!("/proc/self/fd/{n}");
        for out in [
            bed.docker(&[
                "run",
                "--rm",
                "-w",
                &dir,
                "busybox",
                "cat",
                "./etc/machine-id",
                "../../../etc/shadow",
            ]),
            bed.docker(&["exec", "-w", &dir, "runs", "ls", "../../../var/tmp"]),
        ] {
            assert!(!out.stdout.contains("berth-test-"), "{dir}: {out:?}");
            assert_ne!(out.code, 0, "{dir}: {out:?}");
        }
    }
    bed.docker(&["rm", "-f", "runs"]).ok();
    bed.finish();
}

#[test]
fn no_capability_is_inherited() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "runs", "--cap-add", "SYS_ADMIN", "busybox", "sleep", "1000"]).ok();
    // CVE-2022-24769 and its kin.
    for args in [&["exec", "runs"][..], &["exec", "--privileged", "runs"], &["exec", "-u", "1000", "runs"]] {
        let seen = bed.docker(&[args, &["grep", "-E", "^Cap(Inh|Amb)", "/proc/self/status"]].concat()).ok();
        assert_eq!(seen, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000", "{args:?}");
    }
    bed.docker(&["rm", "-f", "runs"]).ok();
    bed.finish();
}

#[test]
fn sysctls_say_what_they_say() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    for sysctl in [
        "kernel.core_pattern=|/x",
        "net.ipv4.ip_forward+kernel.core_pattern=1",
        "net.ipv4.ip_forward\n=1",
        "net.ipv4/../../kernel/core_pattern=x",
        "net.ipv4.ip_forward=1\nkernel.core_pattern=x",
    ] {
        let out = bed.docker(&["run", "--rm", "--sysctl", sysctl, "busybox", "true"]);
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        assert!(!pattern.contains("|/x") && pattern.trim() != "x", "{sysctl}: {pattern}");
        // The reference takes a value with a newline, and the kernel its first line.
        assert!(out.code != 0 || sysctl.ends_with("core_pattern=x"), "{sysctl}: {out:?}");
    }
    let out =
        bed.docker(&["run", "--rm", "--net", "host", "--sysctl", "net.ipv4.ip_forward=1", "busybox", "true"]);
    assert_ne!(out.code, 0, "the host's network is not the container's to set");
    bed.finish();
}

/// What a container may not see is covered by the host's own /dev/null, whatever the image or a volume calls that
/// (CVE-2025-31133, CVE-2025-52881): else the host's settings would be mounted there, writable.
#[test]
fn a_null_device_that_leads_elsewhere_covers_nothing_else() {
    const TRAP: &str = "/proc/sys/kernel/core_pattern";
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let before = std::fs::read_to_string(TRAP).unwrap();
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do test -e $f && stat -c '%t:%T' $f; done;
        for d in /proc/acpi /proc/scsi /sys/firmware; do ls -A $d 2>/dev/null; touch $d/x 2>/dev/null && echo made; done;
        (echo hacked > /proc/sys/kernel/core_pattern) 2>/dev/null && echo written; echo done";
    let check = |out: &berth_tests::harness::Output, must_start: bool| {
        if out.code == 0 {
            let odd: Vec<&str> = out.stdout.lines().filter(|line| !["1:3", "done"].contains(line)).collect();
            assert!(odd.is_empty() && out.stdout.ends_with("done\n"), "{out:?}");
            assert!(out.stdout.contains("1:3"), "nothing is covered: {out:?}");
        } else {
            assert!(!must_start, "{out:?}");
        }
        assert_eq!(std::fs::read_to_string(TRAP).unwrap(), before);
    };

    // In the image.
    let dev = bed.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    std::os::unix::fs::symlink(TRAP, dev.join("null")).unwrap();
    bed.docker(&["create", "--name", "image", "busybox", "sh", "-c", script]).ok();
    bed.docker(&["cp", dev.to_str().unwrap(), "image:/"]).ok();
    check(&bed.docker(&["start", "-a", "image"]), true);

    // In a volume over /dev, while another container changes it all the time.
    bed.docker(&["volume", "create", "shared"]).ok();
    let swap = format!("while :; do ln -sfn {TRAP} /d/null; rm -f /d/null; : > /d/null; rm -f /d/null; done");
    bed.docker(&["run", "-d", "--name", "swapper", "-v", "shared:/d", "busybox", "sh", "-c", &swap]).ok();
    for _ in 0..20 {
        let out = bed.docker(&["run", "--rm", "-v", "shared:/dev", "busybox", "sh", "-c", script]);
        // Such a start may fail, but not succeed with less covered.
        check(&out, false);
    }
    bed.docker(&["rm", "-f", "swapper"]).ok();
    bed.finish();
}
