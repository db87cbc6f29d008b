// SPDX-License-Identifier: Apache-2.0
//! Network namespaces.
//!
//! A thread makes one by leaving the host's for a new one, opening it, setting it up, and coming
//! back. Nothing is forked, and nothing of it appears in the file system: a namespace lives as long as somebody has
//! a descriptor of it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_domain::{Error, Result};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::route::Routes;
use crate::{Founder, UserNamespace};

/// A namespace with loopback up and IPv6 off on links to come.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) fd: OwnedFd,
    /// The user namespace that owns it, if that is not the host's.
    pub(crate) user: Option<OwnedFd>,
    /// Acts inside it.
    pub(crate) routes: Routes,
    /// The index that the kernel will probably give the next link.
    pub(crate) next_index: u32,
}

/// The namespace that the calling thread is in.
pub(crate) fn current() -> Result<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    File::open(path).map(OwnedFd::from).map_err(|e| Error::io("opening", path, e))
}

/// Makes namespaces for one thread.
#[derive(Debug)]
pub(crate) struct Maker {
    home: OwnedFd,
    /// A mount of procfs, and for how many namespaces more.
    proc: Option<(OwnedFd, u32)>,
}

/// How many namespaces are set up through one mount of procfs. The kernel keeps a name cache entry `sys/net` for each namespace
/// that was looked at through a mount, all in one chain: a lookup in the mount of all the host costs a millisecond when a
/// thousand containers run (`proc_sys_compare` in fs/proc/proc_sysctl.c).
const A_MOUNT: u32 = 32;

impl Maker {
    /// Namespaces are made from the one that the calling thread is in.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { home: current()?, proc: None })
    }

    /// A new namespace; the calling thread ends up where this began, where it must have come from.
    pub(crate) fn make(&mut self) -> Result<Namespace> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::internal("making a network namespace").because(io::Error::from(e)))?;
        let made = self.set_up();
        come_home(self.home.as_fd());
        made
    }

    /// As [`Maker::make`], owned by another user namespace than the host's.
    pub(crate) fn make_for(&mut self, user: &UserNamespace, founder: Option<&Founder>) -> Result<Namespace> {
        if matches!(user, UserNamespace::Host) {
            return self.make();
        }
        let founder = founder.ok_or_else(|| Error::internal("nobody is there to make user namespaces"))?;
        let (user, net) = founder.found(user)?;
        setns(net.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::internal("entering a network namespace").because(io::Error::from(e)))?;
        let made = self.set_up();
        come_home(self.home.as_fd());
        made.map(|namespace| Namespace { user: Some(user), ..namespace })
    }

    fn set_up(&mut self) -> Result<Namespace> {
        let fd = current()?;
        // Links inherit this when they appear. Loopback is there already and keeps ::1, as programs expect.
        self.write_sysctl("sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        let fail = |doing: &'static str| move |e: crate::netlink::Refused| Error::internal(doing).because(e);
        let mut routes = Routes::open().map_err(|e| Error::internal("opening a route socket").because(e))?;
        let links = routes.links().map_err(fail("listing the links of a new network namespace"))?;
        routes.set_up(1).map_err(fail("bringing up loopback"))?;
        let next_index = links.iter().map(|l| l.index).max().unwrap_or(1) + 1;
        Ok(Namespace { fd, user: None, routes, next_index })
    }

    /// Writes a setting that the kernel may not have (IPv6 compiled out), which is as good as off.
    fn write_sysctl(&mut self, path: &str, value: &str) -> Result<()> {
        let (proc, left) = match self.proc.take() {
            Some((proc, left @ 1..)) => (proc, left),
            _ => (procfs().map_err(|e| Error::internal("mounting procfs").because(e))?, A_MOUNT),
        };
        let (proc, _) = self.proc.insert((proc, left - 1));
        let file = match rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io("opening", Path::new("/proc").join(path), e)),
        };
        (&file)
            .write_all(value.as_bytes())
            .map_err(|e| Error::io("writing", Path::new("/proc").join(path), e))
    }
}

/// A mount of procfs that is in no tree, or the host's where a mount of its own is not allowed.
fn procfs() -> io::Result<OwnedFd> {
    let own = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    own().or_else(|refused| {
        tracing::debug!(%refused, "mounting procfs for the namespaces to come");
        Ok(File::open("/proc")?.into())
    })
}

/// A thread that cannot come back to the host's namespace must not go on.
fn come_home(home: BorrowedFd<'_>) {
    if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
        tracing::error!(%error, "leaving a network namespace");
        std::process::abort();
    }
}

/// Runs something in a namespace: it is for making sockets there, and must not panic.
pub(crate) fn inside<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
    let home = current()?;
    setns(netns, CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::internal("entering a network namespace").because(io::Error::from(e)))?;
    let made = work();
    come_home(home.as_fd());
    Ok(made)
}

/// A socket that acts inside a namespace which is not of this pool's making.
pub(crate) fn routes_inside(netns: BorrowedFd<'_>) -> Result<Routes> {
    inside(netns, Routes::open)?.map_err(|e| Error::internal("opening a route socket").because(e))
}

/// Writes a kernel setting of the calling thread's namespace unless it has that value. A setting that the
/// kernel does not have (IPv6 compiled out) is as good as off.
pub(crate) fn write_sysctl(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    match std::fs::read_to_string(path) {
        Ok(now) if now.trim() == value => return Ok(()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("reading", path, e)),
    }
    std::fs::write(path, value).map_err(|e| Error::io("writing", path, e))
}
