// SPDX-License-Identifier: Apache-2.0
//! The socket on which an OCI runtime hands over the master of a terminal it made (`--console-socket`).

use std::io::{IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::cli::forget;

/// Listens until the runtime's command has ended.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    pub(crate) fn listen(bundle: &Path, number: u64) -> Result<Self> {
        let path = bundle.join(format!("console-{number}.sock"));
        forget(&path);
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The master. The command that sent it has ended, so it is there or will never be.
    pub(crate) fn master(self) -> Result<OwnedFd> {
        let (connection, _) = self.listener.accept()?;
        let mut name = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(
            &connection,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )?;
        let rights = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        rights.ok_or_else(|| std::io::Error::other("the runtime sent no terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        forget(&self.path);
    }
}
