// SPDX-License-Identifier: Apache-2.0
//! `ContainerWait`.

use std::sync::Arc;

use berth_domain::{Error, Result, Status};
use tokio::sync::watch;

use crate::Engine;
use crate::snapshot::Snapshot;

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Condition {
    /// Until it does not run; at once if it does not.
    #[default]
    NotRunning,
    /// Until it ends the next time.
    NextExit,
    /// Until it is removed.
    Removed,
}

impl std::str::FromStr for Condition {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            other => Err(Error::invalid(format!("invalid condition: {other:?}"))),
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitOutcome {
    /// Exit code of init.
    pub code: i32,
    /// What went wrong besides.
    pub error: Option<String>,
}

/// A wait that is already registered: nothing that happens from now on is missed.
#[derive(Debug)]
pub struct WaitHandle {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    condition: Condition,
    /// Runs that had ended when the wait was registered.
    exits: u64,
}

impl WaitHandle {
    /// Waits. `None` if the engine shuts down first.
    pub async fn outcome(mut self) -> Option<WaitOutcome> {
        let (condition, exits) = (self.condition, self.exits);
        let over = |now: &Arc<Snapshot>| {
            let state = &now.state;
            let ended = state.exits > exits;
            state.removed
                || match condition {
                    Condition::NotRunning => {
                        ended || !(state.status.has_processes() || state.status == Status::Restarting)
                    }
                    Condition::NextExit => ended,
                    Condition::Removed => false,
                }
        };
        // The task ends with the engine, or after the snapshot that says that the container is removed.
        let now = self.snapshot.wait_for(over).await.ok()?;
        let error = Some(now.state.error.clone()).filter(|error| !error.is_empty() && !now.state.removed);
        Some(WaitOutcome { code: now.state.exit_code, error })
    }
}

impl Engine {
    /// Registers a wait.
    ///
    /// # Errors
    ///
    /// No such container.
    pub fn container_wait(&self, name: &str, condition: Condition) -> Result<WaitHandle> {
        let handle = self.index.resolve(name)?;
        let snapshot = handle.snapshot.clone();
        let exits = snapshot.borrow().state.exits;
        Ok(WaitHandle { snapshot, condition, exits })
    }
}
