// SPDX-License-Identifier: Apache-2.0
//! `ContainerDelete`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// The link and not the container.
    pub link: bool,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    ///
    /// No such container; it runs and `force` was not given; its removal is under way.
    pub async fn container_remove(&self, _name: &str, _options: RemoveOptions) -> Result<()> {
        Err(not_yet("remove"))
    }
}
