// SPDX-License-Identifier: Apache-2.0
//! Where clients meet a container's streams.
//!
//! A client reserves a place before its connection is taken over and brings the socket afterwards. While the
//! container runs the socket goes straight to the shim; before that it waits here, and a start waits
//! (shortly) for reserved places to be taken, so that an attached run loses no output.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_domain::{Error, Result};
use berth_shim_proto::Attach;
use rustix::event::{PollFd, PollFlags};
use tokio::sync::Notify;

use crate::seam::Shim;

/// How many clients may wait for one container to start.
const PLACES: usize = 64;
/// How long a start waits for places that are reserved and not taken.
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket and what it is to carry.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) attach: Attach,
    pub(crate) socket: OwnedFd,
}

/// The door of one container.
#[derive(Debug, Default)]
pub(crate) struct Door {
    inside: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    reserved: usize,
    waiting: Vec<Guest>,
    shim: Option<Arc<dyn Shim>>,
}

/// A reserved place; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Door>,
    /// It was reserved before the container ran.
    from_start: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        inside.reserved = inside.reserved.saturating_sub(1);
        drop(inside);
        self.door.changed.notify_waiters();
    }
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim, while the container runs.
    pub(crate) fn shim(&self) -> Option<Arc<dyn Shim>> {
        self.lock().shim.clone()
    }

    /// Reserves a place.
    ///
    /// # Errors
    ///
    /// Too many wait already.
    pub(crate) fn reserve(self: &Arc<Self>) -> Result<Place> {
        let mut inside = self.lock();
        inside.waiting.retain(|guest| !has_hung_up(guest));
        if inside.reserved + inside.waiting.len() >= PLACES {
            return Err(Error::unavailable("too many clients wait for the container's streams"));
        }
        inside.reserved += 1;
        Ok(Place { door: Arc::clone(self), from_start: inside.shim.is_none() })
    }

    /// Takes a place: hands the guest to the shim if the container runs, else lets it wait for the start.
    ///
    /// # Errors
    ///
    /// The shim refuses or has gone.
    pub(crate) async fn enter(place: Place, mut guest: Guest) -> Result<()> {
        guest.attach.from_start = place.from_start;
        let shim = {
            let mut inside = place.door.lock();
            match &inside.shim {
                Some(shim) => Arc::clone(shim),
                None => {
                    inside.waiting.push(guest);
                    return Ok(());
                }
            }
        };
        shim.attach(guest.attach, guest.socket.as_fd())
            .await
            .map_err(|error| Error::conflict("attaching to the container").because(error))
    }

    /// Those who wait, once all reserved places are taken or patience ends.
    pub(crate) async fn gather(&self) -> Vec<Guest> {
        let all_here = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so that no change is missed.
                changed.as_mut().enable();
                if self.lock().reserved == 0 {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(PATIENCE, all_here).await.is_err() {
            tracing::debug!("a client reserved a place at the container's streams and did not come");
        }
        std::mem::take(&mut self.lock().waiting)
    }

    /// The container runs: opens the door, and answers those who came too late for the start itself.
    pub(crate) fn open(&self, shim: Arc<dyn Shim>) -> Vec<Guest> {
        let mut inside = self.lock();
        inside.shim = Some(shim);
        std::mem::take(&mut inside.waiting)
    }

    /// The container ended or did not start: those who wait see the end of their streams.
    pub(crate) fn close(&self) {
        let mut inside = self.lock();
        inside.shim = None;
        inside.waiting.clear();
    }
}

fn has_hung_up(guest: &Guest) -> bool {
    let mut fds = [PollFd::new(&guest.socket, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    // HUP and ERR are reported unasked. A half-closed socket still reads, and stays.
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}
