// SPDX-License-Identifier: Apache-2.0
//! The way into a process: a pipe or a terminal, and what it has not taken yet.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Clients are not read while the process has this much to take.
const ROOM: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Stdin {
    fd: OwnedFd,
    waiting: VecDeque<u8>,
    /// Close it once everything is taken.
    closing: bool,
}

impl Stdin {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, waiting: VecDeque::new(), closing: false }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < ROOM
    }

    pub(super) fn waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Closes it when what waits is taken.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        if !self.closing {
            self.waiting.extend(data);
        }
    }

    /// Gives the process what it takes; false once this is to be closed.
    pub(super) fn flush(&mut self) -> bool {
        while self.waiting() {
            let (front, _) = self.waiting.as_slices();
            match rustix::io::write(&self.fd, front) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        !self.closing
    }

    pub(super) fn trim(&mut self) {
        self.waiting.shrink_to_fit();
    }
}
