// SPDX-License-Identifier: Apache-2.0
//! TCP connections, made directly or through an HTTP proxy: tunnels (`CONNECT`) for HTTPS, whole URLs for plain HTTP.
//!
//! Who is asked directly is told in [`crate::direct`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::direct::Direct;
use crate::url::{Host, Scheme};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Which proxies to go through. What is `None` here is taken from the environment, if that counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For plain HTTP: `http://[user:password@]host:port`; empty for none.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Who is asked directly: hosts, `.domains`, addresses and networks, with or without a port, separated by commas;
    /// `*` for all.
    pub no: Option<String>,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` of the environment (also in small letters) count.
    pub from_env: bool,
}

impl Proxies {
    pub(crate) fn routes(&self) -> Routes {
        let value = |given: &Option<String>, name: &str| match given {
            Some(value) => value.clone(),
            None if self.from_env => {
                std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).unwrap_or_default()
            }
            None => String::new(),
        };
        let proxies = Matcher::builder()
            .http(value(&self.http, "HTTP_PROXY"))
            .https(value(&self.https, "HTTPS_PROXY"))
            .build();
        Routes { proxies, direct: Direct::parse(&value(&self.no, "NO_PROXY")) }
    }
}

/// Which way each request goes.
#[derive(Debug)]
pub(crate) struct Routes {
    proxies: Matcher,
    direct: Direct,
}

impl Routes {
    fn through(&self, uri: &Uri) -> Option<Intercept> {
        let scheme = if uri.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
        let host = uri.authority().and_then(|a| Host::parse(a.as_str()));
        if host.is_some_and(|host| self.direct.covers(scheme, &host)) {
            return None;
        }
        self.proxies.intercept(uri)
    }
}

/// Connects directly or through a proxy.
#[derive(Clone)]
pub(crate) struct Tcp {
    pub(crate) http: HttpConnector,
    pub(crate) routes: Arc<Routes>,
}

impl Tcp {
    /// What a request in plain HTTP shows to the proxy that it goes through. With HTTPS only the tunnel's opening does.
    pub(crate) fn shown_to_proxy(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let mut secret = self.routes.through(uri)?.basic_auth()?.clone();
        secret.set_sensitive(true);
        Some(secret)
    }
}

impl Service<Uri> for Tcp {
    type Response = Stream;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(through) = self.routes.through(&uri) else {
            let connecting = self.http.call(uri);
            return Box::pin(async move { Ok(Stream { io: connecting.await?, proxied: false }) });
        };
        if through.uri().scheme_str() != Some("http") {
            let message = format!(
                "the proxy {} is not spoken to by plain HTTP, which alone is supported",
                through.uri()
            );
            return Box::pin(async move { Err(message.into()) });
        }
        if uri.scheme_str() == Some("http") {
            let connecting = self.http.call(through.uri().clone());
            return Box::pin(async move { Ok(Stream { io: connecting.await?, proxied: true }) });
        }
        let mut tunnel = Tunnel::new(through.uri().clone(), self.http.clone());
        if let Some(auth) = through.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        let connecting = tunnel.call(uri);
        Box::pin(async move { Ok(Stream { io: connecting.await?, proxied: false }) })
    }
}

/// A connection that knows whether a proxy reads its requests.
pub(crate) struct Stream {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }
}
