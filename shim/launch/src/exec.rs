// SPDX-License-Identifier: Apache-2.0
//! Starting a further process in a running container.
//!
//! The process is born in the container's pid namespace (the parent joins it for the moment of the fork,
//! which saves a second fork), joins every other namespace of init with one `setns` on init's pidfd, and
//! then walks the same last stretch as init: same capabilities, same `no_new_privs`, same seccomp filter.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_seccomp::SockFilter;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::child::{self, become_root, make_terminal, settle};
use crate::error::{Context as _, Error, Kind, Result};
use crate::launch::{Child, Launched, Stdio, own_streams, set_oom_score};
use crate::mounts::filesystem;
use crate::namespaces::{self, Restore};
use crate::process::{ProcessPlan, Streams, finish, open_apparmor, set_rlimits};
use crate::sys::{self, CLONE_NEWPID, CLONE_NEWUSER, Cloned, PROC_SUPER_MAGIC};
use crate::user::UserRequest;

/// Everything [`exec`] needs.
#[derive(Debug)]
pub struct ExecInput<'a> {
    /// The container's spec: which namespaces it has, its seccomp filter and `noNewPrivileges`.
    pub spec: &'a Spec,
    /// pid of the container's init, as this process sees it.
    pub init_pid: i32,
    /// pidfd of the container's init.
    pub init: BorrowedFd<'a>,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// The process. What it does not say of capabilities, AppArmor profile and `oomScoreAdj` it gets from
    /// the container's init.
    pub process: &'a Process,
    /// Who runs it, resolved inside the container; `None` takes `process.user` as it is.
    pub user: Option<UserRequest<'a>>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// A compiled filter that stands in for `linux.seccomp` of the container's spec.
    pub seccomp: Option<&'a [SockFilter]>,
    /// All capabilities; the seccomp filter stays.
    pub privileged: bool,
}

/// Starts a process in the namespaces and cgroup of a running container, and returns once its program
/// runs.
///
/// # Errors
///
/// As [`crate::launch()`], and [`Kind::NotRunning`] if init has ended; nothing is left behind.
pub fn exec(input: ExecInput<'_>) -> Result<Launched> {
    // The streams are the process's alone: this side's copies are closed before this returns.
    let ExecInput { spec, init_pid, init, cgroup, process, user, stdio, seccomp, privileged } = input;
    let mut warnings = Vec::new();
    let mut plan = ProcessPlan::new(spec, process, user, seccomp, &mut warnings)?;
    if privileged {
        plan.make_privileged()?;
    }
    own_streams(spec, &stdio)?;
    let named = namespaces::named(spec);
    let tasks = cgroup.open_tasks().map_err(|error| gone(init, error))?;
    let unified = cgroup.open_unified().map_err(|error| gone(init, error))?;
    let (here, there) = Channel::pair()?;

    let restore = match named & CLONE_NEWPID {
        0 => None,
        flag => Some(Restore::after_joining(init, flag).map_err(|error| gone(init, error))?),
    };
    let mut cloned = sys::clone3(0, unified.as_ref().map(OwnedFd::as_fd));
    if let Err(Errno::BUSY | Errno::OPNOTSUPP) = cloned {
        // The container has made groups below its own, which therefore takes no processes any more: go
        // where init has gone.
        let nested = cgroup.unified_of(init_pid)?;
        cloned = sys::clone3(0, nested.as_ref().map(OwnedFd::as_fd));
    }
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Child) => {
            drop(here);
            std::mem::forget(restore);
            child::run(&there, || exec_child(&plan, init, named & !CLONE_NEWPID, &tasks, &stdio, &there))
        }
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        // A pid namespace whose init has ended takes no more processes.
        Err(errno) => return Err(gone(init, Error::internal(format!("clone3: {errno}")))),
    };
    let child = Child::new(pid, pidfd);
    drop(restore);
    drop((there, stdio));
    let told = child.await_exec(&here).map_err(|error| gone(init, error))?;
    warnings.extend(told.warnings);
    let (pid, pidfd) = child.into_parts();
    Ok(Launched {
        pid,
        pidfd,
        pty_master: told.terminal,
        mount_namespace: None,
        cgroup: cgroup.clone(),
        warnings,
    })
}

/// An internal error is "not running" if init is found dead.
fn gone(init: BorrowedFd<'_>, error: Error) -> Error {
    if error.kind != Kind::Internal {
        return error;
    }
    // A pidfd is readable once its process has ended.
    let mut fds = [rustix::event::PollFd::new(&init, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(1..) => Error { kind: Kind::NotRunning, message: "the container is not running".to_owned() },
        _ => error,
    }
}

fn exec_child(
    plan: &ProcessPlan<'_>,
    init: BorrowedFd<'_>,
    namespaces: u64,
    tasks: &[OwnedFd],
    stdio: &Stdio,
    channel: &Channel,
) -> Error {
    let user_namespace = namespaces & CLONE_NEWUSER != 0;
    let prepare = || -> Result<(Option<OwnedFd>, Streams<'_>)> {
        settle()?;
        for tasks in tasks {
            rustix::io::write(tasks, b"0").context(|| "join a cgroup")?;
        }
        if let Some(score) = plan.oom_score_adj {
            if let Some(warning) = set_oom_score("self", score)? {
                channel.send(&Message::Warning(warning))?;
            }
        }
        let apparmor = match &plan.apparmor {
            Some(_) => Some(open_host_apparmor()?),
            None => None,
        };
        if user_namespace {
            // Inside, this process has no right to raise them.
            for warning in set_rlimits(None, &plan.rlimits)? {
                channel.send(&Message::Warning(warning))?;
            }
        }
        sys::setns(init, namespaces).context(|| "join the container's namespaces")?;
        if user_namespace {
            become_root()?;
        }
        let streams = match stdio {
            Stdio::Fds([stdin, stdout, stderr]) => {
                Streams::Fds([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
            }
            Stdio::Terminal(size) => {
                let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .context(|| "the container's root")?;
                Streams::Terminal(make_terminal(root.as_fd(), Path::new("dev/pts/ptmx"), *size, channel)?)
            }
        };
        Ok((apparmor, streams))
    };
    match prepare() {
        Ok((apparmor, streams)) => finish(plan, &streams, apparmor, !user_namespace, channel),
        Err(error) => error,
    }
}

/// Through the host's /proc, while this process is still outside: the container's could be anything.
fn open_host_apparmor() -> Result<OwnedFd> {
    let proc = open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "/proc")?;
    if filesystem(&proc)? != PROC_SUPER_MAGIC {
        return Err(Error::internal("/proc of the host is not a proc file system"));
    }
    open_apparmor(proc.as_fd())
}
