// SPDX-License-Identifier: Apache-2.0
//! `ContainerResize`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    ///
    /// No such container; it does not run.
    pub async fn container_resize(&self, _name: &str, _height: u16, _width: u16) -> Result<()> {
        Err(not_yet("resize"))
    }
}
