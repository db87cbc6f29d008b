// SPDX-License-Identifier: Apache-2.0
//! `ContainerPrune`.

use berth_domain::{ContainerId, Filters, Result};

use crate::Engine;
use crate::engine::not_yet;

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// What went away.
    pub deleted: Vec<ContainerId>,
    /// Bytes won.
    pub space_reclaimed: u64,
}

impl Engine {
    /// Removes all containers that do not run. Filters: until, label, label!.
    ///
    /// # Errors
    ///
    /// An unknown filter; a prune is under way.
    pub async fn container_prune(&self, _filters: Filters) -> Result<PruneReport> {
        Err(not_yet("prune"))
    }
}
