// SPDX-License-Identifier: Apache-2.0
//! `ExecInspect`.

use std::sync::Arc;

use berth_domain::{ContainerId, ExecId, Result};

use super::{ExecConfig, Phase};
use crate::Engine;

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecInspect {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was asked.
    pub config: Arc<ExecConfig>,
    /// Whether it runs.
    pub running: bool,
    /// Its exit code once it has ended (or failed to start).
    pub exit_code: Option<i32>,
    /// Its pid as the host sees it; 0 before it was started.
    pub pid: i32,
}

impl Engine {
    /// What is known of an exec.
    ///
    /// # Errors
    ///
    /// No such exec.
    pub fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        self.execs.with(exec, |entry| {
            let phase = *entry.phase.borrow();
            ExecInspect {
                id: entry.id.clone(),
                container: entry.container.clone(),
                config: Arc::clone(&entry.config),
                running: phase == Phase::Running,
                exit_code: match phase {
                    Phase::Ended(code) => Some(code),
                    Phase::Created | Phase::Starting | Phase::Running => None,
                },
                pid: entry.pid,
            }
        })
    }
}
