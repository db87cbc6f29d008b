// SPDX-License-Identifier: Apache-2.0
//! The link to shims: spawning, finding again after a restart of the daemon, requests and events.
//!
//! ```text
//!  Shim (any number of clones)          supervisor (one task a shim)               berth-shim
//!  request --- packet, id n ------------------------------------------------------> |
//!  waits on a oneshot <-- by id n -- reads the socket <--------- Reply{n} --------- |
//!  events() <--- in order, bounded -- backlog <----------------- Event ------------ |
//!           <--- Exited (exit file) -- pidfd: the process ended, collects it
//!           <--- Gone
//! ```
//!
//! A request fails with [`ShimError::Gone`] when the connection breaks before its answer: what it asked may or may not have
//! been done. While the shim lives, a broken connection is made again through its socket in the run directory.
//! Nothing here waits for one shim on behalf of another, and no request has a deadline of its own: a caller that must not
//! hang puts one around it, and dropping a request's future is safe.

mod adopt;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod founding;
mod remains;
mod requests;
mod shims;
mod supervisor;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use berth_domain::Error;
use berth_shim_proto::{ExitRecord, Failure, FailureKind, PidRecord, Target};

pub use founding::{Founded, Owner};
pub use remains::{kill_remains, read_pids};
pub use requests::Shim;
pub use shims::Shims;

/// How shims are found and where they work.
#[derive(Debug, Clone)]
pub struct ShimConfig {
    /// The program. It is copied once into a sealed memfd, so that no container can change what later ones run under.
    pub shim_path: PathBuf,
    /// The daemon's exec root.
    pub exec_root: PathBuf,
}

/// What a shim tells, in order. [`ShimEvent::Gone`] comes exactly once and last; an exit record, if there is one, comes
/// before it.
#[derive(Debug, Clone, PartialEq)]
pub enum ShimEvent {
    /// Init ended. From the shim, or from the exit file when the shim ended before it could tell. At most once.
    Exited(ExitRecord),
    /// An exec ended. May be told twice when the connection broke meanwhile.
    ExecExited {
        /// Which.
        exec_id: String,
        /// Its exit code.
        code: i32,
    },
    /// A client typed its detach keys.
    Detached {
        /// From whom.
        target: Target,
    },
    /// The kernel killed a process of the container for memory.
    Oom,
    /// The shim's process has ended.
    Gone,
}

/// Why a request got no positive answer.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim answered that it failed.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The shim has gone, or the connection broke before the answer came.
    #[error("the shim has gone")]
    Gone,
    /// The message is larger than a packet.
    #[error("the request is too large for a packet")]
    TooLarge,
    /// The socket failed, or the answer is not one to the request.
    #[error("the shim's connection: {0}")]
    Broken(String),
}

impl ShimError {
    /// The failure's kind, if the shim answered.
    #[must_use]
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Failed(failure) => Some(failure.kind),
            Self::Gone | Self::TooLarge | Self::Broken(_) => None,
        }
    }
}

impl From<ShimError> for Error {
    fn from(error: ShimError) -> Self {
        let text = error.to_string();
        match error {
            ShimError::Failed(failure) => match failure.kind {
                FailureKind::CommandNotFound
                | FailureKind::CommandNotExecutable
                | FailureKind::InvalidInput => Self::invalid(text),
                FailureKind::NotRunning => Self::conflict(text),
                FailureKind::Unsupported => Self::not_implemented(text),
                FailureKind::Internal => Self::internal(text),
            },
            ShimError::TooLarge => Self::invalid(text),
            ShimError::Gone | ShimError::Broken(_) => Self::internal(text),
        }
    }
}

/// What is left of a container at daemon start.
#[derive(Debug)]
pub enum Adoption {
    /// Its shim lives; the link is up. Exits that happened meanwhile come as events.
    Alive(Shim),
    /// Its shim has gone, leaving this.
    Ended(ExitRecord),
    /// Its shim has gone without a record. The pids may be those of processes that still run: see [`kill_remains`].
    Lost(Option<PidRecord>),
}

/// Answer to [`Shim::launch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// Init's pid as the host sees it.
    pub pid: i32,
    /// What could not be given.
    pub warnings: Vec<String>,
}

/// Answer to [`Shim::held`].
#[derive(Debug)]
pub struct HeldFds {
    /// The network namespace.
    pub netns: Option<OwnedFd>,
    /// Descriptors by name.
    pub fds: Vec<(String, OwnedFd)>,
}
