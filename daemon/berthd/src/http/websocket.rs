// SPDX-License-Identifier: Apache-2.0
//! A container's streams over a WebSocket (RFC 6455), for browsers.
//!
//! Output goes out in binary frames, raw whether there is a terminal or not; what comes in, in text or binary
//! frames, is input. The daemon pumps between the WebSocket and a socketpair whose other end the container's shim
//! has.

use std::os::fd::OwnedFd;
use std::time::Duration;

use berth_domain::{Error, Result};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tracing::Instrument as _;

use super::{Body, RequestBody, Response};

/// Bytes moved at a time.
const PUMP: usize = 32 << 10;
/// The longest message that a client may send.
const MAX_MESSAGE: usize = 1 << 20;
/// How long a client may take to say good-bye.
const FAREWELL: Duration = Duration::from_secs(5);

/// The value that accepts the handshake.
#[derive(Debug)]
pub(crate) struct Accept(HeaderValue);

/// Checks a handshake.
///
/// # Errors
///
/// It is none.
pub(crate) fn check(headers: &HeaderMap) -> Result<Accept> {
    let names = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !names(header::CONNECTION, "upgrade") || !names(header::UPGRADE, "websocket") {
        return Err(Error::invalid(
            "not a WebSocket handshake: Connection: Upgrade and Upgrade: websocket expected",
        ));
    }
    if !names(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Error::invalid("not a WebSocket handshake: Sec-WebSocket-Version: 13 expected"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Error::invalid("not a WebSocket handshake: no Sec-WebSocket-Key"))?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map(Accept)
        .map_err(|error| Error::internal("answering a WebSocket handshake").because(error))
}

/// The answer to the handshake, and the way to the connection.
pub(crate) fn prepare(request: &mut http::Request<RequestBody>, accept: Accept) -> (Response, OnUpgrade) {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.0);
    (response, hyper::upgrade::on(request))
}

/// Waits for the connection and pumps it into a socket, whose other end this is.
///
/// # Errors
///
/// The client hung up first; there are no descriptors left.
pub(crate) async fn serve(upgrade: OnUpgrade) -> Result<OwnedFd> {
    let upgraded = upgrade.await.map_err(|e| Error::cancelled("taking over the connection").because(e))?;
    let (ours, theirs) = super::hijack::pair()?;
    tokio::spawn(pump(upgraded, ours).in_current_span());
    Ok(theirs.into())
}

async fn pump(upgraded: Upgraded, streams: UnixStream) {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let io = TokioIo::new(upgraded);
    let (mut client, mut typed) =
        WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await.split();
    let (mut read, mut write) = streams.into_split();
    let output = async move {
        let mut buffer = vec![0; PUMP];
        loop {
            let piece = match read.read(&mut buffer).await {
                Ok(0) | Err(_) => return client,
                Ok(n) => Bytes::copy_from_slice(&buffer[..n]),
            };
            if client.send(Message::Binary(piece)).await.is_err() {
                return client;
            }
        }
    };
    let input = async {
        while let Some(Ok(message)) = typed.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                // Pings are answered by the library.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                Message::Close(_) => return,
            };
            if write.write_all(&bytes).await.is_err() {
                // The process takes no more input; its output goes on.
                continue;
            }
        }
    };
    // A client that has closed takes no output either; dropping the streams tells the shim so.
    let client = tokio::select! {
        client = output => Some(client),
        () = input => None,
    };
    if let Some(mut client) = client {
        let farewell = async {
            if client.close().await.is_ok() {
                while let Some(Ok(_)) = typed.next().await {}
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("a WebSocket client did not say good-bye");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<header::HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        list.iter().map(pair).collect()
    }

    #[test]
    fn handshakes() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        // The example of RFC 6455, section 1.3.
        assert_eq!(check(&headers(&good)).unwrap().0, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for missing in 0..good.len() {
            let mut some = good.to_vec();
            some.remove(missing);
            assert!(check(&headers(&some)).unwrap_err().to_string().contains("WebSocket"));
        }
    }
}
