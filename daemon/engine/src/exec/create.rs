// SPDX-License-Identifier: Apache-2.0
//! `ContainerExec`.

use berth_domain::container::Request;
use berth_domain::{Error, ExecId, Result};

use super::{ExecConfig, Phase, words};
use crate::Engine;

impl Engine {
    /// Prepares a process; [`Engine::exec_start`] runs it.
    ///
    /// # Errors
    ///
    /// No such container; it is not running or paused; no command.
    pub async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<ExecId> {
        let handle = self.index.resolve(container)?;
        handle.admit(Request::Exec, container)?;
        if config.cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        crate::container::attach::detach_keys(config.detach_keys.as_deref())?;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
        let id = ExecId::from_bytes(bytes);
        let action = format!("exec_create: {}", words(&config.cmd));
        let run_dir = handle.now().paths.run_dir.clone();
        let forgotten = self.execs.add(&id, handle.id.clone(), config.clone(), Phase::Created);
        if let Err(error) = super::record::keep(run_dir, id.clone(), config, forgotten).await {
            self.execs.remove(&id);
            // It may have ended meanwhile, and its run directory with it.
            handle.admit(Request::Exec, container)?;
            return Err(error);
        }
        self.container_event(&handle.now(), &action, &[("execID", id.to_string())]);
        Ok(id)
    }
}
