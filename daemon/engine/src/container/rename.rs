// SPDX-License-Identifier: Apache-2.0
//! `ContainerRename`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

impl Engine {
    /// Gives a container another name.
    ///
    /// # Errors
    ///
    /// No such container; the name is taken, breaks the rules or is its own already.
    pub async fn container_rename(&self, _name: &str, _new_name: &str) -> Result<()> {
        Err(not_yet("rename"))
    }
}
