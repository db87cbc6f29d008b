// SPDX-License-Identifier: Apache-2.0
//! Volumes of file systems on other hosts. Their servers are the kernel's own, set up here by hand, so that this needs a kernel
//! which has them: `make test-disks` brings one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::harness::{Bed, Output, left_out, until};

/// The kernel's NFS server of one network namespace, until this is dropped. There is no mountd: what that would answer is written
/// into the kernel's caches before anybody asks.
struct Nfs<'a> {
    bed: &'a Bed,
    control: PathBuf,
}

/// For ever, as far as the caches go.
const EXPIRES: &str = "2147483647";
/// Ports above 1024, no check of parents, this number as its id, mounts beneath it too (linux/nfsd/export.h).
const FLAGS: u32 = 0x2 | 0x400 | 0x2000 | 0x4000;

impl<'a> Nfs<'a> {
    fn export(bed: &'a Bed, path: &Path) -> Option<Self> {
        let control = bed.path().join("nfsd");
        fs::create_dir(&control).unwrap();
        drop(Command::new("modprobe").arg("nfsd").status());
        let mounted =
            bed.netns.run(|| Output::of(Command::new("mount").args(["-t", "nfsd", "nfsd"]).arg(&control)));
        if mounted.code != 0 {
            left_out("volumes over NFS", mounted.stderr.trim());
            return None;
        }
        let server = Self { bed, control };
        let say = |file: &str, text: &str| {
            let path = server.control.join(file);
            bed.netns
                .run(|| fs::write(&path, text))
                .unwrap_or_else(|e| panic!("{text:?} to {}: {e}", path.display()));
        };
        let answer = |cache: &str, text: &str| {
            let path = format!("/proc/thread-self/net/rpc/{cache}/channel");
            bed.netns
                .run(|| fs::write(&path, format!("{text}\n")))
                .unwrap_or_else(|e| panic!("{text:?} to {path}: {e}"));
        };
        // Version 3 would want a portmapper.
        say("versions", "-3 +4 +4.1 +4.2\n");
        say("nfsv4gracetime", "10\n");
        say("nfsv4leasetime", "10\n");
        say("threads", "2\n");
        say("v4_end_grace", "Y\n");
        let path = path.display();
        answer("auth.unix.ip", &format!("nfsd 127.0.0.1 {EXPIRES} loop"));
        answer("nfsd.export", &format!("loop {path} {EXPIRES} {FLAGS} 65534 65534 0"));
        answer("nfsd.fh", &format!("loop 1 \\x00000000 {EXPIRES} {path}"));
        Some(server)
    }
}

impl Drop for Nfs<'_> {
    fn drop(&mut self) {
        let control = &self.control;
        self.bed.netns.run(|| {
            drop(fs::write(control.join("threads"), "0\n"));
            for cache in ["auth.unix.ip", "nfsd.export", "nfsd.fh"] {
                drop(fs::write(format!("/proc/thread-self/net/rpc/{cache}/flush"), "2147483646\n"));
            }
        });
        drop(Command::new("umount").arg(control).status());
    }
}

fn mounted(path: &str) -> bool {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}

#[test]
fn a_volume_is_mounted_over_nfs() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        // It would need the reference's own network.
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let export = bed.path().join("export");
    fs::create_dir_all(export.join("part")).unwrap();
    fs::write(export.join("f"), "served").unwrap();
    {
        let Some(_server) = Nfs::export(&bed, &export) else { return bed.finish() };
        for (name, kind, device, o) in [
            ("whole", "nfs4", ":/", "addr=127.0.0.1,rw,hard,vers=4.2"),
            ("part", "nfs", "127.0.0.1:/part", "nfsvers=4,noatime"),
        ] {
            let (device, o) = (format!("device={device}"), format!("o={o}"));
            let kind = format!("type={kind}");
            bed.docker(&["volume", "create", "-o", &kind, "-o", &device, "-o", &o, name]).ok();
        }
        let run = |volume: &str, script: &str| {
            bed.docker(&["run", "--rm", "-v", volume, "busybox", "sh", "-c", script]).ok()
        };
        assert_eq!(
            run("whole:/m", "cat /m/f; echo more > /m/part/g; grep -c ' /m nfs4 ' /proc/mounts"),
            "served1"
        );
        assert_eq!(fs::read_to_string(export.join("part/g")).unwrap(), "more\n");
        assert_eq!(run("part:/m:ro", "cat /m/g; touch /m/h 2>&1 | grep -c Read-only"), "more\n1");
        // Filled from the image through the network, and copied to while nothing runs.
        fs::create_dir(export.join("empty")).unwrap();
        bed.docker(&[
            "volume",
            "create",
            "-o",
            "type=nfs4",
            "-o",
            "device=:/empty",
            "-o",
            "o=addr=127.0.0.1",
            "empty",
        ])
        .ok();
        bed.docker(&["create", "--name", "filled", "-v", "empty:/etc", "busybox", "true"]).ok();
        assert!(export.join("empty/passwd").exists());
        bed.docker(&["cp", "/etc/hostname", "filled:/etc/copied"]).ok();
        assert!(export.join("empty/copied").exists());
        bed.docker(&["rm", "filled"]).ok();
    }
    // Nothing of them stays mounted.
    for name in ["whole", "part", "empty"] {
        let place = bed.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", name]).ok();
        until("the volume is unmounted", || (!mounted(&place)).then_some(()));
        bed.docker(&["volume", "rm", name]).ok();
    }
    assert_eq!(fs::read_to_string(export.join("f")).unwrap(), "served");
    // A server that is not there is told of, with its name.
    bed.docker(&[
        "volume",
        "create",
        "-o",
        "type=nfs4",
        "-o",
        "device=nowhere.invalid:/",
        "-o",
        "o=soft",
        "lost",
    ])
    .ok();
    let error = bed.docker(&["run", "--rm", "-v", "lost:/m", "busybox", "true"]).fails(125);
    assert!(error.contains("nowhere.invalid"), "{error}");
    bed.docker(&["volume", "rm", "lost"]).ok();
    bed.kill_daemon();
    bed.start_daemon();
    bed.finish();
}
