// SPDX-License-Identifier: Apache-2.0
//! Starting a container's init process: the parent's side.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use berth_seccomp::SockFilter;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::cgroup::{Cgroup, Made};
use crate::channel::{Channel, Message};
use crate::child::{self, InitPlan};
use crate::error::{Context as _, Error, Result};
use crate::hooks::{Bundle, Hooks, Moment};
use crate::mounts::{RootPlan, bind_tree, make_overlay, overlay_by_mount};
use crate::namespaces::{Namespaces, host_root};
use crate::process::{ProcessPlan, set_rlimits};
use crate::sys::{self, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWUTS, Cloned};
use crate::sysctl;
use crate::trace::mark;
use crate::user::UserRequest;

/// What becomes the container's `/`.
#[derive(Debug)]
pub enum Root {
    /// A detached mount, such as [`overlay`] makes.
    Mount(OwnedFd),
    /// An overlay that the launcher makes while the child is busy elsewhere (saves its 0.2-0.6 ms).
    Overlay(Overlay),
    /// A directory.
    Directory(PathBuf),
}

/// An overlay file system.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// Lower directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// Upper directory.
    pub upper: PathBuf,
    /// Work directory, empty, on the upper directory's file system.
    pub work: PathBuf,
    /// Never sync the upper directory (for containers that are removed when they end).
    pub volatile: bool,
    /// Lower directories are seen with their ids as the container's user namespace maps them: stored as
    /// 0, root's there. The upper directory is not: what the container writes is stored with the ids that
    /// its processes have on the host. Needs a user namespace and Linux 5.19.
    pub mapped: bool,
}

/// A terminal's size in cells; 0 by 0 leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Where a process's standard streams go.
#[derive(Debug)]
pub enum Stdio {
    /// stdin, stdout and stderr.
    Fds([OwnedFd; 3]),
    /// A new pseudo-terminal of the container's own devpts; its master comes back in
    /// [`Launched::pty_master`].
    Terminal(TerminalSize),
}

/// Everything [`launch`] needs.
#[derive(Debug)]
pub struct LaunchInput<'a> {
    /// The container, as the OCI runtime spec describes it. `root.path` is not used; `root.readonly` is.
    pub spec: &'a Spec,
    /// The container's `/`.
    pub root: Root,
    /// Who runs init, resolved inside the root; `None` takes `process.user` of the spec as it is.
    pub user: Option<UserRequest<'a>>,
    /// Init's standard streams. Overrides `process.terminal`.
    pub stdio: Stdio,
    /// The network namespace for a `network` entry without a path; `None` makes a new one.
    pub netns: Option<BorrowedFd<'a>>,
    /// The user namespace for a `user` entry without a path, its ids mapped; `None` makes a new one. It must own
    /// the other namespaces that are joined, or the container has no rights in them. The spec's mappings
    /// must then say what this one's are.
    pub userns: Option<BorrowedFd<'a>>,
    /// A compiled filter that stands in for `linux.seccomp`; an empty one for none at all.
    pub seccomp: Option<&'a [SockFilter]>,
    /// What the spec's hooks are told; a spec without hooks needs none.
    pub bundle: Option<Bundle<'a>>,
}

/// A process that runs: `execve` has succeeded.
#[derive(Debug)]
pub struct Launched {
    /// Its pid as this process sees it. It is a child of this process and must be reaped by it.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Master of the pseudo-terminal, with [`Stdio::Terminal`].
    pub pty_master: Option<OwnedFd>,
    /// The mount namespace, for init. Held open it keeps the kernel's teardown of the container's mounts
    /// (an overlay's sync included) out of the exit path: drop it after the exit has been told.
    pub mount_namespace: Option<OwnedFd>,
    /// The container's cgroup.
    pub cgroup: Cgroup,
    /// What was asked and could not be given.
    pub warnings: Vec<String>,
}

/// Starts a container's init and returns once its program runs.
///
/// # Errors
///
/// Nothing is left behind: the child is reaped, its cgroup removed.
/// [`crate::Kind::CommandNotFound`] and [`crate::Kind::CommandNotExecutable`] carry the messages that
/// the docker CLI derives 127 and 126 from.
pub fn launch(input: LaunchInput<'_>) -> Result<Launched> {
    let mut warnings = Vec::new();
    let spec = input.spec;
    let linux = spec.linux().as_ref();
    refuse_unsupported(spec)?;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("the spec has no process"))?;
    let namespaces = Namespaces::new(spec, input.netns, input.userns)?;
    own_streams(spec, &input.stdio)?;
    let hooks = Hooks::new(spec, input.bundle)?;
    if let Some(hooks) = hooks.filter(|hooks| hooks.has(Moment::CreateContainer)) {
        if in_user_namespace(spec) {
            return Err(Error::invalid(
                "hooks.createContainer is not supported by the native launcher in a user namespace",
            ));
        }
        hooks.make_rootfs()?;
    }
    let hostname = spec.hostname().as_deref().filter(|name| !name.is_empty());
    let domainname = spec.domainname().as_deref().filter(|name| !name.is_empty());
    if (hostname.is_some() || domainname.is_some()) && !namespaces.has(CLONE_NEWUTS) {
        return Err(Error::invalid("a host name without a UTS namespace would be the host's"));
    }
    let cgroup = match linux.and_then(|linux| linux.cgroups_path().as_deref()) {
        Some(path) => Cgroup::open(path)?,
        None => Cgroup::none(),
    };
    let plan = InitPlan {
        hostname,
        domainname,
        sysctls: sysctl::plan(spec, &namespaces)?,
        root: RootPlan::new(spec)?,
        process: ProcessPlan::new(spec, process, input.user, input.seccomp, &mut warnings)?,
        stdio: input.stdio,
        cgroup: cgroup.clone(),
        namespaces,
        hooks,
    };
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let mut made = Made::default();
    let started = start(plan, &cgroup, &mut made, resources, input.root, &mut warnings);
    let (child, mount_namespace, told) = started.map_err(|error| {
        let undone = made.undo().err().map(|more| more.message);
        // What createRuntime hooks made has to go as well.
        let unhooked = hooks.map(|hooks| hooks.run_all(Moment::Poststop, 0)).unwrap_or_default();
        let message = undone
            .into_iter()
            .chain(unhooked)
            .fold(error.message, |all, more| format!("{all}; then: {more}"));
        Error { message, ..error }
    })?;
    warnings.extend(told.warnings);
    let (pid, pidfd) = child.into_parts();
    if let Some(hooks) = hooks {
        warnings.extend(hooks.run_all(Moment::Poststart, pid));
    }
    Ok(Launched { pid, pidfd, pty_master: told.terminal, mount_namespace, cgroup, warnings })
}

fn in_user_namespace(spec: &Spec) -> bool {
    let all = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref()).flatten();
    all.into_iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// Makes a detached overlay mount that appears in no mount table.
///
/// # Errors
///
/// When the kernel refuses, with its own words if it has any.
pub fn overlay(overlay: &Overlay, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    make_overlay(overlay, userns)
}

/// Pipes for a container in a user namespace belong to its root: else its programs could not open
/// `/dev/stdout`, nor could it hand them to another user.
pub(crate) fn own_streams(spec: &Spec, stdio: &Stdio) -> Result<()> {
    let (Some((uid, gid)), Stdio::Fds(fds)) = (host_root(spec), stdio) else { return Ok(()) };
    for fd in fds {
        let what = || "give a standard stream to the container";
        if FileType::from_raw_mode(fstat(fd).context(what)?.st_mode) == FileType::Fifo {
            fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).context(what)?;
        }
    }
    Ok(())
}

/// As [`overlay`], the way that kernels before 6.5 need for many layers.
#[doc(hidden)]
pub fn overlay_for_old_kernels(overlay: &Overlay) -> Result<OwnedFd> {
    overlay_by_mount(overlay)
}

fn refuse_unsupported(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let asked = [
        ("linux.intelRdt", linux.is_some_and(|linux| linux.intel_rdt().is_some())),
        ("linux.memoryPolicy", linux.is_some_and(|linux| linux.memory_policy().is_some())),
        (
            "linux.netDevices",
            linux.and_then(|linux| linux.net_devices().as_ref()).is_some_and(|list| !list.is_empty()),
        ),
        (
            "linux.mountLabel",
            linux.and_then(|linux| linux.mount_label().as_deref()).is_some_and(|label| !label.is_empty()),
        ),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::invalid(format!("{field} is not supported by the native launcher"))),
        None => Ok(()),
    }
}

/// Forks and does everything for the child that can be done while it builds its file system.
fn start(
    plan: InitPlan<'_>,
    cgroup: &Cgroup,
    made: &mut Made,
    resources: Option<&LinuxResources>,
    root: Root,
    warnings: &mut Vec<String>,
) -> Result<(Child, Option<OwnedFd>, Told)> {
    mark("shim", "plan");
    let unified = cgroup.make_unified(resources, made, warnings)?;
    let (here, there) = Channel::pair()?;

    let restore = plan.namespaces.enter_in_parent()?;
    let in_between = plan.namespaces.user().is_some();
    let flags = if in_between { 0 } else { plan.namespaces.clone_flags() };
    let cloned = sys::clone3(flags, unified.as_ref().map(OwnedFd::as_fd));
    let (pid, pidfd) = match cloned.context(|| "clone3")? {
        Cloned::Child => {
            // Without this the child would not notice that its parent has died.
            drop(here);
            std::mem::forget(restore);
            child::run(&there, || {
                if in_between {
                    if let Err(error) = give_birth(&plan, &there) {
                        return error;
                    }
                }
                child::init(plan, &there)
            })
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    let mut child = Child::new(pid, pidfd);
    mark("shim", "clone3");
    drop(restore);
    drop(there);
    let mut pid = pid;
    if in_between {
        (pid, child) = match here.receive()? {
            // The one in between has done its work; it is reaped here.
            Some(Message::Born(pid, pidfd)) => (pid, Child::new(pid, pidfd)),
            Some(Message::Failed(error)) => return Err(error),
            _ => return Err(Error::internal(child.how_it_died())),
        };
        mark("shim", "birth in the user namespace");
    }

    let served = serve(pid, &here, &plan, cgroup, made, resources, root, warnings);
    match served {
        Ok(mount_namespace) => {
            let told = child.await_exec(&here)?;
            mark("shim", "waiting for exec");
            Ok((child, Some(mount_namespace), told))
        }
        // A child that has failed knows better why than what then failed here.
        Err(error) if here.is_closed() => Err(child.await_exec(&here).err().unwrap_or(error)),
        Err(error) => Err(error),
    }
}

/// The process in between joins what there is and makes init its sibling, which alone comes back from
/// this. The shim cannot do it: it would not get out of a user namespace again.
fn give_birth(plan: &InitPlan<'_>, channel: &Channel) -> Result<()> {
    plan.namespaces.enter_in_between()?;
    match sys::clone3_sibling(plan.namespaces.clone_flags()).context(|| "clone3 in the user namespace")? {
        Cloned::Child => Ok(()),
        Cloned::Parent { pid, pidfd } => {
            channel.send(&Message::Born(pid, pidfd))?;
            sys::exit(0)
        }
    }
}

/// The parent's work while the child builds its file system. Returns the child's mount namespace.
#[allow(clippy::too_many_arguments)] // One call, and no two of them belong together.
fn serve(
    pid: i32,
    channel: &Channel,
    plan: &InitPlan<'_>,
    cgroup: &Cgroup,
    made: &mut Made,
    resources: Option<&LinuxResources>,
    root: Root,
    warnings: &mut Vec<String>,
) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/mnt");
    let mount_namespace = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(|| path)?;
    if plan.namespaces.has(CLONE_NEWUSER) {
        plan.namespaces.write_maps(pid)?;
        channel.send(&Message::Mapped)?;
        warnings.extend(set_rlimits(Pid::from_raw(pid), &plan.process.rlimits)?);
    }
    if let Some(score) = plan.process.oom_score_adj {
        warnings.extend(set_oom_score(&pid.to_string(), score)?);
    }
    // First, so that the child can join them while the root is made.
    let tasks = cgroup.make_v1(resources, made, warnings)?;
    if !tasks.is_empty() {
        channel.send(&Message::Cgroups(tasks))?;
    }
    mark("shim", "cgroups");
    if let Some(hooks) = plan.hooks {
        hooks.run(Moment::CreateRuntime, pid)?;
    }
    let mut fds = vec![match root {
        Root::Mount(mount) => mount,
        Root::Overlay(overlay) => {
            let userns = overlay.mapped.then(|| user_namespace_of(plan, pid)).transpose()?;
            make_overlay(&overlay, userns.as_ref().map(OwnedFd::as_fd))?
        }
        Root::Directory(path) => bind_tree(&path)?,
    }];
    mark("shim", "root filesystem");
    if let Some(read_only) = plan.root.cgroup_view() {
        fds.extend(cgroup.open_views(plan.namespaces.has(CLONE_NEWCGROUP), read_only)?);
    }
    channel.send(&Message::Go(fds))?;
    mark("shim", "cgroup views");
    Ok(mount_namespace)
}

fn user_namespace_of(plan: &InitPlan<'_>, pid: i32) -> Result<OwnedFd> {
    if let Some(userns) = plan.namespaces.user() {
        return userns.try_clone_to_owned().context(|| "the user namespace");
    }
    let path = format!("/proc/{pid}/ns/user");
    open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(|| path)
}

/// Sets `oom_score_adj`; lowering it takes a capability that the host may not grant.
pub(crate) fn set_oom_score(process: &str, score: i32) -> Result<Option<String>> {
    let path = PathBuf::from(format!("/proc/{process}/oom_score_adj"));
    match std::fs::write(&path, score.to_string()) {
        Ok(()) => Ok(None),
        Err(cause) if matches!(cause.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            let kept = std::fs::read_to_string(&path).context(|| path.display().to_string())?;
            Ok(Some(format!("oom_score_adj {score} is not permitted on this host, kept at {}", kept.trim())))
        }
        Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => {
            Err(Error::invalid(format!("oom_score_adj {score} is not between -1000 and 1000")))
        }
        Err(cause) => Err(Error::internal(format!("{}: {cause}", path.display()))),
    }
}

/// What a child said on its way to `execve`.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) warnings: Vec<String>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// A process that is being built: killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    pidfd: Option<OwnedFd>,
}

impl Child {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd) }
    }

    /// It runs; whoever asked for it takes over.
    pub(crate) fn into_parts(mut self) -> (i32, OwnedFd) {
        match self.pidfd.take() {
            Some(pidfd) => (self.pid, pidfd),
            None => unreachable!("the pidfd is there until drop"),
        }
    }

    /// Sleeps until the program runs or the child has failed.
    pub(crate) fn await_exec(&self, channel: &Channel) -> Result<Told> {
        channel.wait_closed()?;
        let mut told = Told::default();
        let mut executing = false;
        while let Some(message) = channel.receive()? {
            match message {
                Message::Warning(text) => told.warnings.push(text),
                Message::Terminal(master) => told.terminal = Some(master),
                Message::Executing => executing = true,
                Message::Failed(error) => return Err(error),
                Message::Mapped | Message::Born(..) | Message::Cgroups(_) | Message::Go(_) => {}
            }
        }
        if executing { Ok(told) } else { Err(Error::internal(self.how_it_died())) }
    }

    fn how_it_died(&self) -> String {
        let Some(pidfd) = &self.pidfd else { return String::new() };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let how = match rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options)) {
            Ok(Some(status)) => describe(&status),
            Ok(None) => "unknown".to_owned(),
            Err(errno) => errno.to_string(),
        };
        format!("the container's process died while it was being set up: {how}")
    }
}

fn describe(status: &WaitIdStatus) -> String {
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (_, Some(code)) => format!("exit code {code}"),
        _ => "unknown".to_owned(),
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else { return };
        // ESRCH: it has ended already and only waits to be reaped.
        let killed = pidfd_send_signal(&pidfd, Signal::KILL);
        debug_assert!(matches!(killed, Ok(()) | Err(Errno::SRCH)));
        let reaped =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
        debug_assert!(reaped.is_ok());
    }
}
