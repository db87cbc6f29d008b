// SPDX-License-Identifier: Apache-2.0
//! The unified layout, for hosts that have another: in a mount namespace of its own with cgroup2 at
//! /sys/fs/cgroup. Controllers may be missing there; what needs none of them is tested.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;

use common::Box;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::json;

fn check(container: &Box, want: &str) {
    let output = container.run().unwrap();
    assert_eq!(output.out, want, "stderr: {} warnings: {:?}", output.err, output.warnings);
}

fn born_in_the_cgroup() {
    let running = Box::new("sleep 1000").start();
    let path = running.container.spec["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
    let mine = fs::read_to_string(format!("/proc/{}/cgroup", running.launched.pid)).unwrap();
    assert!(mine.lines().any(|line| line == format!("0::{path}")), "{mine}");
    assert_eq!(running.launched.cgroup.pids().unwrap(), [running.launched.pid]);
    let output = running.exec(&["grep", "0::", "/proc/self/cgroup"], |_| {}).unwrap();
    assert_eq!(output.out, "0::/\n");
}

fn sees_its_own_cgroup() {
    check(
        &Box::new(
            "grep -c ' /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec' /proc/mounts; cat /sys/fs/cgroup/cgroup.procs | head -1; mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused",
        ),
        "1\n1\nrefused\n",
    );
}

fn devices_by_program() {
    check(
        &Box::new(
            "busybox mknod /tmp/fuse c 10 229; cat /tmp/fuse 2>&1; busybox mknod /tmp/null c 1 3; cat /tmp/null; echo x > /dev/full 2>/dev/null; head -c 1 /dev/zero | wc -c; head -c 1 /dev/kmsg 2>&1; echo end",
        ),
        "cat: can't open '/tmp/fuse': Operation not permitted\n1\nhead: /dev/kmsg: No such file or directory\nend\n",
    );
}

fn freezes_and_kills() {
    let running = Box::new("while true; do true; done").start();
    running.launched.cgroup.freeze(true).unwrap();
    running.launched.cgroup.freeze(true).unwrap();
    running.launched.cgroup.freeze(false).unwrap();
    running.launched.cgroup.freeze(true).unwrap();
}

fn missing_controllers_are_warnings() {
    let output = Box::new("echo ran")
        .with("/linux/resources", json!({"cpu": {"idle": 1}, "memory": {"swappiness": 3}, "hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}))
        .run()
        .unwrap();
    assert_eq!(output.out, "ran\n");
    assert!(output.warnings.iter().any(|warning| warning.contains("swappiness")), "{:?}", output.warnings);
    assert!(output.warnings.iter().any(|warning| warning.contains("hugetlb")), "{:?}", output.warnings);
}

/// What the host mounts later below a shared source appears in a slave volume, and not in a private one.
fn propagation() {
    let volume = tempfile::tempdir().unwrap();
    mount("tmpfs", volume.path(), "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(volume.path(), MountPropagationFlags::SHARED).unwrap();
    fs::create_dir(volume.path().join("late")).unwrap();
    let bind = |to: &str, option: &str| json!({"destination": to, "type": "bind", "source": volume.path(), "options": ["rbind", option]});
    let running = Box::new("sleep 1000")
        .mount(bind("/slave", "rslave"))
        .mount(bind("/private", "rprivate"))
        .with("/linux/rootfsPropagation", json!("rslave"))
        .start();
    mount("tmpfs", volume.path().join("late"), "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(volume.path().join("late/file"), "seen\n").unwrap();
    let output =
        running.exec(&["sh", "-c", "cat /slave/late/file; ls /private/late | wc -l"], |_| {}).unwrap();
    assert_eq!(output.out, "seen\n0\n", "{output:?}");
    drop(running);
    rustix::mount::unmount(volume.path().join("late"), rustix::mount::UnmountFlags::empty()).unwrap();
    rustix::mount::unmount(volume.path(), rustix::mount::UnmountFlags::empty()).unwrap();
}

fn groups_of_the_container_are_removed() {
    let container = Box::new("mkdir -p /sys/fs/cgroup/a/b && echo 0 > /sys/fs/cgroup/a/b/cgroup.procs && cat /proc/self/cgroup | grep 0::")
        .with("/mounts/4/options", json!(["rw"]));
    check(&container, "0::/a/b\n");
}

fn main() {
    // SAFETY: nothing here shares file descriptors with another thread; there is none.
    #[allow(unsafe_code)]
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS).unwrap();
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
    tests![
        born_in_the_cgroup,
        sees_its_own_cgroup,
        devices_by_program,
        freezes_and_kills,
        missing_controllers_are_warnings,
        groups_of_the_container_are_removed,
        propagation,
    ];
}
