// SPDX-License-Identifier: Apache-2.0
//! What the loop waits for.
//!
//! The set is built anew for every wait from what the parts want at that moment: a container has a handful
//! of descriptors, and with nothing registered anywhere nothing can be registered wrongly.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};

use crate::stdcopy::Stream;

/// Whom readiness concerns.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Token {
    Signals,
    Listener,
    Daemon,
    Oom,
    /// Part of the stdio of the process with this key.
    Stdio(u64, Part),
}

/// Which part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Output(Stream),
    Input,
    Log,
    /// The attached client in this place.
    Client(usize),
}

/// Descriptors to wait for.
#[derive(Debug, Default)]
pub(crate) struct Watch<'a> {
    fds: Vec<PollFd<'a>>,
    tokens: Vec<Token>,
}

impl<'a> Watch<'a> {
    /// Wants `flags` of a descriptor; with none, still hears of errors and hang-ups.
    pub(crate) fn add(&mut self, fd: &'a impl AsFd, flags: PollFlags, token: Token) {
        let fd: BorrowedFd<'a> = fd.as_fd();
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
        self.tokens.push(token);
    }

    /// Waits, and leaves what became ready in `ready`.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<std::time::Duration>,
        ready: &mut Vec<(Token, PollFlags)>,
    ) -> rustix::io::Result<()> {
        ready.clear();
        let timeout = timeout.map(|t| rustix::event::Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let count = match rustix::event::poll(&mut self.fds, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN | rustix::io::Errno::NOMEM) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if count > 0 {
            let pairs = self.fds.iter().zip(&self.tokens);
            ready.extend(pairs.filter(|(fd, _)| !fd.revents().is_empty()).map(|(fd, t)| (*t, fd.revents())));
        }
        Ok(())
    }
}
