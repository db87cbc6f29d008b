// SPDX-License-Identifier: Apache-2.0
//! `ContainerRestart`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Stops a container, if it runs, and starts it.
    ///
    /// # Errors
    ///
    /// As those of stop and start, except that one that does not run is just started.
    pub async fn container_restart(
        &self,
        _name: &str,
        _signal: Option<&str>,
        _timeout: Option<i64>,
    ) -> Result<()> {
        Err(not_yet("restart"))
    }
}
