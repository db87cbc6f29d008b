// SPDX-License-Identifier: Apache-2.0
//! Speaking to the daemon: HTTP/1.1 over a Unix socket (or TCP), by hand on hyper's connection API.
//!
//! No pool and no background machinery: a command makes a handful of requests, one after another, and
//! how fast it starts is what users feel. One idle connection is kept for the next request.

mod address;
pub(crate) mod hijack;

use std::cell::RefCell;

use berth_api::ApiVersion;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use hyperlocal::UnixConnector;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service as _;

use crate::fail::{Fail, Result};

pub(crate) use address::Address;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// The newest version whose answers this client has been held against.
const NEWEST: ApiVersion = ApiVersion::v1(51);
/// An error message above this is cut.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// The daemon, as one command sees it.
pub(crate) struct Api {
    pub(crate) address: Address,
    version: ApiVersion,
    idle: RefCell<Option<SendRequest<Body>>>,
}

/// A request without its connection.
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: full(Bytes::new()) }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Adds a query parameter.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(name);
        self.path.push('=');
        self.path.push_str(&berth_api::query::encode(value));
        self
    }

    /// Adds `name=1` if so.
    pub(crate) fn flag(self, name: &str, set: bool) -> Self {
        if set { self.with(name, "1") } else { self }
    }

    /// Adds a parameter that is there.
    pub(crate) fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) if !value.is_empty() => self.with(name, value),
            _ => self,
        }
    }

    pub(crate) fn json(mut self, body: &impl serde::Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(body).map_err(|e| Fail::new(format!("encoding the request: {e}")))?;
        self.body = full(bytes);
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        Ok(self)
    }

    pub(crate) fn body(mut self, content_type: &'static str, body: Body) -> Self {
        self.body = body;
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static(content_type)));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value).map_err(|e| Fail::new(format!("header {name}: {e}")))?;
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }
}

impl Api {
    /// Finds the daemon and agrees on a version.
    pub(crate) async fn connect(address: Address) -> Result<Self> {
        let mut api = Self { address, version: NEWEST, idle: RefCell::default() };
        let response = api.raw(Ask::new(Method::HEAD, "/_ping")).await?;
        let theirs = response.headers().get("api-version").and_then(|v| v.to_str().ok()).map(str::to_owned);
        api.finish(response).await?;
        // Without the header there is nothing to agree on (a daemon behind a proxy that strips it).
        if let Some(Ok(theirs)) = theirs.as_deref().map(str::parse::<ApiVersion>) {
            api.version = theirs.min(NEWEST);
        }
        Ok(api)
    }

    pub(crate) fn version(&self) -> ApiVersion {
        self.version
    }

    /// A connection to ask on. One that is to be taken over afterwards is a bare socket, which hyperlocal's streams do
    /// not give back.
    async fn sender(&self, to_be_taken_over: bool) -> Result<SendRequest<Body>> {
        let kept = self.idle.borrow_mut().take();
        if let Some(mut sender) = kept {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let fail = |e: std::io::Error| self.address.unreachable(&e);
        match &self.address {
            Address::Unix(path) if to_be_taken_over => {
                handshake(UnixStream::connect(path).await.map_err(fail)?).await
            }
            Address::Unix(path) => {
                let uri = hyperlocal::Uri::new(path, "/").into();
                handshake(UnixConnector.call(uri).await.map_err(fail)?).await
            }
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host.as_str()).await.map_err(fail)?;
                stream.set_nodelay(true).map_err(fail)?;
                handshake(stream).await
            }
        }
    }

    /// Sends to the path as it stands; any status comes back.
    async fn raw(&self, ask: Ask) -> Result<Response<Incoming>> {
        let to_be_taken_over = ask.headers.iter().any(|(name, _)| *name == UPGRADE);
        let mut sender = self.sender(to_be_taken_over).await?;
        let mut request = Request::new(ask.body);
        *request.method_mut() = ask.method;
        *request.uri_mut() =
            ask.path.parse().map_err(|_| Fail::new(format!("{:?} cannot be asked for", ask.path)))?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(self.address.host()).map_err(|e| Fail::new(e.to_string()))?;
        headers.insert(HOST, host);
        let agent = HeaderValue::from_static(concat!("Berth-Client/", env!("CARGO_PKG_VERSION"), " (linux)"));
        headers.insert(http::header::USER_AGENT, agent);
        for (name, value) in ask.headers {
            headers.insert(name, value);
        }
        let answer = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        *self.idle.borrow_mut() = Some(sender);
        Ok(answer)
    }

    /// Sends to the agreed version's path. An error status becomes a [`Fail`].
    pub(crate) async fn send(&self, mut ask: Ask) -> Result<Response<Incoming>> {
        ask.path = format!("/v{}{}", self.version, ask.path);
        let response = self.raw(ask).await?;
        if response.status().is_success()
            || response.status().is_redirection()
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    async fn refusal(&self, response: Response<Incoming>) -> Fail {
        #[derive(serde::Deserialize)]
        struct Message {
            message: String,
        }
        let status = response.status();
        let mut body = Vec::new();
        let mut incoming = response.into_body();
        while let Some(Ok(frame)) = incoming.frame().await {
            if let Ok(data) = frame.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() > MAX_ERROR_BYTES {
                break;
            }
        }
        let text = match serde_json::from_slice::<Message>(&body) {
            Ok(message) => message.message,
            Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        let text = if text.is_empty() { status.to_string() } else { text };
        Fail::daemon(status.as_u16(), text)
    }

    /// Reads an answer to its end, so that the connection can be used again.
    async fn finish(&self, response: Response<Incoming>) -> Result<Bytes> {
        Ok(response.into_body().collect().await.map_err(|e| self.broken(&e))?.to_bytes())
    }

    /// An answer's whole body.
    pub(crate) async fn bytes(&self, ask: Ask) -> Result<Bytes> {
        let response = self.send(ask).await?;
        self.finish(response).await
    }

    /// An answer's whole body, decoded.
    pub(crate) async fn decoded<T: DeserializeOwned>(&self, ask: Ask) -> Result<T> {
        let body = self.bytes(ask).await?;
        serde_json::from_slice(&body)
            .map_err(|e| Fail::new(format!("the daemon's answer cannot be read: {e}")))
    }

    /// Success, whatever the body.
    pub(crate) async fn done(&self, ask: Ask) -> Result<()> {
        self.bytes(ask).await.map(drop)
    }

    /// The connection is given away with the answer: the next request gets another.
    pub(crate) async fn stream(&self, ask: Ask) -> Result<Response<Incoming>> {
        let response = self.send(ask).await?;
        // hyper would wait for this body's end before it sends again on the same connection.
        self.idle.borrow_mut().take();
        Ok(response)
    }

    pub(crate) fn broken(&self, error: &hyper::Error) -> Fail {
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Fail::new(format!("the connection to the daemon at {} broke: {cause}", self.address))
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Body>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Fail::new(format!("speaking to the daemon: {e}")))?;
    // It ends with the sender; its errors come out of the requests.
    tokio::spawn(async move { connection.with_upgrades().await.ok() });
    Ok(sender)
}
