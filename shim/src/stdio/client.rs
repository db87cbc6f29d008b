// SPDX-License-Identifier: Apache-2.0
//! An attached client: the far end of a stream socket.
//!
//! Who was there when the process started (`docker run`, `docker exec`) is part of a pipeline: the process waits for
//! it as for any pipe, whatever it takes. Who came later looks on: it may hold the process up for a moment, as a
//! terminal does that scrolls, but not for long. One that is stuck or far too slow is let go of.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_shim_proto::Attach;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::detach::Keys;
use crate::say::say;
use crate::stdcopy::{self, Stream};

/// A client that does not read has this much kept for it; then the process waits.
const BACKLOG: usize = 1024 * 1024;
/// Somebody who looks on may hold the process up for this long without taking anything,
const STUCK: Duration = Duration::from_secs(3);
/// and for this long without getting half of its backlog done.
const SLOW: Duration = Duration::from_secs(10);

/// What a client is to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There from the start.
    Pipe,
    /// Came later.
    Onlooker,
}

/// Since when a client holds the process up.
#[derive(Debug, Default)]
struct Hold {
    full_since: Option<Instant>,
    moved_at: Option<Instant>,
}

impl Hold {
    /// Notes how much is left after `sent` bytes were taken.
    fn note(&mut self, backlog: usize, sent: usize, now: Instant) {
        if backlog >= BACKLOG && self.full_since.is_none() {
            *self = Self { full_since: Some(now), moved_at: Some(now) };
        } else if backlog < BACKLOG / 2 {
            *self = Self::default();
        }
        if sent > 0 && self.moved_at.is_some() {
            self.moved_at = Some(now);
        }
    }

    /// When patience ends.
    fn ends_at(&self) -> Option<Instant> {
        Some((self.full_since? + SLOW).min(self.moved_at? + STUCK))
    }
}

#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    keys: Keys,
    /// Its input is still read.
    pub(super) feeding: bool,
    wants: [bool; 2],
    multiplexed: bool,
    standing: Standing,
    hold: Hold,
    backlog: VecDeque<u8>,
    /// Output can no longer reach it.
    pub(super) deaf: bool,
    pub(super) detached: bool,
}

/// What came of reading a client's input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Nothing,
    Some,
    End,
    Detached,
}

impl Client {
    pub(super) fn new(socket: OwnedFd, attach: &Attach, standing: Standing) -> Self {
        Self {
            socket,
            keys: Keys::new(attach.detach_keys.clone()),
            feeding: attach.stdin,
            wants: [attach.stdout, attach.stderr],
            multiplexed: attach.multiplexed,
            standing,
            hold: Hold::default(),
            backlog: VecDeque::new(),
            deaf: false,
            detached: false,
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// What to wait for; `None` when nothing can be done about it at present.
    pub(super) fn interest(&self, may_feed: bool) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        if self.feeding && may_feed {
            flags |= PollFlags::IN;
        }
        if self.pending() {
            flags |= PollFlags::OUT;
        }
        // A hang-up that is known already would be reported again and again.
        (!self.deaf || !flags.is_empty()).then_some(flags)
    }

    pub(super) fn over(&self) -> bool {
        self.detached || (self.deaf && !self.feeding)
    }

    /// Whether more output of the stream may be read for it.
    pub(super) fn has_room(&self, stream: Stream) -> bool {
        self.deaf || !self.wants[stream.index()] || self.backlog.len() < BACKLOG
    }

    pub(super) fn pending(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }

    pub(super) fn send(&mut self, stream: Stream, data: &[u8]) {
        if self.deaf || !self.wants[stream.index()] {
            return;
        }
        let framing = stdcopy::header(stream, data.len());
        let head: &[u8] = if self.multiplexed { &framing } else { &[] };
        let mut sent = 0;
        if self.backlog.is_empty() {
            sent = self.transmit(&[IoSlice::new(head), IoSlice::new(data)]);
        }
        if !self.deaf {
            self.backlog.extend(head.get(sent..).unwrap_or_default());
            self.backlog.extend(data.get(sent.saturating_sub(head.len())..).unwrap_or_default());
            self.note(sent);
        }
    }

    pub(super) fn flush(&mut self) {
        while self.pending() && !self.deaf {
            let (front, back) = self.backlog.as_slices();
            let sent = self.transmit_from(&[IoSlice::new(front), IoSlice::new(back)]);
            match sent {
                Ok(0) => return,
                Ok(sent) => {
                    self.backlog.drain(..sent);
                    self.note(sent);
                }
                Err(()) => self.deafen(),
            }
        }
    }

    fn note(&mut self, sent: usize) {
        // The usual case costs no look at the clock.
        if self.backlog.len() >= BACKLOG || self.hold.full_since.is_some() {
            self.hold.note(self.backlog.len(), sent, Instant::now());
        }
    }

    /// When it has held the process up for too long; `None` while it does not, and for those who may.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.hold.ends_at().filter(|_| self.standing == Standing::Onlooker && !self.deaf)
    }

    /// Lets go of it if it has.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            say!("an attached client does not take the output; its connection is closed");
            self.deafen();
            self.feeding = false;
        }
    }

    /// Reads once; keys that are not for the process are taken out.
    pub(super) fn read(&mut self, scratch: &mut [u8], out: &mut Vec<u8>) -> Input {
        match rustix::net::recv(&self.socket, &mut *scratch, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                self.keys.finish(out);
                self.feeding = false;
                Input::End
            }
            Ok((_, n)) => self.typed(scratch.get(..n).unwrap_or_default(), out),
            Err(Errno::AGAIN | Errno::INTR) => Input::Nothing,
            Err(_) => {
                self.deafen();
                self.feeding = false;
                Input::End
            }
        }
    }

    pub(super) fn typed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Input {
        if self.keys.feed(bytes, out) {
            self.detached = true;
            self.feeding = false;
            Input::Detached
        } else {
            Input::Some
        }
    }

    pub(super) fn deafen(&mut self) {
        self.deaf = true;
        self.backlog = VecDeque::new();
    }

    pub(super) fn trim(&mut self) {
        self.backlog.shrink_to_fit();
    }

    fn transmit(&mut self, parts: &[IoSlice<'_>]) -> usize {
        self.transmit_from(parts).unwrap_or_else(|()| {
            self.deafen();
            0
        })
    }

    fn transmit_from(&self, parts: &[IoSlice<'_>]) -> Result<usize, ()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => return Ok(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Ok(0),
                Err(_) => return Err(()),
            }
        }
    }
}

impl Drop for Client {
    /// The socket may be shared with the daemon, so closing alone would not end the connection. Input that
    /// nobody read is read here: a Unix socket closed with unread bytes gives its peer ECONNRESET rather
    /// than the end of the stream.
    fn drop(&mut self) {
        if rustix::net::shutdown(&self.socket, Shutdown::Both).is_ok() {
            let mut unread = [0u8; 4096];
            for _ in 0..256 {
                match rustix::net::recv(&self.socket, &mut unread[..], RecvFlags::DONTWAIT) {
                    Ok((_, 1..)) => {}
                    _ => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn patience_ends_with_the_stuck_and_the_slow() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut hold = Hold::default();
        hold.note(BACKLOG - 1, 0, start);
        assert_eq!(hold.ends_at(), None);
        hold.note(BACKLOG, 0, start);
        assert_eq!(hold.ends_at(), Some(at(3)));
        // A byte now and then puts the end off, but not for ever.
        hold.note(BACKLOG, 1, at(2));
        assert_eq!(hold.ends_at(), Some(at(5)));
        hold.note(BACKLOG, 1, at(9));
        assert_eq!(hold.ends_at(), Some(at(10)));
        hold.note(BACKLOG / 2 - 1, 1, at(9));
        assert_eq!(hold.ends_at(), None);
        hold.note(BACKLOG, 0, at(20));
        assert_eq!(hold.ends_at(), Some(at(23)));
    }

    #[test]
    fn those_who_were_there_first_are_waited_for() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let attach = Attach {
            fd: 0,
            early: Vec::new(),
            stdin: true,
            stdout: true,
            stderr: true,
            multiplexed: false,
            detach_keys: Vec::new(),
            from_start: false,
        };
        let check = |standing, gone| {
            let mut client = Client::new(ours.try_clone().unwrap().into(), &attach, standing);
            while client.has_room(Stream::Stdout) {
                client.send(Stream::Stdout, &[0; 64 * 1024]);
            }
            client.tick(Instant::now() + SLOW);
            assert_eq!(client.over(), gone);
            std::mem::forget(client);
        };
        check(Standing::Pipe, false);
        check(Standing::Onlooker, true);
    }
}
