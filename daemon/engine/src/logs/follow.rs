// SPDX-License-Identifier: Apache-2.0
//! Waiting for more of a log: for the kernel's word that its directory changed, or for the container's end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_domain::{Error, Result};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::snapshot::Snapshot;

/// A log being followed.
#[derive(Debug)]
pub(super) struct Follow {
    changes: AsyncFd<OwnedFd>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Runs that had ended when following began.
    exits: u64,
    until: Option<Instant>,
}

impl Follow {
    /// Watches a container's directory: its log is written, renamed and made anew there.
    ///
    /// # Errors
    ///
    /// The kernel gives no more watches.
    pub(super) fn new(
        dir: &Path,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        until: Option<i64>,
    ) -> Result<Self> {
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let flags = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::DELETE_SELF
                | inotify::WatchFlags::MOVE_SELF
                | inotify::WatchFlags::ONLYDIR;
            inotify::add_watch(&fd, dir, flags)?;
            register(fd)
        };
        let changes = watch().map_err(|error| Error::io("watching", dir, error))?;
        let exits = snapshot.borrow().state.exits;
        let left =
            until.map(|until| Duration::from_nanos(u64::try_from(until - crate::events::now()).unwrap_or(0)));
        Ok(Self { changes, snapshot, exits, until: left.map(|left| Instant::now() + left) })
    }

    fn has_ended(&self, now: &Snapshot) -> bool {
        now.state.exits != self.exits || now.state.removed || !now.state.status.has_processes()
    }

    /// Whether the run has ended: what is in the log then is all.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
            || self.has_ended(&self.snapshot.borrow())
            || self.snapshot.has_changed().is_err()
    }

    /// Waits until there may be more, or the run has ended.
    pub(super) async fn changed(&mut self) {
        let exits = self.exits;
        let ended = self.snapshot.wait_for(|now| {
            now.state.exits != exits || now.state.removed || !now.state.status.has_processes()
        });
        let late = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let readable = async {
            match self.changes.readable().await {
                Ok(mut ready) => {
                    drain(self.changes.get_ref());
                    ready.clear_ready();
                }
                Err(error) => {
                    tracing::error!(%error, "waiting for a log to grow");
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            // Whether it ended or its task did: there will be no more.
            _over = ended => {}
            () = late => {}
            () = readable => {}
        }
    }
}

/// Has the runtime watch a descriptor.
#[allow(deprecated)] // What replaces it is unsafe for descriptors that their owner could exchange; an OwnedFd cannot be.
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// Takes the events away: that something changed is all that matters.
fn drain(fd: &OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(fd, &mut buffer).is_ok_and(|n| n > 0) {}
}
