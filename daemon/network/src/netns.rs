// SPDX-License-Identifier: Apache-2.0
//! Network namespaces.
//!
//! A thread makes one by leaving the host's for a new one, opening it, setting it up, and coming
//! back. Nothing is forked, and nothing of it appears in the file system: a namespace lives as long as somebody has
//! a descriptor of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_domain::{Error, Result};
use nix::sched::{CloneFlags, setns};

use crate::route::Routes;

/// A namespace with loopback up and IPv6 off on links to come.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) fd: OwnedFd,
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

/// A new namespace; the calling thread ends up in `home`, where it must have come from.
pub(crate) fn make(home: &OwnedFd) -> Result<Namespace> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::internal("making a network namespace").because(io::Error::from(e)))?;
    let made = set_up();
    come_home(home.as_fd());
    made
}

fn set_up() -> Result<Namespace> {
    let fd = current()?;
    // Links inherit this when they appear. Loopback is there already and keeps ::1, as programs expect.
    write_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    let fail = |doing: &'static str| move |e: crate::netlink::Refused| Error::internal(doing).because(e);
    let mut routes = Routes::open().map_err(|e| Error::internal("opening a route socket").because(e))?;
    let links = routes.links().map_err(fail("listing the links of a new network namespace"))?;
    routes.set_up(1).map_err(fail("bringing up loopback"))?;
    let next_index = links.iter().map(|l| l.index).max().unwrap_or(1) + 1;
    Ok(Namespace { fd, routes, next_index })
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
