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
/// Most descriptors in a packet (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 250;

const MAGIC: [u8; 4] = *b"BSH1";
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
    /// More than [`MAX_PACKET`] bytes or [`MAX_FDS`] descriptors.
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
            Self::TooLarge => write!(f, "packet larger than {MAX_PACKET} bytes or {MAX_FDS} descriptors"),
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
    if body.len() + HEADER > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(PacketError::TooLarge);
    }
    let mut header = [0u8; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let count = u16::try_from(fds.len()).map_err(|_| PacketError::TooLarge)?;
    header[6..8].copy_from_slice(&count.to_le_bytes());
    let length = u32::try_from(body.len()).map_err(|_| PacketError::TooLarge)?;
    header[8..12].copy_from_slice(&length.to_le_bytes());

    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PacketError::TooLarge);
    }
    let parts = [IoSlice::new(&header), IoSlice::new(&body)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message with its descriptors.
///
/// # Errors
///
/// [`PacketError::Closed`] at the end of the connection, [`PacketError::WouldBlock`] on an empty
/// non-blocking socket. Descriptors of a malformed packet are closed.
pub fn recv<T: DeserializeOwned>(socket: impl AsFd) -> Result<Packet<T>, PacketError> {
    let mut buffer = vec![0u8; MAX_PACKET];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
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
    if header[..4] != MAGIC {
        return Err(malformed("wrong magic"));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if usize::from(u16::from_le_bytes([header[6], header[7]])) != fds.len() {
        return Err(malformed("descriptor count differs from the header's"));
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if usize::try_from(length).ok() != Some(body.len()) {
        return Err(malformed("length differs from the header's"));
    }
    let message = serde_json::from_slice(body).map_err(|e| PacketError::Malformed(e.to_string()))?;
    Ok(Packet { message, fds, version })
}
