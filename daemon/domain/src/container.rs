// SPDX-License-Identifier: Apache-2.0
//! A container's states and which request is admitted in which of them.
//!
//! ```text
//!            start                    exit, no restart due
//! Created ───────────▶ Running ─────────────────────────────▶ Exited ──▶ start
//!    │                  │  ▲  │ exit, restart due               ▲  │
//!    │            pause │  │  └──────────▶ Restarting ──────────┘  │
//!    │                  ▼  │ unpause          │ back-off over      │
//!    │                 Paused                 └──▶ Running         │
//!    │                                                             │
//!    └───────────────────────▶ Removing ◀──────────────────────────┘
//! ```
//!
//! [`admit`] is a pure function so that 204, 304 and 409 come from one tested table.

use std::fmt;

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its init process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It ended and waits for its restart policy's next start.
    Restarting,
    /// It is being removed.
    Removing,
    /// Its init process has ended.
    Exited,
    /// It could not be removed wholly; removing it again is all that can be done with it.
    Dead,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// The word the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// The status with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether processes of the container exist. Docker's `State.Running` is also true while it restarts.
    #[must_use]
    pub fn has_processes(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
