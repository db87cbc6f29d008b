// SPDX-License-Identifier: Apache-2.0
//! The link to shims: spawning, finding again after a restart of the daemon, requests and events.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_domain::{ContainerId, Error, Result};
use berth_shim_proto::{
    Attach, Exec, ExitRecord, Failure, FailureKind, HeldFd, Launch, PidRecord, State, Target,
};
use tokio::sync::mpsc;

/// How shims are found and where they work.
#[derive(Debug, Clone)]
pub struct ShimConfig {
    /// The program. It is copied once into a sealed memfd, so that no container can change what later ones run under.
    pub shim_path: PathBuf,
    /// The daemon's exec root.
    pub exec_root: PathBuf,
}

/// Spawns and finds shims. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shims {}

/// One shim. Cheap to clone; requests of several clones are in flight together.
#[derive(Debug, Clone)]
pub struct Shim {}

/// What a shim tells, in order. [`ShimEvent::Gone`] comes exactly once and last; an exit record, if there is one, comes before it.
#[derive(Debug, Clone, PartialEq)]
pub enum ShimEvent {
    /// Init ended. From the shim, or from the exit file when the shim ended before it could tell. At most once.
    Exited(ExitRecord),
    /// An exec ended.
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
    /// The answer is not one to the request.
    #[error("unexpected answer from the shim: {0}")]
    Unexpected(String),
}

impl ShimError {
    /// The failure's kind, if the shim answered.
    #[must_use]
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Failed(failure) => Some(failure.kind),
            _ => None,
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
    /// Its shim has gone without a record. The pids may be those of processes that still run.
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

impl Shims {
    /// Copies the shim's program into memory.
    ///
    /// # Errors
    ///
    /// The program cannot be read.
    pub fn new(config: ShimConfig) -> Result<Self> {
        let _unused = config;
        Err(Error::not_implemented("shims"))
    }

    /// Starts a shim for a container. The run directory must exist.
    ///
    /// # Errors
    ///
    /// No process, no descriptors.
    pub async fn spawn(&self, id: &ContainerId, run_dir: &Path) -> Result<Shim> {
        let _unused = (id, run_dir);
        Err(Error::not_implemented("shims"))
    }

    /// Finds a shim that an earlier daemon started, or what it left.
    ///
    /// # Errors
    ///
    /// The run directory cannot be read; the shim lives and does not answer.
    pub async fn connect(&self, id: &ContainerId, run_dir: &Path) -> Result<Adoption> {
        let _unused = (id, run_dir);
        Err(Error::not_implemented("shims"))
    }
}

impl Shim {
    /// Pid of the shim's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        0
    }

    /// The events; `None` after the first call. A consumer that stops reading does not hold up answers.
    #[must_use]
    pub fn events(&self) -> Option<mpsc::Receiver<ShimEvent>> {
        None
    }

    /// Starts the container. Descriptor indices in `launch` are indices into `fds`.
    ///
    /// # Errors
    ///
    /// [`ShimError::Failed`] with what the client should see.
    pub async fn launch(&self, launch: Launch, fds: &[BorrowedFd<'_>]) -> Result<Launched, ShimError> {
        let _unused = (launch, fds);
        Err(ShimError::Gone)
    }

    /// Joins a stream to the container's stdio. `attach.fd` is set to the descriptor's index.
    ///
    /// # Errors
    ///
    /// The container does not run.
    pub async fn attach(&self, attach: Attach, stream: BorrowedFd<'_>) -> Result<(), ShimError> {
        let _unused = (attach, stream);
        Err(ShimError::Gone)
    }

    /// Starts a further process; answers its pid. `exec.attach.fd`, if any, is set to the descriptor's index.
    ///
    /// # Errors
    ///
    /// The program cannot be run; the container does not run.
    pub async fn exec(&self, exec: Exec, stream: Option<BorrowedFd<'_>>) -> Result<i32, ShimError> {
        let _unused = (exec, stream);
        Err(ShimError::Gone)
    }

    /// Sets a terminal's size in cells.
    ///
    /// # Errors
    ///
    /// No such target or no terminal.
    pub async fn resize(&self, target: Target, height: u16, width: u16) -> Result<(), ShimError> {
        let _unused = (target, height, width);
        Err(ShimError::Gone)
    }

    /// Sends a signal; to every process of the container if `all`.
    ///
    /// # Errors
    ///
    /// The target has ended.
    pub async fn signal(&self, target: Target, signal: i32, all: bool) -> Result<(), ShimError> {
        let _unused = (target, signal, all);
        Err(ShimError::Gone)
    }

    /// Freezes or thaws the container.
    ///
    /// # Errors
    ///
    /// It does not run, or the kernel refused.
    pub async fn freeze(&self, frozen: bool) -> Result<(), ShimError> {
        let _unused = frozen;
        Err(ShimError::Gone)
    }

    /// What runs.
    ///
    /// # Errors
    ///
    /// The shim has gone.
    pub async fn state(&self) -> Result<State, ShimError> {
        Err(ShimError::Gone)
    }

    /// The descriptors held for the container.
    ///
    /// # Errors
    ///
    /// The shim has gone.
    pub async fn held(&self) -> Result<HeldFds, ShimError> {
        Err(ShimError::Gone)
    }

    /// Replaces the limits: `resources` is `linux.resources` as JSON.
    ///
    /// # Errors
    ///
    /// The kernel refused a value.
    pub async fn update(&self, resources: serde_json::Value) -> Result<(), ShimError> {
        let _unused = resources;
        Err(ShimError::Gone)
    }

    /// Kills init and the shim from outside, by pidfd: for a shim that does not answer.
    pub fn kill(&self) {}
}

#[allow(unused)]
type Keep = HeldFd;
