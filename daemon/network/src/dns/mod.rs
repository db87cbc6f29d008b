// SPDX-License-Identifier: Apache-2.0
//! The embedded resolver: at 127.0.0.11 in every sandbox on a user-defined network.
//!
//! Its sockets are made inside the container's network namespace, so that only that container can ask, and by which socket a
//! question comes says who asks. They are served by tasks of the daemon. The shim holds copies of the sockets; a daemon that comes
//! back serves them again, and questions of the meantime wait in their buffers.
//!
//! They are not bound to port 53, or no name server could run in such a container: a rule in its namespace (`nft::redirect`)
//! leads there from 127.0.0.11:53.
//!
//! | module | what it knows |
//! |---|---|
//! | `names` | who is called how, and who may know |
//! | `message` | questions and answers on the wire |
//! | `serve` | the sockets |
//! | `forward` | asking the host's resolvers |

mod forward;
mod message;
mod names;
mod serve;

pub(crate) use names::NameTable;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use berth_domain::{ContainerId, Error, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::NetworkRecord;
use crate::books::{Books, DEFAULT};
use crate::netns;
use crate::nft::redirect;
use crate::worker::Worker;

/// Where it answers.
pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// What it is bound to where that is free (`systat`, which nobody runs), else any: neither servers nor clients look for ports
/// down here.
const BOUND: u16 = 11;
/// Under these names the shim holds the sockets.
const HELD: [&str; 2] = ["dns/udp", "dns/tcp"];
/// Questions of all containers that wait for the host's resolvers at most.
const FORWARDS: usize = 1024;

/// Whether containers on this network get a resolver.
pub(crate) fn is_served(network: &NetworkRecord) -> bool {
    network.driver.has_links() && network.name != DEFAULT
}

/// A container's network namespace; none is the host's.
pub(crate) type Scope = Option<Arc<OwnedFd>>;

/// What all resolvers share.
#[derive(Debug, Clone)]
pub(crate) struct Dns {
    runtime: Handle,
    books: Arc<Mutex<Books>>,
    forwards: Arc<Semaphore>,
}

/// One sandbox's resolver. It ends with this.
#[derive(Debug)]
pub(crate) struct Serving {
    udp: UdpSocket,
    tcp: TcpListener,
    task: AbortHandle,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Serving {
    /// Copies of its sockets, for the shim to hold.
    pub(crate) fn copies(&self) -> Result<Vec<(String, OwnedFd)>> {
        let copies = [self.udp.as_fd().try_clone_to_owned(), self.tcp.as_fd().try_clone_to_owned()];
        let named = HELD.into_iter().zip(copies);
        let named = named.map(|(name, copy)| Ok((name.to_owned(), copy?))).collect::<io::Result<_>>();
        named.map_err(|e| Error::internal("copying a resolver's sockets").because(e))
    }
}

impl Dns {
    pub(crate) fn new(runtime: Handle, books: Arc<Mutex<Books>>) -> Self {
        Self { runtime, books, forwards: Arc::new(Semaphore::new(FORWARDS)) }
    }

    fn serve(
        &self,
        container: &ContainerId,
        udp: UdpSocket,
        tcp: TcpListener,
        netns: Option<OwnedFd>,
    ) -> Result<Serving> {
        let netns = netns.map(Arc::new);
        let started = || -> io::Result<Serving> {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            let asker = names::Asker { books: Arc::clone(&self.books), container: container.clone() };
            let served =
                serve::serve(asker, Arc::clone(&self.forwards), netns, udp.try_clone()?, tcp.try_clone()?);
            let task = self.runtime.spawn(served).abort_handle();
            Ok(Serving { udp, tcp, task })
        };
        started().map_err(|e| Error::internal("starting a container's resolver").because(e))
    }
}

impl Worker {
    /// Has names answered in a sandbox's namespace; the books say so when it returns.
    pub(crate) fn serve_names(&mut self, container: &ContainerId, netns: BorrowedFd<'_>) -> Result<()> {
        let serving = self.serve_inside(container, netns)?;
        if let Some(held) = self.books().held_mut(container) {
            held.record.resolver = true;
            held.resolver = Some(serving);
        }
        Ok(())
    }

    fn serve_inside(&self, container: &ContainerId, netns: BorrowedFd<'_>) -> Result<Serving> {
        let (udp, tcp) = netns::inside(netns, sockets)??;
        let netns = netns.try_clone_to_owned();
        let netns = netns.map_err(|e| Error::internal("copying a namespace's descriptor").because(e))?;
        self.dns.serve(container, udp, tcp, Some(netns))
    }

    /// Serves the sockets that the shim held. One that got its resolver while it ran (connected later) has none there:
    /// they are made anew. Without a resolver a container goes on all the same.
    pub(crate) fn serve_again(
        &self,
        container: &ContainerId,
        held: Vec<(String, OwnedFd)>,
        netns: Option<OwnedFd>,
    ) -> Option<Serving> {
        let mut sockets = [None, None];
        for (name, socket) in held {
            if let Some(at) = HELD.iter().position(|held| *held == name) {
                sockets[at] = Some(socket);
            }
        }
        let serving = match (sockets, netns) {
            ([Some(udp), Some(tcp)], netns) => self.dns.serve(container, udp.into(), tcp.into(), netns),
            (_, Some(netns)) => self.serve_inside(container, netns.as_fd()),
            _ => Err(Error::internal("neither its sockets nor its network namespace are there")),
        };
        match serving {
            Ok(serving) => Some(serving),
            Err(error) => {
                tracing::error!(container = %container, error = %error.chain(), "a container is without its resolver");
                None
            }
        }
    }
}

/// The sockets, in the calling thread's namespace, and what leads to them.
fn sockets() -> Result<(UdpSocket, TcpListener)> {
    let fail = |e: io::Error| Error::internal(format!("binding the resolver of {ADDRESS}")).because(e);
    let (udp, tcp) = bound(BOUND).or_else(|_| bound(0)).map_err(fail)?;
    let ports = (udp.local_addr().map_err(fail)?.port(), tcp.local_addr().map_err(fail)?.port());
    redirect(ADDRESS, ports)?;
    Ok((udp, tcp))
}

fn bound(port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let socket = |kind: SocketType| -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
        bind(&socket, &SocketAddr::new(IpAddr::V4(*ADDRESS.ip()), port))?;
        Ok(socket)
    };
    let (udp, tcp) = (socket(SocketType::DGRAM)?, socket(SocketType::STREAM)?);
    listen(&tcp, 64)?;
    Ok((udp.into(), tcp.into()))
}
