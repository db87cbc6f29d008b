// SPDX-License-Identifier: Apache-2.0
//! `NetworkList`.

use berth_network::NetworkView;

use crate::Engine;

impl Engine {
    /// All networks with who is on them, in the order of their names.
    #[must_use]
    pub fn network_list(&self) -> Vec<NetworkView> {
        self.backends.networks.networks()
    }
}
