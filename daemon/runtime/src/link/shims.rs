// SPDX-License-Identifier: Apache-2.0
//! Birth of a shim.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_domain::{ContainerId, Error, Result};
use berth_sys::atomic::Durability;
use berth_sys::cgroup::Hierarchies;
use berth_sys::pidfd::PidFd;
use berth_sys::{memfd, seqpacket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::requests::{Inner, Line, Shim, Socket};
use super::supervisor::{CHANNEL, Supervisor, register};
use crate::scope::{self, Scope};

use super::{Adoption, ShimConfig, ShimError, adopt, remains};

/// Name of the program in `ps` and of its memfd.
const NAME: &str = "berth-shim";
/// What a shim has to say to nobody in particular.
const LOG_FILE: &str = "shim.log";

/// Spawns and finds shims. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shims(Arc<Program>);

#[derive(Debug)]
struct Program {
    memfd: OwnedFd,
    config: ShimConfig,
}

impl Shims {
    /// Copies the shim's program into memory.
    ///
    /// # Errors
    ///
    /// The program cannot be read.
    pub fn new(config: ShimConfig) -> Result<Self> {
        let memfd = memfd::sealed_program(NAME, &config.shim_path)
            .map_err(|e| Error::io("reading the shim program", &config.shim_path, e))?;
        Ok(Self(Arc::new(Program { memfd, config })))
    }

    pub(super) fn memfd(&self) -> &OwnedFd {
        &self.0.memfd
    }

    /// Where shims work.
    #[must_use]
    pub fn config(&self) -> &ShimConfig {
        &self.0.config
    }

    /// Writes the program to a file, for its role as a container's init. The file may be in use: it is replaced.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn install_init(&self, path: &Path) -> Result<()> {
        let program = memfd::contents(&self.0.memfd)
            .map_err(|error| Error::internal("reading the shim program").because(error))?;
        berth_sys::atomic::write(path, &program, 0o555, Durability::Process)
            .map_err(|error| Error::io("writing", path, error))
    }

    /// Starts a shim for a container. The run directory must exist.
    ///
    /// The daemon's threads are not copied: without `pre_exec` this is `posix_spawn`, which suspends the calling thread for about half a
    /// millisecond. That is less than handing it to another thread would cost.
    ///
    /// # Errors
    ///
    /// No process, no descriptors.
    // Async so that it stays callable from the one place where a task may be spawned: within the runtime.
    #[allow(clippy::unused_async)]
    pub async fn spawn(&self, id: &ContainerId, run_dir: &Path) -> Result<Shim> {
        let starting = || Error::internal(format!("starting the shim of container {}", id.short()));
        let (ours, theirs) = seqpacket::pair().map_err(|e| starting().because(e))?;
        // A shim that dies before it does anything must not be taken to have ended as the one before it.
        remains::forget(run_dir)?;
        let path = run_dir.join(LOG_FILE);
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let log = log.map_err(|e| Error::io("opening", &path, e))?;
        let program = format!("/proc/self/fd/{}", self.0.memfd.as_raw_fd());
        let mut child = Command::new(program)
            .arg0(NAME)
            .arg(id.short())
            // What the daemon was told in its environment is no container's business.
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(log)
            // A signal from the daemon's terminal is not for shims.
            .process_group(0)
            .spawn()
            .map_err(|e| starting().because(e))?;
        let linked = link_up(&child, run_dir, ours);
        let (shim, supervisor, socket) = match linked {
            Ok(linked) => linked,
            Err(error) => {
                // Nobody would ever speak to it.
                drop(child.kill());
                drop(child.wait());
                return Err(starting().because(error));
            }
        };
        // The task ends with the process it watches; nothing is lost when the runtime stops before that.
        drop(watch_over(id, supervisor, socket));
        Ok(shim)
    }

    /// Asks systemd for the scope that a container's group is in. It must be kept until init runs.
    ///
    /// # Errors
    ///
    /// There is no unified hierarchy; systemd is not there, refuses, or takes longer than half a minute.
    pub async fn scope(&self, id: &ContainerId, slice: &str, cgroup: &str) -> Result<Scope> {
        let hierarchies =
            Hierarchies::detect().map_err(|e| Error::io("reading", Path::new("/proc/self/mountinfo"), e))?;
        let unified = hierarchies
            .unified
            .filter(|_| hierarchies.v1.is_empty())
            .ok_or_else(|| Error::invalid("the systemd cgroup driver needs cgroup v2"))?;
        scope::start(self.0.memfd.as_fd(), id, slice, &unified, cgroup).await
    }

    /// Finds a shim that an earlier daemon started, or what it left.
    ///
    /// # Errors
    ///
    /// The run directory cannot be read; the shim lives and does not answer within ten seconds.
    pub async fn connect(&self, id: &ContainerId, run_dir: &Path) -> Result<Adoption> {
        adopt::adopt(id, run_dir).await
    }
}

fn link_up(child: &Child, run_dir: &Path, ours: OwnedFd) -> std::io::Result<(Shim, Supervisor, Socket)> {
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    // Not collected yet, whatever it does: the pid is its own.
    let process = PidFd::open(pid)?;
    let socket = register(ours)?;
    let (shim, supervisor) = assemble(run_dir, process, socket.clone())?;
    Ok((shim, supervisor, socket))
}

pub(super) fn assemble(
    run_dir: &Path,
    process: PidFd,
    socket: Socket,
) -> std::io::Result<(Shim, Supervisor)> {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let inner = Arc::new(Inner {
        pid: process.pid(),
        run_dir: run_dir.to_owned(),
        process: Arc::new(process),
        line: watch::Sender::new(Line::Up(socket)),
        waiting: Mutex::new(HashMap::new()),
        next_id: AtomicU64::new(1),
        events: Mutex::new(Some(receiver)),
    });
    let supervisor = Supervisor::new(inner.clone(), sender)?;
    Ok((Shim(inner), supervisor))
}

pub(super) fn watch_over(id: &ContainerId, supervisor: Supervisor, socket: Socket) -> JoinHandle<()> {
    let span = tracing::info_span!("shim", container = id.short());
    tokio::spawn(supervisor.run(socket).instrument(span))
}

/// A shim that was found: its link, once it has said what runs.
pub(super) async fn assemble_found(
    id: &ContainerId,
    run_dir: &Path,
    process: PidFd,
    socket: Socket,
    patience: Duration,
) -> Result<Shim> {
    let meeting = || Error::unavailable(format!("asking the shim of container {} what runs", id.short()));
    let (shim, supervisor) = assemble(run_dir, process, socket.clone()).map_err(|e| meeting().because(e))?;
    let missed = supervisor.missed();
    let task = watch_over(id, supervisor, socket);
    let failed = match tokio::time::timeout(patience, shim.state()).await {
        Ok(Ok(state)) => {
            // Refused only when the shim has ended since, and then the exit file tells.
            drop(missed.send(state).await);
            return Ok(shim);
        }
        // It ended between the connection and the answer: the events tell.
        Ok(Err(ShimError::Gone)) => return Ok(shim),
        Ok(Err(error)) => meeting().because(error),
        Err(elapsed) => meeting().because(elapsed),
    };
    task.abort();
    Err(failed)
}
