// SPDX-License-Identifier: Apache-2.0
//! Reserving host ports.
//!
//! A published port is no socket: the firewall leads packets away before they could reach one. A socket is bound all
//! the same, so that the kernel says whether the port is free, chooses ephemeral ones, and refuses the port to others. It never
//! listens: a connection that slips past the firewall is refused at once instead of waiting for ever. The shim
//! holds a copy, so that the reservation outlives the daemon.
//!
//! `SO_REUSEADDR` decides who may share a port, and it is needed both ways:
//! - on while binding, or remains of connections of a server that had the port before (TIME_WAIT) would keep it for a minute;
//! - off while the port is reserved, or any server that sets it (most do) could bind the port as well;
//! - on again when it is given back: a shim that is still ending holds its copy, and must not be in the way of the next start.
//!
//! For TCP the kernel remembers in the port's bucket that all of its sockets were bound with the option, and
//! then does not look at it again; listening resets that memory, so we listen for a moment (`inet_csk_get_port`,
//! `inet_csk_update_fastreuse`).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_recv_buffer_size, set_socket_reuseaddr};
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, getsockname, ipproto, listen, shutdown,
    socket_with,
};

use crate::{HostPorts, PortRequest, Protocol, PublishedPort};

/// How often another ephemeral port is tried when the first is taken in the other family.
const EPHEMERAL_TRIES: usize = 32;
/// How many ports given back are remembered.
const REMEMBERED: usize = 256;

/// A port that cannot be had. Reads as Docker's message does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortTaken {
    /// Another container publishes it.
    #[error("Bind for {0} failed: port is already allocated")]
    Published(SocketAddr),
    /// The kernel refuses it.
    #[error("failed to bind host port {address}/{protocol}: {}", words(*errno))]
    Refused { address: SocketAddr, protocol: Protocol, errno: Errno },
    /// None of a range is free.
    #[error("failed to bind host port {host_ip}:{first}-{last}/{protocol}: all ports are allocated")]
    Range { host_ip: IpAddr, first: u16, last: u16, protocol: Protocol },
}

/// A reserved port.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) port: PublishedPort,
    /// Keep the port while one of them is open; none where the kernel lacks the protocol.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// Reserves ports, and remembers which were given back.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    given_back: VecDeque<(Protocol, u16)>,
}

impl Ports {
    /// Reserves all of them, or none. `published` are those of other containers.
    pub(crate) fn reserve(
        &self,
        requests: &[PortRequest],
        default_ip: Ipv4Addr,
        published: impl Fn(Protocol, IpAddr, u16) -> bool,
    ) -> Result<Vec<Reservation>, PortTaken> {
        // Named ports first: an ephemeral one must not take what another request names.
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|n| match requests[*n].host_ports {
            HostPorts::Range(first, last) if first == last => 0,
            HostPorts::Range(..) => 1,
            HostPorts::Any => 2,
        });
        let mut reserved: Vec<(usize, Reservation)> = Vec::with_capacity(requests.len());
        for n in order {
            let taken = |protocol, ip, port| {
                published(protocol, ip, port)
                    || reserved.iter().any(|(_, r)| {
                        r.port.protocol == protocol
                            && r.port.host_port == port
                            && overlaps(r.port.host_ip, ip)
                    })
            };
            let one = self.reserve_one(&requests[n], default_ip, taken)?;
            reserved.push((n, one));
        }
        reserved.sort_by_key(|(n, _)| *n);
        Ok(reserved.into_iter().map(|(_, reservation)| reservation).collect())
    }

    fn reserve_one(
        &self,
        request: &PortRequest,
        default_ip: Ipv4Addr,
        taken: impl Fn(Protocol, IpAddr, u16) -> bool,
    ) -> Result<Reservation, PortTaken> {
        let protocol = request.protocol;
        let host_ip = request.host_ip.unwrap_or(default_ip.into());
        // Without an address of the user's choice the port is reserved for IPv6 too, as it will be published there.
        let both = request.host_ip.is_none() && default_ip.is_unspecified();
        let attempt = |port: u16| -> Result<Reservation, PortTaken> {
            if port != 0 && taken(protocol, host_ip, port) {
                return Err(PortTaken::Published(SocketAddr::new(host_ip, port)));
            }
            let v4 = SocketAddr::new(host_ip, port);
            let (host_port, sockets) =
                if both { self.bind_both(protocol, v4)? } else { self.bind(protocol, v4)? };
            let port = PublishedPort { protocol, container_port: request.container_port, host_ip, host_port };
            Ok(Reservation { port, sockets })
        };
        match request.host_ports {
            HostPorts::Range(port, last) if port == last => attempt(port),
            HostPorts::Range(first, last) => {
                for port in first..=last {
                    match attempt(port) {
                        Err(error) if error.is_in_use() => {}
                        result => return result,
                    }
                }
                Err(PortTaken::Range { host_ip, first, last, protocol })
            }
            HostPorts::Any => {
                let mut tries = 0;
                loop {
                    tries += 1;
                    match attempt(0) {
                        Err(error) if error.is_in_use() && tries < EPHEMERAL_TRIES => {}
                        result => return result,
                    }
                }
            }
        }
    }

    /// One socket for both families, where the host has IPv6.
    fn bind_both(&self, protocol: Protocol, v4: SocketAddr) -> Result<(u16, Vec<OwnedFd>), PortTaken> {
        match self.bind(protocol, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), v4.port())) {
            Err(PortTaken::Refused { errno: Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL, .. }) => {
                self.bind(protocol, v4)
            }
            // In which family it is taken is for the message.
            Err(error) => self.bind(protocol, v4).and(Err(error)),
            bound => bound,
        }
    }

    /// The port (chosen by the kernel for 0) and what holds it.
    fn bind(&self, protocol: Protocol, address: SocketAddr) -> Result<(u16, Vec<OwnedFd>), PortTaken> {
        let result = match protocol {
            Protocol::Tcp => bind_tcp(address),
            Protocol::Udp => match bind_plain(address, SocketType::DGRAM, None, false) {
                // Only our own given-back socket may be shared with: another's may be a server.
                Err(Errno::ADDRINUSE) if self.given_back.contains(&(protocol, address.port())) => {
                    bind_shared_udp(address)
                }
                result => result,
            },
            Protocol::Sctp => match bind_plain(address, SocketType::STREAM, Some(ipproto::SCTP), false) {
                // The container may speak it where the host does not.
                Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if address.port() != 0 => {
                    return Ok((address.port(), Vec::new()));
                }
                result => result,
            },
        };
        result.map(|(port, socket)| (port, vec![socket])).map_err(|errno| PortTaken::Refused {
            address,
            protocol,
            errno,
        })
    }

    /// Lets others have the port, whoever still has a copy of these sockets.
    pub(crate) fn give_back(&mut self, port: &PublishedPort, sockets: Vec<OwnedFd>) {
        for socket in &sockets {
            if let Err(error) = set_socket_reuseaddr(socket, true) {
                tracing::warn!(%error, port = port.host_port, "giving a port back");
            }
        }
        drop(sockets);
        if self.given_back.len() == REMEMBERED {
            self.given_back.pop_front();
        }
        self.given_back.push_back((port.protocol, port.host_port));
    }
}

impl PortTaken {
    fn is_in_use(&self) -> bool {
        matches!(
            self,
            Self::Published(_)
                | Self::Refused { errno: Errno::ADDRINUSE | Errno::ACCESS, .. }
                | Self::Range { .. }
        )
    }
}

/// Whether one address is the other, or stands for all.
pub(crate) fn overlaps(a: IpAddr, b: IpAddr) -> bool {
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

fn bind_tcp(address: SocketAddr) -> Result<(u16, OwnedFd), Errno> {
    // The kernel chooses ephemeral ports among those without remains.
    let named = address.port() != 0;
    let (port, socket) = bind_plain(address, SocketType::STREAM, None, named)?;
    if named {
        listen(&socket, 0)?;
        shutdown(&socket, Shutdown::Both)?;
        set_socket_reuseaddr(&socket, false)?;
    }
    Ok((port, socket))
}

fn bind_shared_udp(address: SocketAddr) -> Result<(u16, OwnedFd), Errno> {
    let (port, socket) = bind_plain(address, SocketType::DGRAM, None, true)?;
    set_socket_reuseaddr(&socket, false)?;
    Ok((port, socket))
}

fn bind_plain(
    address: SocketAddr,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
    reuse: bool,
) -> Result<(u16, OwnedFd), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, false)?;
    }
    if kind == SocketType::DGRAM {
        // Nobody reads it: what slips past the firewall is not to be kept.
        set_socket_recv_buffer_size(&socket, 0)?;
    }
    set_socket_reuseaddr(&socket, reuse)?;
    bind(&socket, &address)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((bound.port(), socket))
}

/// As Docker's messages say it.
fn words(errno: Errno) -> String {
    match errno {
        Errno::ADDRINUSE => "address already in use".into(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::AFNOSUPPORT => "address family not supported by protocol".into(),
        Errno::PROTONOSUPPORT => "protocol not supported".into(),
        other => io::Error::from(other).to_string(),
    }
}

/// The name under which a shim holds a port's socket.
pub(crate) fn held_name(port: &PublishedPort) -> String {
    format!("port/{}/{}", port.protocol, SocketAddr::new(port.host_ip, port.host_port))
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
