// SPDX-License-Identifier: Apache-2.0
//! Starting a further process in a running container.

use std::os::fd::BorrowedFd;

use berth_seccomp::SockFilter;
use oci_spec::runtime::{Process, Spec};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::launch::{Launched, Stdio};
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
    /// The process. Without `capabilities` it gets the container's.
    pub process: &'a Process,
    /// Who runs it, resolved inside the container; `None` takes `process.user` as it is.
    pub user: Option<UserRequest<'a>>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// A compiled filter that stands in for `linux.seccomp` of the container's spec.
    pub seccomp: Option<&'a [SockFilter]>,
    /// All capabilities and no seccomp filter.
    pub privileged: bool,
}

/// Starts a process in the namespaces and cgroup of a running container, and returns once its program
/// runs.
///
/// # Errors
///
/// As [`crate::launch()`]; nothing is left behind.
pub fn exec(input: ExecInput<'_>) -> Result<Launched> {
    drop(input);
    Err(Error::internal("exec is not there yet"))
}
