// SPDX-License-Identifier: Apache-2.0
//! Reaching a log server.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_shim_proto::SinkAddress;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// A start waits this long for a server to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects and waits until it is so.
pub(super) fn wait(address: &SinkAddress) -> rustix::io::Result<OwnedFd> {
    let socket = begin(address)?;
    if !matches!(address, SinkAddress::Tcp(_)) {
        // Connected at once, or not at all. (Whether a full one takes anything is another question.)
        return Ok(socket);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::net::sockopt::socket_error(&socket)??;
    Ok(socket)
}

/// Begins to connect; the socket is writable, or has an error, when it is known how that went.
pub(super) fn begin(address: &SinkAddress) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (kind, to) = match address {
        SinkAddress::Udp(to) => (SocketType::DGRAM, Some(to)),
        SinkAddress::Tcp(to) => (SocketType::STREAM, Some(to)),
        SinkAddress::Unix(_) => (SocketType::STREAM, None),
        SinkAddress::UnixDatagram(_) => (SocketType::DGRAM, None),
    };
    let (socket, connected) = match (address, to) {
        (SinkAddress::Unix(path) | SinkAddress::UnixDatagram(path), _) => {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            let connected = rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_str())?);
            (socket, connected)
        }
        (_, Some(to)) => {
            let to: SocketAddr = to.parse().map_err(|_| Errno::INVAL)?;
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket_with(family, kind, flags, None)?;
            let connected = rustix::net::connect(&socket, &to);
            (socket, connected)
        }
        (_, None) => return Err(Errno::INVAL),
    };
    match connected {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// The address in messages.
pub(super) fn name(address: &SinkAddress) -> String {
    match address {
        SinkAddress::Udp(to) => format!("udp://{to}"),
        SinkAddress::Tcp(to) => format!("tcp://{to}"),
        SinkAddress::Unix(path) => format!("unix://{path}"),
        SinkAddress::UnixDatagram(path) => format!("unixgram://{path}"),
    }
}
