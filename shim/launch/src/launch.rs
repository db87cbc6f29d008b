// SPDX-License-Identifier: Apache-2.0
//! Starting a container's init process.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use berth_seccomp::SockFilter;
use oci_spec::runtime::Spec;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
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
    /// A compiled filter that stands in for `linux.seccomp`.
    pub seccomp: Option<&'a [SockFilter]>,
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
    /// The mount namespace. Held open it keeps the kernel's teardown of the container's mounts (an
    /// overlay's sync included) out of the exit path: drop it after the exit has been told.
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
    drop(input);
    Err(Error::internal("the launcher is not there yet"))
}

/// Makes a detached overlay mount that appears in no mount table.
///
/// # Errors
///
/// When the kernel refuses, with its own words if it has any.
pub fn overlay(overlay: &Overlay) -> Result<OwnedFd> {
    Err(Error::internal(format!("no overlay of {} yet", overlay.upper.display())))
}
