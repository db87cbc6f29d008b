// SPDX-License-Identifier: Apache-2.0
//! Asking other resolvers.
//!
//! The host's own are asked from the host's network namespace: they are reached from there for certain, be it systemd's stub on
//! loopback, and nothing has to be known of them. Servers that the user named are asked from within the container's
//! namespace, as the reference does: they may be reached by its networks alone, be another container, or one's own loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns::message::{self, Ask};
use crate::dns::{ADDRESS, Scope};
use crate::netns;

const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long one server has. Clients give up after five seconds, or ask again.
const PATIENCE: Duration = Duration::from_secs(2);
/// More servers than that are not asked, as in libc.
const SERVERS: usize = 3;
const PORT: u16 = 53;

/// Who is asked, and from where.
#[derive(Debug)]
pub(crate) enum Via {
    Host,
    Container(Vec<IpAddr>, Option<Arc<OwnedFd>>),
}

/// Asks one server after the other; SERVFAIL if none of them helps.
pub(crate) async fn forward(ask: &Ask, via: Via, tcp: bool) -> Vec<u8> {
    let (servers, scope) = match via {
        Via::Host => (host_servers(), None),
        Via::Container(servers, scope) => (servers, scope),
    };
    let mut last = None;
    // Whoever names this resolver would have it ask itself.
    for server in servers.into_iter().filter(|ip| *ip != *ADDRESS.ip()).take(SERVERS) {
        let to = SocketAddr::new(server, PORT);
        let asked = async {
            if tcp { by_tcp(ask, to, scope.clone()).await } else { by_udp(ask, to, scope.clone()).await }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) if !message::is_failure(&answer) => return message::hand_on(ask, answer),
            Ok(Ok(answer)) => last = Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server could not be asked"),
            Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
        }
    }
    match last {
        Some(answer) => message::hand_on(ask, answer),
        None => message::failure(&ask.query, ask.end),
    }
}

/// A socket in a namespace; the host's if none is said.
async fn socket(to: SocketAddr, kind: SocketType, scope: Scope) -> io::Result<OwnedFd> {
    let make = move || -> io::Result<OwnedFd> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        if kind == SocketType::DGRAM {
            let from: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            bind(&socket, &SocketAddr::new(from, 0))?;
            connect(&socket, &to)?;
        }
        Ok(socket)
    };
    let Some(scope) = scope else { return make() };
    // A thread of the runtime must not be in another namespace, not for a moment.
    let made = tokio::task::spawn_blocking(move || netns::inside(scope.as_fd(), make));
    made.await.map_err(io::Error::other)?.map_err(|error| io::Error::other(error.chain()))?
}

/// The question under a number of our own: whoever would guess an answer has to guess it, and our port.
fn renumbered(ask: &Ask) -> io::Result<([u8; 2], Vec<u8>)> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|e| io::Error::other(e.to_string()))?;
    let mut query = ask.query.clone();
    query[..2].copy_from_slice(&id);
    Ok((id, query))
}

async fn by_udp(ask: &Ask, to: SocketAddr, scope: Scope) -> io::Result<Vec<u8>> {
    let (id, query) = renumbered(ask)?;
    let socket = UdpSocket::from_std(socket(to, SocketType::DGRAM, scope).await?.into())?;
    socket.send(&query).await?;
    // What is longer than the asker takes is cut all the same.
    let mut buffer = vec![0; ask.limit + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if message::answers(ask, id, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(ask: &Ask, to: SocketAddr, scope: Scope) -> io::Result<Vec<u8>> {
    let (id, query) = renumbered(ask)?;
    let socket: std::net::TcpStream = socket(to, SocketType::STREAM, scope).await?.into();
    let mut stream: TcpStream = TcpSocket::from_std_stream(socket).connect(to).await?;
    stream.write_all(&framed(&query)?).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if message::answers(ask, id, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
    }
}

/// A message with its length before it, as TCP carries it.
pub(crate) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("a message over 64 KiB"))?;
    Ok([&length.to_be_bytes(), message].concat())
}

/// The host's servers as they are now; its stub on loopback is as good as any, from here.
fn host_servers() -> Vec<IpAddr> {
    let text = match std::fs::read_to_string(HOST_RESOLV_CONF) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(path = HOST_RESOLV_CONF, %error, "reading the host's name servers");
            return Vec::new();
        }
    };
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|w| *w == "nameserver").and(words.next()).and_then(|w| w.parse().ok())
    };
    text.lines().filter_map(server).collect()
}
