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

use crate::ipam::Family;
use crate::{HostPorts, PortRequest, Protocol, PublishedPort};

/// How often another ephemeral port is tried when the first is taken in the other family.
const EPHEMERAL_TRIES: usize = 32;
/// What ephemeral ports are chosen from where the kernel cannot (a protocol that it does not speak): the range that IANA has for
/// them.
const EPHEMERAL: (u16, u16) = (49_152, 65_535);
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
    /// The container has no address of that family.
    #[error("cannot publish on {host_ip}: the container has no {} address that leads out", if host_ip.is_ipv4() { "IPv4" } else { "IPv6" })]
    NoWay { host_ip: IpAddr },
    /// None of a range is free.
    #[error("failed to bind host port {host_ip}:{first}-{last}/{protocol}: all ports are allocated")]
    Range { host_ip: IpAddr, first: u16, last: u16, protocol: Protocol },
}

/// A reserved port.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// One for each address that the user meant, all of them with the same number.
    pub(crate) ports: Vec<PublishedPort>,
    /// Keep the port while one of them is open; none where the kernel lacks the protocol.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// How ports of a family lead into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It has no address that leads out.
    None,
    /// Ports of this host are translated.
    Translated,
    /// It is reached at its own address: no port of this host is needed.
    Routed,
}

/// How ports lead into a container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways {
    pub(crate) v4: Way,
    pub(crate) v6: Way,
    /// The host address that is meant when none is named. An unspecified one means all, those of IPv6 too.
    pub(crate) default_ip: Ipv4Addr,
}

impl Ways {
    fn of(&self, ip: IpAddr) -> Way {
        match Family::of(ip) {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The addresses that a request means.
    fn hosts(&self, request: &PortRequest) -> Result<Vec<IpAddr>, PortTaken> {
        let meant = match request.host_ip {
            Some(ip) => vec![ip],
            None if self.default_ip.is_unspecified() => {
                vec![self.default_ip.into(), Ipv6Addr::UNSPECIFIED.into()]
            }
            None => vec![self.default_ip.into()],
        };
        let able: Vec<IpAddr> = meant.iter().copied().filter(|ip| self.of(*ip) != Way::None).collect();
        match (able.is_empty(), meant.first()) {
            (true, Some(host_ip)) => Err(PortTaken::NoWay { host_ip: *host_ip }),
            _ => Ok(able),
        }
    }
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
        ways: &Ways,
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
                    || reserved
                        .iter()
                        .flat_map(|(_, r)| &r.ports)
                        .any(|p| p.protocol == protocol && p.host_port == port && overlaps(p.host_ip, ip))
            };
            let one = self.reserve_one(&requests[n], ways, taken)?;
            reserved.push((n, one));
        }
        reserved.sort_by_key(|(n, _)| *n);
        Ok(reserved.into_iter().map(|(_, reservation)| reservation).collect())
    }

    fn reserve_one(
        &self,
        request: &PortRequest,
        ways: &Ways,
        taken: impl Fn(Protocol, IpAddr, u16) -> bool,
    ) -> Result<Reservation, PortTaken> {
        let protocol = request.protocol;
        let hosts = ways.hosts(request)?;
        for ip in hosts.iter().filter(|ip| ways.of(**ip) == Way::Routed && !ip.is_unspecified()) {
            tracing::warn!(
                host_ip = %ip, container_port = request.container_port,
                "the address to publish on counts for nothing on a routed network: the port is open to all who reach the container"
            );
        }
        let translated: Vec<IpAddr> =
            hosts.iter().copied().filter(|ip| ways.of(*ip) == Way::Translated).collect();
        let reservation = |host_port: u16, sockets: Vec<OwnedFd>| {
            let port = |host_ip: &IpAddr| {
                let (host_ip, host_port) = if translated.contains(host_ip) {
                    (*host_ip, host_port)
                } else {
                    (anywhere(*host_ip), 0)
                };
                PublishedPort { protocol, container_port: request.container_port, host_ip, host_port }
            };
            Reservation { ports: hosts.iter().map(port).collect(), sockets }
        };
        let Some(host_ip) = translated.first().copied() else { return Ok(reservation(0, Vec::new())) };
        // Without an address of the user's choice the port is taken from others in IPv6 too, even where it is not published
        // there: who asks for it at any address must not meet somebody else.
        let both = request.host_ip.is_none() && ways.default_ip.is_unspecified();
        let attempt = |port: u16| -> Result<Reservation, PortTaken> {
            let in_use = translated.iter().find(|ip| port != 0 && taken(protocol, **ip, port));
            if let Some(ip) = in_use {
                return Err(PortTaken::Published(SocketAddr::new(*ip, port)));
            }
            let (host_port, sockets) = if both {
                self.bind_both(protocol, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?
            } else {
                self.bind(protocol, SocketAddr::new(host_ip, port), true)?
            };
            Ok(reservation(host_port, sockets))
        };
        // The container may speak it where the host does not.
        let unspoken = |error: &PortTaken| {
            let unspoken = [Errno::PROTONOSUPPORT, Errno::SOCKTNOSUPPORT];
            protocol == Protocol::Sctp
                && matches!(error, PortTaken::Refused { errno, .. } if unspoken.contains(errno))
        };
        let host_ports = match request.host_ports {
            HostPorts::Any
                if protocol == Protocol::Sctp && attempt(0).is_err_and(|error| unspoken(&error)) =>
            {
                HostPorts::Range(EPHEMERAL.0, EPHEMERAL.1)
            }
            asked => asked,
        };
        match host_ports {
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
        match self.bind(protocol, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), v4.port()), false) {
            Err(PortTaken::Refused { errno: Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL, .. }) => {
                self.bind(protocol, v4, true)
            }
            // In which family it is taken is for the message.
            Err(error) => self.bind(protocol, v4, true).and(Err(error)),
            bound => bound,
        }
    }

    /// The port (chosen by the kernel for 0) and what holds it.
    fn bind(
        &self,
        protocol: Protocol,
        address: SocketAddr,
        only: bool,
    ) -> Result<(u16, Vec<OwnedFd>), PortTaken> {
        let bound = Bound { address, only, reuse: false };
        let result = match protocol {
            Protocol::Tcp => bind_tcp(&bound),
            Protocol::Udp => match bind_plain(&bound, SocketType::DGRAM, None) {
                // Only our own given-back socket may be shared with: another's may be a server.
                Err(Errno::ADDRINUSE) if self.given_back.contains(&(protocol, address.port())) => {
                    bind_shared_udp(&bound)
                }
                result => result,
            },
            Protocol::Sctp => match bind_plain(&bound, SocketType::STREAM, Some(ipproto::SCTP)) {
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

/// What is reached at the container's own address is reached from everywhere, whatever address of this host was named.
fn anywhere(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// How a socket is bound.
#[derive(Debug, Clone, Copy)]
struct Bound {
    address: SocketAddr,
    /// In the address's own family only.
    only: bool,
    reuse: bool,
}

fn bind_tcp(bound: &Bound) -> Result<(u16, OwnedFd), Errno> {
    // The kernel chooses ephemeral ports among those without remains.
    let named = bound.address.port() != 0;
    let (port, socket) = bind_plain(&Bound { reuse: named, ..*bound }, SocketType::STREAM, None)?;
    if named {
        listen(&socket, 0)?;
        shutdown(&socket, Shutdown::Both)?;
        set_socket_reuseaddr(&socket, false)?;
    }
    Ok((port, socket))
}

fn bind_shared_udp(bound: &Bound) -> Result<(u16, OwnedFd), Errno> {
    let (port, socket) = bind_plain(&Bound { reuse: true, ..*bound }, SocketType::DGRAM, None)?;
    set_socket_reuseaddr(&socket, false)?;
    Ok((port, socket))
}

fn bind_plain(
    bound: &Bound,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> Result<(u16, OwnedFd), Errno> {
    let Bound { address, only, reuse } = *bound;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, only)?;
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
