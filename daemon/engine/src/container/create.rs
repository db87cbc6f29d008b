// SPDX-License-Identifier: Apache-2.0
//! `ContainerCreate`.

use std::sync::Arc;

use berth_api::types::container_create::ContainerCreateBody;
use berth_domain::{ContainerId, Platform, Result};

use crate::Engine;
use crate::engine::not_yet;

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What was asked and will not be as asked.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container.
    ///
    /// # Errors
    ///
    /// The name is taken or breaks the rules; no such image; something asked for cannot be.
    pub async fn container_create(
        self: &Arc<Self>,
        _name: Option<String>,
        _platform: Option<Platform>,
        _body: ContainerCreateBody,
    ) -> Result<Created> {
        Err(not_yet("create"))
    }
}
