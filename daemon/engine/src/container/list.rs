// SPDX-License-Identifier: Apache-2.0
//! `ContainerList`.

use std::sync::Arc;

use berth_domain::{Filters, Result};

use crate::engine::not_yet;
use crate::{Engine, Snapshot};

/// Which containers.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// Only so many, the newest; implies `all`.
    pub limit: Option<usize>,
    /// ancestor, before, exited, expose, health, id, is-task, isolation, label, name, network, publish, since, status, volume.
    pub filters: Filters,
}

impl Engine {
    /// Containers, newest first.
    ///
    /// # Errors
    ///
    /// An unknown filter or a bad value of one.
    pub fn container_list(&self, _options: &ListOptions) -> Result<Vec<Arc<Snapshot>>> {
        Err(not_yet("list"))
    }
}
