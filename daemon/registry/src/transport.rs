// SPDX-License-Identifier: Apache-2.0
//! One HTTP request to one server: connections, TLS, proxies and patience. Knows nothing of registries.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use crate::config::Timeouts;
use crate::failure::{Failure, Kind, is_bad_certificate, root_cause};
use crate::outgoing::Payload;
use crate::proxy::{BoxError, Connecting, Routes, Tcp};
use crate::tls::{self, HostCerts, Trust};
use crate::url::{Scheme, Url};

/// How long an unused connection is kept: a pull's requests come in bursts.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// An error body above this is cut.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// A document that fits in memory has to come within so many times the patience for its next byte: a server may send a
/// byte now and then for ever.
const DOCUMENT_PATIENCE: u32 = 10;
/// TLS configurations kept with their connections.
const MAX_CLIENTS: usize = 64;

#[derive(Clone)]
enum Http {
    Plain(Client<Bounded<Tcp>, Payload>),
    Tls(Client<Bounded<HttpsConnector<Tcp>>, Payload>),
}

/// What makes one TLS configuration different from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Profile {
    scheme: Scheme,
    insecure: bool,
    certs: Option<HostCerts>,
}

pub(crate) struct Transport {
    tcp: Tcp,
    timeouts: Timeouts,
    certs_dirs: Vec<PathBuf>,
    /// One client for each TLS profile.
    clients: Mutex<HashMap<Profile, Http>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("timeouts", &self.timeouts).finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(timeouts: Timeouts, certs_dirs: Vec<PathBuf>, routes: Routes) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(30)));
        Self { tcp: Tcp { http, routes: Arc::new(routes) }, timeouts, certs_dirs, clients: Mutex::default() }
    }

    fn client(&self, url: &Url, trust: &Trust) -> Result<Http, Failure> {
        let profile = match url.scheme {
            Scheme::Http => Profile { scheme: Scheme::Http, insecure: true, certs: None },
            Scheme::Https => {
                let certs = match &trust.certs {
                    Some(certs) => Some(certs.clone()),
                    None => HostCerts::find(&self.certs_dirs, &url.host)?,
                };
                Profile { scheme: Scheme::Https, insecure: trust.insecure, certs }
            }
        };
        if let Some(client) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&profile) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(POOL_IDLE).pool_timer(TokioTimer::new()).pool_max_idle_per_host(8);
        let within = self.timeouts.connect;
        let client = match profile.scheme {
            Scheme::Http => Http::Plain(builder.build(Bounded { inner: self.tcp.clone(), within })),
            Scheme::Https => {
                let https = HttpsConnectorBuilder::new()
                    .with_tls_config(tls::config(profile.insecure, profile.certs.as_ref())?)
                    .https_only()
                    .enable_http1()
                    .wrap_connector(self.tcp.clone());
                Http::Tls(builder.build(Bounded { inner: https, within }))
            }
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // Changed files leave older ones behind; what is in use goes on all the same.
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(profile, client.clone());
        Ok(client)
    }

    /// Sends a request to `url` and waits for the answer's head. While `taken` grows, the body is still going out.
    pub(crate) async fn send(
        &self,
        url: &Url,
        trust: &Trust,
        mut request: Request<Payload>,
        taken: Option<&AtomicU64>,
    ) -> Result<Response<Incoming>, Failure> {
        *request.uri_mut() = url.to_uri()?;
        if let Some(secret) = self.tcp.shown_to_proxy(request.uri()) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, secret);
        }
        let client = self.client(url, trust)?;
        let answer = async {
            match &client {
                Http::Plain(client) => client.request(request).await,
                Http::Tls(client) => client.request(request).await,
            }
        };
        let patience = self.timeouts.connect.saturating_add(self.timeouts.idle);
        let mut answer = std::pin::pin!(answer);
        let mut before = 0;
        let outcome = loop {
            let outcome = tokio::time::timeout(patience, &mut answer).await;
            let now = taken.map_or(0, |taken| taken.load(Ordering::Relaxed));
            if outcome.is_ok() || now == before {
                break outcome;
            }
            before = now;
        };
        match outcome {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                let message = format!("registry {} is not reachable: {}", url.host, root_cause(&error));
                Err(if is_bad_certificate(&error) {
                    Failure::new(Kind::Unreachable, message)
                } else {
                    Failure::transient(Kind::Unreachable, message)
                })
            }
            Ok(Err(error)) => Err(Failure::transient(
                Kind::Unavailable,
                format!("the connection to registry {} broke: {}", url.host, root_cause(&error)),
            )),
            Err(_) => Err(stalled(url, self.timeouts.idle)),
        }
    }

    /// The next bytes of an answer's body; `None` at its end.
    pub(crate) async fn next_bytes(&self, url: &Url, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            return match tokio::time::timeout(self.timeouts.idle, body.frame()).await {
                Ok(None) => Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Ok(Some(data)),
                    _ => continue,
                },
                Ok(Some(Err(error))) => Err(Failure::transient(
                    Kind::Unavailable,
                    format!("the connection to registry {} broke: {}", url.host, root_cause(&error)),
                )),
                Err(_) => Err(stalled(url, self.timeouts.idle)),
            };
        }
    }

    /// A whole body of at most `limit` bytes.
    pub(crate) async fn whole_body(
        &self,
        url: &Url,
        mut body: Incoming,
        limit: u64,
    ) -> Result<Bytes, Failure> {
        use hyper::body::Body as _;
        let too_long =
            || Failure::broken(format!("registry {} answered with more than {limit} bytes", url.host));
        if body.size_hint().lower() > limit {
            return Err(too_long());
        }
        let mut whole = Vec::with_capacity(usize::try_from(body.size_hint().lower()).unwrap_or(0));
        let all = async {
            while let Some(data) = self.next_bytes(url, &mut body).await? {
                if (whole.len() + data.len()) as u64 > limit {
                    return Err(too_long());
                }
                whole.extend_from_slice(&data);
            }
            Ok(())
        };
        let within = self.timeouts.idle.saturating_mul(DOCUMENT_PATIENCE);
        match tokio::time::timeout(within, all).await {
            Ok(done) => done?,
            Err(_) => {
                let message = format!("registry {} takes more than {within:?} for one document", url.host);
                return Err(Failure::transient(Kind::Unavailable, message));
            }
        }
        Ok(whole.into())
    }

    /// The beginning of a body that explains an error; what cannot be read explains nothing.
    pub(crate) async fn error_body(&self, url: &Url, mut body: Incoming) -> Vec<u8> {
        let mut start = Vec::new();
        let all = async {
            while let Ok(Some(data)) = self.next_bytes(url, &mut body).await {
                start.extend_from_slice(&data);
                if start.len() >= MAX_ERROR_BYTES {
                    start.truncate(MAX_ERROR_BYTES);
                    break;
                }
            }
        };
        // What came by then has to do.
        drop(tokio::time::timeout(self.timeouts.idle, all).await);
        start
    }
}

fn stalled(url: &Url, idle: Duration) -> Failure {
    let message = format!("registry {} has stalled: not a byte for {idle:?}", url.host);
    Failure::transient(Kind::Unavailable, message)
}

/// Bounds the whole of connecting, TLS handshake included: a plain HTTP server may wait for ever for
/// the end of what it takes for a request line.
#[derive(Clone)]
struct Bounded<C> {
    inner: C,
    within: Duration,
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Connecting<C::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let within = self.within;
        Box::pin(async move {
            match tokio::time::timeout(within, connecting).await {
                Ok(result) => result.map_err(Into::into),
                Err(_) => {
                    let message = format!("no connection within {within:?}");
                    Err(std::io::Error::new(std::io::ErrorKind::TimedOut, message).into())
                }
            }
        })
    }
}
