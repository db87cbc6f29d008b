// SPDX-License-Identifier: Apache-2.0
//! `ContainerStart`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Starts a container. `detach_keys` is checked only.
    ///
    /// # Errors
    ///
    /// No such container; it runs (not modified) or is paused; whatever kept it from starting.
    pub async fn container_start(&self, _name: &str, _detach_keys: Option<&str>) -> Result<()> {
        Err(not_yet("start"))
    }
}
