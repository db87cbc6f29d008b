// SPDX-License-Identifier: Apache-2.0
//! `ContainerPause` and `ContainerUnpause`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Freezes a container's processes.
    ///
    /// # Errors
    ///
    /// No such container; it does not run or is paused.
    pub async fn container_pause(&self, _name: &str) -> Result<()> {
        Err(not_yet("pause"))
    }

    /// Thaws them.
    ///
    /// # Errors
    ///
    /// No such container; it is not paused.
    pub async fn container_unpause(&self, _name: &str) -> Result<()> {
        Err(not_yet("unpause"))
    }
}
