// SPDX-License-Identifier: Apache-2.0
//! `ContainerDelete`.
//!
//! The directory is renamed out of the way, which is the moment from which the container is gone whatever
//! happens, and deleted behind the answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_domain::container::Request;
use berth_domain::{ContainerId, Error, Result, Signal, Status};
use berth_volume::MountPoint;
use tokio::task::JoinHandle;

use crate::Engine;
use crate::files::blocking;
use crate::handle::{Reply, Verb};
use crate::record;
use crate::task::{Done, Task, again, answer};
use crate::undo;

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// The link and not the container.
    pub link: bool,
}

/// A removal that was accepted.
#[derive(Debug)]
pub(crate) struct Removal {
    volumes: bool,
    reply: Option<Reply<()>>,
    /// When patience with its processes ends.
    pub(crate) deadline: Option<Instant>,
    shim_killed: bool,
}

/// How long SIGKILL may take, and then the killing of the shim.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    ///
    /// No such container; it runs and `force` was not given; its removal is under way.
    pub async fn container_remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            return Err(Error::conflict("Conflict, cannot remove the default link name of the container"));
        }
        let handle = self.index.resolve(name)?;
        handle.ask(name, |reply| Verb::Remove(options, reply)).await
    }
}

impl Task {
    pub(crate) async fn remove(&mut self, asked: &str, options: RemoveOptions, reply: Reply<()>) {
        if self.removal.is_some() {
            let error = Error::conflict(format!("removal of container {asked} is already in progress"));
            return answer(reply, Err(error));
        }
        if let Err(error) = self.admit(Request::Remove { force: options.force }, asked) {
            return answer(reply, Err(error));
        }
        self.restart_at = None;
        self.removal = Some(Removal {
            volumes: options.volumes,
            reply: Some(reply),
            deadline: None,
            shim_killed: false,
        });
        if let Some(starting) = &self.starting {
            starting.cancel.raise();
        } else if self.up.is_some() {
            self.kill_for_removal().await;
        }
    }

    /// The container is to remove itself.
    pub(crate) fn want_removal(&mut self, volumes: bool) {
        if self.removal.is_none() {
            self.removal = Some(Removal { volumes, reply: None, deadline: None, shim_killed: false });
        }
    }

    pub(crate) async fn kill_for_removal(&mut self) {
        self.record_by_hand().await;
        self.event("kill", &[("signal", Signal::KILL.to_string())]);
        self.send(Signal::KILL);
        if let Some(removal) = &mut self.removal {
            removal.deadline = Some(Instant::now() + PATIENCE);
        }
    }

    pub(crate) fn removal_is_late(&mut self) {
        let Some(removal) = &mut self.removal else { return };
        if !removal.shim_killed {
            removal.shim_killed = true;
            removal.deadline = Some(Instant::now() + PATIENCE);
            if let Some(up) = &self.up {
                up.shim.kill();
            }
            return;
        }
        let error = Error::internal(format!(
            "cannot remove container \"{}\": could not kill container: its processes do not end",
            self.now.name
        ));
        if let Some(reply) = self.removal.take().and_then(|removal| removal.reply) {
            answer(reply, Err(error));
        }
    }

    /// Sets the removal of what is left going; its outcome comes as [`Done::Remove`].
    pub(crate) fn begin_removal(&mut self) {
        let Some(removal) = &mut self.removal else { return };
        removal.deadline = None;
        let volumes = removal.volumes;
        self.now.state.status = Status::Removing;
        self.publish();
        self.op = Some(Box::pin(clear(
            Arc::clone(&self.engine),
            self.now.id.clone(),
            self.now.paths.dir.clone(),
            Arc::clone(&self.now.mounts),
            volumes,
            self.lingering.take(),
        )));
    }

    pub(crate) fn removed(&mut self, result: Result<()>) {
        let reply = self.removal.take().and_then(|removal| removal.reply);
        match result {
            Ok(()) => {
                self.door.close();
                self.engine.execs_forget(&self.now.id);
                self.engine.index.remove(&self.now.id);
                self.event("destroy", &[]);
                self.now.state.removed = true;
                self.publish();
                if let Some(reply) = reply {
                    answer(reply, Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(container = %self.now.id, error = error.chain(), "a container could not be removed");
                self.now.state.status = Status::Dead;
                self.now.state.error = error.chain();
                self.publish();
                if let Some(reply) = reply {
                    let shown = format!("cannot remove container \"{}\"", self.now.name);
                    answer(reply, Err(again(&error).context(shown)));
                }
            }
        }
    }
}

async fn clear(
    engine: Arc<Engine>,
    id: ContainerId,
    dir: PathBuf,
    mounts: Arc<[MountPoint]>,
    volumes: bool,
    lingering: Option<JoinHandle<()>>,
) -> Done {
    let aside = engine.removing_dir().join(id.as_str());
    let moved = {
        let (engine, id, aside) = (Arc::clone(&engine), id.clone(), aside.clone());
        blocking(move || {
            if volumes && dir.exists() {
                record::note_unwanted(&dir, &*mounts)?;
            }
            match std::fs::rename(&dir, &aside) {
                Ok(()) => {}
                // Removed before, but for its volumes.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("moving away", &dir, error)),
            }
            engine.syncer.soon(engine.containers_dir().join("."));
            engine.backends.volumes.release_all(&mounts, &id, volumes)?;
            for mount in mounts.iter().filter(|mount| volumes && mount.anonymous) {
                // Another container may have taken it over.
                if engine.backends.volumes.known(&mount.name).is_err() {
                    engine.volume_event("destroy", &mount.name);
                }
            }
            Ok(())
        })
        .await
    };
    if moved.is_ok() {
        let collector = Arc::clone(&engine);
        engine.background(async move {
            // The root filesystem is mounted until the shim has gone.
            if let Some(lingering) = lingering {
                if let Err(error) = lingering.await {
                    tracing::error!(%error, "waiting for a shim's end");
                }
            }
            undo::remove_dir(aside).await;
            collector.collect_images().await;
        });
    }
    Done::Remove(moved)
}
