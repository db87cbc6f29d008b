// SPDX-License-Identifier: Apache-2.0
//! How much a container or a volume may write, on a disk of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::harness::{Bed, Options, Output, until};

/// A small ext4 with project quotas, until this is dropped.
struct Disk {
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// None where this kernel has no quotas.
    fn new() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("berth-disk-").tempdir_in("/var/tmp").unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        Output::of(
            Command::new("mkfs.ext4")
                .args(["-q", "-O", "quota,project", "-E", "quotatype=prjquota"])
                .arg(&image),
        )
        .ok();
        let mounted = Output::of(Command::new("mount").args(["-o", "loop,prjquota"]).arg(&image).arg(&at));
        if mounted.code != 0 {
            eprintln!("skipped: {}", mounted.stderr);
            return None;
        }
        Some(Self { at, _dir: dir })
    }

    fn project(&self, path: &Path) -> String {
        Output::of(Command::new("lsattr").args(["-p", "-d"]).arg(path)).ok()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.at).status());
    }
}

#[test]
fn containers_and_volumes_keep_to_their_quotas() {
    let Some(disk) = Disk::new() else { return };
    let bed = Bed::with(Options { data_root: Some(disk.at.join("data")), ..Options::default() });
    if !bed.is_ours() {
        // The reference has quotas on xfs alone.
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let fill =
        "dd if=/dev/zero of=/f bs=1M count=30 2>&1; stat -c %s /f; df -k / | tail -1 | awk '{print $2}'";
    let limited = ["run", "--name", "small", "--storage-opt", "size=10M", "busybox", "sh", "-c", fill];
    let seen = bed.docker(&limited).ok();
    let mut lines = seen.lines().rev();
    assert_eq!(lines.next(), Some("10240"), "df shows the bound: {seen}");
    let written: u64 = lines.next().unwrap().parse().unwrap();
    assert!((9 << 20..=10 << 20).contains(&written), "{seen}");
    assert!(seen.contains("Disk quota exceeded") || seen.contains("No space left"), "{seen}");
    // Others are not bound by it, and it holds after a restart.
    let free = bed.docker(&["run", "--rm", "busybox", "sh", "-c", fill]).ok();
    assert!(free.contains(&(30 << 20).to_string()), "{free}");
    let again = bed.docker(&["start", "-a", "small"]);
    assert!(
        again.stdout.contains("quota exceeded") || again.stdout.contains("No space left"),
        "{}",
        again.stdout
    );
    // Copied up from the image, moved and linked within: one project.
    bed.docker(&[
        "run",
        "--rm",
        "--storage-opt",
        "size=10M",
        "busybox",
        "sh",
        "-ec",
        "echo x >> /etc/group; mkdir /a /b; echo 1 > /a/f; mv /a/f /b/g; ln /b/g /a/h; rm -r /home; mv /b /c",
    ])
    .ok();
    let id = bed.docker(&["inspect", "-f", "{{.Id}}", "small"]).ok();
    let upper = bed.data_root().join("containers").join(&id).join("upper");
    let project = disk.project(&upper).split_whitespace().next().unwrap().to_owned();
    assert_ne!(project, "0");
    bed.docker(&["rm", "small"]).ok();
    let limits = || Output::of(Command::new("repquota").args(["-P", "-n"]).arg(&disk.at)).stdout;
    if !limits().is_empty() {
        until("the bound goes with the container", || {
            (!limits().contains(&format!("#{project} "))).then_some(())
        });
    }

    bed.docker(&["volume", "create", "-o", "size=5M", "bound"]).ok();
    let fill = "dd if=/dev/zero of=/v/f bs=1M count=30 2>/dev/null; stat -c %s /v/f";
    let written: u64 =
        bed.docker(&["run", "--rm", "-v", "bound:/v", "busybox", "sh", "-c", fill]).ok().parse().unwrap();
    assert!((4 << 20..=5 << 20).contains(&written), "{written}");
    // Filled from the image within its bound, and counted by the kernel.
    bed.docker(&["volume", "create", "-o", "size=5M", "filled"]).ok();
    bed.docker(&["run", "--rm", "-v", "filled:/etc", "busybox", "touch", "/etc/x"]).ok();
    let usage = bed.api("GET", "/system/df?type=volume", "").json();
    for volume in usage["Volumes"].as_array().unwrap() {
        let size = volume["UsageData"]["Size"].as_u64().unwrap();
        assert!(size > 0 && size <= 5 << 20, "{volume}");
    }
    bed.docker(&["volume", "rm", "bound", "filled"]).ok();
    bed.finish();
}

#[test]
fn quotas_that_cannot_be_are_refused() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    if !bed.is_ours() {
        // The reference looks at its disk before it looks at what is asked.
        let error = bed.docker(&["create", "--storage-opt", "size=10M", "busybox"]).fails(1);
        assert!(error.contains("--storage-opt is supported only"), "{error}");
        return bed.finish();
    }
    let refused = |option: &str| bed.docker(&["create", "--storage-opt", option, "busybox"]).fails(1);
    assert!(refused("inodes=10").contains("unknown option inodes"));
    assert!(refused("size=much").contains("invalid size"));
    let error = refused("size=10M");
    assert!(error.contains("--storage-opt") && error.contains("supported only"), "{error}");
    assert_eq!(bed.docker(&["ps", "-aq"]).ok(), "");
    bed.finish();
}
