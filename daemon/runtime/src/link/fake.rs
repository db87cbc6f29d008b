// SPDX-License-Identifier: Apache-2.0
//! A shim for tests: a thread that speaks the protocol, beside a process that does nothing but live.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use berth_domain::{ContainerId, Error, Result};
use berth_shim_proto::{Event, FromShim, PacketError, Reply, Request, ToShim, recv, send};
use berth_sys::{pidfd::PidFd, seqpacket};

use super::shims::{assemble, watch_over};
use super::supervisor::register;
use super::{Shim, ShimError};

/// What the fake sends through: replies in any order, events at any time.
#[derive(Debug, Clone)]
pub struct Wire(Arc<OwnedFd>);

impl Wire {
    /// Answers request `id`.
    ///
    /// # Errors
    ///
    /// The daemon's end is closed.
    pub fn reply(&self, id: u64, reply: Reply, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        self.send(&FromShim::Reply { id, reply }, fds)
    }

    /// Tells of something.
    ///
    /// # Errors
    ///
    /// The daemon's end is closed.
    pub fn event(&self, event: Event) -> Result<(), ShimError> {
        self.send(&FromShim::Event(event), &[])
    }

    /// Ends the connection, as a dying shim does.
    ///
    /// # Errors
    ///
    /// It was over already.
    pub fn hang_up(&self) -> std::io::Result<()> {
        Ok(rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both)?)
    }

    fn send(&self, message: &FromShim, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        send(&*self.0, message, fds).map_err(|e| ShimError::Broken(e.to_string()))
    }
}

/// The fake's process; killed and left to the link to collect when dropped.
#[derive(Debug)]
pub struct FakeProcess(Child);

impl FakeProcess {
    /// Ends it.
    pub fn end(mut self) {
        self.kill();
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap_or_default()
    }

    fn kill(&mut self) {
        // It may have ended on its own.
        drop(self.0.kill());
    }
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A shim whose every request is answered by `script` (called on the fake's own thread). Must be called within a tokio runtime.
///
/// # Errors
///
/// No process, no descriptors.
pub fn shim(
    id: &ContainerId,
    run_dir: &Path,
    script: impl FnMut(&Wire, u64, Request, Vec<OwnedFd>) + Send + 'static,
) -> Result<(Shim, Wire, FakeProcess)> {
    let failed = |e: std::io::Error| Error::internal("making a fake shim").because(e);
    let (ours, theirs) = seqpacket::pair().map_err(failed)?;
    let child = Command::new("sleep")
        .arg("infinity")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let process = FakeProcess(child);
    let socket = register(ours).map_err(failed)?;
    let (shim, supervisor) =
        assemble(run_dir, PidFd::open(process.pid()).map_err(failed)?, socket.clone()).map_err(failed)?;
    drop(watch_over(id, supervisor, socket));
    let wire = Wire(Arc::new(theirs));
    serve(wire.clone(), script);
    Ok((shim, wire, process))
}

/// Serves one connection on a thread of its own until it ends.
pub(super) fn serve(wire: Wire, mut script: impl FnMut(&Wire, u64, Request, Vec<OwnedFd>) + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            match recv::<ToShim>(wire.0.as_fd()) {
                Ok(packet) => script(&wire, packet.message.id, packet.message.request, packet.fds),
                Err(PacketError::Closed) => break,
                Err(error) => {
                    tracing::error!(%error, "the fake shim cannot read");
                    break;
                }
            }
        }
    });
}

impl From<OwnedFd> for Wire {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}
