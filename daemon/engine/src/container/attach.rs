// SPDX-License-Identifier: Apache-2.0
//! `ContainerAttach`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_api::detach;
use berth_domain::container::Request;
use berth_domain::{Error, Result};
use berth_shim_proto::{Attach, Target};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::door::{Door, Guest, Place};
use crate::logs::{LogOptions, LogStream};
use crate::{Engine, Snapshot};

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
    /// Never frame output: both streams in one, as over a WebSocket.
    pub raw: bool,
}

/// A reserved place at a container's streams. A start waits (shortly) for reserved places to be taken, so
/// that an attached run loses no output. Dropping it gives the place up.
#[derive(Debug)]
pub struct AttachTicket {
    place: Place,
    attach: Attach,
    stream: bool,
    replay: Option<LogStream>,
    engine: Arc<Engine>,
    now: Arc<Snapshot>,
}

/// The bytes of a key sequence; `None` is the default sequence.
///
/// # Errors
///
/// It is none.
pub(crate) fn detach_keys(keys: Option<&str>) -> Result<Vec<u8>> {
    detach::parse(keys.unwrap_or_default()).map_err(|error| Error::invalid(error.to_string()))
}

impl AttachTicket {
    /// Whether output is framed (no terminal) or raw.
    #[must_use]
    pub fn multiplexed(&self) -> bool {
        self.attach.multiplexed
    }

    /// Takes the place with this connected socket; `early` came with the request head. Returns once the shim has the
    /// socket, or once it waits for the container to start.
    ///
    /// # Errors
    ///
    /// The container's shim does not answer; the client went away during the replay of the log.
    pub async fn join(self, socket: OwnedFd, early: Vec<u8>) -> Result<()> {
        let Self { place, mut attach, stream, replay, engine, now } = self;
        attach.early = early;
        let socket = match replay {
            Some(replay) => write_replay(socket, replay).await?,
            None => socket,
        };
        engine.container_event(&now, "attach", &[]);
        if !stream {
            return Ok(());
        }
        Door::enter(place, Guest { attach, socket }).await
    }
}

/// Sends the log so far and hands the socket back.
async fn write_replay(socket: OwnedFd, mut replay: LogStream) -> Result<OwnedFd> {
    let gone =
        |error: std::io::Error| Error::cancelled("sending the log to an attached client").because(error);
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).map_err(gone)?;
    let mut socket = UnixStream::from_std(socket).map_err(gone)?;
    while let Some(piece) = replay.next().await {
        socket.write_all(&piece?).await.map_err(gone)?;
    }
    Ok(socket.into_std().map_err(gone)?.into())
}

impl Engine {
    /// Reserves a place at a container's streams. It need not run yet.
    ///
    /// # Errors
    ///
    /// No such container; it is paused or restarting; bad detach keys.
    pub async fn container_attach(
        self: &Arc<Self>,
        name: &str,
        options: AttachOptions,
    ) -> Result<AttachTicket> {
        let keys = detach_keys(options.detach_keys.as_deref())?;
        let handle = self.index.resolve(name)?;
        handle.admit(Request::Attach, name)?;
        let now = handle.now();
        let place = handle.door.reserve()?;
        let multiplexed = !now.config.tty && !options.raw;
        let replay = if options.logs {
            let wanted = LogOptions {
                stdout: options.stdout,
                stderr: options.stderr,
                framed: multiplexed,
                ..LogOptions::default()
            };
            if wanted.stdout || wanted.stderr { Some(self.container_logs(name, wanted).await?) } else { None }
        } else {
            None
        };
        let attach = Attach {
            fd: 0,
            early: Vec::new(),
            stdin: options.stdin && now.config.open_stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            multiplexed,
            // Without a terminal the bytes are data: the sequence in them means nothing.
            detach_keys: if now.config.tty { keys } else { Vec::new() },
            from_start: false,
        };
        Ok(AttachTicket { place, attach, stream: options.stream, replay, engine: Arc::clone(self), now })
    }

    /// A client typed its detach keys.
    pub(crate) fn detached(&self, now: &Snapshot, target: &Target) {
        match target {
            Target::Init => self.container_event(now, "detach", &[]),
            Target::Exec(id) => self.container_event(now, "exec_detach", &[("execID", id.clone())]),
        }
    }
}
