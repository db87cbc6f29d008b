// SPDX-License-Identifier: Apache-2.0
//! `ContainerTop`.

use berth_domain::Result;

use crate::Engine;
use crate::engine::not_yet;

/// A table of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Column heads.
    pub titles: Vec<String>,
    /// Rows.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container as the host's `ps` shows them with `ps_args` (empty: `-ef`).
    ///
    /// # Errors
    ///
    /// No such container; it does not run; `ps` refuses its arguments.
    pub async fn container_top(&self, _name: &str, _ps_args: &str) -> Result<Top> {
        Err(not_yet("top"))
    }
}
