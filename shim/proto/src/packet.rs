// SPDX-License-Identifier: Apache-2.0
//! Putting a message and its file descriptors into one packet, and getting them out again.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version that this crate speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Largest packet in bytes. A Unix socket's default send buffer (208 KiB) holds it.
pub const MAX_PACKET: usize = 128 * 1024;
/// Largest message in bytes: twice what the kernel takes as arguments and environment of a program (6 MiB), as JSON may
/// need two bytes for one.
pub const MAX_MESSAGE: usize = 12 << 20;
/// Most descriptors in a packet (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 250;

const MAGIC: [u8; 4] = *b"BSH1";
/// The body is not in the packet but in its last descriptor, a memfd.
const MAGIC_APART: [u8; 4] = *b"BSHM";
const HEADER: usize = 12;

/// A packet as received.
#[derive(Debug)]
pub struct Packet<T> {
    /// The message.
    pub message: T,
    /// Its descriptors, close-on-exec, in the order of their indices.
    pub fds: Vec<OwnedFd>,
    /// Version of the sender.
    pub version: u16,
}

/// What can go wrong with a packet.
#[derive(Debug)]
pub enum PacketError {
    /// The peer has gone.
    Closed,
    /// The socket would block.
    WouldBlock,
    /// More than [`MAX_MESSAGE`] bytes or [`MAX_FDS`] descriptors.
    TooLarge,
    /// Not a packet of this protocol.
    Malformed(String),
    /// The kernel refused.
    Io(Errno),
}

impl std::fmt::Display for PacketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::WouldBlock => f.write_str("the socket would block"),
            Self::TooLarge => write!(f, "message larger than {MAX_MESSAGE} bytes or {MAX_FDS} descriptors"),
            Self::Malformed(why) => write!(f, "malformed packet: {why}"),
            Self::Io(errno) => write!(f, "socket: {errno}"),
        }
    }
}

impl std::error::Error for PacketError {}

impl From<Errno> for PacketError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::WouldBlock,
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            other => Self::Io(other),
        }
    }
}

/// Sends one message with its descriptors.
///
/// # Errors
///
/// [`PacketError::WouldBlock`] on a non-blocking socket whose peer does not read; nothing was sent then.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
    let body = serde_json::to_vec(message).map_err(|e| PacketError::Malformed(e.to_string()))?;
    if body.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(PacketError::TooLarge);
    }
    let apart = if body.len() + HEADER > MAX_PACKET { Some(set_apart(&body)?) } else { None };
    let all: Vec<BorrowedFd<'_>> = fds.iter().copied().chain(apart.as_ref().map(AsFd::as_fd)).collect();
    let fds = all.as_slice();
    let mut header = [0u8; HEADER];
    header[..4].copy_from_slice(if apart.is_some() { &MAGIC_APART } else { &MAGIC });
    header[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let count = u16::try_from(fds.len()).map_err(|_| PacketError::TooLarge)?;
    header[6..8].copy_from_slice(&count.to_le_bytes());
    let length = u32::try_from(body.len()).map_err(|_| PacketError::TooLarge)?;
    header[8..12].copy_from_slice(&length.to_le_bytes());

    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PacketError::TooLarge);
    }
    let inside = if apart.is_some() { &[][..] } else { body.as_slice() };
    let parts = [IoSlice::new(&header), IoSlice::new(inside)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// A message too large for a packet, as a file in memory.
fn set_apart(body: &[u8]) -> Result<OwnedFd, PacketError> {
    let memfd = rustix::fs::memfd_create("berth-message", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while let Some(rest) = body.get(written..).filter(|rest| !rest.is_empty()) {
        written += rustix::io::retry_on_intr(|| rustix::io::write(&memfd, rest))?;
    }
    Ok(memfd)
}

fn fetch(memfd: &OwnedFd, length: usize) -> Result<Vec<u8>, PacketError> {
    if length > MAX_MESSAGE {
        return Err(PacketError::TooLarge);
    }
    let mut body = vec![0; length];
    let mut read = 0;
    while read < length {
        let rest = body.get_mut(read..).unwrap_or_default();
        match rustix::io::retry_on_intr(|| rustix::io::pread(memfd, &mut *rest, read as u64))? {
            0 => return Err(PacketError::Malformed("the message set apart is cut short".to_owned())),
            n => read += n,
        }
    }
    Ok(body)
}

/// Receives one message with its descriptors.
///
/// # Errors
///
/// [`PacketError::Closed`] at the end of the connection, [`PacketError::WouldBlock`] on an empty
/// non-blocking socket. Descriptors of a malformed packet are closed.
pub fn recv<T: DeserializeOwned>(socket: impl AsFd) -> Result<Packet<T>, PacketError> {
    let mut buffer = vec![0u8; MAX_PACKET];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    if received.flags.intersects(rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC) {
        return Err(PacketError::TooLarge);
    }
    let packet = buffer.get(..received.bytes).unwrap_or_default();
    let malformed = |why: &str| PacketError::Malformed(why.to_owned());
    let (header, body) =
        packet.split_at_checked(HEADER).ok_or_else(|| malformed("shorter than its header"))?;
    let apart = header[..4] == MAGIC_APART;
    if !apart && header[..4] != MAGIC {
        return Err(malformed("wrong magic"));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if usize::from(u16::from_le_bytes([header[6], header[7]])) != fds.len() {
        return Err(malformed("descriptor count differs from the header's"));
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let length = usize::try_from(length).map_err(|_| PacketError::TooLarge)?;
    let memfd = if apart { fds.pop() } else { None };
    let fetched = memfd.map(|memfd| fetch(&memfd, length)).transpose()?;
    let body = fetched.as_deref().unwrap_or(body);
    if length != body.len() {
        return Err(malformed("length differs from the header's"));
    }
    let message = serde_json::from_slice(body).map_err(|e| PacketError::Malformed(e.to_string()))?;
    Ok(Packet { message, fds, version })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = rustix::net::SocketFlags::CLOEXEC;
        rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            flags,
            None,
        )
        .unwrap()
    }

    #[test]
    fn messages_of_any_size_come_with_their_descriptors() {
        let (one, other) = pair();
        for length in [10, MAX_PACKET - HEADER - 2, MAX_PACKET, 3 << 20] {
            let text = "x".repeat(length);
            send(&one, &text, &[one.as_fd(), other.as_fd()]).unwrap();
            let packet: Packet<String> = recv(&other).unwrap();
            assert_eq!((packet.message == text, packet.fds.len()), (true, 2), "{length}");
        }
        let all = vec![one.as_fd(); MAX_FDS];
        send(&one, &"y".repeat(MAX_PACKET), &all).unwrap();
        assert_eq!(recv::<String>(&other).unwrap().fds.len(), MAX_FDS);
        let most = "x".repeat(MAX_MESSAGE);
        assert!(matches!(send(&one, &most, &[]), Err(PacketError::TooLarge)));
    }

    #[test]
    fn a_message_cut_short_is_none() {
        let (one, other) = pair();
        let memfd = set_apart(b"\"short\"").unwrap();
        let mut header = [0u8; HEADER];
        header[..4].copy_from_slice(&MAGIC_APART);
        header[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        for (count, length) in [(1u16, 100u32), (1, u32::MAX), (0, 7)] {
            header[6..8].copy_from_slice(&count.to_le_bytes());
            header[8..12].copy_from_slice(&length.to_le_bytes());
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [memfd.as_fd()];
            if count == 1 {
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            }
            rustix::net::sendmsg(&one, &[IoSlice::new(&header)], &mut control, SendFlags::empty()).unwrap();
            assert!(recv::<String>(&other).is_err(), "{count} {length}");
        }
    }
}
