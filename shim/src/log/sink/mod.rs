// SPDX-License-Identifier: Apache-2.0
//! Telling another program (journald, a syslog server) each line.
//!
//! ```text
//!           connect            taken
//!  down ───────────── trying ─────────── up
//!    ^ after 1, 2, 4 ... 30 s              │
//!    └────────── broken, or 10 s without taking anything
//! ```
//!
//! What it does not take at once is queued up to a bound. Past it the container waits while the other side is up
//! (as with the reference), and output is dropped while it is down or when that was asked for. A peer that is
//! connected and takes nothing counts as down after a while, and so does one that is being tried: no log server may
//! hold a container for ever.

mod connect;
mod journald;
mod syslog;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_shim_proto::{LogSink, SinkAddress, SinkKind};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use self::journald::Journald;
use self::syslog::Syslog;
use super::lines::Line;
use crate::say::say;
use crate::stdcopy::Stream;

/// A peer that is connected and takes nothing for this long is taken for down.
const STALL: Duration = Duration::from_secs(10);
/// After the container's end what is queued has this long.
const LAST_CALL: Duration = Duration::from_secs(10);
/// Waits between attempts to connect.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Messages handed over in one call.
const GATHER: usize = 64;
/// Bytes past the bound that one read of the container's output may make, each line with all its fields.
const EXCESS: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Sink {
    words: Words,
    address: SinkAddress,
    link: Link,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first message that were sent (streams only).
    sent: usize,
    queued: usize,
    limit: usize,
    lossy: bool,
    /// Messages lost in the present spell.
    dropped: u64,
    /// When it last took something, or had nothing to take.
    moved_at: Instant,
    /// Until the next attempt to connect, should this one fail; short again once something was taken.
    wait: Duration,
    /// The first message was refused on account of an earlier one.
    refused: bool,
    give_up_at: Option<Instant>,
}

#[derive(Debug)]
enum Words {
    Journald(Journald),
    Syslog(Syslog),
}

#[derive(Debug)]
enum Link {
    Up(OwnedFd),
    Trying(OwnedFd),
    Down { again_at: Instant },
}

impl Sink {
    /// Connects; a peer that is not there at the start of a container is an error of the start.
    pub(super) fn open(asked: &LogSink) -> std::io::Result<Self> {
        let words = match &asked.kind {
            SinkKind::Journald { fields } => Words::Journald(Journald::new(fields)),
            SinkKind::Syslog { format, facility, tag, hostname, utc_offset } => Words::Syslog(Syslog {
                format: *format,
                facility: *facility,
                tag: tag.clone(),
                hostname: hostname.clone(),
                utc_offset: *utc_offset,
            }),
        };
        let socket = connect::wait(&asked.address).map_err(|error| {
            let what = match words {
                Words::Journald(_) => "journald is not enabled on this host".to_owned(),
                Words::Syslog(_) => format!("syslog at {}", connect::name(&asked.address)),
            };
            std::io::Error::new(error.kind(), format!("{what}: {error}"))
        })?;
        Ok(Self {
            words,
            address: asked.address.clone(),
            link: Link::Up(socket),
            queue: VecDeque::new(),
            sent: 0,
            queued: 0,
            limit: usize::try_from(asked.buffer).unwrap_or(usize::MAX).max(64 * 1024),
            lossy: asked.lossy,
            dropped: 0,
            moved_at: Instant::now(),
            wait: RETRY[0],
            refused: false,
            give_up_at: None,
        })
    }

    pub(super) fn push(&mut self, stream: Stream, line: &Line<'_>) {
        let message = match &mut self.words {
            Words::Journald(words) => words.message(stream, line),
            Words::Syslog(words) => words.message(stream, line),
        };
        // A read may hold more lines than there is room; one that must lose nothing is read no further then.
        let wanted = self.queued + message.len();
        if wanted > self.limit && (self.lossy || !self.is_up()) || wanted > self.limit + EXCESS {
            if self.dropped == 0 {
                say!("{}: lines are dropped until it takes them", connect::name(&self.address));
            }
            self.dropped += 1;
            return;
        }
        if self.queue.is_empty() {
            self.moved_at = Instant::now();
        }
        self.queued += message.len();
        self.queue.push_back(message);
        if self.queue.len() % GATHER == 0 {
            self.flush();
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Hands over what is taken at once.
    pub(super) fn flush(&mut self) {
        while let (Link::Up(socket), Some(first)) = (&self.link, self.queue.front()) {
            let stream = matches!(self.address, SinkAddress::Tcp(_) | SinkAddress::Unix(_));
            let result = if stream {
                let rest = self.queue.iter().skip(1).take(GATHER - 1).map(|message| IoSlice::new(message));
                let parts: Vec<IoSlice<'_>> =
                    std::iter::once(IoSlice::new(&first[self.sent..])).chain(rest).collect();
                send(socket, &parts)
            } else {
                match send(socket, &[IoSlice::new(first)]) {
                    Err(Errno::MSGSIZE | Errno::NOBUFS) if matches!(self.words, Words::Journald(_)) => {
                        journald::send_by_memfd(socket, first).map(|()| first.len())
                    }
                    // Too long for a datagram: nobody can be told.
                    Err(Errno::MSGSIZE) => {
                        self.dropped += 1;
                        Ok(first.len())
                    }
                    other => other,
                }
            };
            match result {
                Ok(taken) => self.took(taken),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // A port that nobody listens at says so of an earlier datagram; the next may be heard.
                Err(Errno::CONNREFUSED) if matches!(self.address, SinkAddress::Udp(_)) && !self.refused => {
                    self.refused = true;
                }
                Err(Errno::CONNREFUSED) if matches!(self.address, SinkAddress::Udp(_)) => {
                    let lost = first.len();
                    self.dropped += 1;
                    self.took(lost);
                }
                Err(error) => self.broke(error),
            }
        }
    }

    fn took(&mut self, mut bytes: usize) {
        self.moved_at = Instant::now();
        (self.wait, self.refused) = (RETRY[0], false);
        if self.dropped > 0 && self.queued < self.limit / 2 {
            say!("{}: {} lines were lost", connect::name(&self.address), self.dropped);
            self.dropped = 0;
        }
        while let Some(first) = self.queue.front() {
            let left = first.len() - self.sent;
            if bytes < left {
                self.sent += bytes;
                return;
            }
            bytes -= left;
            self.sent = 0;
            self.queued -= first.len();
            self.queue.pop_front();
            if bytes == 0 {
                return;
            }
        }
    }

    fn broke(&mut self, error: Errno) {
        say!("{}: {error}", connect::name(&self.address));
        // Half a message cannot be completed on another connection.
        self.sent = 0;
        self.down();
    }

    fn down(&mut self) {
        self.link = Link::Down { again_at: Instant::now() + self.wait };
        self.wait = (self.wait * 2).min(RETRY[1]);
    }

    pub(super) fn has_room(&self) -> bool {
        self.lossy || self.queued < self.limit || !self.is_up()
    }

    /// The container has ended.
    pub(super) fn last_call(&mut self) {
        self.give_up_at = Some(Instant::now() + LAST_CALL);
        self.flush();
    }

    pub(super) fn pending(&self) -> bool {
        !self.queue.is_empty() && self.give_up_at.is_none_or(|at| Instant::now() < at)
    }

    pub(super) fn interest(&self) -> Option<(&OwnedFd, PollFlags)> {
        match &self.link {
            Link::Trying(socket) => Some((socket, PollFlags::OUT)),
            Link::Up(socket) if !self.queue.is_empty() => Some((socket, PollFlags::OUT)),
            Link::Up(_) | Link::Down { .. } => None,
        }
    }

    pub(super) fn on_ready(&mut self, flags: PollFlags) {
        if let Link::Trying(socket) = &self.link {
            match rustix::net::sockopt::socket_error(socket) {
                Ok(Ok(())) if flags.contains(PollFlags::OUT) => self.up(),
                Ok(Ok(())) => {}
                Ok(Err(error)) | Err(error) => return self.broke(error),
            }
        }
        self.flush();
    }

    fn up(&mut self) {
        let trying = std::mem::replace(&mut self.link, Link::Down { again_at: Instant::now() });
        if let Link::Trying(socket) = trying {
            self.moved_at = Instant::now();
            self.link = Link::Up(socket);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = match &self.link {
            Link::Down { again_at } if !self.queue.is_empty() => Some(*again_at),
            Link::Up(_) | Link::Trying(_) if !self.queue.is_empty() => Some(self.moved_at + STALL),
            _ => None,
        };
        due.into_iter().chain(self.give_up_at.filter(|_| !self.queue.is_empty())).min()
    }

    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        match &self.link {
            Link::Up(_) | Link::Trying(_) if !self.queue.is_empty() && now >= self.moved_at + STALL => {
                self.broke(Errno::TIMEDOUT);
            }
            Link::Down { again_at } if !self.queue.is_empty() && now >= *again_at => {
                match connect::begin(&self.address) {
                    Ok(socket) => {
                        self.moved_at = now;
                        self.link = Link::Trying(socket);
                    }
                    Err(_) => self.down(),
                }
            }
            _ => {}
        }
    }
}

fn send(socket: &OwnedFd, parts: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags)
}

#[cfg(test)]
mod tests;
