// SPDX-License-Identifier: Apache-2.0
//! `ExecInspect`.

use std::sync::Arc;
use std::time::Duration;

use berth_domain::container::Request;
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

/// How long a shim may take to say how an exec stands; past it the answer is what was last heard.
const PATIENCE: Duration = Duration::from_secs(1);

impl Engine {
    /// What is known of an exec.
    ///
    /// The end of an exec's stream reaches its client without passing the daemon, so that a client may ask for the
    /// exit code before the shim's event was read here. One that is still thought to run is therefore asked after.
    ///
    /// # Errors
    ///
    /// No such exec.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        let (mut seen, phase) = self.exec_last_heard(exec)?;
        // Even the news of its start may not have been read yet.
        if matches!(phase, Phase::Starting | Phase::Running) {
            if let Some(code) = self.exit_code_at_shim(&seen).await {
                seen.running = false;
                seen.exit_code = Some(code);
            }
        }
        Ok(seen)
    }

    async fn exit_code_at_shim(&self, exec: &ExecInspect) -> Option<i32> {
        let container = exec.container.as_str();
        let shim = self.index.resolve(container).ok()?.shim(Request::Processes, container).ok()?;
        // A shim that does not answer is its container's task's to notice.
        let state = tokio::time::timeout(PATIENCE, shim.state()).await.ok()?.ok()?;
        state.execs.into_iter().find(|(id, _)| id == exec.id.as_str())?.1
    }

    fn exec_last_heard(&self, exec: &str) -> Result<(ExecInspect, Phase)> {
        self.execs.with(exec, |entry| {
            let phase = *entry.phase.borrow();
            let seen = ExecInspect {
                id: entry.id.clone(),
                container: entry.container.clone(),
                config: Arc::clone(&entry.config),
                // From its start on, as in the reference: its streams may be at work before it is known to run.
                running: matches!(phase, Phase::Starting | Phase::Running),
                exit_code: match phase {
                    Phase::Ended(code) => Some(code),
                    Phase::Created | Phase::Starting | Phase::Running => None,
                },
                pid: entry.pid,
            };
            (seen, phase)
        })
    }
}
