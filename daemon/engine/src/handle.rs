// SPDX-License-Identifier: Apache-2.0
//! What the rest of the engine holds of a container: two bounded queues to its task, and what the task publishes.

use std::sync::Arc;

use berth_domain::container::{self, Request, Whom};
use berth_domain::{ContainerId, Error, Result, Signal};
use berth_network::NetworkRecord;
use tokio::sync::{mpsc, oneshot, watch};

use crate::container::remove::RemoveOptions;
use crate::container::stop::StopAsk;
use crate::container::update::Update;
use crate::door::Door;
use crate::network::connect::Connect;
use crate::seam::Shim;
use crate::snapshot::Snapshot;

/// Requests that may wait for one container.
pub(crate) const QUEUE: usize = 64;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What is asked of a container's task. `asked` is how the client named the container, for messages.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) asked: String,
    pub(crate) verb: Verb,
}

/// The requests that change a container's state.
#[derive(Debug)]
pub(crate) enum Verb {
    Start(Reply<()>),
    Stop(StopAsk, Reply<()>),
    Restart(StopAsk, Reply<()>),
    Kill(Signal, Reply<()>),
    Pause(Reply<()>),
    Unpause(Reply<()>),
    Remove(RemoveOptions, Reply<()>),
    Rename(String, Reply<()>),
    Connect(Box<Connect>, Reply<()>),
    Disconnect(Arc<NetworkRecord>, Reply<()>),
    /// From a network that is no more, by the name that the container has for it.
    Forget(String, Reply<()>),
    Update(Box<Update>, Reply<Vec<String>>),
    /// A health check's result.
    Probed(crate::snapshot::Probe),
}

/// A container as the rest of the engine sees it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: ContainerId,
    /// Polled before anything else: kill and forced removal.
    pub(crate) urgent: mpsc::Sender<Command>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) door: Arc<Door>,
    /// Held by who mounts the container's own directories: a start until it is known, a copy into a stopped container.
    pub(crate) still: Arc<tokio::sync::Mutex<()>>,
}

impl Handle {
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Asks the container's task and waits for its answer. The work is the task's: dropping this drops only the answer.
    ///
    /// # Errors
    ///
    /// What the task answers; too many requests wait already; the container or the engine is going away.
    pub(crate) async fn ask<T>(&self, asked: &str, verb: impl FnOnce(Reply<T>) -> Verb) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let command = Command { asked: asked.to_owned(), verb: verb(reply) };
        let urgent = match &command.verb {
            Verb::Kill(..) => true,
            Verb::Remove(options, _) => options.force,
            _ => false,
        };
        let queue = if urgent { &self.urgent } else { &self.commands };
        match queue.try_send(command) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(Error::unavailable(format!(
                    "container {} has {QUEUE} requests waiting; try again later",
                    self.id
                )));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.gone(asked)),
        }
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.gone(asked)),
        }
    }

    fn gone(&self, asked: &str) -> Error {
        if self.now().state.removed {
            Error::not_found(format!("No such container: {asked}"))
        } else {
            Error::unavailable("the engine is shutting down")
        }
    }

    /// Refuses what the published state does not admit; true if there is anything to do.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub(crate) fn admit(&self, request: Request, asked: &str) -> Result<bool> {
        let now = self.now();
        container::check(now.state.status, request, Whom { id: self.id.as_str(), name: &now.name, asked })
    }

    /// The shim of a running container.
    ///
    /// # Errors
    ///
    /// The refusal of `request` in the state that the container is in.
    pub(crate) fn shim(&self, request: Request, asked: &str) -> Result<Arc<dyn Shim>> {
        self.admit(request, asked)?;
        self.door.shim().ok_or_else(|| Error::conflict(format!("container {} is not running", self.id)))
    }
}
