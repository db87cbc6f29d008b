// SPDX-License-Identifier: Apache-2.0
//! Volumes of file systems on other hosts. NFS is served by the kernel, CIFS by Samba: `make test-disks` brings both.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
        // Where nobody keeps the clients' names across reboots it cannot be ended early; it is short as it is.
        bed.netns.run(|| fs::write(server.control.join("v4_end_grace"), "Y\n")).ok();
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

/// Makes a volume of the local driver with the options of `mount(8)`.
fn make_volume(bed: &Bed, name: &str, kind: &str, device: &str, o: &str) {
    let (kind, device, o) = (format!("type={kind}"), format!("device={device}"), format!("o={o}"));
    bed.docker(&["volume", "create", "-o", &kind, "-o", &device, "-o", &o, name]).ok();
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
            make_volume(&bed, name, kind, device, o);
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
        make_volume(&bed, "empty", "nfs4", ":/empty", "addr=127.0.0.1");
        bed.docker(&["create", "--name", "filled", "-v", "empty:/etc", "busybox", "true"]).ok();
        assert!(export.join("empty/passwd").exists());
        bed.docker(&["cp", export.join("f").to_str().unwrap(), "filled:/etc/copied"]).ok();
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
    make_volume(&bed, "lost", "nfs4", "nowhere.invalid:/", "soft");
    let error = bed.docker(&["run", "--rm", "-v", "lost:/m", "busybox", "true"]).fails(125);
    assert!(error.contains("nowhere.invalid"), "{error}");
    bed.docker(&["volume", "rm", "lost"]).ok();
    bed.kill_daemon();
    bed.start_daemon();
    bed.finish();
}

/// Samba on the bed's loopback, until this is dropped.
struct Smb(Child);

impl Smb {
    fn share(bed: &Bed, path: &Path) -> Option<Self> {
        match Self::start(bed, path) {
            Ok(server) => Some(server),
            Err(why) => {
                left_out("volumes over CIFS", &why);
                None
            }
        }
    }

    fn start(bed: &Bed, path: &Path) -> Result<Self, String> {
        let loaded = Command::new("modprobe").arg("cifs").output().map_err(|e| format!("modprobe: {e}"))?;
        if !loaded.status.success() {
            return Err(String::from_utf8_lossy(&loaded.stderr).trim().to_owned());
        }
        let dir = bed.path().join("samba");
        fs::create_dir(&dir).unwrap();
        let config = dir.join("smb.conf");
        let mut text = String::from(
            "[global]\nserver role = standalone server\nload printers = no\ndisable spoolss = yes\ndisable netbios = yes\n\
             guest account = root\nsmb ports = 445\nbind interfaces only = yes\ninterfaces = 127.0.0.1/8\n",
        );
        for place in [
            "private dir",
            "lock directory",
            "state directory",
            "cache directory",
            "pid directory",
            "ncalrpc dir",
        ] {
            text += &format!("{place} = {}\n", dir.display());
        }
        text += &format!(
            "log file = {}/log\n[share]\npath = {}\nread only = no\nforce user = root\n",
            dir.display(),
            path.display()
        );
        fs::write(&config, text).unwrap();
        let mut password = Command::new("smbpasswd")
            .arg("-c")
            .arg(&config)
            .args(["-s", "-a", "root"])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|e| format!("smbpasswd: {e}"))?;
        password.stdin.take().unwrap().write_all(b"secret\nsecret\n").unwrap();
        assert!(password.wait().unwrap().success());
        let mut command = Command::new("smbd");
        // It ends its whole process group when it is ended, and cannot make one of its own where it leads one.
        command.process_group(0).args(["-F", "--no-process-group", "-s"]).arg(&config).stdin(Stdio::null());
        bed.netns.place(&mut command);
        let server = Self(command.spawn().map_err(|e| format!("smbd: {e}"))?);
        bed.netns.run(|| until("the server listens", || TcpStream::connect("127.0.0.1:445").ok()));
        Ok(server)
    }
}

impl Drop for Smb {
    fn drop(&mut self) {
        // Its own children end with it.
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        drop(self.0.wait());
    }
}

#[test]
fn a_volume_is_mounted_over_cifs() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return bed.finish();
    }
    bed.docker(&["pull", "busybox"]).ok();
    let share = bed.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("f"), "shared").unwrap();
    {
        let Some(_server) = Smb::share(&bed, &share) else { return bed.finish() };
        let device = "//127.0.0.1/share";
        let o = "username=root,password=secret,vers=3.1.1,uid=1000,file_mode=0640";
        make_volume(&bed, "smb", "cifs", device, o);
        let script = "cat /m/f; stat -c ' %u %a' /m/f; echo more > /m/g; grep -c ' /m cifs ' /proc/mounts";
        let seen = bed.docker(&["run", "--rm", "-v", "smb:/m", "busybox", "sh", "-c", script]).ok();
        assert_eq!(seen, "shared 1000 640\n1");
        until("it is written", || fs::read_to_string(share.join("g")).ok().filter(|text| text == "more\n"));
        let place = bed.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", "smb"]).ok();
        until("the volume is unmounted", || (!mounted(&place)).then_some(()));
        // The wrong password is the server's to refuse, and a failure of the start.
        make_volume(&bed, "locked", "cifs", device, "username=root,password=wrong,vers=3.1.1");
        let error = bed.docker(&["run", "--rm", "-v", "locked:/m", "busybox", "true"]).fails(125);
        assert!(error.contains("failed to mount local volume"), "{error}");
        assert!(!error.contains("wrong"), "a password is shown: {error}");
        bed.docker(&["volume", "rm", "smb", "locked"]).ok();
    }
    bed.finish();
}
