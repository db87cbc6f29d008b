// SPDX-License-Identifier: Apache-2.0
//! `NetworkCreate`.

use std::sync::Arc;

use berth_domain::Result;
use berth_network::{NetworkRecord, NetworkRequest};

use crate::Engine;

impl Engine {
    /// Makes a network.
    ///
    /// # Errors
    ///
    /// The name is taken (conflict), subnets overlap (forbidden), a field is wrong (invalid).
    pub async fn network_create(self: &Arc<Self>, request: NetworkRequest) -> Result<Arc<NetworkRecord>> {
        let engine = Arc::clone(self);
        self.beside("creating a network", async move {
            let network = engine.backends.networks.network_create(request).await?;
            engine.network_event("create", &network, None);
            Ok(network)
        })
        .await
    }
}
