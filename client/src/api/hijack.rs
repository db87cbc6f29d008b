// SPDX-License-Identifier: Apache-2.0
//! Connections that stop being HTTP: attach and exec.
//!
//! After the 101 the socket is taken out of hyper and made blocking, and two plain threads move the
//! bytes. They never wait for each other nor for the event loop, which stays free for signals.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::{Api, Ask};
use crate::fail::{Fail, Result};

/// A raw connection.
pub(crate) enum Socket {
    Unix(std::os::unix::net::UnixStream),
    Tcp(std::net::TcpStream),
}

impl Socket {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(s) => Self::Unix(s.try_clone()?),
            Self::Tcp(s) => Self::Tcp(s.try_clone()?),
        })
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Unix(s) => s.shutdown(how),
            Self::Tcp(s) => s.shutdown(how),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.read(buf),
            Self::Tcp(s) => s.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(s) => s.write(buf),
            Self::Tcp(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A hijacked connection.
pub(crate) struct Hijacked {
    pub(crate) socket: Socket,
    /// Bytes of the stream that came along with the answer's head.
    pub(crate) early: Vec<u8>,
    /// Whether output is in stdcopy frames; `None` when the daemon did not say.
    pub(crate) framed: Option<bool>,
}

impl Api {
    /// Asks for a connection to be upgraded.
    pub(crate) async fn hijack(&self, ask: Ask) -> Result<Hijacked> {
        let mut ask = ask;
        ask.headers.push((CONNECTION, HeaderValue::from_static("Upgrade")));
        ask.headers.push((UPGRADE, HeaderValue::from_static("tcp")));
        // Of its own, so that the next request does not have to wait for another connection's making.
        let kept = self.idle.borrow_mut().take();
        let response = self.stream(ask).await?;
        *self.idle.borrow_mut() = kept;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fail::new(format!(
                "unable to upgrade to tcp, received {}",
                response.status().as_u16()
            )));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let framed = match kind {
            Some("application/vnd.docker.multiplexed-stream") => Some(true),
            _ => None,
        };
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| self.broken(&e))?;
        let blocking = |error: io::Error| Fail::io("taking over the connection", &error);
        match upgraded.downcast::<TokioIo<UnixStream>>() {
            Ok(parts) => {
                let socket = parts.io.into_inner().into_std().map_err(blocking)?;
                socket.set_nonblocking(false).map_err(blocking)?;
                Ok(Hijacked { socket: Socket::Unix(socket), early: parts.read_buf.into(), framed })
            }
            Err(upgraded) => {
                let parts = upgraded
                    .downcast::<TokioIo<TcpStream>>()
                    .map_err(|_| Fail::new("the upgraded connection is of no known kind"))?;
                let socket = parts.io.into_inner().into_std().map_err(blocking)?;
                socket.set_nonblocking(false).map_err(blocking)?;
                Ok(Hijacked { socket: Socket::Tcp(socket), early: parts.read_buf.into(), framed })
            }
        }
    }
}
