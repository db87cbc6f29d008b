// SPDX-License-Identifier: Apache-2.0
//! The engine itself: the containers by id and by name.

use std::sync::Arc;

use berth_domain::{ContainerId, Error, EventKind, Result};
use std::collections::BTreeMap;

use crate::Snapshot;

/// The container engine. Cheap to share; see the crate's documentation.
#[derive(Debug)]
pub struct Engine {}

/// How many containers are in which state, for `info`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub all: usize,
    /// Running ones.
    pub running: usize,
    /// Paused ones.
    pub paused: usize,
    /// The rest.
    pub stopped: usize,
}

pub(crate) fn not_yet(what: &str) -> Error {
    Error::not_implemented(format!("{what} is not implemented"))
}

impl Engine {
    /// Resolves a name (with or without its slash), an id or a unique beginning of one.
    ///
    /// # Errors
    ///
    /// `No such container: x`; several ids begin so.
    pub fn resolve(&self, _name: &str) -> Result<ContainerId> {
        Err(not_yet("resolve"))
    }

    /// How many containers there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// The containers that use a volume, network or image are found among these.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        Vec::new()
    }

    /// Publishes an event about something that is not a container (those publish theirs themselves).
    pub fn publish(
        &self,
        _kind: EventKind,
        _action: &str,
        _actor: &str,
        _attributes: BTreeMap<String, String>,
    ) {
    }

    /// Stops taking work and waits until what is under way is recorded. Containers go on running.
    pub async fn shutdown(&self) {}
}
