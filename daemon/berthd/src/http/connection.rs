// SPDX-License-Identifier: Apache-2.0
//! A connection whose socket can be taken over after an ordinary answer.
//!
//! hyper hands a socket over after a `101` only. Old clients attach without asking for an upgrade: they get a `200`
//! that ends with the connection, and speak raw bytes from then on. So hyper is told that the answer is over, kept
//! from shutting the socket down, and asked for it back together with what it has read too much.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::hijack::Taken;

/// A socket of a listener.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The bare descriptor, out of the runtime's hands.
    ///
    /// # Errors
    ///
    /// The runtime does not let go of it.
    fn into_fd(self) -> io::Result<OwnedFd>;
}

impl Socket for UnixStream {
    fn into_fd(self) -> io::Result<OwnedFd> {
        self.into_std().map(Into::into)
    }
}

impl Socket for TcpStream {
    fn into_fd(self) -> io::Result<OwnedFd> {
        self.into_std().map(Into::into)
    }
}

/// Who wants the socket when the present answer is over; an extension of every request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heir(Arc<Mutex<Option<oneshot::Sender<Taken>>>>);

impl Heir {
    fn with<T>(&self, look: impl FnOnce(&mut Option<oneshot::Sender<Taken>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for the socket. The answer must be one that ends with the connection, and its body empty.
    pub(crate) fn ask(&self) -> oneshot::Receiver<Taken> {
        let (sender, receiver) = oneshot::channel();
        self.with(|heir| *heir = Some(sender));
        receiver
    }

    /// Whoever asked, once.
    pub(crate) fn take(&self) -> Option<oneshot::Sender<Taken>> {
        self.with(Option::take)
    }

    fn is_there(&self) -> bool {
        self.with(|heir| heir.is_some())
    }
}

/// A socket in hyper's hands.
#[derive(Debug)]
pub(crate) struct Held<S> {
    pub(crate) socket: S,
    heir: Heir,
}

impl<S> Held<S> {
    pub(crate) fn new(socket: S, heir: Heir) -> Self {
        Self { socket, heir }
    }
}

impl<S: Socket> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, out)
    }
}

impl<S: Socket> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.heir.is_there() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
