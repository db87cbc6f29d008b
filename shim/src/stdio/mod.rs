// SPDX-License-Identifier: Apache-2.0
//! One process's standard streams: what it writes goes to the log and to every attached client, what
//! clients type goes to its stdin.
//!
//! ```text
//!  stdout pipe ──┐            ┌── log
//!  stderr pipe ──┼─ deliver ──┤
//!  pty master  ──┘            └── backlog ── client's socket ── keys ── stdin pipe or pty
//! ```
//!
//! Nothing here waits. A full client backlog stops the reading of the process's output (of somebody who only looks
//! on: for a while), a full stdin buffer stops the reading of the clients' input; both have a bound.

mod client;
mod plumbing;
mod stdin;

use std::os::fd::OwnedFd;
use std::time::Instant;

use berth_shim_proto::{Attach, TerminalSize};
use rustix::event::PollFlags;
use rustix::io::Errno;

pub(crate) use self::client::Standing;
use self::client::{Client, Input};
pub(crate) use self::plumbing::{Ends, Wanted, null, pipes, resize, terminal};
use self::stdin::Stdin;
use crate::log::Recorder;
use crate::stdcopy::Stream;
use crate::watch::{Part, Token, Watch};

/// Size of one read.
pub(crate) const SCRATCH: usize = 256 * 1024;
/// What a pipe holds at first.
const PIPE: usize = 64 * 1024;
/// What the pipe of a busy writer is made to hold, so that the two take turns less often.
const BUSY_PIPE: usize = 512 * 1024;
/// Reads of one stream in one round, so that a process that never stops writing does not keep the loop.
const READS: usize = 4;

/// Makes the buffer for reads, which is let go when there is nothing to do.
pub(crate) fn prepare(scratch: &mut Vec<u8>) {
    if scratch.is_empty() {
        scratch.resize(SCRATCH, 0);
    }
}

/// The streams of one process.
#[derive(Debug)]
pub(crate) struct Stdio {
    outputs: [Option<OwnedFd>; 2],
    /// Its pipe was full and has been enlarged.
    busy: [bool; 2],
    stdin: Option<Stdin>,
    /// The master; reading and writing go through duplicates.
    pty: Option<OwnedFd>,
    /// Keeps the terminal from hanging up while the container's processes hand it around.
    slave: Option<OwnedFd>,
    clients: Vec<Client>,
    log: Option<Recorder>,
    /// Close stdin when a client that feeds it ends its side.
    stdin_once: bool,
    /// The process has ended.
    ended: bool,
}

impl Stdio {
    pub(crate) fn new(ends: Ends, log: Option<Recorder>, stdin_once: bool) -> Self {
        Self {
            outputs: ends.outputs,
            busy: [false; 2],
            stdin: ends.stdin.map(Stdin::new),
            pty: ends.pty,
            slave: ends.slave,
            clients: Vec::new(),
            log,
            stdin_once,
            ended: false,
        }
    }

    /// Joins a client. True if what it sent along already held its detach keys.
    pub(crate) fn attach(&mut self, socket: OwnedFd, attach: &Attach, standing: Standing) -> bool {
        let mut client = Client::new(socket, attach, standing);
        if attach.stdin && !attach.early.is_empty() {
            let mut input = Vec::new();
            let outcome = client.typed(&attach.early, &mut input);
            self.feed(&input);
            if outcome == Input::Detached {
                return true;
            }
        }
        self.clients.push(client);
        false
    }

    /// Ends the connection of a client that there is nothing to join for.
    pub(crate) fn refuse(socket: OwnedFd, attach: &Attach) -> bool {
        drop(Client::new(socket, attach, Standing::Onlooker));
        false
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> rustix::io::Result<()> {
        self.pty.as_ref().map_or(Err(Errno::NOTTY), |pty| resize(pty, size))
    }

    /// The process has ended: nobody takes input any more, and what it wrote is waited for by nobody, so
    /// that it is read whatever the clients' backlogs hold.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.stdin = None;
        self.slave = None;
    }

    /// Whether the ends of all output streams were seen.
    pub(crate) fn drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// Reads what is there and gives up on the rest: others than the container's processes hold the
    /// streams open.
    pub(crate) fn abandon(&mut self, scratch: &mut [u8]) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.on_output(stream, scratch);
            self.close(stream);
        }
    }

    /// Bytes that clients have still to take.
    pub(crate) fn backlog(&self) -> usize {
        self.clients.iter().map(Client::backlog).sum()
    }

    /// Ends the connections of the clients that have everything.
    pub(crate) fn dismiss(&mut self) {
        self.clients.retain(Client::pending);
    }

    /// Whether somebody has something to take still: a client, or a log server.
    pub(crate) fn has_listeners(&self) -> bool {
        !self.clients.is_empty() || self.log.as_ref().is_some_and(Recorder::pending)
    }

    /// What was recorded is on disk.
    pub(crate) fn close_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.close();
        }
    }

    /// A child of the shim has ended; true if it was the log's.
    pub(crate) fn child_ended(&mut self, pid: i32, code: i32) -> bool {
        self.log.as_mut().is_some_and(|log| log.child_ended(pid, code))
    }

    /// When something is due though nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let log = self.log.as_ref().and_then(Recorder::deadline);
        // Of a process that has ended everything is read whatever clients take.
        let clients = self.clients.iter().filter(|_| !self.ended).filter_map(Client::deadline);
        clients.chain(log).min()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self) {
        if let Some(log) = &mut self.log {
            log.tick();
        }
        if !self.ended && self.clients.iter().any(|client| client.deadline().is_some()) {
            let now = Instant::now();
            self.clients.iter_mut().for_each(|client| client.tick(now));
        }
    }

    /// Gives back memory; called when there was nothing to do for a while.
    pub(crate) fn trim(&mut self) {
        self.clients.iter_mut().for_each(Client::trim);
        self.stdin.iter_mut().for_each(Stdin::trim);
        self.log.iter_mut().for_each(Recorder::trim);
    }

    pub(crate) fn watch<'a>(&'a self, key: u64, watch: &mut Watch<'a>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(output) = &self.outputs[stream.index()] {
                if self.may_read(stream) {
                    watch.add(output, PollFlags::IN, Token::Stdio(key, Part::Output(stream)));
                }
            }
        }
        if let Some(stdin) = &self.stdin {
            // Without anything to give, an error still tells that the process closed its end.
            let flags = if stdin.waiting() { PollFlags::OUT } else { PollFlags::empty() };
            if stdin.waiting() || self.pty.is_none() {
                watch.add(stdin.fd(), flags, Token::Stdio(key, Part::Input));
            }
        }
        if let Some(log) = &self.log {
            log.watch(Token::Stdio(key, Part::Log), watch);
        }
        let may_feed = !self.ended && self.stdin.as_ref().is_none_or(Stdin::has_room);
        for (place, client) in self.clients.iter().enumerate() {
            if let Some(flags) = client.interest(may_feed) {
                watch.add(client.socket(), flags, Token::Stdio(key, Part::Client(place)));
            }
        }
    }

    /// Acts on readiness. True if a client typed its detach keys. Clients keep their places until
    /// [`Stdio::sweep`].
    pub(crate) fn on_ready(&mut self, part: Part, flags: PollFlags, scratch: &mut [u8]) -> bool {
        match part {
            Part::Output(stream) => self.on_output(stream, scratch),
            Part::Input => {
                if flags.intersects(PollFlags::ERR) || !self.stdin.as_mut().is_none_or(Stdin::flush) {
                    self.stdin = None;
                }
            }
            Part::Log => {
                if let Some(log) = &mut self.log {
                    log.on_ready(flags);
                }
            }
            Part::Client(place) => return self.on_client(place, flags, scratch),
        }
        false
    }

    /// Lets go of clients that are through.
    pub(crate) fn sweep(&mut self) {
        self.clients.retain(|client| !client.over());
    }

    fn on_output(&mut self, stream: Stream, scratch: &mut [u8]) {
        for _ in 0..READS {
            let Some(output) = &self.outputs[stream.index()] else { return };
            match rustix::io::read(output, &mut *scratch) {
                Ok(0) => return self.close(stream),
                Ok(n) => {
                    if n >= PIPE && !self.busy[stream.index()] {
                        self.busy[stream.index()] = true;
                        // A terminal is no pipe, and there may be a limit: it stays as it is then.
                        rustix::pipe::fcntl_setpipe_size(output, BUSY_PIPE).ok();
                    }
                    self.deliver(stream, scratch.get(..n).unwrap_or_default());
                    if n < PIPE || !self.may_read(stream) {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // EIO is the end of a terminal.
                Err(_) => return self.close(stream),
            }
        }
    }

    /// Whether there is room for what the process writes. What it wrote before it ended is read all the same.
    fn may_read(&self, stream: Stream) -> bool {
        let recorded = self.log.as_ref().is_none_or(Recorder::has_room);
        self.ended || (recorded && self.clients.iter().all(|client| client.has_room(stream)))
    }

    fn deliver(&mut self, stream: Stream, data: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(stream, data);
        }
        for client in &mut self.clients {
            client.send(stream, data);
        }
    }

    fn close(&mut self, stream: Stream) {
        if self.outputs[stream.index()].take().is_some() {
            if let Some(log) = &mut self.log {
                log.finish(stream);
            }
        }
    }

    fn on_client(&mut self, place: usize, flags: PollFlags, scratch: &mut [u8]) -> bool {
        let room = !self.ended && self.stdin.as_ref().is_none_or(Stdin::has_room);
        let Some(client) = self.clients.get_mut(place) else { return false };
        if flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            client.deafen();
            if self.ended {
                client.feeding = false;
            }
        } else if flags.contains(PollFlags::OUT) {
            client.flush();
        }
        if !client.feeding || !room || !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return false;
        }
        let mut input = Vec::new();
        let outcome = client.read(scratch, &mut input);
        self.feed(&input);
        if outcome == Input::End {
            self.input_ended();
        }
        outcome == Input::Detached
    }

    fn feed(&mut self, input: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            stdin.push(input);
            if !stdin.flush() {
                self.stdin = None;
            }
        }
    }

    /// A terminal is not closed: its process reads on from whoever attaches next, as with Docker.
    fn input_ended(&mut self) {
        if !self.stdin_once || self.pty.is_some() {
            return;
        }
        if let Some(stdin) = &mut self.stdin {
            stdin.close();
            if !stdin.flush() {
                self.stdin = None;
            }
        }
    }
}
