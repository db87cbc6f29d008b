// SPDX-License-Identifier: Apache-2.0
//! What the engine tells the world: one thing that happened to one object.

use std::collections::BTreeMap;
use std::fmt;

/// What kind of object an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// The daemon itself.
    Daemon,
    /// The build cache.
    Builder,
}

impl EventKind {
    /// The word the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Daemon => "daemon",
            Self::Builder => "builder",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind of object.
    pub kind: EventKind,
    /// `create`, `start`, `die`, `exec_create: sh -c true`, ...
    pub action: String,
    /// The object's id (a volume's name).
    pub actor: String,
    /// For containers: `image`, `name`, all labels, and what the action adds (`exitCode`, `signal`, ...).
    pub attributes: BTreeMap<String, String>,
    /// Unix time in nanoseconds.
    pub time: i64,
}

impl Event {
    /// The action's word without what follows its colon: `exec_create` of `exec_create: sh`.
    #[must_use]
    pub fn verb(&self) -> &str {
        self.action.split_once(':').map_or(&*self.action, |(verb, _)| verb)
    }
}
