// SPDX-License-Identifier: Apache-2.0
//! Response bodies (nothing, bytes, what a task sends, or what a thread writes), and request bodies as something to read from.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::RequestBody;

/// A response's body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// All of it.
    Full(Bytes),
    /// What comes through the channel until its senders are gone. The head goes out at once.
    Channel(mpsc::Receiver<Bytes>),
    /// The same of what may fail half-way: the connection breaks then, so that nobody takes a part for the whole.
    Fallible(mpsc::Receiver<io::Result<Bytes>>),
}

/// How many pieces wait for a slow client before its producer has to.
const DEPTH: usize = 16;

impl Body {
    /// A body that a task fills. Sending fails once the client has gone.
    pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(DEPTH);
        (sender, Self::Channel(receiver))
    }

    /// A body that `write` writes on a thread of its own.
    pub(crate) fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(DEPTH);
        tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces { sender, piece: Vec::new() };
            let Err(error) = write(&mut pieces).and_then(|()| pieces.flush()) else { return };
            tracing::debug!(%error, "a body was not written to its end");
            // When the client has gone there is nobody to tell.
            drop(pieces.sender.blocking_send(Err(error)));
        });
        Self::Fallible(receiver)
    }
}

/// Collects what is written into pieces worth sending.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

/// A piece's length.
const PIECE: usize = 256 << 10;

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.sender
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Channel(receiver) => receiver.poll_recv(cx).map(|next| next.map(|b| Ok(Frame::data(b)))),
            Self::Fallible(receiver) => receiver.poll_recv(cx).map(|next| next.map(|b| b.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Channel(_) | Self::Fallible(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Channel(_) | Self::Fallible(_) => SizeHint::default(),
        }
    }
}

/// A request's body to read from.
#[derive(Debug)]
pub(crate) struct BodyReader {
    body: RequestBody,
    rest: Bytes,
}

impl BodyReader {
    /// From the start.
    pub(crate) fn new(body: RequestBody) -> Self {
        Self { body, rest: Bytes::new() }
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(Err(e)),
                // Trailers are nobody's.
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let n = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest.split_to(n));
        Poll::Ready(Ok(()))
    }
}
