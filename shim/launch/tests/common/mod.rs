// SPDX-License-Identifier: Apache-2.0
//! A busybox root, a spec like Docker's, and a way to run it.
#![allow(dead_code)] // Each test program uses its part.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use berth_launch::cgroup::Cgroup;
use berth_launch::{
    Error, ExecInput, LaunchInput, Launched, Overlay, Root, Stdio, UserRequest, exec, launch,
};
use oci_spec::runtime::Spec;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A container's directories and its spec, to be changed by a test before it is run.
pub struct Box {
    pub dir: TempDir,
    pub spec: Value,
    pub overlay: bool,
    pub user: Option<(String, Vec<String>)>,
    /// A user namespace to join.
    pub userns: Option<OwnedFd>,
}

/// What a process did.
#[derive(Debug)]
pub struct Output {
    pub out: String,
    pub err: String,
    pub code: i32,
    pub warnings: Vec<String>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Box {
    /// A root with busybox, and the command `sh -c script`.
    pub fn new(script: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-launch-").tempdir().unwrap();
        let root = dir.path().join("root");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "srv"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "echo", "true", "cat", "ls", "id", "sleep", "stat", "hostname", "grep", "mount", "umount",
            "readlink", "touch", "mkdir", "wc", "env", "pwd", "tty", "stty", "kill", "ps", "head", "ulimit",
            "dd", "nproc", "ip", "ln", "umask", "test", "false",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nwww:x:44:\nvideo:x:45:web\n").unwrap();
        let spec = base_spec(script);
        Self { dir, spec, overlay: false, user: None, userns: None }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.spec, pointer, value);
        self
    }

    pub fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn user(mut self, user: &str, groups: &[&str]) -> Self {
        self.user = Some((user.to_owned(), groups.iter().map(|group| (*group).to_owned()).collect()));
        self
    }

    pub fn overlay(mut self) -> Self {
        self.overlay = true;
        self
    }

    pub fn oci(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    fn root_input(&self) -> Root {
        if !self.overlay {
            return Root::Directory(self.root());
        }
        let at = |name: &str| {
            let path = self.dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        Root::Overlay(Overlay {
            lower: vec![self.root()],
            upper: at("upper"),
            work: at("work"),
            volatile: true,
            mapped: self.userns.is_some(),
        })
    }

    pub fn launch(&self, stdio: Stdio) -> Result<Launched, Error> {
        self.launch_on(self.root_input(), stdio)
    }

    fn launch_on(&self, root: Root, stdio: Stdio) -> Result<Launched, Error> {
        let spec = self.oci();
        let (user, groups) = self.user.clone().unzip();
        let groups = groups.unwrap_or_default();
        let user = user.as_deref().map(|user| UserRequest { user, groups: &groups });
        let bundle = Some(berth_launch::Bundle { id: "box", path: self.dir.path() });
        launch(LaunchInput {
            spec: &spec,
            root,
            user,
            stdio,
            netns: None,
            userns: self.userns.as_ref().map(OwnedFd::as_fd),
            seccomp: None,
            bundle,
        })
    }

    /// Runs to the end.
    pub fn run(&self) -> Result<Output, Error> {
        self.run_on(self.root_input())
    }

    pub fn run_on(&self, root: Root) -> Result<Output, Error> {
        let (stdio, out, err) = pipes();
        let launched = self.launch_on(root, stdio)?;
        let output = finish(&launched, out, err);
        launched.cgroup.remove().unwrap();
        Ok(output)
    }

    /// Starts `sleep`, for exec.
    pub fn start(self) -> Running {
        let (stdio, ..) = pipes();
        let launched = self.launch(stdio).unwrap();
        Running { launched, spec: self.oci(), container: self }
    }
}

/// A container that runs until it is dropped.
pub struct Running {
    pub launched: Launched,
    pub spec: Spec,
    pub container: Box,
}

impl Running {
    pub fn exec_input<'a>(&'a self, process: &'a oci_spec::runtime::Process, stdio: Stdio) -> ExecInput<'a> {
        ExecInput {
            spec: &self.spec,
            init_pid: self.launched.pid,
            init: self.launched.pidfd.as_fd(),
            cgroup: &self.launched.cgroup,
            process,
            user: None,
            stdio,
            seccomp: None,
            privileged: false,
        }
    }

    pub fn exec(
        &self,
        args: &[&str],
        change: impl for<'a> FnOnce(&mut ExecInput<'a>),
    ) -> Result<Output, Error> {
        let mut process = self.spec.process().clone().unwrap();
        process.set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()));
        let (stdio, out, err) = pipes();
        let mut input = self.exec_input(&process, stdio);
        change(&mut input);
        let launched = exec(input)?;
        Ok(finish(&launched, out, err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.launched.cgroup.kill().unwrap();
        wait(&self.launched.pidfd);
        self.launched.cgroup.remove().unwrap();
    }
}

pub fn pipes() -> (Stdio, File, File) {
    let null = File::open("/dev/null").unwrap();
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (out, out_end) = rustix::pipe::pipe_with(flags).unwrap();
    let (err, err_end) = rustix::pipe::pipe_with(flags).unwrap();
    (Stdio::Fds([null.into(), out_end, err_end]), out.into(), err.into())
}

pub fn finish(launched: &Launched, mut out: File, mut err: File) -> Output {
    let mut output =
        Output { out: String::new(), err: String::new(), code: 0, warnings: launched.warnings.clone() };
    out.read_to_string(&mut output.out).unwrap();
    err.read_to_string(&mut output.err).unwrap();
    output.code = wait(&launched.pidfd);
    output
}

pub fn wait(pidfd: &OwnedFd) -> i32 {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

pub fn set(value: &mut Value, pointer: &str, new: Value) {
    let mut at = value;
    for part in pointer.split('/').filter(|part| !part.is_empty()) {
        at = match at {
            Value::Array(list) => &mut list[part.parse::<usize>().unwrap()],
            other => &mut other[part],
        };
    }
    *at = new;
}

/// A path that no other test uses.
pub fn cgroups_path() -> String {
    format!("/berth-launch-test-{}/c{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether a cgroup of this test run is left in any hierarchy.
pub fn leftover_cgroups() -> Vec<PathBuf> {
    let name = format!("berth-launch-test-{}", std::process::id());
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()));
    let parents = roots.into_iter().map(|root| root.join(&name)).filter(|path| path.is_dir());
    let mut left = Vec::new();
    for parent in parents {
        left.extend(
            fs::read_dir(&parent).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()),
        );
    }
    left
}

pub fn remove_parent_cgroup() {
    let path = format!("/berth-launch-test-{}", std::process::id());
    Cgroup::open(Path::new(&path)).unwrap().remove().unwrap();
}

const CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn base_spec(script: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "box",
        "root": {"path": "rootfs", "readonly": false},
        "process": {
            "args": ["/bin/sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": CAPS, "permitted": CAPS, "effective": CAPS},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
        ],
        "linux": {
            "cgroupsPath": cgroups_path(),
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"},
                           {"type": "ipc"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                            "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi",
                            "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
            ]},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                     "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]},
                    {"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
                ]
            }
        }
    })
}

/// Runs tests one after the other in this, the only thread; the first argument filters by name.
pub fn run_all(tests: &[(&str, fn())]) {
    let filter = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let mut failed = Vec::new();
    for (name, test) in tests {
        if filter.as_deref().is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    assert_eq!(leftover_cgroups(), Vec::<PathBuf>::new());
    remove_parent_cgroup();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Runs the named functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { common::run_all(&[$((stringify!($name), $name as fn())),*]) };
}
