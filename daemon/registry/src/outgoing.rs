// SPDX-License-Identifier: Apache-2.0
//! Bodies of requests. Each can be made again from its start, for the request that has to be repeated.

use std::fmt;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of any request.
pub(crate) type Payload = UnsyncBoxBody<Bytes, io::Error>;

/// Opens content for reading from an offset on. Called on a thread that may block.
pub type Opener = Arc<dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Hears how many bytes have gone out.
pub type Told = Arc<dyn Fn(u64) + Send + Sync>;

/// Read from content at once.
const CHUNK: usize = 256 * 1024;
/// Chunks read ahead of the connection.
const AHEAD: usize = 4;

/// What a request carries.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) content_type: String,
    /// First and last byte, for the continuation of an upload.
    pub(crate) range: Option<(u64, u64)>,
    make: Arc<dyn Fn() -> Payload + Send + Sync>,
    /// Grows while the body is being taken: the sign of life of a long request.
    pub(crate) taken: Arc<AtomicU64>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

/// Nothing.
pub(crate) fn nothing() -> Payload {
    whole(Bytes::new())
}

/// These bytes.
pub(crate) fn whole(bytes: Bytes) -> Payload {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

impl Outgoing {
    pub(crate) fn bytes(content_type: &str, bytes: Bytes) -> Self {
        Self {
            content_type: content_type.to_owned(),
            range: None,
            make: Arc::new(move || whole(bytes.clone())),
            taken: Arc::default(),
        }
    }

    /// Content from `offset` to its end at `size`.
    pub(crate) fn stream(opener: Opener, offset: u64, size: u64, told: Told) -> Self {
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        let make = move || {
            let (chunks, arriving) = mpsc::channel(AHEAD);
            let opener = Arc::clone(&opener);
            tokio::task::spawn_blocking(move || read(&opener, offset, size, &chunks));
            let piped =
                Piped { arriving, offset, size, taken: Arc::clone(&counter), told: Arc::clone(&told) };
            piped.boxed_unsync()
        };
        Self {
            content_type: "application/octet-stream".to_owned(),
            range: (offset > 0).then(|| (offset, size.saturating_sub(1))),
            make: Arc::new(make),
            taken,
        }
    }

    pub(crate) fn payload(&self) -> Payload {
        (self.make)()
    }
}

fn read(opener: &Opener, offset: u64, size: u64, chunks: &mpsc::Sender<io::Result<Bytes>>) {
    let mut left = size - offset;
    let mut source = match opener(offset) {
        Ok(source) => source,
        Err(error) => {
            // Nobody listens when the request has been given up.
            drop(chunks.blocking_send(Err(error)));
            return;
        }
    };
    while left > 0 {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        let message = match source.read(&mut buffer) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content is shorter than it was")),
            Ok(n) => {
                buffer.truncate(n);
                left -= n as u64;
                Ok(Bytes::from(buffer))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let last = message.is_err();
        if chunks.blocking_send(message).is_err() || last {
            return;
        }
    }
}

/// Content on its way from a reading thread.
struct Piped {
    arriving: mpsc::Receiver<io::Result<Bytes>>,
    offset: u64,
    size: u64,
    taken: Arc<AtomicU64>,
    told: Told,
}

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.arriving.poll_recv(cx)) {
            Some(Ok(bytes)) => {
                self.offset += bytes.len() as u64;
                self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                (self.told)(self.offset);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(io::Error::other("the content could not be read to its end"))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.offset >= self.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size.saturating_sub(self.offset))
    }
}
