// SPDX-License-Identifier: Apache-2.0
//! Containers built by an OCI runtime (crun, runc, runsc) through its command line.
//!
//! The runtime wants a directory with a root file system, so the overlay is mounted at `<bundle>/rootfs`,
//! in a mount namespace of the shim's own: the host's mount table does not grow, and nothing is left when
//! the shim dies. What the spec cannot know is written into it first: the user's numbers, whether there
//! is a terminal, and a path to the network namespace, which is one of the shim's descriptors.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_launch::UserRequest;
use berth_launch::cgroup::Cgroup;
use berth_shim_proto::{Exec, Launch, Root, SPEC_FILE, TerminalSize, User};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};

use super::cli::{self, Cli, Job, forget};
use super::console::Console;
use super::{Outcome, Started, internal, invalid, launch_failure};
use crate::container::GivenNamespaces;
use crate::say::say;
use crate::stdio::{self, Ends, Wanted};
use crate::sys;

const ROOTFS: &str = "rootfs";

/// A container of an OCI runtime.
#[derive(Debug)]
pub(crate) struct Oci {
    pub(crate) cli: Cli,
    pub(crate) cgroup: Option<Cgroup>,
    /// Numbers the files of commands that run at the same time.
    serial: u64,
}

/// An exec whose `exec --detach` command runs.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) job: Job,
    ends: Option<Ends>,
    console: Option<Console>,
    with_stdin: bool,
    terminal: Option<TerminalSize>,
    pid_file: PathBuf,
    process_file: PathBuf,
}

/// Builds the container and starts its init.
pub(crate) fn launch(
    launch: &Launch,
    spec: &[u8],
    namespaces: GivenNamespaces<'_>,
    cli: Cli,
) -> Outcome<(Oci, Started)> {
    let mut spec: Value = serde_json::from_slice(spec).map_err(|e| invalid(format!("config.json: {e}")))?;
    let rootfs = mount_root(&launch.root, &cli.bundle, namespaces.user)?;
    let path = spec["linux"]["cgroupsPath"].as_str();
    let cgroup = path.and_then(|path| Cgroup::open(Path::new(path)).ok());
    let oci = Oci { cli, cgroup, serial: 0 };
    let outcome = (|| {
        complete(&mut spec, launch, &rootfs, namespaces)?;
        write_json(&oci.cli.bundle.join(SPEC_FILE), &spec)?;
        let wanted = Wanted { stdin: launch.open_stdin, stdout: true, stderr: true };
        let pid_file = oci.cli.bundle.join("init.pid");
        let (command, log) = oci.cli.command("create", 0);
        let mut create = Attempt::new(command, &oci.cli.bundle, 0, launch.terminal, wanted)?;
        create.command.arg("--bundle").arg(&oci.cli.bundle).arg("--pid-file").arg(&pid_file);
        create.command.arg(&oci.cli.id);
        let job = cli::spawn(create.command, "create", log)?;
        cli::wait(&job)?;
        let started = take_over(&pid_file, create.ends, create.console, launch.terminal, launch.open_stdin)?;
        oci.cli.run("start", &[])?;
        Ok(started)
    })();
    match outcome {
        Ok(started) => Ok((oci, started)),
        Err(failure) => {
            oci.remove();
            Err(failure)
        }
    }
}

impl Oci {
    /// Begins a further process.
    pub(crate) fn exec(&mut self, exec: &Exec, init_pid: i32) -> Outcome<Starting> {
        let number = self.next();
        let root = rustix::fs::open(
            format!("/proc/{init_pid}/root"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| internal("the container's root", e))?;
        let mut process = exec.process.clone();
        set_user(&mut process, root.as_fd(), &exec.user)?;
        set_terminal(&mut process, exec.terminal);
        if exec.privileged {
            grant_all(&mut process);
        }
        let process_file = self.cli.bundle.join(format!("exec-{number}.json"));
        write_json(&process_file, &process)?;
        let pid_file = self.cli.bundle.join(format!("exec-{number}.pid"));
        let attach = exec.attach.as_ref();
        let wanted = Wanted {
            stdin: attach.is_some_and(|a| a.stdin),
            stdout: attach.is_some_and(|a| a.stdout),
            stderr: attach.is_some_and(|a| a.stderr),
        };
        let (command, log) = self.cli.command("exec", number);
        let begun =
            Attempt::new(command, &self.cli.bundle, number, exec.terminal, wanted).and_then(|mut attempt| {
                attempt.command.arg("--process").arg(&process_file).arg("--detach");
                attempt.command.arg("--pid-file").arg(&pid_file).arg(&self.cli.id);
                Ok((cli::spawn(attempt.command, "exec", log)?, attempt.ends, attempt.console))
            });
        match begun {
            Ok((job, ends, console)) => Ok(Starting {
                job,
                ends,
                console,
                with_stdin: wanted.stdin,
                terminal: exec.terminal,
                pid_file,
                process_file,
            }),
            Err(failure) => {
                forget(&process_file);
                Err(failure)
            }
        }
    }

    pub(crate) fn signal(&mut self, signal: i32, all: bool) -> Outcome<Job> {
        let signal = signal.to_string();
        let flags: &[&str] = if all { &["--all"] } else { &[] };
        let number = self.next();
        self.cli.start("kill", number, flags, &[&signal])
    }

    pub(crate) fn freeze(&mut self, frozen: bool) -> Outcome<Job> {
        let number = self.next();
        self.cli.start(if frozen { "pause" } else { "resume" }, number, &[], &[])
    }

    pub(crate) fn update(&mut self, resources: &Value) -> Outcome<Job> {
        let number = self.next();
        let file = self.cli.bundle.join("resources.json");
        write_json(&file, resources)?;
        self.cli.start("update", number, &["--resources", &file.to_string_lossy()], &[])
    }

    /// Removes what the runtime holds of the container, whatever state it is in.
    pub(crate) fn remove(&self) {
        if let Err(failure) = self.cli.run("delete", &["--force"]) {
            say!("delete: {}", failure.message);
        }
        let rootfs = self.cli.bundle.join(ROOTFS);
        rustix::mount::unmount(&rootfs, rustix::mount::UnmountFlags::DETACH).ok();
        fs::remove_dir(&rootfs).ok();
        forget(&self.cli.bundle.join("init.pid"));
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

impl Starting {
    /// The runtime's command has ended well: its process is a child of this one now.
    pub(crate) fn finish(mut self) -> Outcome<Started> {
        take_over(&self.pid_file, self.ends.take(), self.console.take(), self.terminal, self.with_stdin)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        forget(&self.pid_file);
        forget(&self.process_file);
    }
}

/// A command of the runtime that makes a process, with the process's streams in place.
struct Attempt {
    command: Command,
    ends: Option<Ends>,
    console: Option<Console>,
}

impl Attempt {
    fn new(
        mut command: Command,
        bundle: &Path,
        number: u64,
        terminal: Option<TerminalSize>,
        wanted: Wanted,
    ) -> Outcome<Self> {
        if terminal.is_some() {
            let console = Console::listen(bundle, number).map_err(|e| internal("console socket", e))?;
            command.arg("--console-socket").arg(console.path());
            return Ok(Self { command, ends: None, console: Some(console) });
        }
        let ([stdin, stdout, stderr], ends) = stdio::pipes(wanted).map_err(|e| internal("pipes", e))?;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Ok(Self { command, ends: Some(ends), console: None })
    }
}

fn take_over(
    pid_file: &Path,
    ends: Option<Ends>,
    console: Option<Console>,
    terminal: Option<TerminalSize>,
    with_stdin: bool,
) -> Outcome<Started> {
    let text = fs::read_to_string(pid_file).map_err(|e| internal("pid file", e))?;
    let pid: i32 = text.trim().parse().map_err(|e| internal("pid file", e))?;
    let handle = Pid::from_raw(pid).ok_or_else(|| internal("pid file", "no pid"))?;
    let pidfd = match rustix::process::pidfd_open(handle, PidfdFlags::empty()) {
        Ok(pidfd) => Some(pidfd),
        Err(rustix::io::Errno::SRCH) => None,
        Err(error) => return Err(internal("pidfd", error)),
    };
    let ends = match (ends, console) {
        (Some(ends), _) => ends,
        (None, Some(console)) => {
            let master = console.master().map_err(|e| internal("console socket", e))?;
            if let Some(size) = terminal.filter(|size| *size != TerminalSize::default()) {
                stdio::resize(&master, size).map_err(|e| internal("terminal size", e))?;
            }
            stdio::terminal(master, with_stdin).map_err(|e| internal("terminal", e))?
        }
        (None, None) => return Err(internal("streams", "there are none")),
    };
    Ok(Started { pid, pidfd, ends })
}

/// Makes the root visible to the runtime and nobody else.
fn mount_root(root: &Root, bundle: &Path, userns: Option<BorrowedFd<'_>>) -> Outcome<PathBuf> {
    sys::unshare_mounts().map_err(|e| internal("mount namespace", e))?;
    // What the host unmounts later must not live on in here.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", downstream).map_err(|e| internal("mount propagation", e))?;
    let overlay = match super::native::root(root) {
        berth_launch::Root::Overlay(overlay) => overlay,
        berth_launch::Root::Directory(path) => return Ok(path),
        berth_launch::Root::Mount(_) => return Err(internal("root", "an unexpected kind")),
    };
    let mount = berth_launch::overlay(&overlay, userns).map_err(launch_failure)?;
    let rootfs = bundle.join(ROOTFS);
    match fs::create_dir(&rootfs) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(internal("root file system's directory", e));
        }
        _ => {}
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", rustix::fs::CWD, &rootfs, flags)
        .map_err(|e| internal("root file system", e))?;
    Ok(rootfs)
}

/// Puts what only the shim knows into the spec.
fn complete(spec: &mut Value, launch: &Launch, rootfs: &Path, given: GivenNamespaces<'_>) -> Outcome<()> {
    let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| internal("root file system", e))?;
    spec["root"]["path"] = json!(rootfs.to_string_lossy());
    let process = spec.get_mut("process").ok_or_else(|| invalid("config.json has no process"))?;
    set_user(process, root.as_fd(), &launch.user)?;
    set_terminal(process, launch.terminal);
    for (kind, fd) in [("network", given.net), ("user", given.user)] {
        let Some(fd) = fd else { continue };
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        if let Some(one) = namespaces.and_then(|all| all.iter_mut().find(|n| n["type"] == kind)) {
            one["path"] = json!(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        }
    }
    Ok(())
}

fn set_user(process: &mut Value, root: BorrowedFd<'_>, user: &User) -> Outcome<()> {
    let request = UserRequest { user: &user.user, groups: &user.groups };
    let resolved = berth_launch::user::resolve(root, &request).map_err(launch_failure)?;
    let umask = process["user"]["umask"].take();
    process["user"] = json!({
        "uid": resolved.uid, "gid": resolved.gid, "additionalGids": resolved.groups,
    });
    if !umask.is_null() {
        process["user"]["umask"] = umask;
    }
    Ok(())
}

fn set_terminal(process: &mut Value, terminal: Option<TerminalSize>) {
    process["terminal"] = json!(terminal.is_some());
    if let Some(size) = terminal.filter(|size| *size != TerminalSize::default()) {
        process["consoleSize"] = json!({"height": size.height, "width": size.width});
    }
}

/// Every capability that this process has, which is every one the host has.
fn grant_all(process: &mut Value) {
    let all = json!(ALL_CAPABILITIES.as_slice());
    process["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
}

const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Writes a file that the runtime reads, whole or not at all.
fn write_json(path: &Path, value: &Value) -> Outcome<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    fs::write(&partial, value.to_string())
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|e| internal(&path.to_string_lossy(), e))
}
