// SPDX-License-Identifier: Apache-2.0
//! A process of the container that the daemon knows by name: init or an exec.
//!
//! ```text
//!  runs ── reaped ── draining ── drained ── flushed ── told ── gone
//!                    reads what   its output  its clients
//!                    is left      is logged   have it all
//! ```

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_shim_proto::Target;
use rustix::process::WaitStatus;

use crate::stdio::Stdio;

/// The output of a process that has ended is waited for this long when somebody else holds its pipes (a
/// child of an exec that goes on in the background).
const DRAIN: Duration = Duration::from_secs(2);
/// The daemon hears of an exec's end at the latest when a client took nothing for this long.
const FLUSH: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long after the end loses the rest.
pub(crate) const LINGER: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) target: Target,
    pub(crate) pid: i32,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) stdio: Stdio,
    /// Exit code, once reaped.
    pub(crate) code: Option<i32>,
    /// Its end was told to the daemon.
    pub(crate) told: bool,
    drain_until: Option<Instant>,
    progress: Progress,
}

/// Whether clients still take something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    backlog: usize,
    since: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { backlog: 0, since: Instant::now() }
    }

    /// Notes how much is left; returns since when it has been so.
    pub(crate) fn note(&mut self, backlog: usize) -> Instant {
        if backlog != self.backlog {
            *self = Self { backlog, since: Instant::now() };
        }
        self.since
    }
}

impl Process {
    pub(crate) fn new(target: Target, pid: i32, pidfd: Option<OwnedFd>, stdio: Stdio) -> Self {
        Self {
            target,
            pid,
            pidfd,
            stdio,
            code: None,
            told: false,
            drain_until: None,
            progress: Progress::new(),
        }
    }

    /// The process was reaped.
    pub(crate) fn reaped(&mut self, code: i32) {
        self.code = Some(code);
        self.stdio.end();
        self.drain_until = Some(Instant::now() + DRAIN);
        self.progress = Progress::new();
    }

    /// Whether all that it wrote was read; gives up at the deadline.
    pub(crate) fn drained(&mut self, scratch: &mut Vec<u8>) -> bool {
        if self.code.is_none() {
            return false;
        }
        if !self.stdio.drained() && self.drain_until.is_some_and(|deadline| deadline <= Instant::now()) {
            crate::stdio::prepare(scratch);
            self.stdio.abandon(scratch);
        }
        self.stdio.drained()
    }

    /// Whether its clients have all of it, or are too slow to be waited for. Only once drained.
    pub(crate) fn flushed(&mut self) -> bool {
        let backlog = self.stdio.backlog();
        let since = self.progress.note(backlog);
        backlog == 0 || since + FLUSH <= Instant::now()
    }

    /// Whether there is nothing left to do for it. Only once told.
    pub(crate) fn gone(&mut self) -> bool {
        self.stdio.dismiss();
        let since = self.progress.note(self.stdio.backlog());
        !self.stdio.has_listeners() || since + LINGER <= Instant::now()
    }

    /// When to look at it again without anything having happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = match self.target {
            _ if self.code.is_none() => None,
            _ if !self.stdio.drained() => self.drain_until,
            Target::Init => None,
            Target::Exec(_) => Some(self.progress.since + if self.told { LINGER } else { FLUSH }),
        };
        own.into_iter().chain(self.stdio.deadline()).min()
    }
}

/// The exit code of a process that was reaped: 128 and the signal's number for one that was killed.
pub(crate) fn exit_code(status: WaitStatus) -> Option<i32> {
    if let Some(signal) = status.terminating_signal() {
        return Some(128 + signal);
    }
    status.exit_status()
}
