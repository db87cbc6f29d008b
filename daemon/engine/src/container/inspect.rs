// SPDX-License-Identifier: Apache-2.0
//! `ContainerInspect`.

use std::sync::Arc;

use berth_domain::Result;

use crate::{Engine, Snapshot};

impl Engine {
    /// A container as it is now.
    ///
    /// # Errors
    ///
    /// No such container.
    pub fn container_inspect(&self, name: &str) -> Result<Arc<Snapshot>> {
        Ok(self.index.resolve(name)?.now())
    }
}
