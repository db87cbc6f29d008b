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

use crate::{Error, Result};

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

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop it, if it runs, and start it.
    Restart,
    /// Send a signal.
    Kill,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Unpause,
    /// Remove it; kill it first if forced.
    Remove {
        /// Kill it first.
        force: bool,
    },
    /// Rename it or change its limits or policy.
    Change,
    /// Join its streams.
    Attach,
    /// Run a further process.
    Exec,
    /// Look at or talk to its processes (top, resize).
    Processes,
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Kill,
        Self::Pause,
        Self::Unpause,
        Self::Remove { force: false },
        Self::Remove { force: true },
        Self::Change,
        Self::Attach,
        Self::Exec,
        Self::Processes,
    ];
}

/// The answer to a request before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Accept,
    /// Nothing to do.
    AlreadySo,
    /// It cannot be done now.
    Deny(Denial),
}

/// Why a request cannot be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// It has no processes.
    NotRunning,
    /// It has processes, and must not.
    Running,
    /// It is frozen.
    Paused,
    /// It is frozen already.
    AlreadyPaused,
    /// It is not frozen.
    NotPaused,
    /// It waits for its next start.
    Restarting,
    /// It is being removed.
    Removing,
}

/// Whether a request is admitted in a state.
#[must_use]
pub fn admit(status: Status, request: Request) -> Verdict {
    use Request as R;
    use Status as S;
    use Verdict::{Accept, AlreadySo, Deny};
    match (status, request) {
        // One that is going away or half gone can only be removed (again).
        (S::Removing, _) => Deny(Denial::Removing),
        (S::Dead, R::Remove { .. }) => Accept,
        (S::Dead, R::Stop) => AlreadySo,
        (S::Dead, R::Start | R::Restart | R::Change) => Deny(Denial::Removing),

        (S::Running | S::Restarting, R::Start) => AlreadySo,
        (S::Paused, R::Start) => Deny(Denial::Paused),
        (S::Created | S::Exited, R::Start) => Accept,

        (S::Created | S::Exited, R::Stop) => AlreadySo,
        (S::Running | S::Paused | S::Restarting, R::Stop) => Accept,
        (S::Created | S::Exited | S::Running | S::Paused | S::Restarting, R::Restart) => Accept,

        (S::Running | S::Paused | S::Restarting, R::Kill) => Accept,
        (S::Created | S::Exited | S::Dead, R::Kill) => Deny(Denial::NotRunning),

        (S::Running, R::Pause) => Accept,
        (S::Paused, R::Pause) => Deny(Denial::AlreadyPaused),
        (S::Restarting, R::Pause) => Deny(Denial::Restarting),
        (S::Created | S::Exited | S::Dead, R::Pause) => Deny(Denial::NotRunning),
        (S::Paused, R::Unpause) => Accept,
        (S::Created | S::Exited | S::Dead | S::Running | S::Restarting, R::Unpause) => {
            Deny(Denial::NotPaused)
        }

        (S::Created | S::Exited, R::Remove { .. }) => Accept,
        (S::Running | S::Paused | S::Restarting, R::Remove { force: true }) => Accept,
        (S::Running, R::Remove { force: false }) => Deny(Denial::Running),
        (S::Paused, R::Remove { force: false }) => Deny(Denial::Paused),
        (S::Restarting, R::Remove { force: false }) => Deny(Denial::Restarting),

        (S::Created | S::Exited | S::Running | S::Paused | S::Restarting, R::Change) => Accept,

        (S::Paused, R::Attach | R::Exec) => Deny(Denial::Paused),
        (S::Restarting, R::Attach | R::Exec) => Deny(Denial::Restarting),
        (S::Created | S::Exited | S::Running | S::Dead, R::Attach) => Accept,
        (S::Running, R::Exec) => Accept,
        (S::Created | S::Exited | S::Dead, R::Exec) => Deny(Denial::NotRunning),

        (S::Running | S::Paused, R::Processes) => Accept,
        (S::Restarting, R::Processes) => Deny(Denial::Restarting),
        (S::Created | S::Exited | S::Dead, R::Processes) => Deny(Denial::NotRunning),
    }
}

/// Whom a refusal is about.
#[derive(Debug, Clone, Copy)]
pub struct Whom<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// As the client named it.
    pub asked: &'a str,
}

impl Denial {
    /// The refusal in the words that clients know (recorded from the reference engine).
    #[must_use]
    pub fn error(self, request: Request, whom: Whom<'_>) -> Error {
        let Whom { id, name, asked } = whom;
        match (request, self) {
            (Request::Kill, Self::NotRunning) => {
                Error::conflict(format!("cannot kill container: {asked}: container {id} is not running"))
            }
            (_, Self::NotRunning) => Error::conflict(format!("container {id} is not running")),
            (Request::Remove { .. }, Self::Running | Self::Restarting) => {
                let what = if self == Self::Running { "running" } else { "restarting" };
                Error::conflict(format!(
                    "cannot remove container \"{name}\": container is {what}: stop the container before removing or force remove"
                ))
            }
            (Request::Remove { .. }, Self::Paused) => Error::conflict(format!(
                "cannot remove container \"{name}\": container is paused and must be unpaused first"
            )),
            (Request::Remove { .. }, Self::Removing) => {
                Error::conflict(format!("removal of container {asked} is already in progress"))
            }
            (Request::Start | Request::Restart, Self::Removing) => {
                Error::conflict("container is marked for removal and cannot be started")
            }
            (_, Self::Removing) => Error::conflict(format!("container {id} is marked for removal")),
            (Request::Start, Self::Paused) => {
                Error::conflict("cannot start a paused container, try unpause instead")
            }
            (Request::Exec, Self::Paused) => {
                Error::conflict(format!("Container {asked} is paused, unpause the container before exec"))
            }
            (Request::Attach, Self::Paused) => {
                Error::conflict(format!("container {asked} is paused, unpause the container before attach"))
            }
            (_, Self::Paused) => Error::conflict(format!("container {id} is paused")),
            (_, Self::AlreadyPaused) => Error::conflict(format!("Container {id} is already paused")),
            // The reference answers 500 here, and clients have learned it.
            (_, Self::NotPaused) => Error::internal(format!("Container {id} is not paused")),
            (_, Self::Restarting) => {
                Error::conflict(format!("Container {id} is restarting, wait until the container is running"))
            }
            (_, Self::Running) => Error::conflict(format!("container {id} is running")),
        }
    }
}

/// Refuses what a state does not admit; says whether there is anything to do.
///
/// # Errors
///
/// The refusal in the client's words.
pub fn check(status: Status, request: Request, whom: Whom<'_>) -> Result<bool> {
    match admit(status, request) {
        Verdict::Accept => Ok(true),
        Verdict::AlreadySo => Ok(false),
        Verdict::Deny(denial) => Err(denial.error(request, whom)),
    }
}

/// Checks a container's name.
///
/// # Errors
///
/// It breaks the grammar, which asks for two characters at least.
pub fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let grammar = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() >= 2
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if grammar {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
