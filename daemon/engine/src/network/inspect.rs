// SPDX-License-Identifier: Apache-2.0
//! `NetworkInspect`.

use berth_domain::Result;
use berth_network::NetworkView;

use crate::Engine;

impl Engine {
    /// The network with this name, this id, or the only one whose id begins so; with who is on it.
    ///
    /// # Errors
    ///
    /// `network X not found`; several ids begin so.
    pub fn network_inspect(&self, name: &str) -> Result<NetworkView> {
        self.backends.networks.network(name)
    }
}
