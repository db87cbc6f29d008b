// SPDX-License-Identifier: Apache-2.0
//! A registry that does what a test tells it to, and remembers what it was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use berth_domain::{Digest, Reference};
use berth_registry::{Client, Descriptor, RegistryConfig, Retries, Timeouts};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }
}

enum Part {
    Data(Bytes),
    /// Lets the server flush what it has.
    Flush,
    Hang,
    Break,
}

/// A body that may stall or break off.
pub struct Script(VecDeque<Part>);

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.front() {
            None => Poll::Ready(None),
            // Never woken: the client has to lose its patience.
            Some(Part::Hang) => Poll::Pending,
            Some(Part::Flush) => {
                self.0.pop_front();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Part::Break) => Poll::Ready(Some(Err(std::io::Error::other("as the test wants it")))),
            Some(Part::Data(data)) => {
                let data = data.clone();
                self.0.pop_front();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }
}

pub type Reply = Response<Script>;

pub fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    Response::builder()
        .status(status)
        .header("content-length", body.len())
        .body(Script([Part::Data(body)].into()))
        .expect("a response")
}

fn unfinished(status: u16, length: usize, body: &[u8], end: Part) -> Reply {
    Response::builder()
        .status(status)
        .header("content-length", length)
        .body(Script([Part::Data(Bytes::copy_from_slice(body)), Part::Flush, end].into()))
        .expect("a response")
}

/// Says `length` bytes, sends `body` and closes the connection.
pub fn broken_off(status: u16, length: usize, body: &[u8]) -> Reply {
    unfinished(status, length, body, Part::Break)
}

/// Says `length` bytes, sends `body` and nothing more, for ever.
pub fn stalling(status: u16, length: usize, body: &[u8]) -> Reply {
    unfinished(status, length, body, Part::Hang)
}

pub fn with(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    reply.headers_mut().append(name, value.parse().expect("a header value"));
    reply
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

pub struct Server {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    pub async fn http(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(handler), None).await
    }

    pub async fn https(
        tls: rustls::ServerConfig,
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(handler), Some(Arc::new(tls).into())).await
    }

    async fn start(handler: Handler, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log, tls) = (Arc::clone(&handler), Arc::clone(&log), tls.clone());
                tokio::spawn(async move {
                    // Clients that try TLS on a plain server, refuse a certificate or hang up are the tests' daily bread.
                    match tls {
                        None => serve(TokioIo::new(stream), handler, log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(TokioIo::new(stream), handler, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, seen, accepting }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the log").clone()
    }

    pub fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.path).collect()
    }

    pub fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.addr).parse().expect("a reference")
    }
}

async fn serve<I>(io: I, handler: Handler, log: Arc<Mutex<Vec<Seen>>>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
        async move {
            use http_body_util::BodyExt as _;
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            let seen = Seen { method: head.method, path, headers: head.headers, body };
            let reply = handler(&seen);
            log.lock().expect("the log").push(seen);
            Ok::<_, Infallible>(reply)
        }
    });
    // Errors of a connection show in what the client says.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
}

/// Quick to lose patience, quick to try again.
pub fn config() -> RegistryConfig {
    RegistryConfig {
        certs_dirs: Vec::new(),
        proxies: berth_registry::Proxies::default(),
        docker_hub: "http://127.0.0.1:1".into(),
        docker_index: "http://127.0.0.1:1".into(),
        timeouts: Timeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(5) },
        retries: Retries {
            count: 2,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(50),
        },
        ..RegistryConfig::default()
    }
}

pub fn client() -> Client {
    Client::new(config()).expect("a client")
}

pub fn digest(content: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(content).into())
}

pub fn blob(content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".into(),
        digest: digest(content),
        size: content.len() as u64,
    }
}

pub const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}"#;

pub fn manifest() -> Reply {
    let reply = reply(200, MANIFEST);
    with(reply, "content-type", "application/vnd.oci.image.manifest.v1+json")
}

pub async fn read_all(stream: &mut berth_registry::BlobStream) -> berth_domain::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(data) = stream.chunk().await? {
        assert!(!data.is_empty(), "chunks are never empty");
        all.extend_from_slice(&data);
    }
    Ok(all)
}
