// SPDX-License-Identifier: Apache-2.0
//! Further processes in a running container.

use std::os::fd::OwnedFd;

use berth_domain::{ContainerId, ExecId, Result};

use crate::Engine;
use crate::engine::not_yet;

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `KEY=value` added to the container's environment.
    pub env: Vec<String>,
    /// Working directory; empty for the container's.
    pub working_dir: String,
    /// User; empty for the container's.
    pub user: String,
    /// All capabilities and no seccomp filter.
    pub privileged: bool,
    /// Give it a pseudo-terminal.
    pub tty: bool,
    /// Its terminal's size at first: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Feed it from the client.
    pub attach_stdin: bool,
    /// Send its output to the client.
    pub attach_stdout: bool,
    /// Send its errors to the client.
    pub attach_stderr: bool,
    /// Keys that detach the client (`ctrl-p,ctrl-q`); `None` for the default.
    pub detach_keys: Option<String>,
}

/// How to start it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecStart {
    /// Do not attach to it.
    pub detach: bool,
    /// Its terminal's size at first: rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecInspect {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was asked.
    pub config: ExecConfig,
    /// Whether it runs.
    pub running: bool,
    /// Its exit code once it has ended (or failed to start).
    pub exit_code: Option<i32>,
    /// Its pid as the host sees it; 0 before it was started.
    pub pid: i32,
}

/// Leave to start an exec: everything that can be refused before the connection is taken over was checked.
#[derive(Debug)]
pub struct ExecTicket {
    multiplexed: bool,
}

impl ExecTicket {
    /// Whether output is framed (no terminal) or raw.
    #[must_use]
    pub fn multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// Starts it without streams.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub async fn start_detached(self) -> Result<()> {
        Err(not_yet("exec"))
    }

    /// Starts it with its streams on this connected socket; `early` came with the request head. Returns
    /// once it runs. Why it did not start is also written to the socket, as there is no other way left to tell.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub async fn join(self, _socket: OwnedFd, _early: Vec<u8>) -> Result<()> {
        Err(not_yet("exec"))
    }
}

impl Engine {
    /// Prepares a process; [`Engine::exec_start`] runs it.
    ///
    /// # Errors
    ///
    /// No such container; it is not running or paused; no command.
    pub async fn exec_create(&self, _container: &str, _config: ExecConfig) -> Result<ExecId> {
        Err(not_yet("exec"))
    }

    /// Checks that an exec can be started and reserves it.
    ///
    /// # Errors
    ///
    /// No such exec; its container does not run; it was started before.
    pub async fn exec_start(&self, _exec: &str, _options: ExecStart) -> Result<ExecTicket> {
        Err(not_yet("exec"))
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    ///
    /// No such exec; it does not run.
    pub async fn exec_resize(&self, _exec: &str, _height: u16, _width: u16) -> Result<()> {
        Err(not_yet("exec"))
    }

    /// What is known of an exec.
    ///
    /// # Errors
    ///
    /// No such exec.
    pub fn exec_inspect(&self, _exec: &str) -> Result<ExecInspect> {
        Err(not_yet("exec"))
    }

    /// The execs of a container that are known, for `ExecIDs`.
    #[must_use]
    pub fn exec_ids(&self, _container: &ContainerId) -> Vec<ExecId> {
        Vec::new()
    }
}
