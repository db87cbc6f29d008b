// SPDX-License-Identifier: Apache-2.0
//! `ImageDelete`: the engine's part is to know which containers use an image.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

/// How to remove an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageRemoveOptions {
    /// Even if stopped containers use it.
    pub force: bool,
    /// Keep untagged parents.
    pub noprune: bool,
}

/// What went away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// An image or layer.
    Deleted(String),
}

impl Engine {
    /// Removes an image by name or id.
    ///
    /// # Errors
    ///
    /// No such image; a container uses it; it has several names and was given by id.
    pub async fn image_remove(&self, _name: &str, _options: ImageRemoveOptions) -> Result<Vec<Removed>> {
        Err(not_yet("image remove"))
    }
}
