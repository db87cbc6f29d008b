// SPDX-License-Identifier: Apache-2.0
//! What the container's init does from its birth to `execve`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use rustix::system::{setdomainname, sethostname};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::error::{Context as _, Error, Result};
use crate::hooks::{Hooks, Moment};
use crate::launch::{Stdio, TerminalSize};
use crate::mounts::{
    Image, RootPlan, Source, Stage, attach, bind_of, enter_root, make_node, make_read_only, nodes,
    open_if_there, open_terminal,
};
use crate::namespaces::Namespaces;
use crate::path::{Missing, ensure_in_root};
use crate::process::{ProcessPlan, Streams, finish, open_apparmor};
use crate::sys::{self, CLONE_NEWCGROUP, CLONE_NEWUSER};
use crate::sysctl::{self, Sysctl};
use crate::trace::mark;

/// Everything that init needs to know, prepared by the parent.
#[derive(Debug)]
pub(crate) struct InitPlan<'a> {
    pub(crate) namespaces: Namespaces,
    pub(crate) hostname: Option<&'a str>,
    pub(crate) domainname: Option<&'a str>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) root: RootPlan<'a>,
    pub(crate) process: ProcessPlan<'a>,
    pub(crate) stdio: Stdio,
    pub(crate) cgroup: Cgroup,
    pub(crate) hooks: Option<Hooks<'a>>,
}

/// Runs a child's body, which ends in `execve`, and tells the parent if it does not.
pub(crate) fn run(channel: &Channel, body: impl FnOnce() -> Error) -> ! {
    // Unwinding further would run the parent's code in the child.
    let error = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Error::internal("the launcher panicked in the container's process"));
    if channel.send(&Message::Failed(error)).is_err() {
        // The parent is gone, or the seccomp filter forbids to write: the exit code has to do.
        sys::exit(125);
    }
    sys::exit(1)
}

/// First steps that every child takes.
pub(crate) fn settle() -> Result<()> {
    // Until execve this process holds more than the container may have: keep it out of the reach of
    // ptrace and /proc of whoever shares its pid namespace.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "prctl(PR_SET_DUMPABLE)")?;
    sys::reset_signals();
    umask(Mode::empty());
    Ok(())
}

/// The body of init. Returns only with what went wrong.
pub(crate) fn init(plan: InitPlan<'_>, channel: &Channel) -> Error {
    let InitPlan { namespaces, hostname, domainname, sysctls, root, process, stdio, cgroup, hooks } = plan;
    let prepare = || -> Result<Built> {
        mark("init", "begin");
        settle()?;
        if namespaces.has(CLONE_NEWUSER) {
            // Of one that is joined, too: what this says must not overtake the news of its birth.
            await_mapping(channel)?;
        }
        namespaces.enter_in_child()?;
        if let Some(name) = hostname {
            sethostname(name.as_bytes()).context(|| "set the host name")?;
        }
        if let Some(name) = domainname {
            setdomainname(name.as_bytes()).context(|| "set the domain name")?;
        }
        let building = Building {
            namespaces: &namespaces,
            sysctls: &sysctls,
            root,
            apparmor: process.apparmor.is_some(),
            terminal: match &stdio {
                Stdio::Terminal(size) => Some(*size),
                Stdio::Fds(_) => None,
            },
            cgroup: &cgroup,
            hooks: hooks.filter(|hooks| hooks.has(Moment::CreateContainer)),
        };
        mark("init", "namespaces and names");
        build(building, channel)
    };
    let Built { apparmor, slave } = match prepare() {
        Ok(built) => built,
        Err(error) => return error,
    };
    let streams = match (&stdio, slave) {
        (Stdio::Fds([stdin, stdout, stderr]), _) => {
            Streams::Fds([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
        }
        (Stdio::Terminal(_), Some(slave)) => Streams::Terminal(slave),
        (Stdio::Terminal(_), None) => return Error::internal("the terminal got lost"),
    };
    // In a user namespace the parent has set the limits, with rights that this process lacks.
    finish(&process, &streams, apparmor, !namespaces.has(CLONE_NEWUSER), channel)
}

fn await_mapping(channel: &Channel) -> Result<()> {
    match channel.receive()? {
        Some(Message::Mapped) => {}
        _ => return Err(Error::internal("the launcher went away")),
    }
    become_root()
}

/// Uid and gid 0 of the user namespace that this process is in.
pub(crate) fn become_root() -> Result<()> {
    let (gid, uid) = (Gid::ROOT, Uid::ROOT);
    set_thread_groups(&[]).context(|| "setgroups in the user namespace")?;
    set_thread_res_gid(gid, gid, gid).context(|| "become gid 0 of the user namespace")?;
    set_thread_res_uid(uid, uid, uid).context(|| "become uid 0 of the user namespace")
}

/// What the file system is built from.
struct Building<'a> {
    namespaces: &'a Namespaces,
    sysctls: &'a [Sysctl],
    root: RootPlan<'a>,
    apparmor: bool,
    terminal: Option<TerminalSize>,
    cgroup: &'a Cgroup,
    /// Those that look at the finished root.
    hooks: Option<Hooks<'a>>,
}

/// What building the file system leaves for the last stretch.
#[derive(Default)]
struct Built {
    /// Where an AppArmor profile is written.
    apparmor: Option<OwnedFd>,
    /// The slave side of the terminal.
    slave: Option<OwnedFd>,
}

/// Builds the container's file system and enters it.
fn build(plan: Building<'_>, channel: &Channel) -> Result<Built> {
    let Building { namespaces, sysctls, root, apparmor, terminal, cgroup, hooks } = plan;
    let user_namespace = namespaces.has(CLONE_NEWUSER);
    let mut built = Built::default();
    let mut stage = Stage::new()?;
    let (tops, below): (Vec<_>, Vec<_>) = root.staged.into_iter().partition(|mount| mount.as_top().is_some());
    let (cgroup_below, below): (Vec<_>, Vec<_>) =
        below.into_iter().partition(|mount| matches!(mount.source, Source::Cgroup));
    for mount in tops {
        stage.mount_top(mount)?;
    }
    mark("init", "proc, sys, dev");
    // Before the read-only paths, which cover /proc/sys.
    if let Some(proc) = stage.top("proc") {
        sysctl::apply(sysctls, &proc.mount)?;
        if apparmor {
            built.apparmor = Some(open_apparmor(proc.mount.as_fd())?);
        }
    } else if !sysctls.is_empty() || apparmor {
        return Err(Error::invalid("sysctls and AppArmor profiles need a /proc in the container"));
    }
    for mount in below {
        stage.mount_below(mount)?;
    }
    mark("init", "mounts below them");
    let places = cgroup.places();
    let view = cgroup_below.first().map(|mount| stage.prepare_cgroup(mount, &places)).transpose()?;
    let mut nodes = nodes(root.devices)?;
    if let Some(dev) = stage.top("dev") {
        let (inside, outside): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| node.path.starts_with("/dev"));
        nodes = outside;
        // A /dev of the host's has its own.
        for node in inside.iter().filter(|_| dev.is_new) {
            let path = node.path.strip_prefix("/dev").unwrap_or(&node.path);
            make_node(node, dev.mount.as_fd(), path, user_namespace)?;
        }
        if dev.is_new {
            stage.link_devices(dev.mount.as_fd())?;
        }
        if let Some(size) = terminal {
            let slave = make_terminal(dev.mount.as_fd(), Path::new("pts/ptmx"), size, channel)?;
            make_console(dev.mount.as_fd(), Path::new("console"), &slave)?;
            built.slave = Some(slave);
        }
    }
    mark("init", "devices");
    let in_image = restrict_staged(&mut stage, root.read_only, root.masked)?;

    mark("init", "masked and read-only paths");
    join_cgroups(namespaces, cgroup, channel)?;
    mark("init", "joining cgroups");
    let (mount, views) = await_root(channel)?;
    mark("init", "waiting for the root");
    if let Some(view) = view {
        view.fill(&views)?;
    }
    stage.seal()?;

    let image = match hooks {
        Some(hooks) => Image::attach_at(mount, &hooks.rootfs())?,
        None => Image::attach(mount, &stage)?,
    };
    for top in &stage.tops {
        image.adopt(top)?;
    }
    for mount in root.others {
        match mount.source {
            Source::Cgroup => image.prepare_cgroup(&mount, &places)?.fill(&views)?,
            _ => image.mount(mount)?,
        }
    }
    for node in nodes {
        make_node(&node, image.mount.as_fd(), &node.path, user_namespace)?;
    }
    if let (Some(size), None) = (terminal, &built.slave) {
        let slave = make_terminal(image.mount.as_fd(), Path::new("dev/pts/ptmx"), size, channel)?;
        make_console(image.mount.as_fd(), Path::new("dev/console"), &slave)?;
        built.slave = Some(slave);
    }
    if let Some(hooks) = hooks {
        hooks.run(Moment::CreateContainer, rustix::process::getpid().as_raw_nonzero().get())?;
        mark("init", "hooks");
    }
    for (path, restriction) in in_image {
        if let Some(target) = open_if_there(&image.mount, Path::new(path))? {
            restriction.apply(&mut stage, &target, path)?;
        }
    }
    if root.root_read_only {
        image.make_read_only()?;
    }
    mark("init", "attaching the image and mounts");
    enter_root(&image, root.propagation)?;
    mark("init", "pivot_root");
    Ok(built)
}

/// What the spec's `maskedPaths` and `readonlyPaths` do to a path.
#[derive(Clone, Copy)]
enum Restriction {
    ReadOnly,
    Hidden,
}

impl Restriction {
    fn apply(self, stage: &mut Stage, target: &OwnedFd, path: &str) -> Result<()> {
        match self {
            Self::ReadOnly => make_read_only(target, path),
            Self::Hidden => stage.masks.hide(target, path),
        }
    }
}

/// Restricts the paths below the tops and returns those that must wait for the image.
fn restrict_staged<'a>(
    stage: &mut Stage,
    read_only: &'a [String],
    masked: &'a [String],
) -> Result<Vec<(&'a str, Restriction)>> {
    let read_only = read_only.iter().map(|path| (path.as_str(), Restriction::ReadOnly));
    let masked = masked.iter().map(|path| (path.as_str(), Restriction::Hidden));
    let mut in_image = Vec::new();
    for (path, restriction) in read_only.chain(masked) {
        match stage.open(Path::new(path))? {
            Some(Some(target)) => restriction.apply(stage, &target, path)?,
            Some(None) => {}
            None => in_image.push((path, restriction)),
        }
    }
    Ok(in_image)
}

/// Waits for the v1 cgroups, joins them, and then leaves them behind as the roots of a new cgroup
/// namespace.
fn join_cgroups(namespaces: &Namespaces, cgroup: &Cgroup, channel: &Channel) -> Result<()> {
    if cgroup.has_v1() {
        let Some(Message::Cgroups(tasks)) = channel.receive()? else {
            return Err(Error::internal("the launcher went away"));
        };
        for tasks in tasks {
            // A single-threaded process that moves itself takes no global lock.
            rustix::io::write(&tasks, b"0").context(|| "join a cgroup")?;
        }
    }
    if namespaces.new_cgroup() {
        sys::unshare(CLONE_NEWCGROUP).context(|| "make a cgroup namespace")?;
    }
    Ok(())
}

/// Waits for the root mount and the views of the cgroups.
fn await_root(channel: &Channel) -> Result<(OwnedFd, Vec<OwnedFd>)> {
    let Some(Message::Go(mut fds)) = channel.receive()? else {
        return Err(Error::internal("the launcher went away"));
    };
    if fds.is_empty() {
        return Err(Error::internal("the container's root got lost"));
    }
    let views = fds.split_off(1);
    let root = fds.pop().ok_or_else(|| Error::internal("the container's root got lost"))?;
    Ok((root, views))
}

/// Opens the terminal and sends its master to the parent.
pub(crate) fn make_terminal(
    root: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    size: TerminalSize,
    channel: &Channel,
) -> Result<OwnedFd> {
    let (master, slave) = open_terminal(root, path)?;
    if size != TerminalSize::default() {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).context(|| "set the terminal's size")?;
    }
    channel.send(&Message::Terminal(master))?;
    Ok(slave)
}

/// Binds the terminal on /dev/console: by its descriptor, so that it is this very devpts inode.
fn make_console(root: std::os::fd::BorrowedFd<'_>, path: &Path, slave: &OwnedFd) -> Result<()> {
    let target = ensure_in_root(root, path, Missing::File)?;
    let mount = bind_of(slave, false).context(|| "/dev/console")?;
    attach(&mount, &target).context(|| "/dev/console")
}
