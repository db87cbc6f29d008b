// SPDX-License-Identifier: Apache-2.0
//! `ContainerResize`.

use berth_domain::container::Request;
use berth_domain::{Error, Result};
use berth_shim_proto::Target;

use crate::Engine;

impl Engine {
    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    ///
    /// No such container; it does not run.
    pub async fn container_resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        let handle = self.index.resolve(name)?;
        let shim = handle.shim(Request::Processes, name)?;
        if !handle.now().config.tty {
            // No terminal has no size; the reference says nothing.
            return Ok(());
        }
        shim.resize(Target::Init, height, width).await.map_err(|error| {
            Error::conflict(format!("cannot resize container {}", handle.id)).because(error)
        })?;
        let size = [("height", height.to_string()), ("width", width.to_string())];
        self.container_event(&handle.now(), "resize", &size);
        Ok(())
    }
}
