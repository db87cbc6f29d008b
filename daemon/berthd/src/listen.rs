// SPDX-License-Identifier: Apache-2.0
//! Sockets that clients come through: unix, TCP, and those that systemd opened for us.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use berth_domain::{Error, Result};
use rustix::fs::{Gid, Mode};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Host;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Where, for the log.
    pub(crate) name: String,
    kind: Kind,
    /// The socket's file, ours to remove.
    path: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Connection {
    /// Through a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Listener {
    /// The next client.
    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        match &self.kind {
            Kind::Unix(listener) => Ok(Connection::Unix(listener.accept().await?.0)),
            Kind::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
        }
    }

    /// Removes the socket's file; for the end of the daemon.
    pub(crate) fn remove(&self) {
        if let Some(path) = &self.path {
            if let Err(e) = std::fs::remove_file(path) {
                tracing::debug!(path = %path.display(), error = %e, "the socket's file was not removed");
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Opens all of them; none is left behind if one cannot be opened.
///
/// # Errors
///
/// An address is taken, a directory is missing, systemd opened nothing.
pub(crate) fn open(hosts: &[Host], group: &str) -> Result<Vec<Listener>> {
    let mut open: Vec<Listener> = Vec::new();
    for host in hosts {
        let opened = match host {
            Host::Unix(path) => unix(path, group).map(|l| vec![l]),
            Host::Tcp(address) => tcp(*address).map(|l| vec![l]),
            Host::Systemd(name) => systemd(name.as_deref()),
        };
        match opened {
            Ok(listeners) => open.extend(listeners),
            Err(e) => {
                open.iter().for_each(Listener::remove);
                return Err(e.context(format!("failed to listen on {host}")));
            }
        }
    }
    Ok(open)
}

fn unix(path: &Path, group: &str) -> Result<Listener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("making", dir, e))?;
    }
    if std::fs::symlink_metadata(path).is_ok() {
        // A file that nobody answers behind was left by a daemon that was killed.
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(Error::conflict("another process answers on this socket")),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|e| Error::io("removing the stale", path, e))?;
            }
            Err(e) => return Err(Error::io("connecting to the old", path, e)),
        }
    }
    // Nobody gets in between bind and chmod.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = std::os::unix::net::UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(|e| Error::io("binding", path, e))?;
    let ready = || -> io::Result<UnixListener> {
        if let Some(gid) = find_group(group)? {
            rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
        } else {
            tracing::debug!(group, "there is no such group: the socket is for root alone");
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    };
    match ready() {
        Ok(listener) => Ok(Listener {
            name: format!("unix://{}", path.display()),
            kind: Kind::Unix(listener),
            path: Some(path.to_path_buf()),
        }),
        Err(e) => {
            let error = Error::io("preparing", path, e);
            if let Err(e) = std::fs::remove_file(path) {
                tracing::debug!(error = %e, "the socket's file was not removed");
            }
            Err(error)
        }
    }
}

/// The id of a group: a number is one already. Reads `/etc/group` itself: nothing of the host's is loaded
/// into the daemon.
fn find_group(name: &str) -> io::Result<Option<u32>> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let groups = match std::fs::read_to_string("/etc/group") {
        Ok(groups) => groups,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    }))
}

fn tcp(address: std::net::SocketAddr) -> Result<Listener> {
    tracing::warn!(
        %address,
        "the API is served over TCP without TLS: whoever can connect to it is root on this host"
    );
    let listener = std::net::TcpListener::bind(address)
        .and_then(|l| {
            l.set_nonblocking(true)?;
            TcpListener::from_std(l)
        })
        .map_err(|e| Error::internal("binding").because(e))?;
    let local = listener.local_addr().map_err(|e| Error::internal("reading the address").because(e))?;
    Ok(Listener { name: format!("tcp://{local}"), kind: Kind::Tcp(listener), path: None })
}

fn systemd(name: Option<&str>) -> Result<Vec<Listener>> {
    let sockets = berth_sys::activation::take()
        .map_err(|e| Error::internal("taking the sockets from the service manager").because(e))?;
    let chosen: Vec<_> = sockets.into_iter().filter(|(n, _)| name.is_none_or(|wanted| wanted == n)).collect();
    if chosen.is_empty() {
        return Err(Error::invalid(
            "no sockets found via socket activation: make sure the service was started by systemd",
        ));
    }
    chosen.into_iter().map(|(name, fd)| from_systemd(&name, fd)).collect()
}

fn from_systemd(name: &str, fd: OwnedFd) -> Result<Listener> {
    use rustix::net::{AddressFamily, sockopt};
    let failed = |e: io::Error| {
        Error::internal(format!("using the socket {name:?} of the service manager")).because(e)
    };
    let family = sockopt::socket_domain(&fd).map_err(|e| failed(e.into()))?;
    let kind = match family {
        AddressFamily::UNIX => {
            let listener = std::os::unix::net::UnixListener::from(fd);
            listener.set_nonblocking(true).map_err(failed)?;
            Kind::Unix(UnixListener::from_std(listener).map_err(failed)?)
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = std::net::TcpListener::from(fd);
            listener.set_nonblocking(true).map_err(failed)?;
            Kind::Tcp(TcpListener::from_std(listener).map_err(failed)?)
        }
        _ => return Err(Error::invalid(format!("the socket {name:?} is neither unix nor TCP"))),
    };
    Ok(Listener { name: format!("fd://{name}"), kind, path: None })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(find_group("root").unwrap(), Some(0));
        assert_eq!(find_group("42").unwrap(), Some(42));
        assert_eq!(find_group("no-such-group-here").unwrap(), None);
        assert_eq!(find_group("").unwrap(), None);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file");
        let first = unix(&path, "").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = unix(&path, "").unwrap_err();
        assert_eq!(error.to_string(), "another process answers on this socket");
        first.remove();
        assert!(!path.exists());
    }
}
