// SPDX-License-Identifier: Apache-2.0
//! How much a container or a volume may write, on a disk of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::harness::{Bed, Options, Output, left_out, until};

/// A small disk with project quotas, until this is dropped.
struct Disk {
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// `None`, and not silently, where the kernel has no quotas for this file system.
    fn new(kind: &str) -> Option<Self> {
        let (program, make): (&str, &[&str]) = match kind {
            "ext4" => ("mkfs.ext4", &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"]),
            _ => ("mkfs.xfs", &["-q"]),
        };
        let what = format!("quotas on {kind}");
        let dir = tempfile::Builder::new().prefix("berth-disk-").tempdir_in("/var/tmp").unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        match Command::new(program).args(make).arg(&image).output() {
            Ok(out) => assert!(out.status.success(), "{out:?}"),
            Err(error) => {
                left_out(&what, &format!("{program}: {error}"));
                return None;
            }
        }
        let mounted = Output::of(Command::new("mount").args(["-o", "loop,prjquota"]).arg(&image).arg(&at));
        if mounted.code != 0 {
            left_out(&what, mounted.stderr.trim());
            return None;
        }
        let disk = Self { at, _dir: dir };
        // xfs without quotas in its kernel mounts all the same.
        if !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .any(|line| line.contains(disk.at.to_str().unwrap()) && line.contains("prjquota"))
        {
            left_out(&what, "the kernel took the option and ignored it");
            return None;
        }
        Some(disk)
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
fn containers_and_volumes_keep_to_their_quotas_on_ext4() {
    keep_to_quotas("ext4");
}

#[test]
fn containers_and_volumes_keep_to_their_quotas_on_xfs() {
    keep_to_quotas("xfs");
}

fn keep_to_quotas(kind: &str) {
    let Some(disk) = Disk::new(kind) else { return };
    let bed = Bed::with(Options { data_root: Some(disk.at.join("data")), ..Options::default() });
    if !bed.is_ours() {
        // The reference has its own disk.
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
    // Files are taken out of a full container all the same, and one that is replaced by a smaller one goes in.
    let here = bed.path().join("small");
    fs::write(&here, "small").unwrap();
    bed.docker(&["cp", "small:/etc/group", bed.path().join("group").to_str().unwrap()]).ok();
    bed.docker(&["cp", here.to_str().unwrap(), "small:/f"]).ok();
    bed.docker(&["cp", here.to_str().unwrap(), "small:/g"]).ok();
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
    // The bound goes with the container: whoever is in its project now may write.
    let other = disk.at.join("other");
    fs::create_dir(&other).unwrap();
    Output::of(Command::new("chattr").args(["-p", &project, "+P"]).arg(&other)).ok();
    until("the bound goes with the container", || {
        fs::write(other.join("f"), vec![1; 15 << 20])
            .and_then(|()| fs::File::open(other.join("f"))?.sync_all())
            .ok()
    });
    fs::remove_dir_all(&other).unwrap();

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
