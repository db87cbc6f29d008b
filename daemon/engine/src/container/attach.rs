// SPDX-License-Identifier: Apache-2.0
//! `ContainerAttach`.

use std::os::fd::OwnedFd;

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

/// What to attach.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Send what was printed before.
    pub logs: bool,
    /// Send what is printed from now on.
    pub stream: bool,
    /// Feed stdin.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Keys that detach (`ctrl-p,ctrl-q`); `None` for the default.
    pub detach_keys: Option<String>,
}

/// A reserved place at a container's streams. A start waits (shortly) for reserved places to be taken, so
/// that an attached run loses no output. Dropping it gives the place up.
#[derive(Debug)]
pub struct AttachTicket {
    multiplexed: bool,
}

impl AttachTicket {
    /// Whether output is framed (no terminal) or raw.
    #[must_use]
    pub fn multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// Takes the place with this connected socket; `early` came with the request head.
    ///
    /// # Errors
    ///
    /// The container's shim does not answer.
    pub async fn join(self, _socket: OwnedFd, _early: Vec<u8>) -> Result<()> {
        Err(not_yet("attach"))
    }
}

impl Engine {
    /// Reserves a place at a container's streams. It need not run yet.
    ///
    /// # Errors
    ///
    /// No such container; it is paused or restarting; bad detach keys.
    pub async fn container_attach(&self, _name: &str, _options: AttachOptions) -> Result<AttachTicket> {
        Err(not_yet("attach"))
    }
}
