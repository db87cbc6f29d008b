// SPDX-License-Identifier: Apache-2.0
//! `ContainerStop`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Stops a container: its stop signal (or `signal`), then SIGKILL after `timeout` seconds (the
    /// container's own, or 10; below 0 waits for ever).
    ///
    /// # Errors
    ///
    /// No such container; it does not run (not modified); an unknown signal.
    pub async fn container_stop(
        &self,
        _name: &str,
        _signal: Option<&str>,
        _timeout: Option<i64>,
    ) -> Result<()> {
        Err(not_yet("stop"))
    }
}
