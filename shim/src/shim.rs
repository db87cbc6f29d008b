// SPDX-License-Identifier: Apache-2.0
//! The loop: wait, act on what is ready, move on what is due.

use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use berth_shim_proto::{Event, Failure, FailureKind, Reply, State};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::WaitOptions;

use crate::container::{Container, INIT, Pending, Then};
use crate::link::Link;
use crate::process::{Process, exit_code};
use crate::say::say;
use crate::watch::{Token, Watch};
use crate::{flusher, stdio, sys};

/// Without anything to do for this long, buffers are given back.
const IDLE: Duration = Duration::from_secs(1);
/// Requests taken in one round.
const REQUESTS: usize = 16;
/// The daemon has this long to take the last messages.
const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) struct Shim {
    signals: OwnedFd,
    pub(crate) link: Link,
    pub(crate) listener: Option<OwnedFd>,
    /// Connections could not be taken; not to be tried again before.
    unwelcoming_until: Option<Instant>,
    pub(crate) container: Option<Container>,
    /// Nothing is to be done any more.
    pub(crate) over: bool,
    scratch: Vec<u8>,
    /// Buffers may hold memory that an idle shim need not have.
    warm: bool,
}

impl Shim {
    pub(crate) fn new(socket: OwnedFd) -> std::io::Result<Self> {
        Ok(Self {
            signals: sys::signals()?,
            link: Link::new(socket),
            listener: None,
            unwelcoming_until: None,
            container: None,
            over: false,
            scratch: Vec::new(),
            warm: false,
        })
    }

    /// Serves until the container has ended, or until it is certain that there will be none.
    pub(crate) fn run(mut self) -> rustix::io::Result<()> {
        let mut ready = Vec::new();
        loop {
            let timeout = self.timeout();
            let mut watch = Watch::default();
            self.watch(&mut watch);
            watch.wait(timeout, &mut ready)?;
            if ready.is_empty() && self.warm && timeout == Some(IDLE) {
                self.trim();
                continue;
            }
            self.warm |= !ready.is_empty();
            self.unwelcoming_until = self.unwelcoming_until.filter(|until| *until > Instant::now());
            for (token, flags) in &ready {
                self.dispatch(*token, *flags);
            }
            let Some(container) = &mut self.container else {
                if self.over || !self.link.connected() {
                    self.link.flush_within(FAREWELL);
                    return Ok(());
                }
                continue;
            };
            if container.advance(&mut self.link, &mut self.scratch) {
                return self.finish();
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let due = self.container.as_ref().and_then(Container::deadline);
        let due = due.into_iter().chain(self.unwelcoming_until).min();
        let due = due.map(|at| at.saturating_duration_since(Instant::now()));
        match (due, self.warm) {
            (Some(due), true) => Some(due.min(IDLE)),
            (Some(due), false) => Some(due),
            (None, true) => Some(IDLE),
            (None, false) => None,
        }
    }

    fn watch<'a>(&'a self, watch: &mut Watch<'a>) {
        watch.add(&self.signals, PollFlags::IN, Token::Signals);
        // Before the container's output: a kill must not wait for it.
        self.link.watch(watch);
        if let (Some(listener), None) = (&self.listener, self.unwelcoming_until) {
            watch.add(listener, PollFlags::IN, Token::Listener);
        }
        if let Some(container) = &self.container {
            container.watch(watch);
        }
    }

    fn dispatch(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Signals => self.on_signal(),
            Token::Daemon => self.on_daemon(flags),
            Token::Listener => self.on_connection(),
            Token::Oom => {
                if let Some(container) = &mut self.container {
                    container.on_oom();
                }
            }
            Token::Stdio(key, part) => {
                let process = self.container.as_mut().and_then(|c| c.processes.get_mut(&key));
                let Some(process) = process else { return };
                stdio::prepare(&mut self.scratch);
                if process.stdio.on_ready(part, flags, &mut self.scratch) {
                    self.link.event(Event::Detached { target: process.target.clone() });
                }
            }
        }
    }

    fn on_daemon(&mut self, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.link.flush();
        }
        for _ in 0..REQUESTS {
            let Some((asker, request, fds)) = self.link.receive() else { return };
            self.serve(asker, &request, fds);
        }
    }

    fn on_connection(&mut self) {
        let Some(listener) = &self.listener else { return };
        loop {
            let socket = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => {
                    // Out of descriptors: the connection stays in the queue and would wake us for ever.
                    say!("a connection: {error}");
                    self.unwelcoming_until = Some(Instant::now() + IDLE);
                    return;
                }
            };
            match rustix::net::sockopt::socket_peercred(&socket) {
                Ok(peer) if peer.uid == rustix::process::geteuid() => self.link.replace(socket),
                Ok(peer) => say!("a connection of uid {} was refused", peer.uid.as_raw()),
                Err(error) => say!("a connection: {error}"),
            }
        }
    }

    /// Reaps. Other signals that the shim could get mean nothing to it.
    fn on_signal(&mut self) {
        let mut infos = [0u8; 1024];
        while let Ok(1..) = rustix::io::read(&self.signals, &mut infos) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(code) = exit_code(status) {
                self.reaped(pid.as_raw_nonzero().get(), status.as_raw(), code);
            }
        }
    }

    fn reaped(&mut self, pid: i32, status: i32, code: i32) {
        use std::os::unix::process::ExitStatusExt;
        let Some(container) = &mut self.container else { return };
        let alive = |process: &&mut Process| process.pid == pid && process.code.is_none();
        let found =
            container.processes.iter_mut().map(|(key, process)| (*key, process)).find(|(_, p)| alive(p));
        match found {
            Some((INIT, _)) => container.init_ended(code),
            Some((_, process)) => process.reaped(code),
            None => match container.jobs.iter().position(|pending| pending.job().pid == pid) {
                Some(place) => {
                    let pending = container.jobs.swap_remove(place);
                    self.job_ended(pending, ExitStatus::from_raw(status));
                }
                None if container.log_child_ended(pid, code) => {}
                None => container.stray(pid, code),
            },
        }
    }

    fn job_ended(&mut self, pending: Pending, status: ExitStatus) {
        let Some(container) = &mut self.container else { return };
        let outcome = pending.job().result(status);
        let mut detached = None;
        let reply = match (outcome, pending.then) {
            (Err(failure), _) => Reply::Failed(failure),
            (Ok(()), Then::Done(_)) => Reply::Done,
            (Ok(()), Then::Thawed(_)) => {
                container.let_die();
                Reply::Done
            }
            (Ok(()), Then::Frozen(_, frozen)) => {
                container.frozen = frozen;
                Reply::Done
            }
            (Ok(()), Then::Exec(starting, id, client)) => match starting.finish() {
                Ok(started) => {
                    let pid = started.pid;
                    if container.add_exec(id.clone(), started, client) {
                        detached = Some(id);
                    }
                    Reply::ExecStarted { pid }
                }
                Err(failure) => Reply::Failed(failure),
            },
        };
        self.link.reply(pending.asker, reply);
        if let Some(id) = detached {
            self.link.event(Event::Detached { target: berth_shim_proto::Target::Exec(id) });
        }
    }

    fn trim(&mut self) {
        self.scratch = Vec::new();
        if let Some(container) = &mut self.container {
            container.trim();
        }
        sys::trim_heap();
        self.warm = false;
    }

    /// The exit was told: let go of everything.
    fn finish(self) -> rustix::io::Result<()> {
        let Self { mut link, listener, container, scratch, signals, .. } = self;
        let Some(mut container) = container else { return Ok(()) };
        container.dismiss();
        drop((listener, scratch));
        let left = container.dissolve();
        link.flush_within(FAREWELL);
        drop((link, signals));
        flusher::flush(left)
    }
}

/// The answer to `State` before anything was launched.
pub(crate) fn nothing() -> State {
    State { init: None, exited: None, execs: Vec::new(), exec_pids: Vec::new(), frozen: false }
}

pub(crate) fn not_running(what: &str) -> Failure {
    Failure { kind: FailureKind::NotRunning, message: format!("{what} is not running") }
}
