// SPDX-License-Identifier: Apache-2.0
//! `ContainerInspect`.

use std::sync::Arc;

use berth_domain::Result;

use crate::engine::not_yet;
use crate::{Engine, Snapshot};

impl Engine {
    /// A container as it is now.
    ///
    /// # Errors
    ///
    /// No such container.
    pub fn container_inspect(&self, _name: &str) -> Result<Arc<Snapshot>> {
        Err(not_yet("inspect"))
    }
}
