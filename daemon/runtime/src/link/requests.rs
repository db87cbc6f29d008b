// SPDX-License-Identifier: Apache-2.0
//! Asking a shim.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use berth_domain::Result;
use berth_shim_proto::{
    Attach, Exec, FdIndex, Launch, PacketError, Reply, Request, State, Target, ToShim, send,
};
use berth_sys::pidfd::PidFd;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::{HeldFds, Launched, ShimError, ShimEvent, remains};

/// One shim. Cheap to clone; requests of several clones are in flight together.
#[derive(Debug, Clone)]
pub struct Shim(pub(super) Arc<Inner>);

pub(super) type Socket = Arc<AsyncFd<OwnedFd>>;
pub(super) type Answer = (Reply, Vec<OwnedFd>);

/// The connection, as requests see it.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// Usable.
    Up(Socket),
    /// Broken; being made again.
    Down,
    /// The shim's process has ended.
    Gone,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) pid: i32,
    pub(super) run_dir: PathBuf,
    pub(super) process: Arc<PidFd>,
    pub(super) line: watch::Sender<Line>,
    pub(super) waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    pub(super) next_id: AtomicU64,
    pub(super) events: Mutex<Option<mpsc::Receiver<ShimEvent>>>,
}

impl Inner {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to whoever waits for it; an answer that nobody waits for any more closes its descriptors.
    pub(super) fn answer(&self, id: u64, answer: Answer) {
        if let Some(waiter) = self.waiting().remove(&id) {
            // The future was dropped in between: as if it had been before.
            drop(waiter.send(answer));
        }
    }

    /// Fails all that wait.
    pub(super) fn fail_all(&self) {
        self.waiting().clear();
    }
}

/// Takes a request off the list when its future is dropped.
struct Waiting<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.waiting().remove(&self.id);
    }
}

impl Shim {
    /// Pid of the shim's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// The events; `None` after the first call. A consumer that stops reading for a while does not hold up answers.
    #[must_use]
    pub fn events(&self) -> Option<mpsc::Receiver<ShimEvent>> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, ShimError> {
        let inner = &*self.0;
        let mut line = inner.line.subscribe();
        let socket = loop {
            match &*line.borrow_and_update() {
                Line::Up(socket) => break socket.clone(),
                Line::Gone => return Err(ShimError::Gone),
                Line::Down => {}
            }
            line.changed().await.map_err(|_| ShimError::Gone)?;
        };
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        inner.waiting().insert(id, waiter);
        let _waiting = Waiting { inner, id };
        // The line may have broken since it was read, before this request was on the list of those to fail.
        if !matches!(&*line.borrow(), Line::Up(now) if Arc::ptr_eq(now, &socket)) {
            return Err(ShimError::Gone);
        }
        send_packet(&socket, &ToShim { id, request }, fds).await?;
        match answer.await.map_err(|_| ShimError::Gone)? {
            (Reply::Failed(failure), _) => Err(ShimError::Failed(failure)),
            answer => Ok(answer),
        }
    }

    async fn ask_done(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        match self.ask(request, fds).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Starts the container. Descriptor indices in `launch` are indices into `fds`.
    ///
    /// # Errors
    ///
    /// [`ShimError::Failed`] with what the client should see.
    pub async fn launch(&self, launch: Launch, fds: &[BorrowedFd<'_>]) -> Result<Launched, ShimError> {
        match self.ask(Request::Launch(Box::new(launch)), fds).await? {
            (Reply::Launched { pid, warnings }, _) => Ok(Launched { pid, warnings }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Joins a stream to the container's stdio. `attach.fd` is set to the descriptor's index.
    ///
    /// # Errors
    ///
    /// The container does not run.
    pub async fn attach(&self, mut attach: Attach, stream: BorrowedFd<'_>) -> Result<(), ShimError> {
        attach.fd = 0;
        self.ask_done(Request::Attach(attach), &[stream]).await
    }

    /// Starts a further process; answers its pid. `exec.attach.fd`, if any, is set to the descriptor's index.
    ///
    /// # Errors
    ///
    /// The program cannot be run; the container does not run.
    pub async fn exec(&self, mut exec: Exec, stream: Option<BorrowedFd<'_>>) -> Result<i32, ShimError> {
        if let Some(attach) = &mut exec.attach {
            attach.fd = 0;
        }
        match self.ask(Request::Exec(Box::new(exec)), stream.as_slice()).await? {
            (Reply::ExecStarted { pid }, _) => Ok(pid),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sets a terminal's size in cells.
    ///
    /// # Errors
    ///
    /// No such target or no terminal.
    pub async fn resize(&self, target: Target, height: u16, width: u16) -> Result<(), ShimError> {
        self.ask_done(Request::Resize { target, height, width }, &[]).await
    }

    /// Sends a signal; to every process of the container if `all`.
    ///
    /// # Errors
    ///
    /// The target has ended.
    pub async fn signal(&self, target: Target, signal: i32, all: bool) -> Result<(), ShimError> {
        self.ask_done(Request::Signal { target, signal, all }, &[]).await
    }

    /// Freezes or thaws the container.
    ///
    /// # Errors
    ///
    /// It does not run, or the kernel refused.
    pub async fn freeze(&self, frozen: bool) -> Result<(), ShimError> {
        self.ask_done(Request::Freeze { frozen }, &[]).await
    }

    /// What runs.
    ///
    /// # Errors
    ///
    /// The shim has gone.
    pub async fn state(&self) -> Result<State, ShimError> {
        match self.ask(Request::State, &[]).await? {
            (Reply::State(state), _) => Ok(state),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// The descriptors held for the container.
    ///
    /// # Errors
    ///
    /// The shim has gone.
    pub async fn held(&self) -> Result<HeldFds, ShimError> {
        let (netns, named, fds) = match self.ask(Request::Held, &[]).await? {
            (Reply::Held { netns, fds: named }, fds) => (netns, named, fds),
            (other, _) => return Err(unexpected(&other)),
        };
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut take = |index: FdIndex| {
            let slot = fds.get_mut(usize::from(index)).and_then(Option::take);
            slot.ok_or_else(|| ShimError::Broken("held: a descriptor is missing".to_owned()))
        };
        let netns = netns.map(&mut take).transpose()?;
        let fds = named.into_iter().map(|held| Ok((held.name, take(held.fd)?))).collect::<Result<_, _>>()?;
        Ok(HeldFds { netns, fds })
    }

    /// Replaces the limits: `resources` is `linux.resources` as JSON.
    ///
    /// # Errors
    ///
    /// The kernel refused a value.
    pub async fn update(&self, resources: serde_json::Value) -> Result<(), ShimError> {
        self.ask_done(Request::Update { resources }, &[]).await
    }

    /// Kills init from outside, by pidfd: for a shim that does not answer. A shim that works then records the exit
    /// as any other.
    ///
    /// # Errors
    ///
    /// The pid file cannot be read.
    pub fn kill_init(&self) -> Result<()> {
        let Some(pids) = remains::read_pids(&self.0.run_dir)? else { return Ok(()) };
        remains::kill_process(pids.init, pids.init_started)
    }

    /// Kills init and then the shim itself: for a shim that hangs for good. [`ShimEvent::Gone`] follows; what cannot be
    /// killed is logged.
    pub fn kill(&self) {
        if let Err(error) = self.kill_init() {
            tracing::error!(shim = self.0.pid, error = error.chain(), "killing init");
        }
        if let Err(error) = self.0.process.kill() {
            tracing::error!(shim = self.0.pid, %error, "killing the shim");
        }
    }
}

async fn send_packet(socket: &Socket, message: &ToShim, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
    loop {
        let mut ready = socket.writable().await.map_err(|e| ShimError::Broken(e.to_string()))?;
        let sent = ready.try_io(|socket| match send(socket.get_ref(), message, fds) {
            Err(PacketError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other),
        });
        match sent {
            Err(_would_block) => {}
            Ok(Err(e)) => return Err(ShimError::Broken(e.to_string())),
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(PacketError::Closed))) => return Err(ShimError::Gone),
            Ok(Ok(Err(PacketError::TooLarge))) => return Err(ShimError::TooLarge),
            Ok(Ok(Err(e))) => return Err(ShimError::Broken(e.to_string())),
        }
    }
}

fn unexpected(reply: &Reply) -> ShimError {
    let name = match reply {
        Reply::Done => "Done",
        Reply::Launched { .. } => "Launched",
        Reply::ExecStarted { .. } => "ExecStarted",
        Reply::State(_) => "State",
        Reply::Held { .. } => "Held",
        Reply::Failed(_) => "Failed",
    };
    ShimError::Broken(format!("an answer to another question: {name}"))
}
