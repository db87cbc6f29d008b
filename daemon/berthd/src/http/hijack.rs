// SPDX-License-Identifier: Apache-2.0
//! Taking over a connection for a container's streams.
//!
//! With an `Upgrade` header the answer is `101` and the socket itself goes to whoever serves the streams
//! (the container's shim), together with the bytes that came early: the session does not need the daemon
//! any more. Without the header the answer is `200` with bytes until the connection closes; the socket goes the same
//! way ([`super::connection`]). Only of a request whose body is still being sent (chunked input) the daemon pumps
//! between HTTP and a socketpair.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use berth_api::ApiVersion;
use berth_domain::{Error, Result};
use bytes::{Buf as _, Bytes};
use http::{HeaderValue, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::connection::{Heir, Held, Socket as _};
use super::{Body, Call, Response};

/// Content type of framed output.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Content type of everything else.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";

/// Bytes moved at a time by a pump.
const PUMP: usize = 32 << 10;

/// The content type of output in this version.
pub(crate) fn content_type(multiplexed: bool, version: ApiVersion) -> HeaderValue {
    HeaderValue::from_static(if multiplexed && version >= ApiVersion::v1(42) { MULTIPLEXED } else { RAW })
}

/// A connection that is about to be taken over: the response to send, and the way to the socket.
pub(crate) struct Takeover {
    source: Source,
}

enum Source {
    Upgrade(OnUpgrade),
    Socket(oneshot::Receiver<Taken>),
    Plain(Option<Incoming>, tokio::sync::mpsc::Sender<Bytes>),
}

/// The socket and the bytes that came with the request's head.
#[derive(Debug)]
pub(crate) struct Taken {
    /// A connected stream socket.
    pub(crate) socket: OwnedFd,
    /// Read these first.
    pub(crate) early: Vec<u8>,
}

/// Prepares the takeover; the socket is there once the response has gone out.
pub(crate) fn prepare(call: Call, content_type: HeaderValue) -> (Response, Takeover) {
    let mut request = call.request;
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let mut response = Response::new(Body::Empty);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if upgrade {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(b"UPGRADED"));
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        return (response, Takeover { source: Source::Upgrade(hyper::upgrade::on(&mut request)) });
    }
    // As an HTTP/1.0 response it has neither length nor chunks: it ends when the connection does.
    let (sender, body) = Body::channel();
    *response.body_mut() = body;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(RAW));
    *response.version_mut() = Version::HTTP_10;
    let heir = request.extensions().get::<Heir>().filter(|_| http_body::Body::is_end_stream(request.body()));
    if let Some(heir) = heir {
        return (response, Takeover { source: Source::Socket(heir.ask()) });
    }
    (response, Takeover { source: Source::Plain(request.into_body().take(), sender) })
}

impl Takeover {
    /// Waits until the response has gone out.
    ///
    /// # Errors
    ///
    /// The client hung up first.
    pub(crate) async fn taken(self) -> Result<Taken> {
        match self.source {
            Source::Upgrade(upgrade) => {
                let upgraded =
                    upgrade.await.map_err(|e| Error::cancelled("taking over the connection").because(e))?;
                own(upgraded)
            }
            Source::Socket(socket) => {
                socket.await.map_err(|e| Error::cancelled("taking over the connection").because(e))
            }
            Source::Plain(body, sender) => {
                let (ours, theirs) = pair()?;
                tokio::spawn(pump_plain(ours, body, sender).in_current_span());
                Ok(Taken { socket: theirs.into(), early: Vec::new() })
            }
        }
    }
}

pub(super) fn pair() -> Result<(UnixStream, StdUnixStream)> {
    let make = || -> std::io::Result<_> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    make().map_err(|e| Error::internal("making a socket pair").because(e))
}

/// The socket beneath an upgraded connection, or one end of a pair that is pumped into it.
fn own(upgraded: Upgraded) -> Result<Taken> {
    let taking = |e: std::io::Error| Error::internal("taking the socket from the runtime").because(e);
    let upgraded = match upgraded.downcast::<TokioIo<Held<UnixStream>>>() {
        Ok(parts) => {
            let socket = parts.io.into_inner().socket.into_fd().map_err(taking)?;
            return Ok(Taken { socket, early: parts.read_buf.to_vec() });
        }
        Err(other) => other,
    };
    match upgraded.downcast::<TokioIo<Held<TcpStream>>>() {
        Ok(parts) => {
            let socket = parts.io.into_inner().socket.into_fd().map_err(taking)?;
            Ok(Taken { socket, early: parts.read_buf.to_vec() })
        }
        Err(other) => {
            let (ours, theirs) = pair()?;
            let pump = async move {
                let (mut client, mut ours) = (TokioIo::new(other), ours);
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut ours).await {
                    tracing::debug!(%error, "a taken-over connection ended");
                }
            };
            tokio::spawn(pump.in_current_span());
            Ok(Taken { socket: theirs.into(), early: Vec::new() })
        }
    }
}

/// Request body to socket, socket to response body.
async fn pump_plain(ours: UnixStream, mut body: Option<Incoming>, sender: tokio::sync::mpsc::Sender<Bytes>) {
    let (mut read, mut write) = ours.into_split();
    let input = async move {
        let mut any = false;
        while let Some(body) = &mut body {
            let Some(Ok(frame)) = body.frame().await else { break };
            let Ok(mut data) = frame.into_data() else { continue };
            let data = data.copy_to_bytes(data.remaining());
            any |= !data.is_empty();
            if write.write_all(&data).await.is_err() {
                return;
            }
        }
        if !any {
            // A request without a body says nothing of stdin's end: it stays open as long as the connection.
            std::future::pending::<()>().await;
        }
        if let Err(error) = write.shutdown().await {
            tracing::debug!(%error, "the streams had ended before their input");
        }
    };
    let output = async move {
        let mut buffer = vec![0; PUMP];
        loop {
            let read = tokio::select! {
                read = read.read(&mut buffer) => read,
                () = sender.closed() => return,
            };
            match read {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if sender.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    // The output decides: a client without input may be done sending long before.
    let mut output = std::pin::pin!(output);
    tokio::select! {
        () = &mut output => {}
        () = input => output.await,
    }
}
