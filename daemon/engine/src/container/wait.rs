// SPDX-License-Identifier: Apache-2.0
//! `ContainerWait`.

use berth_domain::{Error, Result};

use crate::Engine;
use crate::engine::not_yet;

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
pub struct WaitHandle {}

impl WaitHandle {
    /// Waits.
    pub async fn outcome(self) -> WaitOutcome {
        WaitOutcome { code: 0, error: None }
    }
}

impl Engine {
    /// Registers a wait.
    ///
    /// # Errors
    ///
    /// No such container.
    pub fn container_wait(&self, _name: &str, _condition: Condition) -> Result<WaitHandle> {
        Err(not_yet("wait"))
    }
}
