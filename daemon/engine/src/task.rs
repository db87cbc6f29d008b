// SPDX-License-Identifier: Apache-2.0
//! The task that owns one container.
//!
//! It sleeps until something happens and polls, in this order: the shim's events, kills and forced removals, the
//! outcome of the operation under way, deadlines, the engine's end, other requests. At most one operation (start,
//! freeze, update, removal) is under way; ordinary requests wait for it in their queue, kills do not: a
//! start is cancelled by them. Nothing slow runs in the task itself, so whatever hangs, it answers.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_domain::container::{self, Request, Whom};
use berth_domain::restart::{Backoff, RestartPolicy};
use berth_domain::{Error, Result, Status};
use berth_runtime::{ShimError, ShimEvent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::Engine;
use crate::asked::Asked;
use crate::cancel::Cancel;
use crate::container::remove::Removal;
use crate::container::start::{StartFailure, Started};
use crate::container::stop::Stopping;
use crate::door::Door;
use crate::handle::{Command, Handle, QUEUE, Reply, Verb};
use crate::record::{SCHEMA, STATE_FILE, StateRecord};
use crate::seam::{Fut, Shim};
use crate::snapshot::{HealthStatus, Snapshot};

/// A running container.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) shim: Arc<dyn Shim>,
    pub(crate) events: mpsc::Receiver<ShimEvent>,
    /// When it was started, for back-off and durations.
    pub(crate) since: Instant,
    pub(crate) prober: Option<JoinHandle<()>>,
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(prober) = &self.prober {
            prober.abort();
        }
    }
}

/// Who asked for a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starter {
    Person,
    Policy,
}

/// How an operation ended, with everything that the task needs to go on.
pub(crate) enum Done {
    Start(Result<Started, StartFailure>),
    Freeze { frozen: bool, result: Result<(), ShimError>, reply: Reply<()> },
    Update(Box<crate::container::update::Updated>),
    Networked(Box<crate::network::connect::Networked>),
    Remove(Result<()>),
}

/// The operation under way.
pub(crate) type Op = Fut<'static, Done>;

/// A start under way: who waits for it.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) by: Starter,
    pub(crate) cancel: Cancel,
    pub(crate) replies: Vec<Reply<()>>,
    /// Part of a restart: tells so in an event.
    pub(crate) restart: bool,
    /// Kills to answer once it is undone.
    pub(crate) kills: Vec<(String, berth_domain::Signal, Reply<()>)>,
}

/// The owner of one container.
pub(crate) struct Task {
    pub(crate) engine: Arc<Engine>,
    pub(crate) asked: Arc<Asked>,
    /// The truth, published after each change.
    pub(crate) now: Snapshot,
    /// The last run was ended by a person.
    pub(crate) by_hand: bool,
    pub(crate) door: Arc<Door>,
    pub(crate) still: Arc<tokio::sync::Mutex<()>>,
    pub(crate) publisher: watch::Sender<Arc<Snapshot>>,
    urgent: mpsc::Receiver<Command>,
    commands: mpsc::Receiver<Command>,
    pub(crate) up: Option<Up>,
    pub(crate) op: Option<Op>,
    pub(crate) starting: Option<Starting>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) removal: Option<Removal>,
    /// When the restart policy's pause is over.
    pub(crate) restart_at: Option<Instant>,
    pub(crate) backoff: Backoff,
    /// The last run's shim on its way out.
    pub(crate) lingering: Option<JoinHandle<()>>,
}

/// What woke the task.
enum Wake {
    Shim(ShimEvent),
    Command(Command),
    Done(Done),
    Deadline,
    Closing,
}

async fn or_never<T>(future: Option<impl Future<Output = T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl Task {
    /// A task and its handle; [`Task::run`] is to be spawned.
    pub(crate) fn new(
        engine: Arc<Engine>,
        asked: Asked,
        now: Snapshot,
        by_hand: bool,
    ) -> (Self, Arc<Handle>) {
        let (urgent_sender, urgent) = mpsc::channel(QUEUE);
        let (commands_sender, commands) = mpsc::channel(QUEUE);
        let (publisher, snapshot) = watch::channel(Arc::new(now.clone()));
        let door = Arc::new(Door::default());
        let still = Arc::default();
        let handle = Arc::new(Handle {
            id: now.id.clone(),
            urgent: urgent_sender,
            commands: commands_sender,
            snapshot,
            door: Arc::clone(&door),
            still: Arc::clone(&still),
        });
        let task = Self {
            engine,
            asked: Arc::new(asked),
            now,
            by_hand,
            door,
            still,
            publisher,
            urgent,
            commands,
            up: None,
            op: None,
            starting: None,
            stopping: None,
            removal: None,
            restart_at: None,
            backoff: Backoff::default(),
            lingering: None,
        };
        (task, handle)
    }

    /// Lives the container's life.
    pub(crate) async fn run(mut self) {
        loop {
            self.advance().await;
            if self.now.state.removed {
                return;
            }
            match self.wake().await {
                Wake::Shim(event) => self.shim_event(event).await,
                Wake::Command(command) => self.command(command).await,
                Wake::Done(done) => {
                    self.op = None;
                    self.done(done).await;
                }
                Wake::Deadline => self.deadline().await,
                Wake::Closing => return,
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let deadline = self.next_deadline();
        let busy = self.op.is_some();
        let Self { up, op, urgent, commands, engine, .. } = self;
        let shim = up.as_mut().map(|up| up.events.recv());
        tokio::select! {
            biased;
            event = or_never(shim) => Wake::Shim(event.unwrap_or(ShimEvent::Gone)),
            Some(command) = urgent.recv() => Wake::Command(command),
            done = or_never(op.as_mut()) => Wake::Done(done),
            () = or_never(deadline.map(|at| tokio::time::sleep_until(at.into()))) => Wake::Deadline,
            () = engine.closing.raised(), if !busy => Wake::Closing,
            Some(command) = commands.recv(), if !busy => Wake::Command(command),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stop = self.stopping.as_ref().and_then(|stopping| stopping.deadline);
        let restart = if self.op.is_none() { self.restart_at } else { None };
        let removal = self.removal.as_ref().and_then(|removal| removal.deadline);
        [stop, restart, removal].into_iter().flatten().min()
    }

    /// Begins what waited for the operation before it.
    async fn advance(&mut self) {
        if self.op.is_none() && self.up.is_none() && self.removal.is_some() {
            self.begin_removal();
        }
    }

    fn start(&mut self, asked: &str, reply: Reply<()>) {
        match self.admit(Request::Start, asked) {
            Err(error) => answer(reply, Err(error)),
            Ok(false) => {
                answer(reply, Err(Error::not_modified(format!("container {asked} is running"))));
            }
            Ok(true) => self.begin_start(Starter::Person, Some(reply), false),
        }
    }

    async fn deadline(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.removal.as_ref().and_then(|removal| removal.deadline)) {
            self.removal_is_late();
        } else if due(self.stopping.as_ref().and_then(|stopping| stopping.deadline)) {
            self.stop_is_late();
        } else if self.op.is_none() && due(self.restart_at) {
            self.restart_at = None;
            self.begin_start(Starter::Policy, None, false);
        }
    }

    async fn shim_event(&mut self, event: ShimEvent) {
        match event {
            ShimEvent::Exited(record) => self.ended(Some(record)).await,
            ShimEvent::Gone => self.ended(None).await,
            ShimEvent::ExecExited { exec_id, code } => self.engine.exec_ended(&self.now, &exec_id, code),
            ShimEvent::Detached { target } => self.engine.detached(&self.now, &target),
            ShimEvent::Oom => {
                self.now.state.oom_killed = true;
                self.event("oom", &[]);
                self.publish();
            }
        }
    }

    async fn command(&mut self, command: Command) {
        let Command { asked, verb } = command;
        match verb {
            Verb::Start(reply) => self.start(&asked, reply),
            Verb::Stop(ask, reply) => self.stop(&asked, ask, reply).await,
            Verb::Restart(ask, reply) => self.restart(&asked, ask, reply),
            Verb::Kill(signal, reply) => self.kill(&asked, signal, reply).await,
            Verb::Pause(reply) => self.freeze(&asked, true, reply),
            Verb::Unpause(reply) => self.freeze(&asked, false, reply),
            Verb::Remove(options, reply) => self.remove(&asked, options, reply).await,
            Verb::Rename(name, reply) => {
                let result = self.rename(&asked, &name).await;
                answer(reply, result);
            }
            Verb::Connect(ask, reply) => self.connect(&asked, *ask, reply).await,
            Verb::Disconnect(network, reply) => self.disconnect(&asked, network, reply).await,
            Verb::Forget(network, reply) => {
                let result = self.forget_network(&asked, &network).await;
                answer(reply, result);
            }
            Verb::Update(update, reply) => self.update(&asked, *update, reply),
            Verb::Probed(probe) => self.probed(probe),
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Start(Ok(started)) => self.started(started).await,
            Done::Start(Err(failure)) => self.start_failed(failure).await,
            Done::Freeze { frozen, result, reply } => self.frozen(frozen, result, reply),
            Done::Update(updated) => self.updated(*updated).await,
            Done::Networked(change) => self.networked(*change).await,
            Done::Remove(result) => self.removed(result),
        }
    }

    /// Whether a request is admitted now: `Ok(false)` if there is nothing to do.
    pub(crate) fn admit(&self, request: Request, asked: &str) -> Result<bool> {
        let whom = Whom { id: self.now.id.as_str(), name: &self.now.name, asked };
        container::check(self.now.state.status, request, whom)
    }

    /// Publishes the truth.
    pub(crate) fn publish(&self) {
        self.publisher.send_replace(Arc::new(self.now.clone()));
    }

    /// Tells the world.
    pub(crate) fn event(&self, action: &str, more: &[(&str, String)]) {
        self.engine.container_event(&self.now, action, more);
    }

    pub(crate) fn state_record(&self) -> StateRecord {
        let state = &self.now.state;
        StateRecord {
            schema: SCHEMA,
            status: state.status.as_str().to_owned(),
            exit_code: state.exit_code,
            error: state.error.clone(),
            oom_killed: state.oom_killed,
            started_at: state.started_at,
            finished_at: state.finished_at,
            restart_count: state.restart_count,
            by_hand: self.by_hand,
            network: self.now.sandbox.as_deref().cloned(),
            cgroup: self.now.cgroup.as_deref().map(str::to_owned),
        }
    }

    /// Records the state. A disk that is full must not keep a container from running or ending: it is logged.
    pub(crate) async fn record_state(&mut self) {
        let path = self.now.paths.dir.join(STATE_FILE);
        let record = self.state_record();
        let syncer = (!self.asked.auto_remove).then(|| self.engine.syncer.clone());
        let written = crate::files::blocking(move || {
            crate::record::write(&path, &record)?;
            if let Some(syncer) = syncer {
                syncer.soon(path);
            }
            Ok(())
        })
        .await;
        if let Err(error) = written {
            tracing::error!(container = %self.now.id, error = error.chain(), "the container's state could not be recorded");
        }
    }

    /// Records, before the signal that ends the run, that a person wants its end: a daemon that is killed between the
    /// two would take that end for the container's own and start it again.
    pub(crate) async fn record_by_hand(&mut self) {
        self.by_hand = true;
        if self.asked.restart != RestartPolicy::No {
            self.record_state().await;
        }
    }

    /// Back to a state without processes.
    pub(crate) fn settle(&mut self, status: Status) {
        self.now.state.status = status;
        self.now.state.pid = 0;
        // What was found stays to be looked at; healthy it is not.
        if let Some(health) = &mut self.now.state.health {
            Arc::make_mut(health).status = HealthStatus::Unhealthy;
        }
        self.now.sandbox = None;
    }
}

/// Sends an answer; that nobody waits for it any more is no error.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    if let Err(Err(error)) = reply.send(result) {
        tracing::debug!(error = error.chain(), "nobody waits for this failure");
    }
}

/// An error once more, for several who wait for the same outcome.
pub(crate) fn again(error: &Error) -> Error {
    Error::new(error.meaning(), error.chain())
}

/// How long a shim may take to answer a signal.
pub(crate) const SIGNAL_PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Publishes an event about a container: its image, its name and its labels go with it.
    pub(crate) fn container_event(&self, now: &Snapshot, action: &str, more: &[(&str, String)]) {
        let mut attributes: BTreeMap<String, String> = now.config.labels.clone().unwrap_or_default();
        attributes.insert("image".to_owned(), now.image_name.clone());
        attributes.insert("name".to_owned(), now.name.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.bus.publish(berth_domain::EventKind::Container, action, now.id.as_str(), attributes);
    }
}
