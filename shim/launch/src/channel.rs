// SPDX-License-Identifier: Apache-2.0
//! The socket between parent and child while a process is being built.
//!
//! A `SOCK_SEQPACKET` pair, close-on-exec. The process in between, where there is one, says who init is. The parent says at most three things: that the user namespace
//! is mapped, that the v1 cgroups are ready, and go. The child may send warnings and a terminal's master, and last
//! either a failure or [`Message::Executing`]. Then its end closes, by `execve` or by its death; the
//! parent sleeps until that and is woken exactly once.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::{Context as _, Error, Kind, Result};

/// Most descriptors in a message; more cgroup hierarchies than any host has.
pub(crate) const MAX_FDS: usize = 120;
const MAX_TEXT: usize = 8 * 1024;

/// What is said.
#[derive(Debug)]
pub(crate) enum Message {
    /// Parent: the user namespace has its mappings, and init is known.
    Mapped,
    /// Process in between: init is born, with this pid and pidfd.
    Born(i32, OwnedFd),
    /// Parent: the v1 groups are ready, their `tasks` here.
    Cgroups(Vec<OwnedFd>),
    /// Parent: the root is ready, with it the container's views of its cgroups.
    Go(Vec<OwnedFd>),
    /// Child: something was asked and could not be given.
    Warning(String),
    /// Child: the terminal's master.
    Terminal(OwnedFd),
    /// Child: `execve` comes next.
    Executing,
    /// Child: it did not work.
    Failed(Error),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .context(|| "socketpair")?;
        Ok((Self { socket: one }, Self { socket: other }))
    }

    /// Sends one message; descriptors are copied.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        let number;
        let (tag, text, fds): (u8, &[u8], Vec<BorrowedFd<'_>>) = match message {
            Message::Born(pid, pidfd) => {
                number = pid.to_string();
                (b'B', number.as_bytes(), vec![pidfd.as_fd()])
            }
            Message::Mapped => (b'M', &[], Vec::new()),
            Message::Cgroups(fds) => (b'C', &[], fds.iter().map(AsFd::as_fd).collect()),
            Message::Go(fds) => (b'G', &[], fds.iter().map(AsFd::as_fd).collect()),
            Message::Warning(text) => (b'W', text.as_bytes(), Vec::new()),
            Message::Terminal(master) => (b'T', &[], vec![master.as_fd()]),
            Message::Executing => (b'X', &[], Vec::new()),
            Message::Failed(error) => (kind_tag(error.kind), error.message.as_bytes(), Vec::new()),
        };
        let text = text.get(..text.len().min(MAX_TEXT)).unwrap_or_default();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Error::internal(format!("more than {MAX_FDS} descriptors for the container")));
        }
        let head = [tag];
        let parts = [IoSlice::new(&head), IoSlice::new(text)];
        retry_on_intr(|| sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL))
            .context(|| "socket to the container's process")?;
        Ok(())
    }

    /// Receives one message; `None` at the end.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let mut buffer = [0u8; MAX_TEXT + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let bytes = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                // The other end was closed with something of ours unread. That is reported once, and
                // ahead of what the other end has said before.
                Err(Errno::CONNRESET | Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::internal(format!("socket to the container's process: {errno}")));
                }
            }
        };
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let Some((tag, text)) = buffer.get(..bytes).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let text = || String::from_utf8_lossy(text).into_owned();
        Ok(Some(match *tag {
            b'M' => Message::Mapped,
            b'B' => match (text().parse(), fds.pop()) {
                (Ok(pid), Some(pidfd)) => Message::Born(pid, pidfd),
                _ => return Err(Error::internal("the container's process got lost")),
            },
            b'C' => Message::Cgroups(fds),
            b'G' => Message::Go(fds),
            b'W' => Message::Warning(text()),
            b'T' => match fds.pop() {
                Some(master) => Message::Terminal(master),
                None => return Err(Error::internal("a terminal's master got lost")),
            },
            b'X' => Message::Executing,
            tag => Message::Failed(Error { kind: kind_of(tag), message: text() }),
        }))
    }

    /// Whether the other end is closed.
    pub(crate) fn is_closed(&self) -> bool {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        matches!(poll(&mut fds, Some(&now)), Ok(1..))
    }

    /// Sleeps until the other end is closed, whatever arrives meanwhile.
    pub(crate) fn wait_closed(&self) -> Result<()> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        retry_on_intr(|| poll(&mut fds, None)).context(|| "poll")?;
        Ok(())
    }
}

fn kind_tag(kind: Kind) -> u8 {
    match kind {
        Kind::CommandNotFound => b'1',
        Kind::CommandNotExecutable => b'2',
        Kind::InvalidInput => b'3',
        Kind::NotRunning => b'5',
        Kind::Internal => b'4',
    }
}

fn kind_of(tag: u8) -> Kind {
    match tag {
        b'1' => Kind::CommandNotFound,
        b'2' => Kind::CommandNotExecutable,
        b'3' => Kind::InvalidInput,
        b'5' => Kind::NotRunning,
        _ => Kind::Internal,
    }
}
