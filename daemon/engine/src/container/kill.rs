// SPDX-License-Identifier: Apache-2.0
//! `ContainerKill`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Sends a signal, by name or number, to a container's init process. Empty means SIGKILL.
    ///
    /// # Errors
    ///
    /// No such container; it does not run; an unknown signal.
    pub async fn container_kill(&self, _name: &str, _signal: &str) -> Result<()> {
        Err(not_yet("kill"))
    }
}
