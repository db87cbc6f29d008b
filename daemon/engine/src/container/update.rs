// SPDX-License-Identifier: Apache-2.0
//! `ContainerUpdate`.

use berth_api::types::container_create::{Resources, RestartPolicy};
use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

/// What to change: zero values leave things as they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Limits.
    pub resources: Resources,
    /// Restart policy; an empty name leaves it.
    pub restart_policy: RestartPolicy,
}

impl Engine {
    /// Changes limits and restart policy; returns warnings.
    ///
    /// # Errors
    ///
    /// No such container; a bad value; the kernel refuses.
    pub async fn container_update(&self, _name: &str, _update: Update) -> Result<Vec<String>> {
        Err(not_yet("update"))
    }
}
