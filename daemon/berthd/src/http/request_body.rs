// SPDX-License-Identifier: Apache-2.0
//! A request's body that is read to its end, by somebody.
//!
//! A handler may refuse before it has read what is still being sent. Were the connection closed then, a client that
//! writes would meet a broken pipe and never read why (RFC 9112, section 9.6): so what nobody wants is read and thrown
//! away beside the answer, for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// The most that is thrown away before the connection is given up.
const MOST: u64 = 64 << 20;
/// For how long.
const LONGEST: Duration = Duration::from_secs(10);

/// The body of a request.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// None when it was taken out, or read to its end or to an error.
    body: Option<Incoming>,
}

impl RequestBody {
    /// The body as it came.
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body: Some(body) }
    }

    /// The bare body, which its owner reads or cuts as it pleases.
    pub(crate) fn take(mut self) -> Option<Incoming> {
        self.body.take()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame.map(|f| f.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // Outside of the runtime the daemon is ending, and with it the connection.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(discard(body));
        }
    }
}

async fn discard(mut body: Incoming) {
    let read = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > MOST {
                break;
            }
        }
        read
    };
    match tokio::time::timeout(LONGEST, read).await {
        Ok(bytes) => tracing::debug!(bytes, "the rest of a request was not wanted"),
        Err(_) => tracing::debug!("the rest of a request was not wanted, and did not end"),
    }
}
