// SPDX-License-Identifier: Apache-2.0
//! `SOCK_SEQPACKET` Unix sockets, close-on-exec and non-blocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Two connected sockets: the first non-blocking (the daemon's), the second blocking (the shim's).
///
/// # Errors
///
/// No descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Connects to a listening socket.
///
/// The path is opened first and reached through `/proc/self/fd`, because a socket address holds 107 bytes of path only.
///
/// # Errors
///
/// Nobody listens; a full backlog (`EAGAIN`).
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let node = rustix::fs::open(
        path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOFOLLOW,
        rustix::fs::Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", node.as_raw_fd()))?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid when it connected or listened.
    pub pid: i32,
    /// Its effective uid then.
    pub uid: u32,
}

/// The peer's credentials, as the kernel noted them.
///
/// # Errors
///
/// Not a connected Unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let cred = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { pid: cred.pid.as_raw_nonzero().get(), uid: cred.uid.as_raw() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_long_path_connects_and_the_peer_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let short = dir.path().join("s");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&short).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        std::fs::rename(&short, deep.join("s")).unwrap();
        let socket = connect(&deep.join("s")).unwrap();
        let peer = peer(&socket).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(connect(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
