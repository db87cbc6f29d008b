// SPDX-License-Identifier: Apache-2.0
//! Who builds a container and its processes: the launcher of our own, or an OCI runtime driven by its
//! command line.

pub(crate) mod cli;
pub(crate) mod console;
pub(crate) mod native;
pub(crate) mod oci;

use std::os::fd::{BorrowedFd, OwnedFd};

use berth_launch::cgroup::Cgroup;
use berth_shim_proto::{Failure, FailureKind};

use crate::stdio::Ends;

/// Result of a request.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// None for one that ended and was reaped before it could be looked at.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) ends: Ends,
}

/// The container's builder and what it keeps.
#[derive(Debug)]
pub(crate) enum Runtime {
    Native(native::Native),
    Oci(oci::Oci),
}

impl Runtime {
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        match self {
            Self::Native(native) => Some(native.cgroup()),
            Self::Oci(oci) => oci.cgroup.as_ref(),
        }
    }
}

/// Ends a process whose start went wrong after all.
pub(crate) fn kill(pid: i32, pidfd: BorrowedFd<'_>) {
    let killed = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    if killed.is_ok() {
        let pid = rustix::process::Pid::from_raw(pid);
        // Whether it could be reaped changes nothing about the failure that is being reported.
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).ok();
    }
}

/// A failure that is nobody's fault but the host's.
pub(crate) fn internal(step: &str, cause: impl std::fmt::Display) -> Failure {
    Failure { kind: FailureKind::Internal, message: format!("{step}: {cause}") }
}

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::InvalidInput, message: message.into() }
}

pub(crate) fn launch_failure(error: berth_launch::Error) -> Failure {
    let kind = match error.kind {
        berth_launch::Kind::CommandNotFound => FailureKind::CommandNotFound,
        berth_launch::Kind::CommandNotExecutable => FailureKind::CommandNotExecutable,
        berth_launch::Kind::InvalidInput => FailureKind::InvalidInput,
        berth_launch::Kind::NotRunning => FailureKind::NotRunning,
        berth_launch::Kind::Internal => FailureKind::Internal,
    };
    Failure { kind, message: error.message }
}
