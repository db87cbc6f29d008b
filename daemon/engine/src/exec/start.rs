// SPDX-License-Identifier: Apache-2.0
//! `ExecStart`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use berth_api::stdcopy;
use berth_domain::container::Request;
use berth_domain::{Error, ExecId, Result};
use berth_runtime::ShimError;
use berth_runtime::spec::{self, ExecInput};
use berth_shim_proto::{Attach, Exec, FailureKind, TerminalSize, User};
use tokio::io::AsyncWriteExt as _;

use super::{ExecConfig, Phase};
use crate::Engine;
use crate::handle::Handle;

/// How to start it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecStart {
    /// Do not attach to it.
    pub detach: bool,
    /// Its terminal's size at first: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// The client expects bare bytes, as of a terminal. It decides: a client that asked for a terminal and does not say
    /// so here gets frames, from the reference too.
    pub tty: bool,
}

/// Leave to start an exec: everything that can be refused before the connection is taken over was checked. Dropping it
/// gives the exec back.
#[derive(Debug)]
pub struct ExecTicket {
    engine: Arc<Engine>,
    handle: Arc<Handle>,
    id: ExecId,
    config: Arc<ExecConfig>,
    console_size: Option<(u16, u16)>,
    tty: bool,
    used: bool,
}

impl Drop for ExecTicket {
    fn drop(&mut self) {
        if !self.used {
            // Forgotten meanwhile is as good as given back.
            let _given_back = self.engine.execs.with(self.id.as_str(), |entry| {
                entry.phase.send_replace(Phase::Created);
            });
        }
    }
}

const EXEC: &str = "OCI runtime exec failed: exec failed: unable to start container process";

impl ExecTicket {
    /// Whether output is framed (no terminal) or raw.
    #[must_use]
    pub fn multiplexed(&self) -> bool {
        !self.tty
    }

    /// Starts it without streams.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub async fn start_detached(self) -> Result<()> {
        spawn(async move { self.run(None, Vec::new()).await.map(|_| ()).map_err(|(error, _)| error) }).await
    }

    /// Starts it with its streams on this connected socket; `early` came with the request head. Returns
    /// once it runs. Why it did not start is also written to the socket, as there is no other way left to tell.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub async fn join(self, socket: OwnedFd, early: Vec<u8>) -> Result<()> {
        let multiplexed = self.multiplexed();
        spawn(async move {
            match self.run(Some(socket), early).await {
                Ok(()) => Ok(()),
                Err((error, socket)) => {
                    if let Some(socket) = socket {
                        tell(socket, multiplexed, &error).await;
                    }
                    Err(error)
                }
            }
        })
        .await
    }

    async fn run(mut self, socket: Option<OwnedFd>, early: Vec<u8>) -> Result<(), (Error, Option<OwnedFd>)> {
        self.used = true;
        match self.launch(socket.as_ref(), early).await {
            Ok(pid) => {
                let now = self.handle.now();
                let _forgotten = self.engine.execs.with(self.id.as_str(), |entry| {
                    entry.pid = pid;
                    self.engine.exec_runs(&now, entry);
                    entry.phase.send_if_modified(|phase| {
                        // Its end may have been told before its start was.
                        let starting = *phase == Phase::Starting;
                        if starting {
                            *phase = Phase::Running;
                        }
                        starting
                    });
                });
                Ok(())
            }
            Err((error, code)) => {
                let _forgotten = self.engine.execs.with(self.id.as_str(), |entry| {
                    entry.phase.send_replace(Phase::Ended(code));
                });
                Err((error, socket))
            }
        }
    }

    async fn launch(&self, socket: Option<&OwnedFd>, early: Vec<u8>) -> Result<i32, (Error, i32)> {
        let wrong = |error: Error| (error, 128);
        let now = self.handle.now();
        let shim = self.handle.shim(Request::Exec, &now.name).map_err(wrong)?;
        let config = &*self.config;
        // One that has ended since has nothing more to tell.
        let linked = self.engine.linked(&now).unwrap_or_default();
        let process = spec::exec_process(&ExecInput {
            config: &now.config,
            host: &now.host_config,
            defaults: &self.engine.defaults,
            facts: &self.engine.backends.facts,
            hostname: &now.config.hostname,
            linked: &linked.env,
            args: &config.cmd,
            env: &config.env,
            working_dir: &config.working_dir,
            tty: config.tty,
            privileged: config.privileged,
        })
        .map_err(wrong)?;
        let process = serde_json::to_value(&process)
            .map_err(|error| wrong(Error::internal("encoding the process").because(error)))?;
        let user = if config.user.is_empty() { &now.config.user } else { &config.user };
        let (height, width) = self.console_size.or(config.console_size).unwrap_or_default();
        let detach_keys =
            crate::container::attach::detach_keys(config.detach_keys.as_deref()).map_err(wrong)?;
        let exec = Exec {
            exec_id: self.id.to_string(),
            process,
            user: User { user: user.clone(), groups: now.host_config.group_add.clone().unwrap_or_default() },
            privileged: config.privileged,
            terminal: config.tty.then_some(TerminalSize { height, width }),
            attach: socket.map(|_| Attach {
                fd: 0,
                early,
                stdin: config.attach_stdin,
                stdout: config.attach_stdout,
                stderr: config.attach_stderr,
                multiplexed: self.multiplexed(),
                // Without a terminal the bytes are data.
                detach_keys: if config.tty { detach_keys } else { Vec::new() },
                from_start: false,
            }),
        };
        shim.exec(exec, socket.map(|socket| socket.as_fd())).await.map_err(|error| match error {
            ShimError::Failed(failure) => {
                let text = format!("{EXEC}: {}", failure.message);
                match failure.kind {
                    FailureKind::CommandNotFound => (Error::invalid(text), 127),
                    FailureKind::CommandNotExecutable => (Error::invalid(text), 126),
                    FailureKind::InvalidInput => (Error::invalid(text), 128),
                    FailureKind::NotRunning => {
                        (Error::conflict(format!("container {} is not running", self.handle.id)), 128)
                    }
                    FailureKind::Unsupported | FailureKind::Internal => (Error::internal(text), 128),
                }
            }
            other => wrong(Error::internal("starting an exec").because(other)),
        })
    }
}

/// Runs to its end even if nobody waits for it any more.
async fn spawn<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|error| Error::internal("starting an exec ended early").because(error))?
}

async fn tell(socket: OwnedFd, multiplexed: bool, error: &Error) {
    let text = format!("{}\r\n", error.chain());
    let mut bytes = Vec::new();
    if multiplexed {
        stdcopy::encode(stdcopy::Stream::Stdout, text.as_bytes(), &mut bytes);
    } else {
        bytes.extend_from_slice(text.as_bytes());
    }
    let socket = std::os::unix::net::UnixStream::from(socket);
    let write = async {
        socket.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(socket)?.write_all(&bytes).await
    };
    if let Err(error) = write.await {
        tracing::debug!(%error, "a client went away before it could be told why its exec did not start");
    }
}

impl Engine {
    /// Checks that an exec can be started and reserves it.
    ///
    /// # Errors
    ///
    /// No such exec; its container does not run; it was started before.
    pub async fn exec_start(self: &Arc<Self>, exec: &str, options: ExecStart) -> Result<ExecTicket> {
        let container = self.execs.with(exec, |entry| entry.container.clone())?;
        let handle = self.index.resolve(container.as_str())?;
        let name = handle.now().name.clone();
        handle.admit(Request::Exec, &name)?;
        let (id, config) = self.execs.with(exec, |entry| {
            let phase = *entry.phase.borrow();
            match phase {
                Phase::Created => {
                    entry.phase.send_replace(Phase::Starting);
                    Ok((entry.id.clone(), Arc::clone(&entry.config)))
                }
                Phase::Starting | Phase::Running => {
                    Err(Error::conflict(format!("exec command {exec} is already running")))
                }
                Phase::Ended(_) => Err(Error::conflict(format!("exec command {exec} has already run"))),
            }
        })??;
        Ok(ExecTicket {
            engine: Arc::clone(self),
            handle,
            id,
            config,
            console_size: options.console_size,
            tty: options.tty,
            used: false,
        })
    }
}
