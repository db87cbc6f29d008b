// SPDX-License-Identifier: Apache-2.0
//! Talking to the kernel over netlink: one datagram out, its answers in.
//!
//! The kernel works through a request inside `sendmsg`, so every acknowledgement and error is in the
//! socket's queue when `send` returns; a dump makes its next part each time one is read. The socket
//! therefore never blocks, and an empty queue means that there is nothing more to come.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

pub(crate) use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Larger than any part of a dump (the kernel makes them up to 32 KiB).
const RECEIVE: usize = 64 * 1024;

/// A request the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*errno), detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub(crate) struct Refused {
    /// Sequence number of the refused message.
    pub(crate) seq: u32,
    /// Positive error number.
    pub(crate) errno: i32,
    /// The kernel's own words, where it has some.
    pub(crate) detail: Option<String>,
}

impl Refused {
    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno == errno.raw_os_error()
    }

    fn local(error: &io::Error) -> Self {
        Self { seq: 0, errno: error.raw_os_error().unwrap_or(0), detail: None }
    }
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    port: u32,
    seq: u32,
    /// The last message of the exchange before.
    done: u32,
    room: usize,
    received: Vec<u8>,
}

impl Netlink {
    /// A socket in the calling thread's network namespace, for as long as it lives.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Words with errors, and errors without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, port, seq: 0, done: 0, room: 0, received: Vec::with_capacity(RECEIVE) })
    }

    /// The kernel tells others that changes came from here.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// The next sequence number; never 0, which notifications have.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.checked_add(1).unwrap_or_else(|| {
            self.done = 0;
            1
        });
        self.seq
    }

    /// Sends one datagram and reads all that it is answered. `each` gets the messages that are neither
    /// acknowledgement nor error: type and payload.
    ///
    /// The error is that of the first message refused; `expect` is the sequence number that must be
    /// acknowledged (or end a dump) for there to be none.
    pub(crate) fn exchange(
        &mut self,
        datagram: &[u8],
        expect: u32,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Refused> {
        self.make_room(datagram.len()).map_err(|e| Refused::local(&e))?;
        // A leftover of an exchange that failed half-way must not be taken for an answer to this one.
        let before = std::mem::replace(&mut self.done, expect);
        self.socket.send(datagram, 0).map_err(|e| Refused::local(&e))?;
        let mut refused: Option<Refused> = None;
        let mut complete = false;
        loop {
            self.received.clear();
            match self.socket.recv(&mut self.received, 0) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    refused.get_or_insert(Refused::local(&e));
                    break;
                }
            }
            for message in Messages(&self.received).filter(|m| m.seq > before) {
                match message.kind {
                    NLMSG_ERROR => match parse_error(&message) {
                        Some(error) if error.errno == 0 => complete |= error.seq == expect,
                        Some(error) => {
                            refused.get_or_insert(error);
                        }
                        None => {}
                    },
                    NLMSG_DONE => match message.payload.first_chunk::<4>().map(|c| i32::from_ne_bytes(*c)) {
                        Some(code) if code < 0 => {
                            refused.get_or_insert(Refused { seq: message.seq, errno: -code, detail: None });
                        }
                        _ => complete |= message.seq == expect,
                    },
                    kind => each(kind, message.payload),
                }
            }
            if complete || (refused.as_ref().is_some_and(|r| r.seq == expect)) {
                break;
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None if complete => Ok(()),
            None => Err(Refused {
                seq: expect,
                errno: rustix::io::Errno::PROTO.raw_os_error(),
                detail: Some("the kernel did not answer".into()),
            }),
        }
    }

    /// A whole transaction is one datagram, and must fit the socket's send buffer.
    fn make_room(&mut self, len: usize) -> io::Result<()> {
        // The kernel accounts its own overhead to the buffer too.
        let wanted = len * 2 + 64 * 1024;
        if wanted > self.room.max(200 * 1024) {
            setsockopt(&self.socket, sockopt::SndBufForce, &wanted)?;
            setsockopt(&self.socket, sockopt::RcvBufForce, &wanted)?;
            self.room = wanted;
        }
        Ok(())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages in a datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let head = self.0.first_chunk::<HEADER>()?;
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let whole = self.0.get(..len)?;
        let payload = whole.get(HEADER..)?;
        self.0 = self.0.get(align4(len)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            seq: u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
            port: u32::from_ne_bytes([head[12], head[13], head[14], head[15]]),
            payload,
        })
    }
}

/// The attributes in a payload: type without its flag bits, and value.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let head = self.0.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(align4(len)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]) & 0x3fff, value))
    }
}

pub(crate) fn align4(len: usize) -> usize {
    (len + 3) & !3
}

/// `struct nlmsgerr`: the error, the header of the request, then (extended acknowledgements) attributes.
fn parse_error(message: &Message<'_>) -> Option<Refused> {
    let code = i32::from_ne_bytes(*message.payload.first_chunk::<4>()?);
    let seq = u32::from_ne_bytes(message.payload.get(12..16)?.try_into().ok()?);
    let detail = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| Attributes(message.payload.get(4 + HEADER..).unwrap_or_default()))
        .into_iter()
        .flatten()
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Some(Refused { seq, errno: code.wrapping_neg(), detail })
}
