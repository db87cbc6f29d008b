// SPDX-License-Identifier: Apache-2.0
//! The one task that listens to a shim, from its birth to the collection of its process.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use berth_shim_proto::{Event, ExitRecord, FromShim, Packet, PacketError, Reply, State, recv};
use berth_sys::pidfd::PidFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::requests::{Inner, Line, Shim, Socket};
use super::{ShimEvent, adopt, remains};

/// Events that wait for the engine before the shim is made to wait. So many execs end only while the engine is stuck.
const BACKLOG: usize = 16 * 1024;
/// First and longest pause between attempts to reach a living shim whose connection broke.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Events handed over without the engine having asked for them yet.
pub(super) const CHANNEL: usize = 64;

/// A pidfd that several can poll.
struct Process(Arc<PidFd>);

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

pub(super) struct Supervisor {
    shim: Arc<Inner>,
    process: Arc<AsyncFd<Process>>,
    events: mpsc::Sender<ShimEvent>,
    backlog: VecDeque<ShimEvent>,
    exit_told: bool,
    /// Init ran: an end without a record is odd.
    launched: bool,
    /// Answers to the question what was missed: asked by others, because this task must listen for the answer.
    missed: mpsc::Receiver<State>,
    tell_missed: mpsc::Sender<State>,
}

/// How listening ended.
enum Heard {
    /// The connection is over; the process may live.
    Closed,
    /// The process ended.
    Ended,
}

impl Supervisor {
    pub(super) fn new(shim: Arc<Inner>, events: mpsc::Sender<ShimEvent>) -> std::io::Result<Self> {
        let process = Arc::new(poll(Process(shim.process.clone()), Interest::READABLE)?);
        let (tell_missed, missed) = mpsc::channel(1);
        let backlog = VecDeque::new();
        Ok(Self { shim, process, events, backlog, exit_told: false, launched: false, missed, tell_missed })
    }

    /// Where to put what the shim answers when asked for its state after a time without connection.
    pub(super) fn missed(&self) -> mpsc::Sender<State> {
        self.tell_missed.clone()
    }

    /// Exits that happened while no daemon listened.
    fn note(&mut self, state: State) {
        self.launched |= state.init.is_some();
        for (exec_id, code) in state.execs {
            if let Some(code) = code {
                self.backlog.push_back(ShimEvent::ExecExited { exec_id, code });
            }
        }
        if let Some(record) = state.exited {
            self.exited(record);
        }
    }

    fn exited(&mut self, record: ExitRecord) {
        if !self.exit_told {
            self.exit_told = true;
            self.backlog.push_back(ShimEvent::Exited(record));
        }
    }

    pub(super) async fn run(mut self, mut socket: Socket) {
        loop {
            let heard = self.listen(&socket).await;
            self.shim.line.send_replace(Line::Down);
            self.shim.fail_all();
            if matches!(heard, Heard::Ended) {
                break;
            }
            match self.reconnect().await {
                Some(again) => socket = again,
                None => break,
            }
        }
        self.end().await;
    }

    async fn listen(&mut self, socket: &Socket) -> Heard {
        let (events, process) = (self.events.clone(), self.process.clone());
        loop {
            let full = self.backlog.len() >= BACKLOG;
            tokio::select! {
                permit = events.reserve(), if !self.backlog.is_empty() => {
                    match (permit, self.backlog.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        // Nobody listens: the engine has let go of this container.
                        _ => self.backlog.clear(),
                    }
                }
                ready = socket.readable(), if !full => {
                    let mut ready = match ready {
                        Ok(ready) => ready,
                        Err(error) => {
                            tracing::error!(shim = self.shim.pid, %error, "polling a shim's socket");
                            return Heard::Closed;
                        }
                    };
                    match recv::<FromShim>(socket.get_ref()) {
                        Ok(packet) => self.take(packet),
                        Err(PacketError::WouldBlock) => ready.clear_ready(),
                        Err(PacketError::Closed) => return Heard::Closed,
                        Err(error) => {
                            tracing::error!(shim = self.shim.pid, %error, "reading from a shim");
                            return Heard::Closed;
                        }
                    }
                }
                Some(state) = self.missed.recv() => self.note(state),
                ended = process.readable() => {
                    if let Err(error) = ended.map(|_| ()) {
                        tracing::error!(shim = self.shim.pid, %error, "polling a shim's pidfd");
                    }
                    // What it sent before its end is still in the socket.
                    while let Ok(packet) = recv::<FromShim>(socket.get_ref()) {
                        self.take(packet);
                    }
                    return Heard::Ended;
                }
            }
        }
    }

    fn take(&mut self, packet: Packet<FromShim>) {
        match packet.message {
            FromShim::Reply { id, reply } => {
                self.launched |= matches!(reply, Reply::Launched { .. });
                self.shim.answer(id, (reply, packet.fds));
            }
            FromShim::Event(Event::Exited(record)) => self.exited(record),
            FromShim::Event(Event::ExecExited { exec_id, code }) => {
                self.backlog.push_back(ShimEvent::ExecExited { exec_id, code });
            }
            FromShim::Event(Event::Detached { target }) => {
                self.backlog.push_back(ShimEvent::Detached { target });
            }
            FromShim::Event(Event::Oom) => self.backlog.push_back(ShimEvent::Oom),
        }
    }

    /// A new connection to a shim that lives, or `None` once it has ended. A shim closes its connection a moment before
    /// it ends, so the end is the usual outcome.
    async fn reconnect(&mut self) -> Option<Socket> {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                _ended = self.process.readable() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match adopt::reach(&self.shim.run_dir, self.shim.pid) {
                Ok(socket) => {
                    tracing::info!(shim = self.shim.pid, "connected to the shim again");
                    self.shim.line.send_replace(Line::Up(socket.clone()));
                    self.ask_for_missed();
                    return Some(socket);
                }
                Err(error) => {
                    tracing::debug!(
                        shim = self.shim.pid,
                        error = error.chain(),
                        "the shim cannot be reached"
                    );
                }
            }
        }
    }

    fn ask_for_missed(&self) {
        let (shim, missed) = (Shim(self.shim.clone()), self.missed());
        tokio::spawn(async move {
            // A shim that ended before it answered has its exit in the exit file.
            if let Ok(state) = shim.state().await {
                drop(missed.send(state).await);
            }
        });
    }

    async fn end(mut self) {
        match self.shim.process.reap() {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(shim = self.shim.pid, "the shim's process ended and cannot be collected yet");
            }
            Err(error) => tracing::error!(shim = self.shim.pid, %error, "collecting the shim's process"),
        }
        while let Ok(state) = self.missed.try_recv() {
            self.note(state);
        }
        if !self.exit_told {
            match remains::read_exit(&self.shim.run_dir) {
                Ok(Some(record)) => self.exited(record),
                Ok(None) if self.launched => {
                    tracing::warn!(shim = self.shim.pid, "the shim ended without an exit record");
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(shim = self.shim.pid, error = error.chain(), "reading the exit file");
                }
            }
        }
        self.shim.line.send_replace(Line::Gone);
        self.shim.fail_all();
        self.backlog.push_back(ShimEvent::Gone);
        for event in self.backlog.drain(..) {
            if self.events.send(event).await.is_err() {
                break;
            }
        }
    }
}

/// A socket of the daemon's side, registered with the reactor.
pub(super) fn register(socket: OwnedFd) -> std::io::Result<Socket> {
    Ok(Arc::new(poll(socket, Interest::READABLE | Interest::WRITABLE)?))
}

/// The constructor's successor is unsafe, because a type might close its descriptor while it is registered; neither of ours
/// does: one owns it, the other shares its owner.
#[allow(deprecated)]
fn poll<T: AsRawFd>(descriptor: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
}
