// SPDX-License-Identifier: Apache-2.0
//! How much a container's files take, for `ps -s` and `inspect -s`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What the container wrote.
    pub rw: u64,
    /// That and its image.
    pub root_fs: u64,
}

impl Engine {
    /// Measures. Walks the container's upper directory.
    ///
    /// # Errors
    ///
    /// No such container; its files cannot be read.
    pub async fn container_size(&self, _name: &str) -> Result<Sizes> {
        Err(not_yet("size"))
    }
}
