// SPDX-License-Identifier: Apache-2.0
//! An attached client: the far end of a stream socket.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;

use berth_shim_proto::Attach;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::detach::Keys;
use crate::stdcopy::{self, Stream};

/// A client that does not read has this much kept for it; then the process waits, as with Docker.
const BACKLOG: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    keys: Keys,
    /// Its input is still read.
    pub(super) feeding: bool,
    wants: [bool; 2],
    multiplexed: bool,
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
    pub(super) fn new(socket: OwnedFd, attach: &Attach) -> Self {
        Self {
            socket,
            keys: Keys::new(attach.detach_keys.clone()),
            feeding: attach.stdin,
            wants: [attach.stdout, attach.stderr],
            multiplexed: attach.multiplexed,
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
        }
    }

    pub(super) fn flush(&mut self) {
        while self.pending() && !self.deaf {
            let (front, back) = self.backlog.as_slices();
            let sent = self.transmit_from(&[IoSlice::new(front), IoSlice::new(back)]);
            match sent {
                Ok(0) => return,
                Ok(sent) => drop(self.backlog.drain(..sent)),
                Err(()) => self.deafen(),
            }
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
