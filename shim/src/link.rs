// SPDX-License-Identifier: Apache-2.0
//! The connection to the daemon: there may be none, and it may be replaced at any moment.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use berth_shim_proto::{Event, Failure, FailureKind, FromShim, PacketError, Reply};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::say::say;
use crate::watch::{Token, Watch};

/// A daemon that does not take this many messages is cut off; it asks for the state when it comes back.
const QUEUE: usize = 1024;

/// A request as it comes in: what it asks is looked at apart from its id, so that one that this shim does
/// not know can be answered.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming {
    pub(crate) id: u64,
    pub(crate) request: Box<RawValue>,
}

/// Where an answer belongs: request id and the connection on which it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    connection: u64,
    id: u64,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Option<OwnedFd>,
    connection: u64,
    queue: VecDeque<(FromShim, Vec<OwnedFd>)>,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let mut this = Self { socket: None, connection: 0, queue: VecDeque::new() };
        this.replace(socket);
        this
    }

    pub(crate) fn connected(&self) -> bool {
        self.socket.is_some()
    }

    pub(crate) fn replace(&mut self, socket: OwnedFd) {
        self.cut();
        let nonblocking = rustix::fs::fcntl_getfl(&socket)
            .and_then(|flags| rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK));
        if let Err(error) = nonblocking {
            say!("connection to the daemon: {error}");
            return;
        }
        self.connection += 1;
        self.socket = Some(socket);
    }

    pub(crate) fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        if let Some(socket) = &self.socket {
            let out = if self.queue.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            watch.add(socket, PollFlags::IN | out, Token::Daemon);
        }
    }

    /// The next request, with its descriptors.
    pub(crate) fn receive(&mut self) -> Option<(Asker, Box<RawValue>, Vec<OwnedFd>)> {
        let socket = self.socket.as_ref()?;
        match berth_shim_proto::recv::<Incoming>(socket) {
            Ok(packet) => {
                let asker = Asker { connection: self.connection, id: packet.message.id };
                Some((asker, packet.message.request, packet.fds))
            }
            Err(PacketError::WouldBlock) => None,
            Err(PacketError::Closed) => {
                self.cut();
                None
            }
            Err(error) => {
                say!("from the daemon: {error}");
                self.cut();
                None
            }
        }
    }

    pub(crate) fn reply(&mut self, asker: Asker, reply: Reply) {
        self.reply_with(asker, reply, &[]);
    }

    pub(crate) fn reply_with(&mut self, asker: Asker, reply: Reply, fds: &[BorrowedFd<'_>]) {
        // The answer to a question of a daemon that has gone would puzzle its successor.
        if asker.connection == self.connection {
            self.send(FromShim::Reply { id: asker.id, reply }, fds);
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.send(FromShim::Event(event), &[]);
    }

    /// Sends what waits, as far as the daemon takes it.
    pub(crate) fn flush(&mut self) {
        while let (Some(socket), Some((message, fds))) = (&self.socket, self.queue.front()) {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match berth_shim_proto::send(socket, message, &borrowed) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(PacketError::WouldBlock) => return,
                Err(_) => self.cut(),
            }
        }
    }

    /// Sends what waits, before the shim ends.
    pub(crate) fn flush_within(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            self.flush();
            let Some(socket) = &self.socket else { return };
            let left = deadline.saturating_duration_since(Instant::now());
            if self.queue.is_empty() || left.is_zero() {
                return;
            }
            let mut watch = Watch::default();
            watch.add(socket, PollFlags::OUT, Token::Daemon);
            if watch.wait(Some(left), &mut Vec::new()).is_err() {
                return;
            }
        }
    }

    pub(crate) fn cut(&mut self) {
        self.socket = None;
        self.queue.clear();
    }

    fn send(&mut self, message: FromShim, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        if self.queue.is_empty() {
            match berth_shim_proto::send(socket, &message, fds) {
                Ok(()) => return,
                Err(PacketError::WouldBlock) => {}
                Err(error @ (PacketError::TooLarge | PacketError::Malformed(_))) => {
                    say!("to the daemon: {error}");
                    if let FromShim::Reply { id, .. } = message {
                        let failure =
                            Failure { kind: FailureKind::Internal, message: format!("the answer: {error}") };
                        self.send(FromShim::Reply { id, reply: Reply::Failed(failure) }, &[]);
                    }
                    return;
                }
                Err(_) => return self.cut(),
            }
        }
        let kept: rustix::io::Result<Vec<OwnedFd>> =
            fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).collect();
        match kept {
            Ok(kept) if self.queue.len() < QUEUE => self.queue.push_back((message, kept)),
            _ => {
                say!("the daemon does not listen; its connection is closed");
                self.cut();
            }
        }
    }
}
