// SPDX-License-Identifier: Apache-2.0
//! What the container's process does between its birth and its program.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::{Life, Network, Plan, link, open_path};

/// The capabilities that Docker leaves: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const KEPT: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 10
    | 1 << 13
    | 1 << 18
    | 1 << 27
    | 1 << 29
    | 1 << 31;

/// Never returns.
pub(crate) fn run(plan: &Plan, ready: &OwnedFd) -> ! {
    for tasks in &plan.tasks {
        (&*tasks).write_all(b"0").expect("joining a cgroup");
    }
    // SAFETY: plain system calls of a process with one thread.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWCGROUP), 0, "a cgroup namespace");
        libc::setsid();
    }
    rustix::system::sethostname(b"floor").expect("sethostname");
    mounts(plan);
    let mut go = [0; 1];
    rustix::io::read(ready, &mut go).expect("waiting for the link");
    link::up(plan.network == Network::Bridge);
    // SAFETY: no argument is a pointer.
    unsafe { libc::close_range(3, u32::MAX, 4) };
    limit(plan);
    let (program, argument) = match plan.life {
        Life::Brief => (c"/bin/true", std::ptr::null()),
        Life::Kept => (c"/bin/sleep", c"100000".as_ptr()),
    };
    let argv = [program.as_ptr(), argument, std::ptr::null()];
    let envp = [c"PATH=/bin".as_ptr(), std::ptr::null()];
    // SAFETY: both arrays end with null and live through the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    panic!("execve: {}", io::Error::last_os_error());
}

/// A new filesystem at a path.
fn fresh(kind: &str, options: &[(&str, &str)], at: &str, flags: MountAttrFlags) {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&fs, *key).expect("fsconfig");
        } else {
            rustix::mount::fsconfig_set_string(&fs, *key, *value).expect("fsconfig");
        }
    }
    rustix::mount::fsconfig_create(&fs).unwrap_or_else(|e| panic!("{kind}: {e}"));
    let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).expect("fsmount");
    place(&mount, at);
}

fn place(mount: &impl AsFd, at: &str) {
    rustix::mount::move_mount(mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .unwrap_or_else(|e| panic!("mounting at {at}: {e}"));
}

fn bind(from: &Path, at: &str) {
    let tree = rustix::mount::open_tree(
        CWD,
        from,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    place(&tree, at);
}

fn mounts(plan: &Plan) {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("private mounts");
    // Somewhere to stand; nobody else sees it.
    place(&plan.root, "/tmp");
    // The daemon's disk is not beneath the new root, so that its files are opened before.
    for (path, name) in &plan.etc {
        bind(path, &format!("/tmp/etc/{name}"));
    }
    std::env::set_current_dir("/tmp").expect("chdir");
    rustix::process::pivot_root(".", "old").expect("pivot_root");
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
    fresh("proc", &[], "/proc", safe);
    fresh("tmpfs", &[("mode", "755"), ("size", "65536k")], "/dev", nosuid);
    for dir in ["/dev/pts", "/dev/mqueue", "/dev/shm"] {
        std::fs::create_dir(dir).expect("a directory in /dev");
    }
    fresh(
        "devpts",
        &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
        "/dev/pts",
        nosuid,
    );
    fresh("mqueue", &[], "/dev/mqueue", safe);
    fresh("tmpfs", &[("mode", "1777"), ("size", "64m")], "/dev/shm", safe);
    fresh("sysfs", &[], "/sys", safe | MountAttrFlags::MOUNT_ATTR_RDONLY);
    let read_only = safe | MountAttrFlags::MOUNT_ATTR_RDONLY;
    if plan.controllers.is_empty() {
        fresh("cgroup2", &[], "/sys/fs/cgroup", read_only);
    } else {
        fresh("tmpfs", &[("mode", "755")], "/sys/fs/cgroup", safe);
        for names in &plan.controllers {
            let at = format!("/sys/fs/cgroup/{}", names.replace("name=", ""));
            std::fs::create_dir(&at).expect("a directory for cgroups");
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
            let data = CString::new(names.as_str()).expect("a name");
            rustix::mount::mount("cgroup", at.as_str(), "cgroup", flags, data.as_c_str())
                .expect("a cgroup mount");
        }
    }
    devices();
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"] {
        bind(Path::new(path), path);
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        rustix::mount::mount_remount(path, flags, c"").expect("a read-only path");
    }
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger"] {
        if Path::new(path).exists() {
            bind(Path::new("/dev/null"), path);
        }
    }
    for path in ["/proc/acpi", "/sys/firmware"] {
        if Path::new(path).exists() {
            fresh("tmpfs", &[], path, read_only);
        }
    }
    drop(open_path(Path::new("/")));
    rustix::mount::unmount("/old", UnmountFlags::DETACH).expect("letting go of the host");
}

fn devices() {
    let nodes =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        rustix::fs::mknodat(
            CWD,
            format!("/dev/{name}"),
            rustix::fs::FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            rustix::fs::makedev(major, minor),
        )
        .expect("mknod");
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        std::os::unix::fs::symlink(target, format!("/dev/{name}")).expect("a link in /dev");
    }
}

/// Capabilities and the filter.
fn limit(plan: &Plan) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let kept = u32::try_from(KEPT).unwrap_or(0);
    let data: [u32; 6] = [kept, kept, 0, 0, 0, 0];
    let program = libc::sock_fprog {
        len: u16::try_from(plan.filter.len()).unwrap_or(0),
        filter: plan.filter.as_ptr().cast_mut(),
    };
    // SAFETY: the structures are what these calls take and live through them.
    unsafe {
        for capability in (0..41).filter(|c| KEPT & (1 << c) == 0) {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        let loaded = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program);
        assert_eq!(loaded, 0, "seccomp: {}", io::Error::last_os_error());
        assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()), 0, "capset");
    }
}
