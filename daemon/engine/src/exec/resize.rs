// SPDX-License-Identifier: Apache-2.0
//! `ExecResize`.

use berth_domain::container::Request;
use berth_domain::{Error, Result};
use berth_shim_proto::Target;

use super::Phase;
use crate::Engine;

impl Engine {
    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    ///
    /// No such exec; it does not run.
    pub async fn exec_resize(&self, exec: &str, height: u16, width: u16) -> Result<()> {
        let (container, phase, tty) = self
            .execs
            .with(exec, |entry| (entry.container.clone(), *entry.phase.borrow(), entry.config.tty))?;
        if phase != Phase::Running {
            return Err(Error::conflict(format!("exec process {exec} is not running")));
        }
        if !tty {
            return Ok(());
        }
        let shim = self.index.resolve(container.as_str())?.shim(Request::Processes, container.as_str())?;
        shim.resize(Target::Exec(exec.to_owned()), height, width)
            .await
            .map_err(|error| Error::conflict(format!("cannot resize exec {exec}")).because(error))
    }
}
